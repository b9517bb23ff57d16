"""Where labels are likely wrong: near class borders, and where years disagree.

Nothing here opens a file; dask in, dask out. 255 is "unlabelled" and no class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Distances are compared with this relative slack: 30.000000000000004 m is 30 m.
SLACK = 1e-9


def border_ignore(labels: xr.DataArray, metres: float) -> xr.DataArray:
    """Unlabel pixels near a class change, where a 30 m map is often a pixel off.

    A pixel becomes 255 if the centre of a labelled pixel of another class lies within
    `metres` of its own centre (Euclidean). Unlabelled pixels are no class: what borders on
    them only stays, but classes on both sides of a narrow unlabelled strip see each other.

    Parameters
    ----------
    labels : DataArray[uint8], dims (y, x)
        From `align_labels`, on a grid in metres.
    metres : float
        0 changes nothing; less than a pixel's side neither.

    Returns
    -------
    DataArray[uint8], dims and chunks of `labels`
        Lazy where `labels` is. ``attrs["border_ignored_m"]`` keeps the distance.

    Raises
    ------
    ConfigError
        If `metres` is negative or not finite.
    GridError
        If the grid is not in metres.
    DtypeError, LabelError
        If `labels` is not uint8 or has other dimensions.
    """
    _require(labels, ("y", "x"))
    if not 0 <= metres < math.inf:
        raise ConfigError(f"metres={metres} is no distance: give 0 or more, 30 for instance.")
    spacing = _spacing(labels)
    depth = tuple(
        min(math.floor(metres / side * (1 + SLACK)), pixels)
        for side, pixels in zip(spacing, labels.shape, strict=True)
    )
    if labels.chunks is None:
        data = _without_borders(labels.to_numpy(), spacing=spacing, metres=metres)
    else:
        lazy = da.map_overlap(
            _without_borders,
            labels.data,
            spacing=spacing,
            metres=metres,
            depth=depth,
            boundary=UNLABELLED,
            dtype="uint8",
            meta=np.empty((0, 0), dtype="uint8"),
        )
        data = lazy.rechunk(labels.chunks)
    return labels.copy(data=data).assign_attrs(border_ignored_m=float(metres))


def temporal_agreement(labels_by_year: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Label every pixel with its most frequent class of several years, and say how sure.

    Parameters
    ----------
    labels_by_year : DataArray[uint8], dims (year, y, x)
        Labels of one grid and legend; 255 is unlabelled.

    Returns
    -------
    label : DataArray[uint8], dims (y, x)
        Most frequent class, the lowest code of equally frequent ones; 255 where no year
        has a label. Attributes of `labels_by_year`.
    weight : DataArray[float32], dims (y, x)
        Share of all years that have this class, 0 to 1. A year without a label supports
        none; where no year has one the weight is 0.

    Raises
    ------
    DtypeError, LabelError
        If `labels_by_year` is not uint8, has other dimensions or no year.
    """
    _require(labels_by_year, ("year", "y", "x"))
    if not labels_by_year.sizes["year"]:
        raise LabelError("temporal_agreement needs at least one year, got none.")
    whole = labels_by_year if labels_by_year.chunks is None else labels_by_year.chunk(year=-1)
    label, weight = xr.apply_ufunc(
        _agreement,
        whole,
        input_core_dims=[["year"]],
        output_core_dims=[[], []],
        dask="parallelized",
        output_dtypes=["uint8", "float32"],
        keep_attrs=True,
    )
    weight = weight.rename("weight")
    weight.attrs = {"long_name": "share of years that agree with the label", "units": "1"}
    if "spatial_ref" in weight.coords:
        weight.attrs["grid_mapping"] = "spatial_ref"
    return label.rename("labels"), weight


def _require(labels: xr.DataArray, dims: tuple[str, ...]) -> None:
    if labels.dims != dims:
        raise LabelError(f"labels have dims {labels.dims}, expected {dims}: transpose or select.")
    if labels.dtype != np.uint8:
        raise DtypeError(
            f"labels are {labels.dtype}, expected uint8 with 255 for unlabelled: take them "
            "from align_labels."
        )


def _spacing(labels: xr.DataArray) -> tuple[float, float]:
    """Distance of pixel centres along y and x in metres."""
    grid = Grid.of(labels)
    if grid.crs.is_geographic:
        raise GridError(
            f"the grid is in degrees ({grid.crs.name}): distances in metres need a projected "
            "grid, UTM for instance."
        )
    metres = grid.crs.axis_info[0].unit_conversion_factor
    xres, yres = grid.resolution
    return yres * metres, xres * metres


def _without_borders(
    labels: NDArray[np.uint8], *, spacing: tuple[float, float], metres: float
) -> NDArray[np.uint8]:
    from scipy.ndimage import distance_transform_edt

    result = labels.copy()
    classes = np.setdiff1d(labels, [UNLABELLED])
    if classes.size < 2:
        return result
    for code in classes:
        own = labels == code
        others = (labels != UNLABELLED) & ~own
        distance = distance_transform_edt(~others, sampling=spacing)
        result[own & (distance <= metres * (1 + SLACK))] = UNLABELLED
    return result


def _agreement(labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Most frequent class along the last axis, and its share of that axis."""
    label = np.full(labels.shape[:-1], UNLABELLED, dtype="uint8")
    best: NDArray[Any] = np.zeros(labels.shape[:-1], dtype=np.intp)
    for code in np.setdiff1d(labels, [UNLABELLED]):
        count = (labels == code).sum(axis=-1)
        ahead = count > best
        label[ahead], best[ahead] = code, count[ahead]
    return label, (best / max(labels.shape[-1], 1)).astype("float32")
