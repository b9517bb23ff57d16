"""Named settings: where a run begins that nobody wants to spell out.

The paper is Cherif, Hell & Brandmeier, Remote Sensing 2022, 14(19), 5000.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ConfigError
from deepforest_xr.training.settings import ELSEWHERE, TrainSettings

if TYPE_CHECKING:
    from deepforest_xr.chips import Chips

RECIPES: dict[str, TrainSettings] = {
    "default": TrainSettings(),
    "paper": TrainSettings(
        recipe="paper",
        batch=10,
        learning_rate=1e-4,
        schedule="constant",
        patience=1,
        loss="cross-entropy",
        class_weights="share",
        gradient_clip=0.0,
        ema=0.0,
        batchnorm_warmup=False,
        precision="32",
        augment="paper",
        balanced=False,
        month_dropout=0.0,
    ),
}
"""Settings by name. The paper's patience of 1 ends a run at the first epoch that is no better."""

PAPER_SIZE = 256
"""Side of the paper's chips in pixels."""

PAPER_SHARE = 0.8
"""Of all its chips, the share that the paper trains on."""

SHARE_TOLERANCE = 0.02
"""Blocks of chips go to the splits whole: a share is never exact."""


def recipe_of(name: str, **changes: Any) -> TrainSettings:
    """Give a recipe's settings, some of them changed.

    Parameters
    ----------
    name : str
        One of `RECIPES`.
    **changes
        Fields of `TrainSettings`; what is not named stays the recipe's.

    Returns
    -------
    TrainSettings

    Raises
    ------
    ConfigError
        If there is no such recipe or field, or a value cannot be.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}.")
    settings = RECIPES[name]
    known = settings.to_dict()
    for field in changes:
        if field not in known:
            close = get_close_matches(field, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{field!r} is no setting of training.{hint}")
    return replace(settings, **changes)


def deviations(settings: TrainSettings, chips: Chips) -> list[str]:
    """Say where settings and chips are not what the paper's recipe is, a phrase for each point.

    Parameters
    ----------
    settings : TrainSettings
        Only the paper's recipe says anything.
    chips : Chips
        From `open_chips`.
    """
    if settings.recipe != "paper":
        return []
    paper, given = RECIPES["paper"].to_dict(), settings.to_dict()
    found = [
        f"{field} is {given[field]!r}, the paper's {paper[field]!r}"
        for field in sorted(set(paper) - ELSEWHERE - {"epochs", "seed"})
        if given[field] != paper[field]
    ]
    size = int(chips.attrs["size"])
    if size != PAPER_SIZE:
        found.append(f"chips have {size} pixels, the paper's {PAPER_SIZE}")
    # By pixels: with cells, a chip stands in the store once a split.
    used = {s: chips.class_counts(s).sum() for s in ("train", "validation", "test")}
    share = used["train"] / max(sum(used.values()), 1)
    if abs(share - PAPER_SHARE) > SHARE_TOLERANCE:
        found.append(f"{share:.0%} of the labels are for training, the paper's {PAPER_SHARE:.0%}")
    return found
