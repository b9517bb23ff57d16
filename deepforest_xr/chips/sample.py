"""Which chips an epoch shows and in which order.

Rare classes as often as common ones, if wanted; and so that files are read one after the
other although the chips come shuffled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepforest_xr.errors import ChipError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def balanced_weights(histograms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of each chip when classes are drawn alike.

    Draw one of the C classes that occur, each alike, then one of its N labelled pixels, each
    alike, and take the pixel's chip: with h[i, c] pixels of class c in chip i,

        p[i] = 1 / C * sum over c of h[i, c] / N[c].

    Parameters
    ----------
    histograms : ndarray[int], dims (chip, class)
        Labelled pixels of each class.

    Returns
    -------
    ndarray[float64], dims (chip,)
        They sum to 1.

    Raises
    ------
    ChipError
        If no chip has a labelled pixel.
    """
    totals = histograms.sum(axis=0)
    occurs = totals > 0
    if not occurs.any():
        raise ChipError("no chip has a labelled pixel: there is no class to balance.")
    return np.asarray((histograms[:, occurs] / totals[occurs]).mean(axis=1), dtype="float64")


def streamed_order(
    shards: NDArray[np.int64], *, buffer: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Shuffle chips so that they are read shard after shard.

    Shards are taken in random order, as many at a time as hold at most `buffer` of the chips
    (one at least), and the chips of those are shuffled. With `buffer` chips or fewer all are
    shuffled among each other.

    Parameters
    ----------
    shards : ndarray[int], dims (chip,)
        Shard of each chip.
    buffer : int
        In chips, positive.
    rng : Generator
        Decides the order.

    Returns
    -------
    ndarray[int64], dims (chip,)
        Every position once.
    """
    if len(shards) <= buffer:
        return rng.permutation(len(shards))
    names, number, sizes = np.unique(shards, return_inverse=True, return_counts=True)
    turn = rng.permutation(len(names))
    window = np.empty(len(names), dtype="int64")
    taken = last = 0
    for shard in turn.tolist():
        if taken and taken + sizes[shard] > buffer:
            taken, last = 0, last + 1
        window[shard] = last
        taken += int(sizes[shard])
    return np.lexsort((rng.random(len(shards)), window[number]))
