"""A label raster on the cube's grid: MapBiomas, or any raster of class codes.

Read window by window when computed, so that a national mosaic costs no more than the
pixels asked for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.errors import ConfigError, LabelError, ReadError
from deepforest_xr.grid import Bounds, Grid, parse_crs, transform_bounds
from deepforest_xr.legend import UNLABELLED, Crosswalk, Legend, identity, mapbiomas

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyproj import CRS

log = logging.getLogger(__name__)

# MapBiomas' 30 m are 29.88 m here and 30.2 m there: only clearly larger pixels are "coarser".
COARSER = 1.05

# A degenerate rotation of the source would make the pixel-size ratio meaningless.
PROBE_PIXELS = 10


def align_labels(
    path: str | Path,
    *,
    like: xr.Dataset | xr.DataArray | Grid,
    collection: int | None = None,
    legend: Legend | None = None,
    band: int | None = None,
    chunk: int = 512,
) -> xr.DataArray:
    """Bring a raster of class codes onto the cube's grid; lazy.

    Parameters
    ----------
    path : path or URL
        Raster with integer codes (or whole numbers stored as float).
    like : Dataset, DataArray or Grid
        Target grid.
    collection : int, optional
        MapBiomas collection the codes belong to; they are mapped to the paper's 13
        classes.
    legend : Legend, optional
        Instead of `collection`: the raster holds this legend's codes; 0 is unlabelled.
    band : int, optional
        Band of the raster, from 1; needed where it has more than one (a year each).
    chunk : int
        Side of a chunk in pixels.

    Returns
    -------
    DataArray[uint8], dims (y, x)
        Codes of the legend; 255 where unlabelled, unobserved, without counterpart or
        outside the raster. Nearest neighbour where the cube is finer than the raster,
        the most frequent code where it is coarser. CF flags and colours in attrs.

    Raises
    ------
    LabelError
        If the raster does not overlap the grid, or (when computed) holds unknown codes.
    ReadError
        If it cannot be read.
    ConfigError
        If neither or both of `collection` and `legend` are given, or `band` is missing.
    """
    if (collection is None) == (legend is None):
        raise ConfigError(
            "say what the codes mean with collection= (MapBiomas) or legend=, one of the two."
        )
    crosswalk = (
        mapbiomas(collection) if collection is not None else identity(legend or Legend("", ()))
    )
    grid = like if isinstance(like, Grid) else Grid.of(like)
    source = _inspect(str(path), grid, band)
    method = "mode" if source["ratio"] > COARSER else "nearest"
    data = da.map_blocks(
        _read_block,
        chunks=da.core.normalize_chunks((chunk, chunk), shape=grid.shape),
        dtype="uint8",
        meta=np.empty((0, 0), dtype="uint8"),
        path=str(path),
        band=source["band"],
        grid=grid,
        method=method,
        crosswalk=crosswalk,
    )
    attrs: dict[str, Any] = {
        "long_name": "land cover labels",
        **crosswalk.legend.attrs(),
        "unlabelled": UNLABELLED,
        "source": Path(path).name,
        "codes": crosswalk.source,
        "resampling": method,
        "grid_mapping": "spatial_ref",
    }
    if source["simulated"]:
        attrs["simulated"] = "true"
    return xr.DataArray(data, dims=("y", "x"), coords=grid.coords(), name="labels", attrs=attrs)


def _inspect(path: str, grid: Grid, band: int | None) -> dict[str, Any]:
    """Check overlap and band without reading a pixel; measure the pixel-size ratio."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise LabelError(
                    f"{path} has no CRS: set it (gdal_edit.py -a_srs) before aligning."
                )
            if band is None and source.count > 1:
                raise ConfigError(f"{path} has {source.count} bands: say which one with band=.")
            if band is not None and not 1 <= band <= source.count:
                raise ConfigError(f"{path} has bands 1 to {source.count}, not {band}.")
            crs = parse_crs(source.crs.to_wkt())
            _require_overlap(path, tuple(source.bounds), crs, grid)
            simulated = "simulated" in str(source.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""))
            ratio = _pixel_ratio(grid, crs, source.res)
    except RasterioError as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"label raster {path} cannot be read: {reason}.") from error
    return {"band": band or 1, "ratio": ratio, "simulated": simulated}


def _require_overlap(path: str, bounds: Bounds, crs: CRS, grid: Grid) -> None:
    # In the raster's CRS: the corners of a world map have no place in a UTM zone.
    left, bottom, right, top = here = transform_bounds(grid.bounds, grid.crs, crs)
    if bounds[0] >= right or bounds[2] <= left or bounds[1] >= top or bounds[3] <= bottom:
        raise LabelError(
            f"label raster {path} covers {_rounded(bounds)}, the cube {_rounded(here)} "
            f"(left, bottom, right, top in {crs.name}): they do not overlap. "
            "Take the raster of this area."
        )


def _rounded(bounds: Bounds) -> tuple[float, ...]:
    return tuple(round(v, 4) for v in bounds)


def _pixel_ratio(grid: Grid, crs: Any, source_resolution: tuple[float, float]) -> float:
    """Side of a cube pixel in source pixels, measured at the grid's centre."""
    left, bottom, right, top = grid.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    xres, yres = grid.resolution
    half = (xres * PROBE_PIXELS / 2, yres * PROBE_PIXELS / 2)
    w, s, e, n = transform_bounds(
        (x - half[0], y - half[1], x + half[0], y + half[1]), grid.crs, crs
    )
    area = (e - w) * (n - s) / PROBE_PIXELS**2
    return float(np.sqrt(area / (source_resolution[0] * source_resolution[1])))


def _read_block(
    *,
    path: str,
    band: int,
    grid: Grid,
    method: str,
    crosswalk: Crosswalk,
    block_info: Any = None,
) -> NDArray[np.uint8]:
    import rasterio
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile
    from rasterio.warp import reproject

    from deepforest_xr.reader import TOLERANCE

    (top, bottom), (left, right) = block_info[None]["array-location"]
    # One band by itself: of four bands of bytes GDAL takes the last for transparency.
    # Into a file in memory: rasterio warns about arrays, and not safely between threads.
    target = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "float64",
        "nodata": np.nan,
        "height": bottom - top,
        "width": right - left,
        "crs": grid.crs.to_wkt(),
        "transform": grid.transform @ Affine.translation(left, top),
    }
    try:
        with rasterio.open(path) as source, MemoryFile() as memory, memory.open(**target) as out:
            reproject(
                rasterio.band(source, band),
                rasterio.band(out, 1),
                src_nodata=source.nodata,
                dst_nodata=np.nan,
                resampling=Resampling[method],
                tolerance=TOLERANCE,
            )
            values = out.read(1)
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ReadError(f"label raster {path} cannot be read: {reason}.") from error
    return _translate(values, path, crosswalk)


def _translate(values: NDArray[np.float64], path: str, crosswalk: Crosswalk) -> NDArray[np.uint8]:
    """Codes of the legend; NaN is unlabelled, a fraction is an error."""
    valid = np.isfinite(values)
    codes = values[valid]
    if (fractions := codes[codes != np.rint(codes)]).size:
        raise LabelError(f"{path}: {fractions[0]:g} is not a class code but a fraction.")
    labels = np.full(values.shape, UNLABELLED, dtype="uint8")
    try:
        labels[valid] = crosswalk.lookup(codes.astype("int64"))
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from None
    return labels
