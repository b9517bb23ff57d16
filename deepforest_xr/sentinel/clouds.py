"""Clouds grown by a margin, and the distance to the nearest.

The scene classification misses the thin rim of clouds and the blur of their shadows: a
margin around both takes most of it away. Nothing here looks further than its `pixels` or
`reach`, so a chunk that sees that many pixels of its neighbours gives what the whole gives.
Each step is a NumPy kernel (`..._array`) and a face on DataArrays that keeps lazy lazy.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel.s2 import SCL_MASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

DILATED = (3, 8, 9, 10)
"""Scene classes whose rim is suspect: cloud shadow, clouds of medium and of high
probability, thin cirrus. No data (0) and defective pixels (1) have sharp borders."""


def dilate(masked: xr.DataArray, pixels: int) -> xr.DataArray:
    """Grow what is masked by a disk.

    Parameters
    ----------
    masked : DataArray[bool], dims (..., y, x)
    pixels : int
        Radius of the disk.

    Returns
    -------
    DataArray[bool], dims and chunks of `masked`
        True within `pixels` (Euclidean, inclusive) of a masked pixel.

    Raises
    ------
    ConfigError
        If `pixels` is negative.
    """
    _require_radius("pixels", pixels)
    return _overlapped(partial(dilate_array, pixels=pixels), masked, pixels, "bool")


def cloud_distance(masked: xr.DataArray, reach: int) -> xr.DataArray:
    """Distance to the nearest masked pixel.

    Parameters
    ----------
    masked : DataArray[bool], dims (..., y, x)
    reach : int
        Distances above it are not told apart.

    Returns
    -------
    DataArray[float32], dims and chunks of `masked`, pixels
        Euclidean, 0 on masked pixels, never above `reach`; `reach` where nothing is masked.

    Raises
    ------
    ConfigError
        If `reach` is negative.
    """
    _require_radius("reach", reach)
    return _overlapped(partial(cloud_distance_array, reach=reach), masked, reach, "float32")


def clear_mask(
    scl: xr.DataArray, *, masked: Sequence[int] = SCL_MASKED, dilation: int = 0
) -> xr.DataArray:
    """True where a pixel is of no masked class, nor close to a cloud or its shadow.

    Parameters
    ----------
    scl : DataArray[uint8], dims (..., y, x)
        Scene classification layer.
    masked : sequence of int
        Classes left out. Those of `DILATED` among them are grown, the others are not: the
        edge of the swath (0) does not eat into the image.
    dilation : int
        Pixels to grow by; 0 is `s2.is_clear`.

    Returns
    -------
    DataArray[bool], dims and chunks of `scl`

    Raises
    ------
    ConfigError
        If `dilation` is negative.
    """
    _require_radius("dilation", dilation)
    kernel = partial(clear_mask_array, masked=tuple(masked), dilation=dilation)
    return _overlapped(kernel, scl, dilation, "bool")


def dilate_array(masked: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Grow what is masked by a disk: `dilate` on arrays (..., y, x) in memory.

    A disk is a stack of rows, each half as long as `reach` there: rows are grown along x
    pixel by pixel and laid over their neighbours along y when they have their length.
    """
    _require_radius("pixels", pixels)
    rows = masked.astype(bool)
    grown = rows.copy()
    for half in range(pixels + 1):
        if half:
            wider = rows.copy()
            _or_shifted(wider, rows, 1, axis=-1)
            rows = wider
        for dy in range(pixels + 1):
            # Largest half with half**2 + dy**2 <= pixels**2.
            if half**2 <= pixels**2 - dy**2 < (half + 1) ** 2:
                _or_shifted(grown, rows, dy, axis=-2)
    return grown


def cloud_distance_array(masked: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Distance to the nearest masked pixel: `cloud_distance` on arrays (..., y, x) in memory."""
    from scipy.ndimage import distance_transform_edt

    _require_radius("reach", reach)
    distance = np.full(masked.shape, reach, dtype="float32")
    for at in np.ndindex(masked.shape[:-2]):
        # Without a single masked pixel the transform measures from outside of the image.
        if masked[at].any():
            np.minimum(distance_transform_edt(~masked[at]), reach, out=distance[at])
    return distance


def clear_mask_array(
    scl: NDArray[np.uint8], *, masked: Sequence[int] = SCL_MASKED, dilation: int = 0
) -> NDArray[np.bool_]:
    """True where a pixel is clear: `clear_mask` on arrays (..., y, x) in memory."""
    clear = ~np.isin(scl, list(masked))
    if dilation:
        clear &= ~dilate_array(np.isin(scl, sorted({*masked} & {*DILATED})), dilation)
    return clear


def _or_shifted(into: NDArray[np.bool_], rows: NDArray[np.bool_], by: int, *, axis: int) -> None:
    """Or `rows` moved `by` pixels both ways along an axis; what leaves the image is lost."""
    size = into.shape[axis]
    if by >= size:
        return
    into, rows = np.moveaxis(into, axis, 0), np.moveaxis(rows, axis, 0)
    into[by:] |= rows[: size - by]
    into[: size - by] |= rows[by:]


def _overlapped(
    kernel: Callable[[NDArray[Any]], NDArray[Any]], values: xr.DataArray, depth: int, dtype: str
) -> xr.DataArray:
    """Apply a kernel that looks `depth` pixels around; dask chunks see their neighbours."""
    if values.chunks is None:
        return values.copy(data=kernel(values.to_numpy()))
    import dask.array as da

    blocks = values.data
    overlap = {}
    for axis in (values.ndim - 2, values.ndim - 1):
        if depth >= blocks.shape[axis]:  # map_overlap refuses: see the whole axis instead
            blocks = blocks.rechunk({axis: -1})
        overlap[axis] = depth if blocks.numblocks[axis] > 1 else 0
    result = da.map_overlap(
        kernel, blocks, depth=overlap, boundary="none", dtype=dtype, meta=np.empty(0, dtype)
    )
    # Chunks narrower than the overlap were merged on the way.
    return values.copy(data=result.rechunk(values.chunks))


def _require_radius(name: str, pixels: int) -> None:
    if pixels < 0:
        raise ConfigError(f"{name}={pixels} is negative; expected a number of pixels, 0 for none.")
