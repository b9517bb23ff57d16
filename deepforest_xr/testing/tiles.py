"""Where the simulated scenes lie, and how their tiles take from the landscape.

The landscape is an array in EPSG:32721. Three tiles, named as the MGRS names its squares,
cut it into Sentinel-2 granules that overlap: two in zone 21, one in zone 22, whose pixels
are turned by almost a degree against it. Every tile pixel takes the landscape pixel its
centre falls into; what falls outside is no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pyproj import Transformer

from deepforest_xr.grid import Grid, parse_crs

if TYPE_CHECKING:
    from deepforest_xr.testing.noise import Shape

WEST, EAST = 32721, 32722
NEST = 60  # metres: grids of 10, 20 and 60 m share their corners
CENTER = (830_700, 9_108_960)  # 54 W, about 8 S, in zone 21: where zone 22 begins

# Part of the landscape's width that each granule covers, left to right.
GRANULES = (("21LYM", WEST, 0.0, 0.45), ("21LZM", WEST, 0.33, 0.8), ("22LAS", EAST, 0.62, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A raster cut out of the landscape."""

    name: str
    """MGRS-like square, or the orbit of a Sentinel-1 scene."""

    epsg: int
    """CRS of the tile."""

    transform: Affine
    """Of the 10 m grid."""

    source: np.ndarray
    """int64 (y, x), position in the flattened landscape; -1 outside of it."""

    @property
    def grid(self) -> Grid:
        """The 10 m grid."""
        rows, cols = self.source.shape
        return Grid(parse_crs(self.epsg), self.transform, (rows, cols))

    def sample(self, values: np.ndarray) -> np.ndarray:
        """Take landscape values onto the tile, whatever lies outside: see `valid`."""
        return np.asarray(values.ravel()[np.maximum(self.source, 0)])

    @property
    def valid(self) -> np.ndarray:
        """Where the landscape is: bool (y, x)."""
        return self.source >= 0

    def footprint(self) -> list[list[float]]:
        """Draw the valid pixels' outline: longitude and latitude, closed, counterclockwise."""
        rows, cols = np.nonzero(self.valid)
        corners = []
        for down, right in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
            far = int(np.argmax(down * rows + right * cols))
            col, row = cols[far] + (right > 0), rows[far] + (down > 0)
            corners.append(self.transform @ (float(col), float(row)))
        to_lonlat = Transformer.from_crs(self.epsg, 4326, always_xy=True)
        ring = [[round(v, 7) for v in to_lonlat.transform(*corner)] for corner in corners]
        return [*ring, ring[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The landscape's own frame: the truth's grid and a margin around it."""

    grid: Grid
    """The truth's grid, completely covered by every date's tiles."""

    margin: int
    """Pixels of landscape around `grid` on each side."""

    @property
    def shape(self) -> Shape:
        """Rows and columns of the landscape."""
        rows, cols = self.grid.shape
        return rows + 2 * self.margin, cols + 2 * self.margin

    @property
    def transform(self) -> Affine:
        """Of the landscape, in the CRS of `grid`."""
        return self.grid.transform @ Affine.translation(-self.margin, -self.margin)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of `grid` in the landscape."""
        rows, cols = self.grid.shape
        return slice(self.margin, self.margin + rows), slice(self.margin, self.margin + cols)


def canvas(shape: Shape) -> Canvas:
    """Place a truth of `shape` pixels across the zone boundary."""
    rows, cols = shape
    left = NEST * round((CENTER[0] - 5 * cols) / NEST)
    top = NEST * round((CENTER[1] + 5 * rows) / NEST)
    bounds = (left, top - 10 * rows, left + 10 * cols, top)
    # A 60 m pixel of a turned tile reaches at most nine pixels over the edge.
    return Canvas(grid=Grid.from_bounds(bounds, crs=WEST, resolution=10), margin=12)


def granules(on: Canvas) -> list[Tile]:
    """Sentinel-2 tiles that together cover the canvas."""
    return [cut(on, name, epsg, part=(start, stop)) for name, epsg, start, stop in GRANULES]


def cut(
    on: Canvas, name: str, epsg: int, *, part: tuple[float, float] = (0.0, 1.0), border: int = 0
) -> Tile:
    """Cut a tile out of the landscape.

    Parameters
    ----------
    on : Canvas
    name : str
    epsg : int
    part : (start, stop)
        Of the landscape's width, 0 to 1.
    border : int
        Metres of no data around it.
    """
    rows, cols = on.shape
    edges = [on.transform @ (cols * part[0], 0.0), on.transform @ (cols * part[1], float(rows))]
    box = (edges[0][0], edges[1][1], edges[1][0], edges[0][1])
    to_tile = Transformer.from_crs(WEST, epsg, always_xy=True)
    left, bottom, right, top = to_tile.transform_bounds(*box, densify_pts=21)
    left, bottom = (NEST * math.floor((v - border) / NEST + 1e-6) for v in (left, bottom))
    right, top = (NEST * math.ceil((v + border) / NEST - 1e-6) for v in (right, top))
    transform = Affine(10.0, 0.0, float(left), 0.0, -10.0, float(top))
    shape = (round((top - bottom) / 10), round((right - left) / 10))
    return Tile(
        name=name, epsg=epsg, transform=transform, source=_positions(on, epsg, transform, shape)
    )


def centers(transform: Affine, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y of each pixel centre, float64 (y, x), in units of the CRS."""
    row, col = np.indices(shape, dtype="float64")
    return transform.c + transform.a * (col + 0.5), transform.f + transform.e * (row + 0.5)


def _positions(on: Canvas, epsg: int, transform: Affine, shape: Shape) -> np.ndarray:
    """Position in the flattened landscape of each pixel centre, -1 outside."""
    x, y = centers(transform, shape)
    if epsg != WEST:
        x, y = Transformer.from_crs(epsg, WEST, always_xy=True).transform(x, y)
    rows, cols = on.shape
    across, down = (x - on.transform.c) / 10, (on.transform.f - y) / 10
    inside = (across >= 0) & (across < cols) & (down >= 0) & (down < rows)
    position = np.floor(down).astype("int64") * cols + np.floor(across).astype("int64")
    return np.where(inside, position, -1)


def coarsen(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of `factor` x `factor` pixels."""
    if factor == 1:
        return values
    rows, cols = values.shape
    blocks = values.reshape(rows // factor, factor, cols // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype="float32"))
