"""Many dates to one image: the median over time, and how many dates it saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        _median,
        values,
        input_core_dims=[["time"]],
        dask="parallelized",
        output_dtypes=["float32"],
    )
    return middle


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


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # np.nanmedian walks pixel by pixel in Python below 600 dates; sorting puts NaN last.
    ordered = np.sort(values, axis=-1)
    n = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(n - 1, 0) // 2, axis=-1)
    high = np.take_along_axis(ordered, np.minimum(n // 2, ordered.shape[-1] - 1), axis=-1)
    return np.where(n > 0, (low + high) / np.float32(2), np.float32(np.nan))[..., 0]
