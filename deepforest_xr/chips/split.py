"""Which blocks of the landscape train a model and which test it.

Neighbouring pixels are alike: a random split by chip would test a model on what it has
almost seen. Whole blocks of chips go to one split, and training chips beside a block that is
held out are not used: they are the buffer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepforest_xr.errors import ChipError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from deepforest_xr.chips.spec import ChipSpec

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
"""Names of the split codes 0, 1, 2."""

BUFFER = len(SPLITS)
"""Code of chips that no split uses."""

TRAINING_LEFT = 1 / 3
"""Of the chips, for a buffer that nobody asked for."""

DEALS = 64
"""Tried for a buffer that takes little; fewer for many blocks, see `BLOCKS_DEALT`."""

BLOCKS_DEALT = 50_000

SIDES = ((2, 12), (1, 0))
"""Sides of a block in chips, each with the number of blocks it takes; the first that fits."""

BUFFERED_SIDES = ((4, 24), *SIDES)


@dataclass(frozen=True, slots=True)
class Split:
    """What became of every chip."""

    block: NDArray[np.int64]
    """Block of each chip; dims (chip,)."""

    code: NDArray[np.uint8]
    """0 train, 1 validation, 2 test, 3 buffer; dims (chip,)."""

    side: int
    """Of a block, in chips."""

    buffer: int
    """Chips between training and what is held out, 0 without a buffer."""


def split_cells(
    row: NDArray[np.int64], col: NDArray[np.int64], code: NDArray[np.uint8], *, spec: ChipSpec
) -> Split:
    """Describe chips whose labels were dealt by cells before they were cut.

    Parameters
    ----------
    row, col : ndarray[int], dims (chip,)
        Place of each chip, in chips.
    code : ndarray[uint8], dims (chip,)
        Split whose labels the chip holds.
    spec : ChipSpec
        Its `block`.

    Returns
    -------
    Split
        Without a buffer.
    """
    side = spec.block or _side(row, col, SIDES)
    return Split(_blocks(row, col, side), code, side, 0)


def split_chips(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    histograms: NDArray[np.int64],
    *,
    spec: ChipSpec,
) -> Split:
    """Deal blocks of chips to the splits and take the buffer from training.

    With a buffer of n chips no training pixel lies within n chip sides of a validation or
    test pixel, counted along rows and columns; validation and test, which train nothing, may
    touch. Several deals are tried (their number and
    order follow from the seed); taken is the one where most splits hold most classes, then
    the one that leaves most for training with splits most like the whole.

    Parameters
    ----------
    row, col : ndarray[int], dims (chip,)
        Place of each chip, in chips.
    histograms : ndarray[int], dims (chip, class)
        Labelled pixels of each class.
    spec : ChipSpec
        Its `block`, `buffer`, `fractions` and `seed`.

    Returns
    -------
    Split

    Raises
    ------
    ChipError
        If there are fewer than three blocks, or the buffer that `spec` asks for leaves
        nothing to train on.
    """
    side = spec.block or _side(row, col, SIDES)
    block = _blocks(row, col, side)
    plain = assign_splits(block, histograms, fractions=spec.fractions, seed=spec.seed)
    if spec.buffer == 0:
        return Split(block, plain, side, 0)
    wide = spec.block or _side(row, col, BUFFERED_SIDES)
    buffered = _buffered(row, col, histograms, wide, spec)
    if spec.buffer is None:
        fits = _fits(buffered.code, plain, histograms)
        return buffered if fits else Split(block, plain, side, 0)
    if not (buffered.code == 0).any():
        raise ChipError(
            f"a buffer of {spec.buffer} chips leaves no training chip: take a larger area, "
            "smaller chips, or buffer=0."
        )
    return buffered


def _fits(
    buffered: NDArray[np.uint8], plain: NDArray[np.uint8], histograms: NDArray[np.int64]
) -> bool:
    """Whether a buffer nobody asked for leaves enough; says so where it does not."""
    left = float((buffered == 0).mean())
    has_classes = _present(buffered, histograms) >= _present(plain, histograms)
    if left >= TRAINING_LEFT and has_classes:
        return True
    log.warning(
        "no buffer between training and held-out chips: it would leave %.0f %% of %d chips for "
        "training%s; take a larger area or smaller chips",
        100 * left,
        len(plain),
        "" if has_classes else " and a split without one of its classes",
    )
    return False


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
    classes where the landscape allows it. Every split that has a share gets at least one block.

    Parameters
    ----------
    blocks : ndarray[int], dims (chip,)
        Block id of each chip.
    histograms : ndarray[int], dims (chip, class)
        Labelled pixels of each class.
    fractions : (train, validation, test)
        Shares wanted, as `ChipSpec` takes them.
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
    names, content = _content(blocks, histograms)
    wanted = SPLITS[: len(_asked(fractions))]
    if len(names) < len(wanted):
        raise ChipError(
            f"{len(names)} blocks of labelled chips cannot be split into {', '.join(wanted)}: "
            "take a larger area, smaller chips or smaller blocks."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    # Blocks rich in rare classes first, while every split still lacks them.
    ranked = sorted(order, key=lambda b: -content[b].max())
    return _deal(content, ranked, _asked(fractions))[np.searchsorted(names, blocks)]


def near_held_out(
    row: NDArray[np.int64], col: NDArray[np.int64], split: NDArray[np.uint8], *, chips: int
) -> NDArray[np.bool_]:
    """Find the chips that have a validation or test chip among their neighbours.

    Parameters
    ----------
    row, col : ndarray[int], dims (chip,)
        Place of each chip, in chips.
    split : ndarray[uint8], dims (chip,)
        Codes; 1 and 2 are held out.
    chips : int
        How far a neighbour may be, along rows and columns.

    Returns
    -------
    ndarray[bool], dims (chip,)
        True also on the held-out chips themselves.
    """
    held = np.zeros((int(row.max()) + 1, int(col.max()) + 1), dtype=bool)
    is_held = (split == 1) | (split == 2)
    held[row[is_held], col[is_held]] = True
    for _ in range(chips):
        wide = np.pad(held, 1)
        tall = wide[:-2] | wide[1:-1] | wide[2:]
        held = tall[:, :-2] | tall[:, 1:-1] | tall[:, 2:]
    return held[row, col]


def _blocks(row: NDArray[np.int64], col: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Number the squares of `side` x `side` chips; dims (chip,)."""
    return (row // side) * (int(col.max()) // side + 1) + col // side


def _side(
    row: NDArray[np.int64], col: NDArray[np.int64], sides: tuple[tuple[int, int], ...]
) -> int:
    """Choose the first side that gives its number of blocks."""
    return next(n for n, least in sides if len(np.unique(_blocks(row, col, n))) >= least)


def _buffered(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    histograms: NDArray[np.int64],
    side: int,
    spec: ChipSpec,
) -> Split:
    """Try several deals, each with its buffer; give the best."""
    block, buffer = _blocks(row, col, side), spec.buffer or 1
    best, code = (-1, 0.0), np.empty(0, dtype="uint8")
    for deal in _deals(block, histograms, spec):
        is_near = near_held_out(row, col, deal, chips=buffer)
        deal[(deal == 0) & is_near] = BUFFER
        worth = _worth(deal, histograms, spec.fractions)
        if worth > best:
            best, code = worth, deal
    return Split(block, code, side, buffer)


def _deals(
    block: NDArray[np.int64], histograms: NDArray[np.int64], spec: ChipSpec
) -> Iterator[NDArray[np.uint8]]:
    """Deal blocks in orders more and less by rarity; the first is `assign_splits`' own."""
    yield assign_splits(block, histograms, fractions=spec.fractions, seed=spec.seed)
    names, content = _content(block, histograms)
    rng = np.random.default_rng((spec.seed, 1))
    for _ in range(min(DEALS, max(1, BLOCKS_DEALT // len(names))) - 1):
        ranked = np.argsort(-content.max(axis=1) * rng.lognormal(size=len(names))).tolist()
        yield _deal(content, ranked, _asked(spec.fractions))[np.searchsorted(names, block)]


def _worth(
    split: NDArray[np.uint8],
    histograms: NDArray[np.int64],
    fractions: tuple[float, float, float],
) -> tuple[int, float]:
    """Rate a deal: classes in splits, then chips left for training less what is uneven."""
    held = np.stack([histograms[split == code].sum(axis=0) for code in range(len(SPLITS))])
    whole = histograms.sum(axis=0) / histograms.sum()
    shares = held / np.maximum(held.sum(axis=1, keepdims=True), 1)
    uneven = np.abs(shares - whole).sum(axis=1).mean()
    off = np.abs(held[1:].sum(axis=1) / histograms.sum() - fractions[1:]).sum()
    return _present(split, histograms), float((split == 0).mean() - uneven - off)


def _present(split: NDArray[np.uint8], histograms: NDArray[np.int64]) -> int:
    """Count the pairs of a split and a class that it holds."""
    return sum(int(histograms[split == code].any(axis=0).sum()) for code in range(len(SPLITS)))


def _content(
    blocks: NDArray[np.int64], histograms: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Names of the blocks, and each one's share of every class, dims (block, class)."""
    names, number = np.unique(blocks, return_inverse=True)
    totals = np.zeros((len(names), histograms.shape[1]))
    np.add.at(totals, number, histograms)
    return names, totals / np.maximum(totals.sum(axis=0), 1)


def _asked(fractions: tuple[float, float, float]) -> NDArray[np.float64]:
    """Shares without the test's where that is 0."""
    return np.asarray(fractions if fractions[-1] else fractions[:-1], dtype="float64")


def _deal(
    content: NDArray[np.float64], ranked: list[int], fractions: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Deal blocks to splits in the order given; each split's first block is preset."""
    held = np.zeros((len(fractions), content.shape[1]))
    of_block = np.zeros(len(content), dtype="uint8")
    first = {block: int(s) for s, block in zip(np.argsort(fractions), ranked, strict=False)}
    for block in ranked:
        lacking = ((fractions[:, None] - held) / fractions[:, None]) @ content[block]
        split = first.get(block, int(np.argmax(lacking)))
        of_block[block] = split
        held[split] += content[block]
    return of_block
