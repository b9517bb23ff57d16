"""Bayesian smoothing of class probabilities, as in the R package sits.

For one class, x is a pixel's logit: the logarithm of its probability over that of all other
classes. Its prior is normal, with the mean m and the variance s of the highest logits in
the window, a fixed fraction of them: those of the neighbours that are likest to be of the
class. With the smoothness v as the variance of what the network says, the posterior mean is

    s / (s + v) * x + v / (s + v) * m,

and m where s is below 1e-4. The logistic function turns it back into a probability. The
window counts the pixel itself; s is the sample variance.

What differs from sits: probabilities are whole percents here, 1/10,000 there. 0 % stands for
0.25 %, so logits lie between about -6 and +4 instead of -9 and +9, and one smoothness smooths
more. Beyond the map there is nothing, where sits mirrors it. Pixels without data stay
without; sits fills them. In the end the classes are scaled to 100 %.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import ConfigError
from deepforest_xr.legend import NODATA
from deepforest_xr.postprocess.blocks import (
    FLOOR,
    apply,
    as_planes,
    refilled,
    require_map,
    require_probability,
    require_window,
    stacked,
)

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

LEAST_VARIANCE = 1e-4
"""Below it the neighbours agree, and the pixel follows them (sits)."""

_STRIP = 2**22
"""Values that are sorted at a time: 32 MB."""


def bayesian_smoothing(
    result: xr.Dataset,
    *,
    window: int = 9,
    smoothness: float = 20.0,
    neighbourhood_fraction: float = 0.5,
) -> xr.Dataset:
    """Smooth the probability of every class with that of its neighbours, and classify again.

    The formula stands at the top of this file; the defaults are those of sits 1.5. The map does
    not depend on the chunks.

    Parameters
    ----------
    result : Dataset
        From ``classify(..., probability=True)``: ``lulc (y, x)`` uint8, 0 is no data;
        ``probability (class, y, x)`` uint8 percent.
    window : int
        Side of the window in pixels, odd.
    smoothness : float
        Variance of the logits that the network gives: the larger, the more weight have the
        neighbours.
    neighbourhood_fraction : float
        Fraction of the window's pixels, those with the highest probability of a class, that
        make its prior. 1 takes all; less keeps borders and small patches.

    Returns
    -------
    Dataset
        As `result`, lazy where it is, 0 where it or all its probabilities were: ``lulc`` the
        likeliest class of the smoothed probabilities, ``confidence`` and ``probability`` uint8
        percent of them; entropy and margin, of other probabilities, are left out.
        ``attrs["postprocess"]`` says what was done.

    Raises
    ------
    ConfigError
        If the map has no probabilities, `window` is even, `smoothness` not positive or the
        fraction not within 0 to 1.
    LabelError, DtypeError
        If `result` is no map.

    References
    ----------
    Camara et al. (2024), Bayesian inference for post-processing of remote sensing image
    classification. Remote Sensing 16(23), 4572. R package sits, ``sits_smooth``.
    """
    probability = require_probability(result, "bayesian_smoothing")
    legend = require_map(result)
    require_window("window", window)
    if not smoothness > 0:
        raise ConfigError(f"smoothness={smoothness} is not positive; sits takes 20.")
    if not 0 < neighbourhood_fraction <= 1:
        raise ConfigError(
            f"neighbourhood_fraction={neighbourhood_fraction} is not above 0 and up to 1; try 0.5."
        )
    kernel = partial(
        _smooth,
        codes=np.array(legend.codes, dtype="uint8"),
        window=window,
        smoothness=smoothness,
        fraction=neighbourhood_fraction,
    )
    planes = apply(
        kernel,
        stacked(result["lulc"], probability),
        depth=window // 2,
        planes=2 + len(legend.classes),
    )
    step = (
        f"bayesian_smoothing(window={window}, smoothness={smoothness:g}, "
        f"neighbourhood_fraction={neighbourhood_fraction:g})"
    )
    return refilled(result, planes, step)


def _smooth(
    planes: NDArray[np.uint8],
    *,
    codes: NDArray[np.uint8],
    window: int,
    smoothness: float,
    fraction: float,
) -> NDArray[np.uint8]:
    # Without any probability there is nothing to smooth, and nothing to tell the neighbours.
    valid = (planes[0] != NODATA) & planes[1:].any(axis=0)
    logits = np.where(valid, logits_of(planes[1:]), np.nan)
    smoothed = np.stack(
        [posterior(plane, window=window, smoothness=smoothness, fraction=fraction)
         for plane in logits]
    )  # fmt: skip
    share = 1 / (1 + np.exp(-np.where(valid, smoothed, 0)))
    return as_planes(share / share.sum(axis=0), valid, codes)


def logits_of(percent: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logarithm of the odds of every class against all others; 0 % stands for 0.25 %.

    Parameters
    ----------
    percent : ndarray[uint8], (class, y, x)

    Returns
    -------
    ndarray[float64], shape of `percent`
    """
    share = np.maximum(percent.astype("float64"), FLOOR)
    # A legend of one class has no others.
    odds: NDArray[np.float64] = share / np.maximum(share.sum(axis=0) - share, FLOOR)
    return np.log(odds)


def posterior(
    logits: NDArray[np.float64], *, window: int, smoothness: float, fraction: float
) -> NDArray[np.float64]:
    """Posterior mean of one class's logits (y, x); NaN is no data and stays so."""
    reach = window // 2
    padded = np.pad(logits, reach, constant_values=np.nan)
    views: Any = np.lib.stride_tricks.sliding_window_view(padded, (window, window))
    rows = max(1, _STRIP // (window**2 * logits.shape[1]))
    out = np.empty_like(logits)
    for top in range(0, logits.shape[0], rows):
        part = slice(top, top + rows)
        mean, variance = _prior(views[part].reshape(*views[part].shape[:2], -1), fraction)
        weight = np.where(variance < LEAST_VARIANCE, 0, variance / (variance + smoothness))
        out[part] = weight * logits[part] + (1 - weight) * mean
    return out


def _prior(
    neighbours: NDArray[np.float64], fraction: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of the highest of (y, x, neighbour); NaN where there is none.

    The neighbour is the first axis of what is summed: numpy then adds in one order,
    whatever the window, and a pixel comes out the same in every block to the last bit.
    """
    falling = -np.sort(-neighbours, axis=-1)  # NaN last
    falling = np.ascontiguousarray(np.moveaxis(falling, -1, 0))
    known = np.isfinite(falling).sum(axis=0)
    taken = np.ceil(fraction * known)
    chosen = np.arange(len(falling))[:, None, None] < taken
    sums = np.where(chosen, falling, 0).sum(axis=0)
    mean = np.divide(sums, taken, out=np.full(sums.shape, np.nan), where=taken > 0)
    squares = (np.where(chosen, falling - mean, 0) ** 2).sum(axis=0)
    return mean, squares / np.maximum(taken - 1, 1)
