"""Sentinel-2 L2A: digital numbers to reflectance, and the cloud mask.

Arrays and metadata in, arrays out: nothing here opens a file or starts a computation,
and a dask-backed input stays lazy.

From processing baseline 04.00 (25 January 2022) ESA adds 1000 to every digital number.
A series that mixes baselines steps by 0.1 unless each scene's own offset comes off, and
the date does not tell: scenes of 2018 are reprocessed, some copies of 2023 are corrected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xarray as xr

from deepforest_xr.errors import DtypeError, UnknownOffsetError

if TYPE_CHECKING:
    from collections.abc import Sequence

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""The ten bands of the DeepForest networks, in their order."""

NODATA = 0
QUANTIFICATION = 10_000
BOA_ADD_OFFSET = -1000
OFFSET_BASELINE = 4.0

SCL_MASKED = (0, 1, 3, 8, 9, 10)
"""Scene classes left out by default: no data, saturated or defective, cloud shadow,
cloud of medium and of high probability, thin cirrus. Dark pixels (2) stay: black-water
rivers and burnt fields are among them."""


@dataclass(frozen=True, slots=True)
class Offset:
    """What to add to a scene's digital numbers, and why."""

    value: int
    """0 or -1000."""

    reason: str
    """The metadata that decided it."""


def baseline_offset(baseline: str | float | None, *, scene: str) -> Offset:
    """Tell by its processing baseline what to add to a scene as ESA delivers it.

    Parameters
    ----------
    baseline : str or number
        ``"05.11"``; what is no number counts as not stated.
    scene : str
        Its id, for the message.

    Raises
    ------
    UnknownOffsetError
        If the baseline is not stated; the date does not tell.

    References
    ----------
    ESA, Sentinel-2 Products Specification Document, ``BOA_ADD_OFFSET``, from 04.00 on.
    """
    try:
        number = float(str(baseline))
    except ValueError:
        number = math.nan
    if math.isnan(number):  # tables write "absent" so, too
        raise UnknownOffsetError(
            f"scene {scene!r} states neither a raster:bands offset nor "
            f"s2:processing_baseline (got {baseline!r}): reflectance would be off by 0.1. "
            "Add the property to the item, or leave the scene out."
        )
    carries = number >= OFFSET_BASELINE
    return Offset(BOA_ADD_OFFSET if carries else 0, f"baseline {baseline}")


def to_reflectance(dn: xr.DataArray, *, offset: xr.DataArray | int) -> xr.DataArray:
    """Scale L2A digital numbers to surface reflectance, NaN where there is no data.

    Parameters
    ----------
    dn : DataArray[uint16], dims (time, ...)
        Digital numbers as delivered; 0 means no data.
    offset : DataArray[int], dims (time,), or int
        Added to `dn` before scaling: 0 before baseline 04.00, -1000 from it on.

    Returns
    -------
    DataArray[float32], dims and chunks of `dn`
        Reflectance, 1 = 100 %. Not clipped: dark water may be slightly negative.

    Raises
    ------
    DtypeError
        If `dn` is floating point, which means it was scaled before.

    References
    ----------
    ESA, Sentinel-2 Products Specification Document, ``BOA_ADD_OFFSET``.
    """
    if dn.dtype.kind == "f":
        raise DtypeError(
            f"to_reflectance needs digital numbers (uint16), got {dn.dtype} for {dn.name!r}: "
            "it has been scaled already. Pass the band as delivered, or skip this step."
        )
    # 32-bit throughout: numpy would take uint16 + int64 to 64 bits, four times the memory.
    shift = offset.astype("int32") if isinstance(offset, xr.DataArray) else offset
    counts = dn.astype("int32") + shift
    return (counts.astype("float32") / QUANTIFICATION).where(dn != NODATA)


def is_clear(scl: xr.DataArray, *, masked: Sequence[int] = SCL_MASKED) -> xr.DataArray:
    """True where the scene classification is none of the masked classes.

    Parameters
    ----------
    scl : DataArray[uint8], any dims
        Scene classification layer.
    masked : sequence of int
        Classes to leave out.

    Returns
    -------
    DataArray[bool], dims of `scl`
    """
    return ~scl.isin(list(masked))
