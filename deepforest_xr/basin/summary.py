"""How a run ended, in a form to print."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepforest_xr.basin.ledger import TileState


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended."""

    tiles: int
    """Of this runner's share."""

    done: int
    """Of them finished, by whichever runner."""

    made: int
    """Tasks that finished a tile in this run."""

    set_aside: Mapping[str, list[str]] = field(default_factory=dict)
    """Reasons by tile that failed too often."""

    is_interrupted: bool = False
    """Whether it was stopped before all was done."""

    why: str = ""
    """Why it was stopped."""

    @property
    def is_complete(self) -> bool:
        """Whether every tile of the share is done."""
        return self.done == self.tiles

    def __str__(self) -> str:
        lines = [f"{self.done} of {self.tiles} tiles are done, {self.made} of them in this run"]
        lines += [f"set aside {tile}: {'; '.join(w)}" for tile, w in self.set_aside.items()]
        if self.is_interrupted:
            lines.append(f"stopped: {self.why}; run again to go on")
        return "\n".join(lines)


def told(reasons: list[dict[str, Any]], state: TileState) -> list[str]:
    """Say why attempts at a tile came to nothing."""
    lines = [f"{r['error']}: {r['reason']}" for r in reasons]
    abandoned = state.attempts - len(state.failed)
    return [*lines, *([f"{abandoned} x abandoned: its runner died"] if abandoned > 0 else [])]
