"""An area to tiles on a lattice that all basins of one CRS, resolution and tile size share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from deepforest_xr.errors import GridError
from deepforest_xr.grid import Grid, parse_crs

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

DENSE_DEGREES = 0.05
"""Edges of an area are cut into pieces no longer than this before they are projected."""

EDGE_PIECES = 16
"""Pieces into which the edges of a tile are cut on their way to degrees."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A place on the grid of tiles."""

    row: int
    """From the top, 0 first."""

    col: int
    """From the left, 0 first."""

    @property
    def id(self) -> str:
        """Its name: ``r0012c0034``."""
        return f"r{self.row:04d}c{self.col:04d}"


@dataclass(frozen=True, slots=True)
class Tiling:
    """A grid cut into square tiles, and those of them that are mapped."""

    grid: Grid
    """Of the whole map: whole tiles."""

    tile: int
    """Side of a tile in pixels."""

    tiles: tuple[Tile, ...]
    """Those that meet the area, row by row."""

    def grid_of(self, tile: Tile, halo: int = 0) -> Grid:
        """Give a tile's grid, with `halo` pixels around it."""
        corner = (tile.col * self.tile - halo, tile.row * self.tile - halo)
        side = self.tile + 2 * halo
        return Grid(self.grid.crs, self.grid.transform @ Affine.translation(*corner), (side, side))

    def outline(self, tile: Tile, halo: int = 0) -> BaseGeometry:
        """Give a tile's outline in degrees, its edges curved as they are there."""
        import shapely

        left, bottom, right, top = self.grid_of(tile, halo).bounds
        edges = shapely.segmentize(
            shapely.box(left, bottom, right, top), (right - left) / EDGE_PIECES
        )
        return projected(edges, self.grid.crs, "EPSG:4326")


def cut(area: BaseGeometry, *, crs: str, resolution: float, tile: int) -> Tiling:
    """Cut an area into tiles.

    Parameters
    ----------
    area : geometry in degrees, WGS 84
        Polygons.
    crs : str
        Of the map.
    resolution : float
        Pixel size in units of `crs`.
    tile : int
        Side of a tile in pixels.

    Returns
    -------
    Tiling
        Corners of tiles are multiples of ``tile * resolution`` from the CRS's own zero, so that
        basins that touch share their borders. Tiles that only touch the area are left out.

    Raises
    ------
    GridError
        If the area does not lie where the CRS is defined.
    """
    import shapely

    side = tile * resolution
    on_grid = on_crs(area, crs)
    left, bottom, right, top = on_grid.bounds
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise GridError(f"the area does not lie where {crs} is defined: choose another crs.")
    first_col, first_row = math.floor(left / side), math.ceil(top / side)
    cols = max(math.ceil(right / side) - first_col, 1)
    rows = max(first_row - math.floor(bottom / side), 1)
    transform = Affine(resolution, 0.0, first_col * side, 0.0, -resolution, first_row * side)
    grid = Grid(parse_crs(crs), transform, (rows * tile, cols * tile))
    row, col = (index.ravel() for index in np.indices((rows, cols)))
    x, y = (first_col + col) * side, (first_row - row) * side
    boxes = shapely.box(x, y - side, x + side, y)
    shapely.prepare(on_grid)
    meets = shapely.intersects(on_grid, boxes) & ~shapely.touches(on_grid, boxes)
    places = zip(row[meets].tolist(), col[meets].tolist(), strict=True)
    return Tiling(grid, tile, tuple(Tile(r, c) for r, c in places))


def on_crs(area: BaseGeometry, crs: Any) -> BaseGeometry:
    """Project an area from degrees, its edges curved as they are on the map."""
    import shapely

    return projected(shapely.segmentize(area, DENSE_DEGREES), "EPSG:4326", crs)


def projected(geometry: BaseGeometry, source: Any, target: Any) -> BaseGeometry:
    """Project the corners of a geometry."""
    import shapely
    from pyproj import Transformer

    to = Transformer.from_crs(parse_crs(source), parse_crs(target), always_xy=True)
    return shapely.transform(geometry, lambda xy: np.column_stack(to.transform(*xy.T)))
