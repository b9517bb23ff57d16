"""Many dates to one image: median, medoid, geometric median, best pixel; and how many dates.

Each is a NumPy kernel (`..._array`, time first, in memory) and a face on DataArrays that
keeps lazy lazy. Kernels work along strips of pixels that stay in the cache and need little
memory beside their input and output. A pixel's result depends on its own dates alone, to
the last bit: chunks do not matter.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepforest_xr.sentinel.s2 import NODATA, QUANTIFICATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]

STRIP_BYTES = 2**21
"""What a strip may take: calls are few then, and it fits a core's share of the cache."""

NETWORK_DATES = 64
"""Longest series that a sorting network orders; beyond it `numpy.sort` is faster."""


def median(values: xr.DataArray) -> xr.DataArray:
    """Median over time, missing values left out.

    Parameters
    ----------
    values : DataArray[float32], dims (time, ...), one chunk along time
        NaN is missing.

    Returns
    -------
    DataArray[float32], dims without time
        The mean of the two middle values where their number is even, NaN where none is.
    """
    middle: xr.DataArray = xr.apply_ufunc(
        lambda block: median_array(np.moveaxis(block, -1, 0)),
        values,
        input_core_dims=[["time"]],
        dask="parallelized",
        output_dtypes=["float32"],
        keep_attrs=True,
    )
    return middle


def resampled_median(values: xr.DataArray, *, freq: str = "1MS") -> xr.DataArray:
    """Median of each period, as ``values.resample(time=freq).median()`` but faster.

    Parameters
    ----------
    values : DataArray[float32], dims (time, ...), one chunk along time
        NaN is missing; with a coordinate of ascending times.
    freq : str
        Pandas' name of a period; "1MS" is a month, labelled by its first day.

    Returns
    -------
    DataArray[float32], dims of `values`, time the periods
        From the first period with a date to the last; NaN where none is seen.
    """
    ones = xr.ones_like(values["time"], dtype="int64")
    dates = ones.resample(time=freq).sum().fillna(0).astype("int64")
    bounds = np.concatenate([[0], np.cumsum(dates.to_numpy())])
    periods: xr.DataArray = xr.apply_ufunc(
        lambda block: _median_of_periods(block, bounds),
        values,
        input_core_dims=[["time"]],
        output_core_dims=[["time"]],
        exclude_dims={"time"},
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"time": dates.size}},
        output_dtypes=["float32"],
        keep_attrs=True,
    )
    return periods.assign_coords(time=dates["time"]).transpose(*values.dims)


def count(values: xr.DataArray) -> xr.DataArray:
    """Number of dates with a value.

    Parameters
    ----------
    values : DataArray[float32], dims (time, ...)

    Returns
    -------
    DataArray[uint16], dims without time
    """
    return values.notnull().sum("time").astype("uint16")


def medoid(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Observation closest to all others of its pixel: a spectrum that was measured.

    Parameters
    ----------
    values : DataArray[float32], dims (time, band, ...), one chunk along time
        Reflectance, NaN is missing. A date counts where it has all bands.

    Returns
    -------
    spectrum : DataArray[float32], dims without time
        All bands of one date, NaN where no date counts.
    index : DataArray[int16], dims without time and band
        Which date, -1 where none.

    References
    ----------
    Flood (2013), Remote Sensing 5, 6481, https://doi.org/10.3390/rs5126481
    """
    spectrum, index = _over_dates(medoid_array, values, dtypes=("float32", "int16"))
    return spectrum, index


def best_pixel(values: xr.DataArray, distance: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Observation farthest from the clouds of its date; the earliest of equals.

    Parameters
    ----------
    values : DataArray[float32], dims (time, band, ...), one chunk along time
        Reflectance, NaN is missing. A date counts where it has all bands.
    distance : DataArray[float32], dims (time, ...), one chunk along time
        To the nearest cloud or shadow (`clouds.cloud_distance`); NaN leaves a date out.

    Returns
    -------
    spectrum, index : DataArray
        As of `medoid`.
    """
    found = _over_dates(best_pixel_array, values, distance, dtypes=("float32", "int16"))
    return found[0], found[1]


def geomad(values: xr.DataArray, *, tolerance: float = 1e-5, iterations: int = 100) -> xr.Dataset:
    """Geometric median of the spectra, and how far they scatter around it.

    Parameters
    ----------
    values : DataArray[float32], dims (time, band, ...), one chunk along time
        Reflectance, NaN is missing. A date counts where it has all bands.
    tolerance, iterations : float, int
        A pixel is done after a step shorter than `tolerance`, in units of `values`, or
        after so many.

    Returns
    -------
    Dataset[float32]
        ``geomedian`` (dims without time); and without time and band the medians over time
        of the distances to it: ``emad`` Euclidean (units of `values`), ``smad`` spectral
        (1 - cosine), ``bcmad`` Bray-Curtis. NaN where no date counts.

    References
    ----------
    Roberts et al. (2017), IEEE TGRS 55, 6254, https://doi.org/10.1109/TGRS.2017.2723896
    Roberts et al. (2018), IGARSS, 8647, https://doi.org/10.1109/IGARSS.2018.8518312
    """
    kernel = partial(geomad_array, tolerance=tolerance, iterations=iterations)
    found = _over_dates(kernel, values, dtypes=("float32",) * 4)
    return xr.Dataset(dict(zip(("geomedian", "emad", "smad", "bcmad"), found, strict=True)))


def median_array(values: NDArray[np.floating[Any]]) -> Floats:
    """Median over the first axis: `median` on an array (time, ...) in memory.

    C-contiguous arrays are read in place, others are copied once.
    """
    flat = _flat(values, 1)
    out = np.empty(flat.shape[1], dtype="float32")
    for strip in _strips(flat):
        part = flat[:, strip]
        missing = np.isnan(part)
        n = len(part) - np.add.reduce(missing, axis=0, dtype="int32")
        seen = np.flatnonzero(~missing.all(axis=1))
        rows = np.empty((len(seen) + 1, part.shape[1]), dtype="float32")
        for row, date in zip(rows, seen, strict=False):
            np.fmin(part[date], np.float32(np.inf), out=row)  # missing sorts last
        out[strip] = _middle(rows, n)
    return out.reshape(values.shape[1:])


def median_of_counts(
    dn: NDArray[np.uint16], clear: NDArray[np.bool_] | None, shift: NDArray[np.int32]
) -> tuple[Floats, NDArray[np.uint16]]:
    """Median reflectance straight from digital numbers, which sort at half the memory.

    Parameters
    ----------
    dn : array[uint16] (time, ...)
        Digital numbers as delivered; 0 means no data.
    clear : array[bool] of the shape of `dn`, or None
        False leaves an observation out.
    shift : array[int32] (time,)
        Added to each date's digital numbers before scaling.

    Returns
    -------
    reflectance : array[float32] (...)
        To the last bit the median of `s2.to_reflectance`, NaN where nothing is seen.
    count : array[uint16] (...)
        Observations it is the median of.
    """
    flat, flat_clear = _flat(dn, 1), None if clear is None else _flat(clear, 1)
    base = int(shift.min(initial=0))
    above = shift.astype("int64") - base
    out = np.empty(flat.shape[1], dtype="float32")
    count = np.empty(flat.shape[1], dtype="uint16")
    for strip in _strips(flat):
        valid = flat[:, strip] != NODATA
        if flat_clear is not None:
            valid &= flat_clear[:, strip]
        n = np.add.reduce(valid, axis=0, dtype="int32")
        out[strip] = _middle(_sortable(flat[:, strip], valid, above), n, base)
        count[strip] = n
    return out.reshape(dn.shape[1:]), count.reshape(dn.shape[1:])


def medoid_array(values: Floats) -> tuple[Floats, NDArray[np.int16]]:
    """Observation closest to all others: `medoid` on an array (time, band, ...) in memory.

    Distances are summed in float32; the earliest of equal sums wins.
    """
    flat = _flat(values, 2)
    index = np.full(flat.shape[2], -1, dtype="int16")
    for strip in _strips(flat):
        spectra, valid, seen = _spectra(flat[..., strip], "float32")
        if len(seen):
            total = np.where(valid, _summed_distances(spectra, valid), np.inf)
            index[strip] = np.where(valid.any(axis=0), seen[total.argmin(axis=0)], -1)
    return _gathered(values, index)


def best_pixel_array(values: Floats, distance: Floats) -> tuple[Floats, NDArray[np.int16]]:
    """Observation farthest from clouds: `best_pixel` on arrays (time, band, ...), (time, ...)."""
    flat, far = _flat(values, 2), _flat(distance, 1)
    index = np.full(flat.shape[2], -1, dtype="int16")
    for strip in _strips(flat) if len(flat) else ():
        valid = np.isfinite(flat[..., strip]).all(axis=1) & ~np.isnan(far[:, strip])
        score = np.where(valid, far[:, strip], -np.inf)
        index[strip] = np.where(valid.any(axis=0), score.argmax(axis=0), -1)
    return _gathered(values, index)


def geomad_array(
    values: Floats, *, tolerance: float = 1e-5, iterations: int = 100
) -> tuple[Floats, Floats, Floats, Floats]:
    """Geometric median, emad, smad, bcmad: `geomad` on an array (time, band, ...) in memory.

    Weiszfeld's iteration in float64 from the mean, by Vardi and Zhang (2000, PNAS 97,
    1423-1426) where it meets an observation. One date is its own median; of two, where any
    point between them is one, it is the midpoint.
    """
    flat = _flat(values, 2)
    found = np.full((flat.shape[1] + 3, flat.shape[2]), np.nan, dtype="float32")
    for strip in _strips(flat, itemsize=8):
        spectra, valid, seen = _spectra(flat[..., strip], "float64")
        if len(seen):
            centre = _fold(spectra.copy()) / np.maximum(np.add.reduce(valid, axis=0), 1)
            for _ in range(2):  # again: it may have stopped beside an observation
                centre = _off_observations(spectra, valid, centre, tolerance)
                centre = _weiszfeld(spectra, valid, centre, tolerance, iterations)
            found[:-3, strip] = np.where(valid.any(axis=0), centre, np.nan)
            found[-3:, strip] = _mads(spectra, valid, centre)
    found = found.reshape(-1, *values.shape[2:])
    return found[:-3], found[-3], found[-2], found[-1]


def _flat(values: Array, lead: int) -> Array:
    return values.reshape(*values.shape[:lead], math.prod(values.shape[lead:]))


def _strips(flat: Array, itemsize: int = 4) -> Iterator[slice]:
    """Slices of the last axis."""
    width = min(max(STRIP_BYTES // max(itemsize * math.prod(flat.shape[:-1]), 1), 256), 2**15)
    return (slice(start, start + width) for start in range(0, flat.shape[-1], width))


def _over_dates(
    kernel: Callable[..., tuple[Array, ...]], *inputs: xr.DataArray, dtypes: tuple[str, ...]
) -> tuple[xr.DataArray, ...]:
    """Run a kernel (time, band, ...) -> (band, ...), (...), ... on DataArrays."""
    values = inputs[0] if inputs[0].chunks is None else inputs[0].chunk(band=-1)

    def turned(block: Array, *others: Array) -> tuple[Array, ...]:
        # apply_ufunc puts core dims last; undone, the block is contiguous as it was.
        first = (np.moveaxis(other, -1, 0) for other in others)
        spectrum, *rest = kernel(np.moveaxis(block, (-2, -1), (0, 1)), *first)
        return np.moveaxis(spectrum, 0, -1), *rest

    spectrum, *rest = xr.apply_ufunc(
        turned,
        values,
        *inputs[1:],
        input_core_dims=[["time", "band"], *[["time"] for _ in inputs[1:]]],
        output_core_dims=[["band"], *[[] for _ in dtypes[1:]]],
        dask="parallelized",
        output_dtypes=list(dtypes),
        keep_attrs=True,
    )
    spectrum = spectrum.transpose(*(dim for dim in values.dims if dim != "time"))
    # Units and names of reflectance are not those of dates and scatter.
    return spectrum, *(other.drop_attrs() for other in rest)


def _gathered(values: Floats, index: NDArray[np.int16]) -> tuple[Floats, NDArray[np.int16]]:
    """Spectra of the dates in `index` (flat), NaN for -1; and the index in the pixels' shape."""
    index = index.reshape(values.shape[2:])
    spectrum = np.full(values.shape[1:], np.nan, dtype="float32")
    for date in range(values.shape[0]):
        np.copyto(spectrum, values[date], where=index == date)
    return spectrum, index


def _median_of_periods(block: Floats, bounds: NDArray[np.int64]) -> Floats:
    first = np.moveaxis(block, -1, 0)
    periods = np.empty((len(bounds) - 1, *first.shape[1:]), dtype="float32")
    for period in range(len(periods)):
        periods[period] = median_array(first[bounds[period] : bounds[period + 1]])
    return np.moveaxis(periods, 0, -1)


def _sortable(dn: NDArray[np.uint16], valid: NDArray[np.bool_], above: Array) -> Array:
    """Shifted digital numbers of the dates seen, missing the largest; and one row to spare."""
    seen = np.flatnonzero(valid.any(axis=1))
    largest = int(dn.max(initial=0)) + int(above.max(initial=0))
    dtype = np.dtype("uint16" if largest < np.iinfo("uint16").max else "uint32")
    rows = np.empty((len(seen) + 1, dn.shape[1]), dtype=dtype)
    for row, date in zip(rows, seen, strict=False):
        np.add(dn[date], dtype.type(above[date]), out=row)
        row |= np.subtract(valid[date], 1, dtype=dtype)  # 0 - 1 wraps to all bits set
    return rows


def _middle(rows: Array, n: NDArray[np.int32], base: int | None = None) -> Floats:
    """Median of the `n` smallest of each column; the last row is spare. Overwrites `rows`.

    With `base`, rows are digital numbers less `base`: scaled when sorted, as it keeps order.
    """
    most = int(n.max(initial=0))
    if most == 0:
        return np.full(len(n), np.nan, dtype="float32")
    least = int(n.min(where=n > 0, initial=most))
    first, last = (least - 1) // 2, min(most // 2, len(rows) - 2)
    ranked = _ranked(rows, first, last)
    if base is not None:
        ranked = (ranked.astype("int32") + base).astype("float32") / QUANTIFICATION
    columns = np.arange(len(n))
    low = ranked[np.clip((n - 1) // 2 - first, 0, None), columns]
    high = ranked[np.clip(n // 2 - first, 0, last - first), columns]
    return np.where(n > 0, (low + high) / 2, np.float32(np.nan))


def _ranked(rows: Array, first: int, last: int) -> Array:
    """Order columns; the rows of rank `first` to `last`. Overwrites `rows`."""
    dates = len(rows) - 1
    if dates > NETWORK_DATES:
        return np.sort(rows[:-1].T, axis=-1).T[first : last + 1]
    order, spare = list(rows[:-1]), rows[-1]
    for i, j, smaller, larger in _network(dates, first, last):
        a, b = order[i], order[j]
        if smaller:
            np.minimum(a, b, out=spare)
            order[i] = spare
        if larger:
            np.maximum(a, b, out=b)
        spare = a if smaller else spare
    return np.stack(order[first : last + 1])


@lru_cache(maxsize=256)
def _network(dates: int, first: int, last: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators that ranks `first` to `last` depend on, and which of their ends is used."""
    needed = set(range(first, last + 1))
    kept = []
    for i, j in reversed(list(_batcher(dates))):
        smaller, larger = i in needed, j in needed
        if smaller or larger:
            kept.append((i, j, smaller, larger))
            needed |= {i, j}
    return tuple(reversed(kept))


def _batcher(n: int) -> Iterator[tuple[int, int]]:
    """Comparators of odd-even merge sort of any length (Knuth, TAOCP 3, 5.2.2 M)."""
    block = 1
    while block < n:
        gap = block
        while gap:
            for start in range(gap % block, n - gap, 2 * gap):
                for i in range(start, min(start + gap, n - gap)):
                    if i // (2 * block) == (i + gap) // (2 * block):
                        yield i, i + gap
            gap //= 2
        block *= 2


def _spectra(part: Floats, dtype: str) -> tuple[Array, Array, Array]:
    """Copy of the dates that count somewhere, 0 where they do not; where they do; which."""
    valid = np.logical_and.reduce(np.isfinite(part), axis=1)
    seen = np.flatnonzero(valid.any(axis=1))
    spectra, valid = part[seen].astype(dtype), valid[seen]
    np.copyto(spectra, 0, where=~valid[:, None])
    return spectra, valid, seen


def _fold(terms: Array, axis: int = 0) -> Array:
    """Sum over an axis, overwriting `terms`.

    One after the other: `numpy.sum` orders by the array's shape, and so by the chunks.
    """
    total: Array
    total, *others = np.moveaxis(terms, axis, 0)
    for term in others:
        total += term
    return total


def _norm(vectors: Array, axis: int = 0) -> Array:
    """Length of vectors along an axis, overwriting them."""
    vectors *= vectors
    return np.asarray(np.sqrt(_fold(vectors, axis)))


def _summed_distances(spectra: Floats, valid: Array) -> Floats:
    """Sum of the distances of each date (time, pixel) to the dates that count."""
    counts = valid.astype("float32")
    total = np.zeros(valid.shape, dtype="float32")
    for i in range(1, len(spectra)):
        for j in range(i):
            apart = _norm(spectra[i] - spectra[j])
            total[i] += apart * counts[j]
            total[j] += apart * counts[i]
    return total


def _weiszfeld(
    spectra: Array, valid: Array, centre: Array, tolerance: float, iterations: int
) -> Array:
    """Geometric median (band, pixel); pixels that stand still are set aside."""
    done, at = centre.copy(), np.arange(valid.shape[1])
    moving = np.logical_or.reduce(valid, axis=0)
    for _ in range(iterations):
        if moving.sum() < 0.75 * len(at):
            done[:, at] = centre
            spectra, valid = spectra[..., moving], valid[:, moving]
            centre, at, moving = centre[:, moving], at[moving], moving[moving]
        if not len(at):
            break
        step = _step(spectra, valid, centre, tolerance) * moving
        centre = centre + step
        moving &= _norm(step) > tolerance
    done[:, at] = centre
    return done


def _step(spectra: Array, valid: Array, centre: Array, tolerance: float) -> Array:
    """Step (band, pixel) towards the geometric median, 0 on an observation that is it."""
    work = spectra - centre
    apart = _norm(work, axis=1)
    on = valid & (apart <= tolerance)
    weight = np.divide(1.0, apart, out=np.zeros_like(apart), where=valid & ~on)
    np.multiply(spectra, weight[:, None], out=work)
    total, hold = _fold(weight), np.add.reduce(on, axis=0)
    step = _fold(work) / np.where(total > 0, total, 1) - centre * (total > 0)
    pull = total * _norm(step.copy())
    share = np.divide(hold, pull, out=np.ones_like(pull), where=pull > hold)
    return np.asarray(step * (1 - share * (hold > 0)))


def _off_observations(spectra: Array, valid: Array, centre: Array, tolerance: float) -> Array:
    """Exchange a place close to an observation, where steps are short, for a step from it."""
    apart = np.where(valid, _norm(spectra - centre, axis=1), np.inf)
    nearest, columns = apart.argmin(axis=0), np.arange(valid.shape[1])
    observed = spectra[nearest, :, columns].T
    close = (apart[nearest, columns] <= 100 * tolerance) & (np.add.reduce(valid, axis=0) > 2)
    return np.where(close, observed + _step(spectra, valid, observed, tolerance), centre)


def _mads(spectra: Array, valid: Array, centre: Array) -> Floats:
    """Medians over time (3, pixel) of Euclidean, spectral and Bray-Curtis distance."""
    euclid = _norm(spectra - centre, axis=1)
    lengths = _norm(spectra.copy(), axis=1) * _norm(centre.copy())
    with np.errstate(divide="ignore", invalid="ignore"):  # black: no angle, no sum
        spectral = np.maximum(1 - _fold(spectra * centre, axis=1) / lengths, 0)
        bray = _fold(np.abs(spectra - centre), axis=1) / _fold(np.abs(spectra + centre), axis=1)
    scatter = (euclid, spectral, bray)
    return np.stack([median_array(np.where(valid, apart, np.nan)) for apart in scatter])
