"""Sentinel-1 backscatter: linear power, months, decibels.

Averages are taken in power, never in decibels: the mean of decibels is the geometric
mean and lies about 2.5 dB lower for single-look speckle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

POLARIZATIONS = ("vv", "vh")
"""As the assets are called, in the order of the networks' channels."""

NODATA = -32768.0


def to_db(power: xr.DataArray) -> xr.DataArray:
    """Linear power to decibels; zero, negative and missing power become NaN.

    Parameters
    ----------
    power : DataArray[float32], any dims
        Linear gamma0 or sigma0.

    Returns
    -------
    DataArray[float32], dims and chunks of `power`, dB
    """
    decibel: xr.DataArray = 10.0 * xr.ufuncs.log10(power.where(power > 0))
    return decibel.astype("float32")


def from_db(decibel: xr.DataArray) -> xr.DataArray:
    """Decibels to linear power.

    Parameters
    ----------
    decibel : DataArray[float32], any dims, dB

    Returns
    -------
    DataArray[float32], dims and chunks of `decibel`
    """
    return (10.0 ** (decibel / 10.0)).astype("float32")


def monthly_mean(
    power: xr.DataArray, *, months: Sequence[int]
) -> tuple[xr.DataArray, xr.DataArray]:
    """Average the acquisitions of each calendar month in linear power.

    Parameters
    ----------
    power : DataArray[float32], dims (time, ...), one chunk along time
        Linear gamma0; NaN, zero and negative values (border noise) are missing.
    months : sequence of int
        Calendar months wanted, 1 to 12; acquisitions of all years are pooled.

    Returns
    -------
    mean : DataArray[float32], dims (month, ...)
        NaN where a month has no valid acquisition.
    count : DataArray[uint16], dims (month, ...)
        Valid acquisitions.
    """
    month_of = power["time"].dt.month.drop_vars(
        [name for name in power.coords if name != "time"], errors="ignore"
    )
    wanted = list(months)
    mean, count = xr.apply_ufunc(
        _monthly_mean,
        power,
        month_of,
        kwargs={"months": wanted},
        input_core_dims=[["time"], ["time"]],
        output_core_dims=[["month"], ["month"]],
        dask="parallelized",
        output_dtypes=["float32", "uint16"],
        dask_gufunc_kwargs={"output_sizes": {"month": len(wanted)}},
    )
    return (
        mean.assign_coords(month=wanted).transpose("month", ...),
        count.assign_coords(month=wanted).transpose("month", ...),
    )


def fill_empty_months(power: xr.DataArray) -> xr.DataArray:
    """Fill missing months of each pixel from its neighbours in time, in linear power.

    Between two observed months the value is interpolated linearly; before the first and
    after the last it is repeated. A pixel never observed stays NaN. The counts keep
    saying which months were filled.

    Parameters
    ----------
    power : DataArray[float32], dims (month, ...), one chunk along month

    Returns
    -------
    DataArray[float32], dims and chunks of `power`
    """
    filled: xr.DataArray = xr.apply_ufunc(
        _fill_gaps,
        power,
        kwargs={"months": power["month"].to_numpy()},
        input_core_dims=[["month"]],
        output_core_dims=[["month"]],
        dask="parallelized",
        output_dtypes=["float32"],
    )
    return filled.transpose("month", ...)


def monthly_mean_array(
    power: NDArray[np.float32], month_of: NDArray[np.int64], *, months: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Average in power: `monthly_mean` on an array (time, ...) in memory, (month, ...) out."""
    shape = (len(months), *power.shape[1:])
    mean = np.full(shape, np.nan, dtype="float32")
    count = np.zeros(shape, dtype="uint16")
    for position, month in enumerate(months):
        total = np.zeros(power.shape[1:])
        for date in np.flatnonzero(month_of == month):
            valid = power[date] > 0
            count[position] += valid
            np.add(total, power[date], out=total, where=valid)
        np.divide(total, count[position], out=mean[position], where=count[position] > 0)
    return mean, count


def monthly_db_array(
    power: NDArray[np.float32], month_of: NDArray[np.int64], *, months: Sequence[int]
) -> NDArray[np.float32]:
    """Monthly mean in power, empty months filled, in decibels; (time, ...) to (month, ...)."""
    mean, _ = monthly_mean_array(power, month_of, months=months)
    by_pixel = _fill_gaps(np.moveaxis(mean, 0, -1), months=np.asarray(months))
    filled = np.moveaxis(by_pixel, -1, 0)
    decibel = np.full(filled.shape, np.nan, dtype="float32")
    np.log10(filled, out=decibel, where=filled > 0)
    return decibel * np.float32(10)


def _monthly_mean(
    power: NDArray[np.float32], month_of: NDArray[np.int64], *, months: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    mean, count = monthly_mean_array(np.moveaxis(power, -1, 0), month_of, months=months)
    return np.moveaxis(mean, 0, -1), np.moveaxis(count, 0, -1)


def _fill_gaps(power: NDArray[np.float32], *, months: NDArray[np.int64]) -> NDArray[np.float32]:
    valid = np.isfinite(power)
    size = power.shape[-1]
    position = np.arange(size)
    before = np.maximum.accumulate(np.where(valid, position, -1), axis=-1)
    after = np.flip(
        np.minimum.accumulate(np.flip(np.where(valid, position, size), axis=-1), axis=-1), axis=-1
    )
    first = np.where(before < 0, after, before).clip(0, size - 1)
    last = np.where(after >= size, before, after).clip(0, size - 1)
    low = np.take_along_axis(power, first, axis=-1)
    high = np.take_along_axis(power, last, axis=-1)
    # Months asked for need not follow each other: distances are in months, not in places.
    span = np.maximum(months[last] - months[first], 1)
    weight = ((months - months[first]) / span).astype("float32")
    return np.where(valid, power, low + (high - low) * np.clip(weight, 0, 1)).astype("float32")
