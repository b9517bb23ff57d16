"""Speckle filters for Sentinel-1: Lee, refined Lee, and Quegan's over many dates.

Linear power in, linear power out, never decibels: all three rest on speckle multiplying
the power with unit mean and variance 1 / looks. A dask-backed input stays lazy;
`equivalent_looks` alone computes.

Each pixel comes from the valid pixels of its own window, added in an order that does not
depend on where the array begins: any chunking gives the same bits as one chunk. No pixel
is invented: what is missing (NaN, infinite, zero or negative) is NaN afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GRD_LOOKS = 4.4
"""Equivalent looks of Sentinel-1 GRD, IW mode, high resolution (ESA, Sentinel-1 Product
Specification). Resampling to a map grid raises it a little: `equivalent_looks` measures."""

REFINED_WINDOW = 7
"""Side of refined Lee's window, pixels: its eight half windows are drawn for this size."""

# Nine means of 3 x 3 pixels lie on a 3 x 3 grid (row, column). Each of four directions
# sets three of them against three; the first of a side is the one the centre's is
# compared with.
_SIDES: tuple[tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]], ...] = (
    (((1, 0), (0, 0), (2, 0)), ((1, 2), (0, 2), (2, 2))),  # left, right
    (((2, 0), (1, 0), (2, 1)), ((0, 2), (0, 1), (1, 2))),  # lower left, upper right
    (((0, 1), (0, 0), (0, 2)), ((2, 1), (2, 0), (2, 2))),  # upper, lower
    (((0, 0), (0, 1), (1, 0)), ((2, 2), (1, 2), (2, 1))),  # upper left, lower right
)


@dataclass(frozen=True, slots=True)
class SpeckleFilter:
    """A filter's array kernel, and what a reader must know to feed it."""

    kernel: Callable[..., NDArray[np.float32]]
    """From an array, dims (..., y, x), and `settings` to an array of its shape."""

    settings: tuple[str, ...]
    """Keyword arguments of `kernel`, out of ``window`` and ``looks``."""

    pools_dates: bool
    """True where the first axis must be time, whole."""

    def reach(self, window: int = REFINED_WINDOW) -> int:
        """Pixels beyond its own that an output pixel depends on: the halo to read."""
        return (window if "window" in self.settings else REFINED_WINDOW) // 2


def lee(power: xr.DataArray, *, window: int = 7, looks: float = GRD_LOOKS) -> xr.DataArray:
    """Filter with the local statistics of a square window.

    With m and v the mean and variance (divided by n) of the n valid pixels of the window,
    ``Ci^2 = v / m^2`` and ``Cu^2 = 1 / looks``::

        k = max(0, 1 - Cu^2 / Ci^2)        result = m + k (power - m)

    This is the weight that Lopes et al. (1990) give for Lee's filter. Lee (1980) derives
    it by linearising ``power = signal * speckle`` about the local mean; the factor
    ``1 / (1 + Cu^2)`` of the exact linear estimate, used by `refined_lee`, is left out.

    Parameters
    ----------
    power : DataArray[float32], dims (..., y, x)
        Linear gamma0 or sigma0; NaN, zero and negative are missing.
    window : int
        Side of the window, pixels, odd, 3 or more.
    looks : float
        Equivalent number of looks of `power`.

    Returns
    -------
    DataArray[float32], dims, chunks, coordinates and attributes of `power`
        Between the least and the greatest valid value of the window; NaN where missing.

    Raises
    ------
    ConfigError
        If a setting cannot be, y or x is not a dimension, or `power` is in decibels.

    References
    ----------
    J.-S. Lee, Digital image enhancement and noise filtering by use of local statistics,
    IEEE Trans. Pattern Anal. Mach. Intell. 2 (1980) 165-168.
    A. Lopes, R. Touzi, E. Nezry, Adaptive speckle filters and scene heterogeneity, IEEE
    Trans. Geosci. Remote Sens. 28 (1990) 992-1000.
    """
    _check_settings(window=window, looks=looks)
    return by_window(power, partial(lee_array, window=window, looks=looks), reach=window // 2)


def refined_lee(power: xr.DataArray, *, looks: float = GRD_LOOKS) -> xr.DataArray:
    """Filter with the local statistics of that half of a 7 x 7 window the pixel belongs to.

    Nine means of 3 x 3 pixels, centred 2 pixels apart, give the gradient in four
    directions; the strongest is taken for an edge. Of its two sides (28 pixels each, the
    pixel's own line in both) the one whose middle mean is nearer to the centre's is kept.
    With its mean m and variance v (divided by n), ``Cu^2 = 1 / looks``::

        b = max(0, v - Cu^2 m^2) / ((1 + Cu^2) v)        result = m + b (power - m)

    A 3 x 3 mean without a valid pixel adds no gradient, and its side is not chosen. Edges
    are sought in differences of power, as published; there is no test for homogeneity.
    Choosing a side lowers the mean of a homogeneous area: by 0.4 % at 4.4 looks, 1.5 % at
    one. A bright point keeps at most ``1 / (1 + Cu^2)`` of its power above the mean, 81 %
    at 4.4 looks: the mean of real scenes falls by 1 to 6 %, of a settled one by 12 %.

    Parameters
    ----------
    power : DataArray[float32], dims (..., y, x)
        Linear gamma0 or sigma0; NaN, zero and negative are missing.
    looks : float
        Equivalent number of looks of `power`.

    Returns
    -------
    DataArray[float32], dims, chunks, coordinates and attributes of `power`
        NaN where missing.

    Raises
    ------
    ConfigError
        If `looks` cannot be, y or x is not a dimension, or `power` is in decibels.

    References
    ----------
    J.-S. Lee, Refined filtering of image noise using local statistics, Computer Graphics
    and Image Processing 15 (1981) 380-389.
    J.-S. Lee, E. Pottier, Polarimetric Radar Imaging, CRC Press (2009), chapter 5.
    """
    _check_settings(looks=looks)
    return by_window(power, partial(refined_lee_array, looks=looks), reach=REFINED_WINDOW // 2)


def quegan(power: xr.DataArray, *, window: int = 7) -> xr.DataArray:
    """Filter each date with the ratios of all dates to their local means.

    With ``<I>`` the mean of a date's valid pixels in the window, over the N dates valid at
    the pixel::

        J_k = <I_k> / N * sum_i I_i / <I_i>

    For dates of independent speckle and a window of M pixels a homogeneous area of L looks
    gets about ``L N M / (N + M - 1)``. Detail that lasts stays sharp; a change between
    dates is smoothed in space over the window.

    Parameters
    ----------
    power : DataArray[float32], dims (time, ..., y, x), one chunk along time
        Linear gamma0 or sigma0; NaN, zero and negative are missing.
    window : int
        Side of the window, pixels, odd, 3 or more.

    Returns
    -------
    DataArray[float32], dims, chunks, coordinates and attributes of `power`
        NaN where a date is missing.

    Raises
    ------
    ConfigError
        If `window` cannot be, time, y or x is not a dimension, time is cut into chunks, or
        `power` is in decibels.

    References
    ----------
    S. Quegan, J. J. Yu, Filtering of multichannel SAR images, IEEE Trans. Geosci. Remote
    Sens. 39 (2001) 2373-2379.
    """
    _check_settings(window=window)
    kernel = partial(quegan_array, window=window)
    return by_window(power, kernel, reach=window // 2, first=("time",))


def equivalent_looks(power: xr.DataArray, *, window: int = 11) -> xr.DataArray:
    """Estimate the equivalent number of looks from the most homogeneous windows.

    Computes, one (y, x) plane in memory at a time. Each wholly valid window gives
    ``Ci^2 = variance / mean^2`` (variance divided by n - 1). Structure only adds to it, so
    the windows of pure speckle stand as a peak at the low end: the peak of log Ci^2, from
    a smoothed histogram, is taken for 1 / looks.

    With the default window the estimate lies 1.5 % high for 4.4 looks and 4 % for one look,
    because Ci^2 of few pixels is skewed; fields of some 30 pixels across take about 4 % off.

    Parameters
    ----------
    power : DataArray[float32], dims (..., y, x)
        Linear gamma0 or sigma0; NaN, zero and negative are missing.
    window : int
        Side of the window, pixels, odd, 3 or more. Larger ones scatter less, smaller ones
        fit into smaller fields.

    Returns
    -------
    DataArray[float64], dims of `power` without y and x
        Looks; NaN where no window is wholly valid and varies. Too low where no area of
        `window` pixels is homogeneous, too high where neighbours are correlated over a
        good part of the window.

    Raises
    ------
    ConfigError
        If `window` cannot be, y or x is not a dimension, or `power` is in decibels.
    """
    _check_settings(window=window)
    check_power(power)
    stack = power.transpose(..., "y", "x")
    looks = np.empty(stack.shape[:-2])
    for place in np.ndindex(looks.shape):
        looks[place] = _looks_of_plane(stack[place].to_numpy(), window)
    over = {name: c.variable for name, c in power.coords.items() if not {"y", "x"} & {*c.dims}}
    return xr.DataArray(looks, dims=stack.dims[:-2], coords=over, name="equivalent_looks")


def lee_array(
    values: NDArray[Any], *, window: int = 7, looks: float = GRD_LOOKS
) -> NDArray[np.float32]:
    """`lee` of an array with dims (..., y, x)."""
    _check_settings(window=window, looks=looks)
    result = np.empty(values.shape, dtype="float32")
    for place in np.ndindex(values.shape[:-2]):
        filled, valid = _split(values[place])
        mean, variance = _local(filled, valid, window)
        noise = mean**2 / looks
        share = np.divide(noise, variance, out=np.ones_like(mean), where=variance > noise)
        result[place] = np.where(valid, mean + (1 - share) * (filled - mean), np.nan)
    return result


def refined_lee_array(values: NDArray[Any], *, looks: float = GRD_LOOKS) -> NDArray[np.float32]:
    """`refined_lee` of an array with dims (..., y, x)."""
    _check_settings(looks=looks)
    result = np.empty(values.shape, dtype="float32")
    for place in np.ndindex(values.shape[:-2]):
        filled, valid = _split(values[place])
        mean, variance = _directed(filled, valid)
        signal = np.maximum(variance - mean**2 / looks, 0) / (1 + 1 / looks)
        weight = np.divide(signal, variance, out=np.zeros_like(mean), where=signal > 0)
        result[place] = np.where(valid, mean + weight * (filled - mean), np.nan)
    return result


def quegan_array(values: NDArray[Any], *, window: int = 7) -> NDArray[np.float32]:
    """`quegan` of an array with dims (time, ..., y, x)."""
    _check_settings(window=window)
    result = np.empty(values.shape, dtype="float32")
    for place in np.ndindex(values.shape[1:-2]):
        series = values[(slice(None), *place)]
        means = np.zeros(series.shape)
        total, dates = np.zeros(series.shape[1:]), np.zeros(series.shape[1:])
        # Date by date: np.sum adds in another order where the plane is one pixel.
        for date, plane in enumerate(series):
            filled, valid = _split(plane)
            mean, _ = _local(filled, valid, window)
            means[date] = np.where(valid, mean, np.nan)
            total += np.divide(filled, mean, out=np.zeros_like(mean), where=valid)
            dates += valid
        result[(slice(None), *place)] = means * (total / np.maximum(dates, 1))
    return result


FILTERS = {
    "lee": SpeckleFilter(lee_array, ("window", "looks"), pools_dates=False),
    "refined_lee": SpeckleFilter(refined_lee_array, ("looks",), pools_dates=False),
    "quegan": SpeckleFilter(quegan_array, ("window",), pools_dates=True),
}
"""The filters by name, for callers that read with a halo and filter within one task."""


def by_window(
    power: xr.DataArray,
    kernel: Callable[[NDArray[Any]], NDArray[np.float32]],
    *,
    reach: int,
    first: tuple[str, ...] = (),
) -> xr.DataArray:
    """Run a kernel of finite reach over y and x, lazily where `power` is.

    Parameters
    ----------
    power : DataArray, dims (*first, ..., y, x) in any order
        Linear power.
    kernel : callable
        From an array of those dims to float32 of its shape. It must take the array's edge
        for the image's.
    reach : int
        Pixels beyond its own that an output pixel depends on.
    first : tuple of str
        Dimensions that the kernel needs in front, each in one chunk.

    Returns
    -------
    DataArray[float32], dims, chunks, coordinates and attributes of `power`

    Raises
    ------
    ConfigError
        If a dimension is lacking or cut into chunks, or `power` is in decibels.
    """
    check_power(power, dims=(*first, "y", "x"))
    stack = power.transpose(*first, ..., "y", "x")
    cut = [dim for dim in first if len(stack.chunksizes.get(dim, (1,))) > 1]
    if cut:
        raise ConfigError(
            f"{power.name!r} must be one chunk along {cut[0]}, it has "
            f"{len(stack.chunksizes[cut[0]])}: call .chunk({cut[0]}=-1) first."
        )
    if stack.chunks is None:
        data = kernel(stack.to_numpy())
    else:
        from dask.array import map_overlap

        data = map_overlap(
            kernel,
            stack.data,
            # dask refuses a depth beyond the whole axis
            depth={a: min(reach, stack.shape[a]) for a in (stack.ndim - 2, stack.ndim - 1)},
            boundary="none",
            meta=np.empty((0,) * stack.ndim, dtype="float32"),
        ).rechunk(stack.chunks)  # chunks smaller than the reach were merged
    return stack.copy(data=data).transpose(*power.dims)


def check_power(power: xr.DataArray, *, dims: tuple[str, ...] = ("y", "x")) -> None:
    """Refuse what cannot be linear power on a grid.

    Parameters
    ----------
    power : DataArray
        Its values are looked at only where they are in memory.
    dims : tuple of str
        Dimensions it must have.

    Raises
    ------
    ConfigError
        If a dimension is lacking, or the attribute ``units`` or a mean below -1 tells
        decibels.
    """
    lacking = [dim for dim in dims if dim not in power.dims]
    if lacking:
        raise ConfigError(f"{power.name!r} has dims {power.dims}, it needs {lacking[0]!r} too.")
    units = str(power.attrs.get("units", ""))
    if units.lower() in {"db", "decibel", "decibels"} or _looks_like_decibels(power):
        raise ConfigError(
            f"{power.name!r} is in decibels (units {units!r}, or a mean below -1): speckle "
            "multiplies linear power. Call from_db first, to_db afterwards."
        )


def _looks_like_decibels(power: xr.DataArray) -> bool:
    if power.chunks is not None:
        return False
    values = power.to_numpy()
    # Every backscatter in dB lies above -90, the nodata values in use below. Power less its
    # thermal noise may be a little negative, also in the mean, but never by 1.
    typical = values[np.isfinite(values) & (values > -90)]
    return typical.size > 0 and bool(typical.mean(dtype="float64") < -1)


def _check_settings(*, window: int = 3, looks: float = 1.0) -> None:
    if window < 3 or window % 2 != 1:
        raise ConfigError(f"window={window} is not an odd number of pixels from 3 on; try 7.")
    if not (math.isfinite(looks) and looks > 0):
        raise ConfigError(f"looks={looks} is not a positive number; Sentinel-1 GRD has 4.4.")


def _split(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values with 0 for the missing, in double precision, and where they are valid."""
    valid = (values > 0) & (values < np.inf)
    return np.where(valid, values, 0).astype("float64"), valid


def _box(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Sum over a square window; outside the image there is nothing to add."""
    from scipy.ndimage import convolve1d

    # Not uniform_filter1d: its running sum depends on where the array begins.
    ones = np.ones(window)
    rows: NDArray[np.float64] = convolve1d(values, ones, axis=0, mode="constant")
    both: NDArray[np.float64] = convolve1d(rows, ones, axis=1, mode="constant")
    return both


def _moments(
    count: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = np.maximum(count, 1)
    mean = total / n
    return mean, np.maximum(squares / n - mean**2, 0)


def _local(
    filled: NDArray[np.float64], valid: NDArray[np.bool_], window: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of the valid pixels of each window."""
    return _moments(
        _box(valid.astype("float64"), window), _box(filled, window), _box(filled**2, window)
    )


def _half_windows() -> list[NDArray[np.float64]]:
    """Two sides of each direction of `_SIDES`, 28 of 7 x 7 pixels each."""
    reach = REFINED_WINDOW // 2
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    across = (right, right - down, down, right + down)
    return [np.asarray(s * a >= 0, dtype="float64") for a in across for s in (-1, 1)]


def _directed(
    filled: NDArray[np.float64], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of the valid pixels of each pixel's half window."""
    from scipy.ndimage import correlate

    chosen = _half_window_of(filled, valid)
    fields = (valid.astype("float64"), filled, filled**2)
    sums = np.zeros((3, *filled.shape))
    for number, half in enumerate(_half_windows()):
        here = chosen == number
        for total, field in zip(sums, fields, strict=True):
            total[here] = correlate(field, half, mode="constant")[here]
    return _moments(sums[0], sums[1], sums[2])


def _half_window_of(filled: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Place in `_half_windows` of the one each pixel belongs to."""
    means = _submeans(filled, valid)
    # From the centre's mean, so that a missing one gives exactly nothing.
    step = np.where(np.isnan(means), 0.0, means - means[1, 1])
    gradient = np.stack(
        [np.abs(sum(step[a] for a in one) - sum(step[b] for b in other)) for one, other in _SIDES]
    )
    gap = np.where(np.isnan(means), np.inf, np.abs(step))
    farther = np.stack([gap[other[0]] < gap[one[0]] for one, other in _SIDES])
    direction = gradient.argmax(axis=0)
    second = np.take_along_axis(farther, direction[None], axis=0)[0]
    return np.asarray(2 * direction + second, dtype="intp")


def _submeans(filled: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Nine 3 x 3 means around each pixel, dims (3, 3, y, x), NaN where none is valid."""
    height, width = filled.shape
    # Padded, for a mean centred outside the image may hold pixels inside.
    count = _box(np.pad(valid.astype("float64"), 2), 3)
    mean = np.divide(
        _box(np.pad(filled, 2), 3), count, out=np.full(count.shape, np.nan), where=count > 0
    )
    views = [[mean[r : r + height, c : c + width] for c in (0, 2, 4)] for r in (0, 2, 4)]
    return np.array(views)


def _looks_of_plane(values: NDArray[Any], window: int) -> float:
    filled, valid = _split(values)
    mean, variance = _local(filled, valid, window)
    n = window**2
    whole = (_box(valid.astype("float64"), window) > n - 0.5) & (variance > 0)
    if not whole.any():
        return math.nan
    spread = np.log(variance[whole] * (n / (n - 1)) / mean[whole] ** 2)
    return float(np.exp(-_mode(spread)))


def _mode(values: NDArray[np.float64]) -> float:
    """Peak of a distribution whose lower side is clean, by a smoothed histogram."""
    from scipy.ndimage import gaussian_filter1d

    low, middle = np.quantile(values, (0.1, 0.5))
    width = (middle - low) / 1.2816  # a standard deviation, were it normal
    if width <= 0:
        return float(middle)
    edges = middle + width * np.arange(-10, 3.05, 0.05)
    density = gaussian_filter1d(np.histogram(values, edges)[0].astype("float64"), 10)
    peak = int(density.argmax())
    return float(edges[peak] + edges[peak + 1]) / 2
