"""Hectares of each class, in the area of the basin and in polygons such as states.

A pixel counts where its centre lies: in the area, and for a polygon in both. Sums are kept by
tile and add up; percent and hectares are one formula at the end. The ground that a pixel covers
is its size on the map where the CRS keeps areas; else it follows from the CRS: in degrees from
the ellipsoid, row by row, elsewhere from the projection's areal scale.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from deepforest_xr.basin import template
from deepforest_xr.basin.card import AREA
from deepforest_xr.basin.ground import is_equal_area, pixel_areas
from deepforest_xr.basin.pixels import open_pixels
from deepforest_xr.basin.polygons import WHOLE
from deepforest_xr.basin.tiling import on_crs
from deepforest_xr.errors import ReadError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from deepforest_xr.basin.card import Plan
    from deepforest_xr.basin.polygons import Zone
    from deepforest_xr.basin.results import Results
    from deepforest_xr.basin.store import Objects
    from deepforest_xr.basin.verify import Verified
    from deepforest_xr.legend import Legend

    Sums = dict[str, dict[str, list[float]]]

ROWS = 256
"""Of a tile that are looked at together: 8 bytes a pixel are then small beside the tile."""

HECTARE = 1e4
COLUMNS = ("zone", "code", "class", "pixels", "hectares", "percent_of_classified")
FILES = ("areas.csv", "areas.json")


@dataclass(frozen=True, slots=True)
class Areas:
    """What was summed up."""

    rows: tuple[dict[str, Any], ...]
    """One a zone and class, by `COLUMNS`; of a zone first what is not classified, code 0."""

    method: str
    """How the ground of a pixel was found."""

    def of(self, zone: str) -> list[dict[str, Any]]:
        """Rows of a zone."""
        return [row for row in self.rows if row["zone"] == zone]

    @property
    def zones(self) -> list[str]:
        """Names of all zones, that of the basin first."""
        return list(dict.fromkeys(row["zone"] for row in self.rows))

    def to_csv(self) -> bytes:
        """Give the rows as CSV."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue().encode()


def sum_areas(
    plan: Plan,
    objects: Objects,
    results: Results,
    verified: Verified,
    zones: Sequence[Zone],
    *,
    legend: Legend,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Areas, list[str]]:
    """Sum up class areas over all tiles, and write them as CSV and JSON.

    Parameters
    ----------
    plan : Plan
        The basin.
    objects : Objects
        Of the basin.
    results : Results
        Where sums and tables go.
    verified : Verified
        Its tiles.
    zones : sequence of Zone
        Polygons to sum up apart; they may overlap.
    legend : Legend
        Classes of the map.
    progress : callable (done, total), optional
        Called after each tile.

    Returns
    -------
    Areas
        The table.
    list of str
        Names of all files.

    Raises
    ------
    GridError
        If the CRS does not tell how large a pixel is on the ground.
    """
    grid = plan.tiling.grid
    everywhere = _area(objects, grid)
    shapes = {WHOLE: everywhere}
    for zone in zones:
        shapes[zone.name] = on_crs(zone.geometry, grid.crs).intersection(everywhere)
    pixels = open_pixels(objects, f"{template.STORE}/lulc", plan.tiling.tile)
    constant = is_equal_area(grid)
    sums: list[Sums] = []
    names: list[str] = []
    for number, tile in enumerate(verified.tiles, start=1):
        inputs = verified.checksum((tile,), plan.run_id, [[z.name, z.checksum] for z in zones])
        name = f"areas/{tile.id}.json"
        kept = results.get_json(name)
        if kept is None or kept["inputs"] != inputs:
            codes = pixels.read(tile.row, tile.col)
            if codes is None:
                raise ReadError(f"tile {tile.id} was removed meanwhile: run the basin again.")
            found = _sum_tile(codes, plan.tiling.grid_of(tile), shapes, constant=constant)
            kept = {"inputs": inputs, "unit": ["pixels", "square metres"], "sums": found}
            results.put_json(name, kept)
        sums.append(kept["sums"])
        names.append(name)
        if progress is not None:
            progress(number, len(verified.tiles))
    areas = Areas(tuple(_table(sums, list(shapes), legend)), _method(grid, constant))
    results.put("areas.csv", areas.to_csv())
    results.put_json("areas.json", _card(plan, areas))
    return areas, [*FILES, *names]


def _area(objects: Objects, grid: Grid) -> BaseGeometry:
    from shapely.geometry import shape

    content = objects.get(AREA)
    if content is None:
        raise ReadError(f"{objects.url}/{AREA} is gone: plan the basin again, elsewhere.")
    return on_crs(shape(json.loads(content)["geometry"]), grid.crs)


def _sum_tile(
    codes: NDArray[np.uint8],
    grid: Grid,
    shapes: Mapping[str, BaseGeometry],
    *,
    constant: bool,
) -> Sums:
    """Pixels and square metres by zone and code."""
    near = {name: part for name, shape in shapes.items() if (part := _near(shape, grid))}
    counts = {name: np.zeros(256) for name in near}
    ground = {name: np.zeros(256) for name in near}
    for rows, band in _bands(grid):
        metres = None if constant else np.broadcast_to(pixel_areas(band), band.shape)
        for name, geometry in near.items():
            mask = _inside(geometry, band)
            seen = codes[rows][mask]
            found = np.bincount(seen, minlength=256)
            counts[name] += found
            if metres is None:
                ground[name] += found * float(pixel_areas(band, constant=True)[0, 0])
            else:
                ground[name] += np.bincount(seen, weights=metres[mask], minlength=256)
    return {
        name: {
            str(code): [int(counts[name][code]), float(ground[name][code])]
            for code in np.flatnonzero(counts[name])
        }
        for name in near
    }


def _bands(grid: Grid) -> Iterator[tuple[slice, Grid]]:
    for top in range(0, grid.shape[0], ROWS):
        rows = slice(top, min(top + ROWS, grid.shape[0]))
        shape = (rows.stop - rows.start, grid.shape[1])
        yield rows, Grid(grid.crs, grid.transform @ Affine.translation(0, top), shape)


def _near(geometry: BaseGeometry, grid: Grid) -> BaseGeometry | None:
    """Cut a geometry to a raster and a pixel around it; None if they are apart.

    Far edges cost time and decide nothing.
    """
    import shapely

    left, bottom, right, top = grid.bounds
    width, height = grid.resolution
    around = shapely.box(left - width, bottom - height, right + width, top + height)
    shapely.prepare(geometry)
    if geometry.covers(around):
        return around
    if not geometry.intersects(around):
        return None
    clipped = geometry.intersection(around)
    parts = [part for part in getattr(clipped, "geoms", [clipped]) if part.area > 0]
    return shapely.union_all(parts) if parts else None


def _inside(geometry: BaseGeometry, grid: Grid) -> NDArray[np.bool_]:
    """Which pixels have their centre in a geometry."""
    from rasterio.features import geometry_mask
    from shapely.geometry import mapping

    found: NDArray[np.bool_] = geometry_mask(
        [mapping(geometry)], out_shape=grid.shape, transform=grid.transform, invert=True
    )
    return found


def _table(sums: Sequence[Sums], zones: Sequence[str], legend: Legend) -> Iterator[dict[str, Any]]:
    """Pixels, hectares and percent by zone and class, from the sums of all tiles."""
    names = {NODATA: "No data"} | {c.code: c.name for c in legend.classes}
    for zone in zones:
        pixels, metres = {}, {}
        for code in names:
            found = [tile[zone][str(code)] for tile in sums if str(code) in tile.get(zone, {})]
            pixels[code] = sum(int(f[0]) for f in found)
            metres[code] = math.fsum(f[1] for f in found)
        classified = math.fsum(v for code, v in metres.items() if code != NODATA)
        for code, name in names.items():
            share = 100 * metres[code] / classified if classified and code != NODATA else None
            yield dict(
                zip(
                    COLUMNS,
                    (zone, code, name, pixels[code], metres[code] / HECTARE, share),
                    strict=True,
                )
            )


def _method(grid: Grid, constant: bool) -> str:
    if constant:
        return "pixels times the area of a pixel; the CRS keeps areas"
    if grid.crs.is_geographic:
        return "area of each row's pixels on the ellipsoid"
    return "area of a pixel divided by the areal scale of the projection there"


def _card(plan: Plan, areas: Areas) -> dict[str, Any]:
    return {
        "run_id": plan.run_id,
        "crs": plan.tiling.grid.crs.to_string(),
        "method": areas.method,
        "counted": "pixels whose centre lies in the zone and in the area of the basin",
        "unit": "hectares",
        "rows": list(areas.rows),
    }
