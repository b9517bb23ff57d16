"""odc-stac as the engine: its graph, our reader, so that both engines give the same pixels.

odc-stac reads through a driver; ours hands each chunk to `GridReader`, as stackstac's hook does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.catalogs import asset_for
from deepforest_xr.engines.extent import asset_extent, moment
from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import transform_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pystac
    import xarray as xr
    from numpy.typing import NDArray

    from deepforest_xr.engines.layout import Layer, Source
    from deepforest_xr.grid import Bounds, Grid
    from deepforest_xr.reader import GridReader

Slices = tuple[slice, slice]


def lay_out(source: Source, layer: Layer, make: Callable[..., GridReader]) -> xr.DataArray:
    """Lay out (time, band, y, x) with odc-stac.

    Raises
    ------
    ConfigError
        If odc-stac is not installed.
    """
    try:
        import odc.stac
        from odc.geo.geobox import GeoBox
    except ImportError as error:
        raise ConfigError(
            'engine="odc-stac" needs odc-stac: pip install "deepforest-xr[odc]", or take the '
            'default engine "stackstac".'
        ) from error
    grid = source.grid
    cube: xr.Dataset = odc.stac.load(
        [_plain_item(item, layer.bands) for item in source.items],
        bands=list(layer.bands),
        geobox=GeoBox(grid.shape, grid.transform, grid.crs.to_wkt()),
        chunks={"time": -1, "y": source.chunk, "x": source.chunk},
        groupby=_each,
        dtype=layer.dtype,
        nodata=layer.fill,
        driver=Driver(grid, layer, make),
    )
    times = [np.datetime64(moment(item)[:-1], "ns") for item in source.items]
    # On a geographic grid odc-stac calls the axes latitude and longitude.
    array = cube.to_array("band").transpose("time", "band", ...)
    array = array.rename(dict(zip(array.dims[2:], ("y", "x"), strict=True)))
    if layer.is_together:
        array = array.chunk(band=-1)
    kept = array.drop_vars(set(array.coords) - {"band"}).drop_attrs().rename(None)
    return kept.assign_coords(time=times)


@dataclass(frozen=True)
class Driver:
    """What odc-loader asks of a reader; see ``odc.loader.types.ReaderDriver``."""

    grid: Grid
    layer: Layer
    make: Callable[..., GridReader]

    md_parser = None
    dask_reader = None
    aux_reader = None

    def new_load(self, geobox: Any, *, chunks: Any = None) -> None:
        """Nothing is shared between the chunks of a load."""

    def finalise_load(self, load_state: None) -> None:
        """Nothing is left to do."""

    def capture_env(self) -> dict[str, Any]:
        """The reader has its own."""
        return {}

    @contextmanager
    def restore_env(self, env: dict[str, Any], load_state: None) -> Iterator[Driver]:  # noqa: ARG002
        """Read in the reader's environment."""
        yield self

    def open(self, src: Any, ctx: Any) -> BoundReader:  # noqa: ARG002
        """Bind a source to the grid; the file is opened when it is read."""
        from rasterio.enums import Resampling

        return BoundReader(
            self.grid,
            self.make(
                url=src.uri,
                spec=SimpleNamespace(transform=self.grid.transform, shape=self.grid.shape),
                resampling=Resampling[self.layer.resampling],
                dtype=np.dtype(self.layer.dtype),
                fill_value=np.dtype(self.layer.dtype).type(self.layer.fill),
                scale_offset=(1, 0),
                gdal_env=None,
                errors_as_nodata=(),
            ),
        )


@dataclass(frozen=True)
class BoundReader:
    """One asset's reader on the whole grid; odc-stac asks for a chunk by its geobox."""

    grid: Grid
    reader: GridReader

    def read(
        self, _cfg: Any, dst_geobox: Any, *, dst: Any = None, selection: Any = None
    ) -> tuple[Slices, NDArray[Any]]:
        """Read the window a chunk's geobox is."""
        from rasterio.windows import Window

        if dst is not None or selection is not None:
            raise ConfigError("the reader makes its own array of all of a band.")
        at, whole = dst_geobox.affine, self.grid.transform
        height, width = dst_geobox.shape
        col, row = round((at.c - whole.c) / whole.a), round((at.f - whole.f) / whole.e)
        pixels = self.reader.read(Window(col, row, width, height))
        return (slice(0, height), slice(0, width)), pixels


def _each(item: Any, parsed: Any, index: int) -> int:  # noqa: ARG001
    """Group by place: every item is a date of its own, in our order."""
    return index


def _plain_item(item: pystac.Item, bands: Sequence[str]) -> pystac.Item:
    """Give what odc-stac reads of an item: assets, and a footprint in degrees."""
    import pystac

    boxes: list[Bounds] = []
    plain = pystac.Item(item.id, None, None, datetime.fromisoformat(moment(item)), {})
    for band in bands:
        asset = asset_for(item, band)
        if asset is not None:
            boxes.append(transform_bounds(*asset_extent(item, asset), "EPSG:4326"))
            plain.add_asset(band, pystac.Asset(asset.href, media_type=pystac.MediaType.COG))
    west, south, east, north = np.array(boxes).T
    plain.bbox = [west.min(), south.min(), east.max(), north.max()]
    if (west > east).any():  # across the antimeridian
        plain.bbox[::2] = -180.0, 180.0
    w, s, e, n = plain.bbox
    ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
    plain.geometry = {"type": "Polygon", "coordinates": [ring]}
    return plain
