"""Which chips a balanced epoch shows: rare classes as often as common ones."""

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
