"""Which pixels of a map belong to which cell of one by one degree.

A pixel belongs to the cell that its centre lies in, west and south edges included: no pixel is
in two cells, none is in no cell. Centres are projected only where an edge of the cell may pass;
elsewhere the corners of blocks of pixels tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import Transformer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepforest_xr.grid import Grid

BLOCK = 64
MARGIN_DEGREES = 1e-3
"""Added to what the corners of a block enclose, beside a share of its size: edges are curved,
and a change of datum may step."""

MARGIN_SHARE = 0.02


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One by one degree."""

    south: int
    """Latitude of its lower edge."""

    west: int
    """Longitude of its left edge."""

    @property
    def id(self) -> str:
        """Named by its south-west corner: ``S03W060``."""
        ns, ew = "S" if self.south < 0 else "N", "W" if self.west < 0 else "E"
        return f"{ns}{abs(self.south):02d}{ew}{abs(self.west):03d}"


def cells_of(grid: Grid) -> list[Cell]:
    """List the cells that pixels of a grid may lie in; it may be a few too many."""
    west, south, east, north = _blocks(grid)
    finite = np.isfinite(west) & np.isfinite(east) & np.isfinite(south) & np.isfinite(north)
    found = {
        Cell(lat, lon)
        for w, s, e, n in np.unique(
            np.floor(np.stack([west, south, east, north], axis=-1)[finite]), axis=0
        ).astype(int)
        for lat in range(s, n + 1)
        for lon in range(w, e + 1)
    }
    return sorted(found)


def inside(cell: Cell, grid: Grid) -> NDArray[np.bool_]:
    """Tell which pixels of a grid lie in a cell.

    Parameters
    ----------
    cell : Cell
        The cell.
    grid : Grid
        A tile, or less.

    Returns
    -------
    ndarray[bool], dims (y, x)
    """
    west, south, east, north = _blocks(grid)
    whole = (west >= cell.west) & (east < cell.west + 1)
    whole &= (south >= cell.south) & (north < cell.south + 1)
    # Written so that what cannot be projected, and compares as false, is looked at closely.
    apart = (east < cell.west) | (west >= cell.west + 1)
    apart |= (north < cell.south) | (south >= cell.south + 1)
    rows, cols = grid.shape
    found = np.repeat(np.repeat(whole, BLOCK, axis=0), BLOCK, axis=1)[:rows, :cols]
    mixed_row, mixed_col = np.nonzero(~whole & ~apart)
    step = np.arange(BLOCK)
    row = (mixed_row[:, None, None] * BLOCK + step[None, :, None]) + 0 * step
    col = (mixed_col[:, None, None] * BLOCK + step) + 0 * step[None, :, None]
    kept = (row < rows) & (col < cols)
    row, col = row[kept], col[kept]
    centres: Any = (col + 0.5, row + 0.5)  # Affine takes arrays, its types do not say so
    x, y = grid.transform @ centres
    lon, lat = _to_degrees(grid).transform(x, y)
    found[row, col] = (np.floor(lon) == cell.west) & (np.floor(lat) == cell.south)
    return found


def _to_degrees(grid: Grid) -> Transformer:
    return Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)


def _blocks(grid: Grid) -> tuple[NDArray[np.float64], ...]:
    """West, south, east and north of blocks of pixels, in degrees and rather too wide."""
    rows, cols = grid.shape
    row = np.minimum(np.arange(math.ceil(rows / BLOCK) + 1) * BLOCK, rows)
    col = np.minimum(np.arange(math.ceil(cols / BLOCK) + 1) * BLOCK, cols)
    corners_at: Any = tuple(np.meshgrid(col.astype(float), row.astype(float)))
    x, y = grid.transform @ corners_at
    lon, lat = _to_degrees(grid).transform(x, y)
    sides = []
    for degrees in (lon, lat):
        corners = np.stack([degrees[:-1, :-1], degrees[:-1, 1:], degrees[1:, :-1], degrees[1:, 1:]])
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = MARGIN_DEGREES + MARGIN_SHARE * (high - low)
        sides.append((low - margin, high + margin))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]
