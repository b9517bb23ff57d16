"""How far a basin is, from its ledger alone: states, rate, time left, failures, a map."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deepforest_xr.atomic import staged
from deepforest_xr.basin.ledger import STATUSES, Ledger, TileState
from deepforest_xr.basin.summary import told
from deepforest_xr.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepforest_xr.basin.card import Plan

RECENT = 32
"""Tiles finished last whose seconds are read: one request each."""

REASONS = 50
"""Tiles whose failures are read, at most: one request each."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

COLORS = {
    "done": "#2f7d4f",
    "running": "#f2b134",
    "waiting": "#d5dbe3",
    "stale": "#9a6fb0",
    "set aside": "#c0392b",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a basin is."""

    plan: Plan
    """The basin."""

    states: Mapping[str, TileState]
    """Of each tile."""

    reasons: Mapping[str, list[str]]
    """Why attempts failed, by tile that is not done; of the first 50 tiles."""

    seconds_per_megapixel: float | None
    """Of one worker, over the tiles finished last; None before there is one. Tiles without
    scenes are left out. What `BasinConfig` has under this name."""

    hours_of_one: float | None
    """What one worker would need for the tiles that are neither done nor set aside."""

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status, every status named."""
        found = Counter(state.status for state in self.states.values())
        return {status: found[status] for status in STATUSES}

    @property
    def tiles_per_hour(self) -> float | None:
        """With as many at work as now; None if there is nobody, or no tile done yet."""
        if self.seconds_per_megapixel is None or not self.counts["running"]:
            return None
        megapixels = self.plan.tiling.tile**2 / 1e6
        return self.counts["running"] * 3600 / (self.seconds_per_megapixel * megapixels)

    @property
    def hours_left(self) -> float | None:
        """With as many at work as now; None as for the rate."""
        if self.hours_of_one is None or not self.counts["running"]:
            return None
        return self.hours_of_one / self.counts["running"]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "url": self.plan.url,
            "run_id": self.plan.run_id,
            "tiles": len(self.states),
            "counts": self.counts,
            "seconds_per_megapixel": self.seconds_per_megapixel,
            "hours_of_one": self.hours_of_one,
            "tiles_per_hour": self.tiles_per_hour,
            "hours_left": self.hours_left,
            "failures": dict(self.reasons),
            "states": {tile: state.status for tile, state in self.states.items()},
        }

    def __str__(self) -> str:
        total = max(len(self.states), 1)
        lines = [f"run {self.plan.run_id[:12]} at {self.plan.url}"]
        lines += [f"{s:<10}{n:>7,}  {n / total:6.1%}" for s, n in self.counts.items()]
        lines += self._pace()
        for tile, reasons in self.reasons.items():
            lines.append(f"{tile} ({self.states[tile].status}): {'; '.join(reasons)}")
        return "\n".join(lines)

    def _pace(self) -> list[str]:
        """Say how fast it goes, and how long."""
        if self.seconds_per_megapixel is None:
            return []
        lines = [f"speed     {self.seconds_per_megapixel:,.3g} s a megapixel, of one worker"]
        if self.hours_left is not None:
            at_work = self.counts["running"]
            lines.append(f"rate      {self.tiles_per_hour:,.4g} tiles an hour, {at_work} at work")
            lines.append(f"left      {self.hours_left:,.3g} h at this rate")
        elif self.hours_of_one:
            lines.append(f"left      {self.hours_of_one:,.3g} h of one worker; nobody is at work")
        return lines

    def geojson(self) -> dict[str, Any]:
        """Give the tiles with their status as GeoJSON, in degrees."""
        return self.plan.geojson({tile: state.status for tile, state in self.states.items()})

    def write_picture(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Draw the tiles on the map's own grid, coloured by status, as PNG.

        Raises
        ------
        ConfigError
            If the path does not end in ``.png``.
        MissingExtraError
            If matplotlib is not installed.
        """
        states = {tile: state.status for tile, state in self.states.items()}
        return draw_tiles(self.plan, states, path, overwrite=overwrite)


def basin_status(plan: Plan, *, max_attempts: int | None = None) -> Status:
    """Look at the ledger of a basin.

    Parameters
    ----------
    plan : Plan
        From `open_plan`.
    max_attempts : int, optional
        Decides what is set aside; default: what the runner was given that took a tile last.

    Raises
    ------
    StoreError
        If the store does not answer.
    """
    ledger = Ledger(plan.open(), max_attempts=max_attempts)
    try:
        states = ledger.states(tile.id for tile in plan.tiles)
        unlucky = [s for s in states.values() if s.attempts and s.status != "done"]
        unlucky.sort(key=lambda state: (state.status != "set aside", state.tile))
        reasons = {s.tile: told(ledger.reasons(s), s) for s in unlucky[:REASONS]}
        seconds = _seconds(plan, ledger, states)
    finally:
        ledger.close()
    left = [s.tile for s in states.values() if s.status in {"waiting", "stale", "running"}]
    mapped = sum(tile not in plan.empty for tile in left)
    return Status(
        plan=plan,
        states=states,
        reasons=reasons,
        seconds_per_megapixel=None if seconds is None else seconds / plan.tiling.tile**2 * 1e6,
        hours_of_one=None if seconds is None else mapped * seconds / 3600,
    )


def _seconds(plan: Plan, ledger: Ledger, states: Mapping[str, TileState]) -> float | None:
    """Mean seconds that a worker spent on a tile with scenes, over those finished last.

    Times between ends would count a night in which nobody worked.
    """
    done = [s for s in states.values() if s.status == "done" and s.tile not in plan.empty]
    done.sort(key=lambda state: state.modified or _LONG_AGO)
    records = [ledger.record(state.tile) or {} for state in done[-RECENT:]]
    seconds = [float(r["seconds"]["tile"]) for r in records if "tile" in r.get("seconds", {})]
    return fmean(seconds) if seconds else None


def draw_tiles(
    plan: Plan, states: Mapping[str, str], path: str | Path, *, overwrite: bool = False
) -> Path:
    """Draw the tiles of a plan as PNG, coloured by status.

    Parameters
    ----------
    plan : Plan
        The basin.
    states : mapping
        Status by tile; a tile that is not in it waits.
    path : path
        Ends in ``.png``.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ConfigError
        If the path does not end in ``.png``.
    MissingExtraError
        If matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ConfigError(f"{str(path)!r} does not end in .png, the one format drawn.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch, Rectangle
    except ImportError as error:
        raise MissingExtraError(
            'a map of tiles needs matplotlib: pip install "deepforest-xr[viz]"'
        ) from error
    grid = plan.tiling.grid
    left, bottom, right, top = grid.bounds
    figure = Figure(figsize=(8.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for tile in plan.tiles:
        west, south, east, north = plan.tiling.grid_of(tile).bounds
        status = states.get(tile.id, "waiting")
        axes.add_patch(
            Rectangle(
                (west, south),
                east - west,
                north - south,
                facecolor=COLORS[status],
                edgecolor="white",
                linewidth=0.5,
                hatch="//" if tile.id in plan.empty else None,
            )
        )
    counts = Counter(states.get(tile.id, "waiting") for tile in plan.tiles)
    handles = [Patch(color=COLORS[s], label=f"{s}: {counts[s]}") for s in STATUSES if counts[s]]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, frameon=False)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_xlabel(f"{grid.crs.name}, {grid.crs.axis_info[0].unit_name}")
    axes.ticklabel_format(style="plain", useOffset=False)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(f"{len(plan.tiles)} tiles", loc="left")
    with staged(path, overwrite=overwrite) as part:
        figure.savefig(part, format="png", dpi=100)
    return path
