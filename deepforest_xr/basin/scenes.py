"""Which scenes a tile needs, what reading them takes, and how they are frozen."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.catalogs import NATIVE_M, read_items, write_items
from deepforest_xr.cube.metadata import month, sensor
from deepforest_xr.cube.radar import radar_items
from deepforest_xr.engines.extent import flat, overlapping, reaching
from deepforest_xr.errors import NoItemsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pystac
    from shapely import STRtree

    from deepforest_xr.basin.tiling import Tile, Tiling
    from deepforest_xr.grid import Grid

RADAR_M = 10
SAMPLE_BYTES = {"sentinel-2": 2, "sentinel-1": 4}
POLARIZATIONS = ("vv", "vh")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the scenes a model takes."""

    bands: tuple[str, ...]
    """Of Sentinel-2."""

    months: tuple[int, ...]
    """Of Sentinel-1; none for a model without it."""

    orbit: str | None
    """Passes of Sentinel-1, None for both."""

    halo: int
    """Pixels around a tile."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """What a tile needs."""

    items: tuple[pystac.Item, ...]
    """In order of time; none where nothing can be mapped."""

    why_empty: str
    """Why nothing can be mapped, "" where something can."""

    empty_months: tuple[int, ...]
    """Months of the model without a Sentinel-1 scene, filled from their neighbours."""

    bytes_read: int
    """Of the tile's window in all bands of all scenes, uncompressed; an estimate by boxes."""

    covered: tuple[tuple[str, float], ...]
    """Share of the tile, without its halo, that the footprints of a mission cover together."""


class Pool:
    """All scenes of a basin, found by place."""

    def __init__(self, items: Sequence[pystac.Item]) -> None:
        import shapely

        self.items = [item for item in items if sensor(item)]
        self.tree: STRtree = shapely.STRtree([_box(item) for item in self.items])

    def of(self, tiling: Tiling, tile: Tile, wanted: Wanted) -> Scenes:
        """Choose the scenes of a tile and of the halo around it, as `open_cube` would."""
        import shapely

        grid = tiling.grid_of(tile, wanted.halo)
        near = self.tree.query(shapely.box(*grid.bbox_lonlat))
        items = [self.items[i] for i in sorted(near.tolist())]
        here = overlapping(items, grid) if items else []
        optical = [i for i in here if sensor(i) == "sentinel-2"]
        optical = reaching(optical, wanted.bands, grid)
        if not optical:
            return Scenes((), "no Sentinel-2 scene", (), 0, ())
        radar: list[pystac.Item] = []
        if wanted.months:
            with suppress(NoItemsError):
                radar = radar_items(here, wanted.months, wanted.orbit, grid)
            if not radar:
                return Scenes((), "no Sentinel-1 scene", (), 0, ())
        seen = {month(item) for item in radar}
        outline = tiling.outline(tile, wanted.halo)
        chosen = (*optical, *radar)
        return Scenes(
            chosen,
            "",
            tuple(m for m in wanted.months if m not in seen),
            sum(_bytes_of(item, outline, grid, wanted) for item in chosen),
            tuple(
                (name, _covered(tiling.outline(tile), found))
                for name, found in (("Sentinel-2", optical), ("Sentinel-1", radar))
                if found
            ),
        )


def _covered(outline: Any, items: Sequence[pystac.Item]) -> float:
    """Share of an outline in degrees that footprints cover; a box where there is no geometry."""
    import shapely
    from shapely.geometry import shape

    footprints = [shape(i.geometry) if i.geometry else _box(i) for i in items]
    union = shapely.union_all(shapely.make_valid(footprints))
    return float(shapely.intersection(outline, union).area / outline.area)


def _box(item: pystac.Item) -> Any:
    """Where a scene may be, in degrees; across the antimeridian anywhere along a parallel."""
    import shapely

    west, south, east, north = flat(item.bbox) if item.bbox else (-180.0, -90.0, 180.0, 90.0)
    return shapely.box(
        *((-180.0, south, 180.0, north) if west > east else (west, south, east, north))
    )


def _bytes_of(item: pystac.Item, outline: Any, grid: Grid, wanted: Wanted) -> int:
    """Estimate what of a scene is read for a tile: its box's share of the tile, all bands."""
    import shapely

    share = 1.0
    if item.bbox:
        box = shapely.box(*flat(item.bbox))
        share = shapely.intersection(outline, box).area / outline.area
    pixels = share * grid.shape[0] * grid.shape[1]
    metres = grid.resolution[0] * _metres(grid)
    kind = sensor(item)
    if kind == "sentinel-1":
        sizes = [RADAR_M] * len(POLARIZATIONS)
    else:
        sizes = [NATIVE_M.get(band, 20) for band in (*wanted.bands, "SCL")]
    return int(sum(pixels * (metres / size) ** 2 for size in sizes) * SAMPLE_BYTES[kind])


def _metres(grid: Grid) -> float:
    """Metres in a unit of a grid's CRS; on the equator if those are degrees."""
    if grid.crs.is_geographic:
        return 111_320.0
    return float(grid.crs.axis_info[0].unit_conversion_factor)


def digest(items: Iterable[pystac.Item]) -> str:
    """Checksum of which files are read: ids and links, without what signs them."""
    lines = sorted(
        json.dumps(
            [
                item.collection_id,
                item.id,
                sorted((key, asset.href.partition("?")[0]) for key, asset in item.assets.items()),
            ]
        )
        for item in items
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def freeze(items: Iterable[pystac.Item]) -> bytes:
    """Give items as stac-geoparquet."""
    with tempfile.TemporaryDirectory() as folder:
        return write_items(items, Path(folder) / "items.parquet").read_bytes()


def thaw(content: bytes) -> list[pystac.Item]:
    """Read items that `freeze` gave."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.parquet"
        path.write_bytes(content)
        return list(read_items(path))
