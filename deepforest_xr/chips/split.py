"""Which blocks of the landscape train a model and which test it.

Neighbouring pixels are alike: a random split by chip would test a model on what it has
almost seen. Whole blocks of chips go to one split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepforest_xr.errors import ChipError, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
"""Names of the split codes 0, 1, 2."""


def assign_splits(
    blocks: NDArray[np.int64],
    histograms: NDArray[np.int64],
    *,
    fractions: tuple[float, float, float],
    seed: int,
) -> NDArray[np.uint8]:
    """Give every chip the split of its block.

    Blocks are dealt out in random order, each to the split that lacks most of its share of
    labelled pixels, classes weighted by their rarity, so that the splits see the same
    classes where the landscape allows it. Every split gets at least one block.

    Parameters
    ----------
    blocks : ndarray[int], dims (chip,)
        Block id of each chip.
    histograms : ndarray[int], dims (chip, class)
        Labelled pixels of each class.
    fractions : (train, validation, test)
        Shares wanted; they sum to 1.
    seed : int
        Equal seeds give equal splits.

    Returns
    -------
    ndarray[uint8], dims (chip,)
        0 train, 1 validation, 2 test.

    Raises
    ------
    ChipError
        If there are fewer than three blocks.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            f"fractions={fractions} are not three positive shares that sum to 1; "
            "try (0.7, 0.15, 0.15)."
        )
    names = np.unique(blocks)
    if len(names) < len(SPLITS):
        raise ChipError(
            f"{len(names)} blocks of labelled chips cannot be split into train, validation and "
            "test: take a larger area, smaller chips or smaller blocks."
        )
    totals = np.stack([histograms[blocks == name].sum(axis=0) for name in names]).astype(float)
    content = totals / np.maximum(totals.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    of_block = _deal(content, order, np.asarray(fractions))
    return of_block[np.searchsorted(names, blocks)]


def _deal(
    content: NDArray[np.float64], order: NDArray[np.int64], fractions: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Deal blocks to splits; `content` holds each block's share of every class."""
    held = np.zeros((len(fractions), content.shape[1]))
    of_block = np.zeros(len(content), dtype="uint8")
    # Blocks rich in rare classes first, while every split still lacks them.
    ranked = sorted(order, key=lambda b: -content[b].max())
    first = {int(split): block for split, block in zip(np.argsort(fractions), ranked, strict=False)}
    for block in ranked:
        preset = [s for s, b in first.items() if b == block]
        lacking = ((fractions[:, None] - held) / fractions[:, None]) @ content[block]
        split = preset[0] if preset else int(np.argmax(lacking))
        of_block[block] = split
        held[split] += content[block]
    return of_block
