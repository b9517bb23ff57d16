"""A label raster on the cube's grid: MapBiomas, or any raster of class codes.

Read window by window when computed, from disk or straight from a server, so that a
national mosaic costs no more than the pixels asked for.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.errors import ConfigError, LabelError, ReadError
from deepforest_xr.grid import Bounds, Grid, parse_crs, transform_bounds
from deepforest_xr.labels.resample import Places, largest_share, nearest
from deepforest_xr.legend import UNLABELLED, Crosswalk, Legend, identity, mapbiomas

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pyproj import CRS

    from deepforest_xr.labels.resample import Box

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
        Raster with integer codes (or whole numbers stored as float). Of a cloud-optimised
        GeoTIFF on a server only the header and the blocks needed are fetched.
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
        outside the raster. The label under the pixel's centre where the cube is finer than
        the raster (``attrs["resampling"]`` is "nearest"), the class with the largest area
        in the pixel where it is coarser ("mode"). CF flags and colours in attrs.

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
    raster = _inspect(str(path), grid, band)
    method = "mode" if raster.places.ratio > COARSER else "nearest"
    data = da.map_blocks(
        _read_block,
        chunks=da.core.normalize_chunks((chunk, chunk), shape=grid.shape),
        dtype="uint8",
        meta=np.empty((0, 0), dtype="uint8"),
        raster=raster,
        method=method,
        crosswalk=crosswalk,
    )
    attrs = _attrs(raster, crosswalk, method)
    return xr.DataArray(data, dims=("y", "x"), coords=grid.coords(), name="labels", attrs=attrs)


def _attrs(raster: _Raster, crosswalk: Crosswalk, method: str) -> dict[str, Any]:
    attrs = {
        "long_name": "land cover labels",
        **crosswalk.legend.attrs(),
        "unlabelled": UNLABELLED,
        "source": PurePosixPath(raster.name).name,
        "codes": crosswalk.source,
        "resampling": method,
        "grid_mapping": "spatial_ref",
    }
    return attrs | ({"simulated": "true"} if raster.simulated else {})


@dataclass(frozen=True, slots=True)
class _Raster:
    """What is known of a label raster before a pixel is read."""

    path: str
    band: int
    places: Places
    simulated: bool

    @property
    def name(self) -> str:
        """Path or URL without the query, which may hold a token."""
        return _name(self.path)


def _name(path: str) -> str:
    return path.partition("?")[0] if "://" in path else path


def _inspect(path: str, grid: Grid, band: int | None) -> _Raster:
    """Check overlap and band without reading a pixel; measure the pixel-size ratio."""
    import rasterio

    name = _name(path)
    with _opened(path) as source:
        if source.crs is None:
            raise LabelError(f"{name} has no CRS: set it (gdal_edit.py -a_srs) before aligning.")
        if band is None and source.count > 1:
            raise ConfigError(f"{name} has {source.count} bands: say which one with band=.")
        if band is not None and not 1 <= band <= source.count:
            raise ConfigError(f"{name} has bands 1 to {source.count}, not {band}.")
        crs = parse_crs(source.crs.to_wkt())
        left, bottom, right, top = source.bounds
        # Of a raster from the south to the north rasterio's bottom is the top.
        bounds = left, min(bottom, top), right, max(bottom, top)
        _require_overlap(name, bounds, crs, grid)
        is_same = source.crs == rasterio.CRS.from_wkt(grid.crs.to_wkt())
        places = Places(
            grid=grid,
            transform=source.transform,
            shape=source.shape,
            crs=None if is_same else crs,
            ratio=_pixel_ratio(grid, crs, source.res),
        )
        simulated = "simulated" in str(source.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""))
    return _Raster(path, band or 1, places, simulated)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Have the file for oneself, kept open for the next window; errors are one line."""
    import rasterio
    from rasterio.errors import RasterioError

    from deepforest_xr.reader import GDAL_ENV, HANDLES

    # A local raster may have its CRS or missing value in a file beside it: listings are for those.
    options = GDAL_ENV if "://" in path else {}
    try:
        with rasterio.Env(**options), HANDLES.lease(path, "labels") as opened:
            yield opened.source
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split()).replace(path, _name(path))
        raise ReadError(f"label raster {_name(path)} cannot be read: {reason[:200]}.") from error


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
    *, raster: _Raster, method: str, crosswalk: Crosswalk, block_info: Any = None
) -> NDArray[np.uint8]:
    (top, bottom), (left, right) = block_info[None]["array-location"]
    kernel = nearest if method == "nearest" else largest_share
    translate = partial(_translate, name=raster.name, crosswalk=crosswalk)
    block = slice(top, bottom), slice(left, right)
    with _opened(raster.path) as source:
        read = partial(_read, source, raster.band)
        return kernel(raster.places, block, read, translate)


def _read(source: Any, band: int, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window's codes, and where there are any."""
    window = tuple((span.start, span.stop) for span in box)
    values: NDArray[Any] = source.read(band, window=window)
    valid = np.isfinite(values)
    nodata = source.nodatavals[band - 1]
    if nodata is not None and not np.isnan(nodata):
        valid &= values != nodata
    return values, valid


def _translate(codes: NDArray[Any], *, name: str, crosswalk: Crosswalk) -> NDArray[np.uint8]:
    """Codes of the legend; a fraction is an error."""
    if (fractions := codes[codes != np.rint(codes)]).size:
        raise LabelError(f"{name}: {fractions[0]:g} is not a class code but a fraction.")
    try:
        return crosswalk.lookup(codes.astype("int64"))
    except LabelError as error:
        raise LabelError(f"{name}: {error}") from None
