"""What is laid out, by which engine; the only module that knows stackstac."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.catalogs import asset_for, catalog_of
from deepforest_xr.engines import odc
from deepforest_xr.engines.extent import box_on, moment
from deepforest_xr.errors import ConfigError
from deepforest_xr.reader import GridReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pystac
    import xarray as xr

    from deepforest_xr.grid import Grid
    from deepforest_xr.reader import Prepare


@dataclass(frozen=True, slots=True)
class Source:
    """Where pixels come from and where they go."""

    items: list[pystac.Item]
    """In order of time."""

    grid: Grid
    """Target grid."""

    chunk: int = 1024
    """Side of a chunk in pixels; all times are in one chunk."""

    engine: str = "stackstac"
    """Who lays out the graph: one of `ENGINES`."""

    failures: str | None = None
    """Name of the `Failures` that takes files which cannot be read; None: they stop the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What is read of each item."""

    bands: Sequence[str]
    """As this library calls them."""

    dtype: str
    """Of the array."""

    fill: float
    """Value of missing pixels in the array."""

    nodata: float
    """Value of missing pixels in files that do not say, where their item does not either."""

    resampling: str = "nearest"
    """GDAL's name of it."""

    prepare: Prepare | None = None
    """What is done to each scene's window before it enters the array."""

    is_together: bool = False
    """Whether all bands are in one chunk; else each band has its own."""


def stack(source: Source, layer: Layer) -> xr.DataArray:
    """Lay out (time, band, y, x) lazily, one chunk along time.

    Parameters
    ----------
    source : Source
        Items and grid.
    layer : Layer
        Bands and how they are read.

    Returns
    -------
    DataArray[layer.dtype], dims (time, band, y, x)
        `layer.fill` where an item has no pixel. Coordinates ``time`` and ``band``.

    Raises
    ------
    ConfigError
        If the engine is unknown or not installed.
    """
    if source.engine not in ENGINES:
        raise ConfigError(f"engine={source.engine!r}; expected one of {', '.join(ENGINES)}.")
    make = partial(
        GridReader,
        crs_wkt=source.grid.crs.to_wkt(),
        nodata=layer.nodata,
        nodata_of=_other_nodata(source.items, layer),
        prepare=layer.prepare,
        failures=source.failures,
    )
    return ENGINES[source.engine](source, layer, make)


def whole(block: Any) -> Any:
    """Unwrap what dask's blockwise hands over of an axis it contracts: a list of its one chunk.

    Told to concatenate, it would copy the chunk.
    """
    while isinstance(block, list):
        (block,) = block
    return block


def _other_nodata(items: list[pystac.Item], layer: Layer) -> dict[str, float]:
    """Missing values that differ from the layer's; a file that states its own overrules both."""
    found = {}
    for item in items:
        catalog = catalog_of(item)
        for band in layer.bands:
            asset = catalog.asset(item, band)
            if asset is not None and (value := catalog.nodata(item, band)) != layer.nodata:
                found[asset.href] = value
    return found


def _stackstac(source: Source, layer: Layer, make: Callable[..., GridReader]) -> xr.DataArray:
    import stackstac
    from rasterio.enums import Resampling

    grid, dtype = source.grid, np.dtype(layer.dtype)
    # stackstac wants an EPSG number and uses it for boxes only, which we give in the
    # grid's CRS already; the reader warps to the CRS itself, numbered or not.
    array: xr.DataArray = stackstac.stack(
        [_plain_item(item, layer.bands, grid) for item in source.items],
        assets=list(layer.bands),
        epsg=_NOMINAL_EPSG,
        bounds=grid.bounds,
        resolution=grid.resolution,
        snap_bounds=False,
        resampling=Resampling[layer.resampling],
        chunksize=(-1, -1 if layer.is_together else 1, source.chunk, source.chunk),
        dtype=dtype,
        fill_value=dtype.type(layer.fill),
        rescale=False,
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=make,
    )
    wanted = (len(source.items), len(layer.bands), *grid.shape)
    if array.shape != wanted:
        raise ConfigError(f"{array.shape} was laid out for {wanted} (date, band, y, x).")
    return array.drop_vars(["id", "epsg"]).drop_attrs()


_NOMINAL_EPSG = 3857


def _plain_item(item: pystac.Item, bands: Sequence[str], grid: Grid) -> dict[str, Any]:
    """Give what stackstac reads of an item, each asset's box in the grid's CRS."""
    assets = {}
    for band in bands:
        asset = asset_for(item, band)
        if asset is not None:
            assets[band] = {
                "href": asset.href,
                "type": "image/tiff",
                "proj:epsg": _NOMINAL_EPSG,
                # stackstac would drop an item that does not reach the grid, and with it a date.
                "proj:bbox": box_on(item, asset, grid) or grid.bounds,
            }
    return {"id": item.id, "properties": {"datetime": moment(item)}, "assets": assets}


ENGINES = {"stackstac": _stackstac, "odc-stac": odc.lay_out}
"""Names of `open_cube`'s ``engine``, each (source, layer, reader) -> array."""
