"""Where a source and a target grid share their axes: which source pixel each target pixel is.

Then no warp is needed: rows and columns map on their own, and reading is the decoding of
the file. What is decided here is what GDAL's nearest neighbour decides, pixel for pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.windows import Window

# A target pixel whose centre lies this near the edge between two source pixels, in source
# pixels, could go either way by the last bit of a float: such grids are left to GDAL.
TIE = 1e-4


@dataclass(frozen=True, slots=True)
class Axis:
    """Along one axis: target pixel i takes source pixel floor(start + step * (i + 0.5))."""

    start: float
    """Edge of the first target pixel in source pixels."""

    step: float
    """Size of a target pixel in source pixels."""

    def picks(self, first: int, size: int) -> NDArray[np.intp]:
        """Source pixels of `size` target pixels from `first` on; may lie outside of the file."""
        return np.floor(self.centres(first, size)).astype(np.intp)

    def centres(self, first: int, size: int) -> NDArray[np.float64]:
        """Centres of target pixels in source pixels."""
        places = np.arange(first, first + size, dtype="float64")
        return self.start + self.step * (places + 0.5)

    def is_decided(self, size: int) -> bool:
        """Whether every centre lies clearly inside one source pixel."""
        fraction = self.centres(0, size) % 1.0
        return bool(((fraction > TIE) & (fraction < 1.0 - TIE)).all())

    @property
    def is_identity(self) -> bool:
        """Whether target pixels are source pixels."""
        return abs(self.step - 1.0) < 1e-9 and abs(self.start - round(self.start)) < TIE


@dataclass(frozen=True, slots=True)
class Picks:
    """Which source pixels a target grid takes."""

    rows: Axis
    cols: Axis
    source_shape: tuple[int, int]

    @property
    def is_identity(self) -> bool:
        """Whether the target's pixels are the source's: then no resampling has anything to do."""
        return self.rows.is_identity and self.cols.is_identity

    def read(self, source: Any, window: Window, *, dtype: np.dtype[Any], fill: Any) -> NDArray[Any]:
        """Read a window of the target grid from an open file, `fill` outside of it."""
        height, width = int(window.height), int(window.width)
        row, rows = _inside(self.rows.picks(int(window.row_off), height), self.source_shape[0])
        col, cols = _inside(self.cols.picks(int(window.col_off), width), self.source_shape[1])
        if not rows.size or not cols.size:
            return np.full((height, width), fill, dtype=dtype)
        data: NDArray[Any] = source.read(
            1, window=((rows[0], rows[-1] + 1), (cols[0], cols[-1] + 1)), out_dtype=dtype
        )
        if not _is_run(cols):
            data = data.take(cols - cols[0], axis=1)
        if not _is_run(rows):
            data = data.take(rows - rows[0], axis=0)
        if data.shape == (height, width):
            return data
        out = np.full((height, width), fill, dtype=dtype)
        out[row : row + rows.size, col : col + cols.size] = data
        return out


def picks(
    source: tuple[Affine, tuple[int, int]], target: tuple[Affine, tuple[int, int]]
) -> Picks | None:
    """Map a target grid onto a source grid of the same CRS, None where only a warp can.

    Parameters
    ----------
    source, target : (transform, (rows, columns))
        Both north-up for a mapping to exist.
    """
    (s, shape), (t, wanted) = source, target
    if s.b or s.d or t.b or t.d or s.a <= 0 or s.e >= 0:
        return None
    rows = Axis((t.f - s.f) / s.e, t.e / s.e)
    cols = Axis((t.c - s.c) / s.a, t.a / s.a)
    if not (rows.is_decided(wanted[0]) and cols.is_decided(wanted[1])):
        return None
    return Picks(rows, cols, shape)


def _inside(picks: NDArray[np.intp], size: int) -> tuple[int, NDArray[np.intp]]:
    """First place whose pick lies in the file, and the picks that do (they ascend)."""
    first, last = np.searchsorted(picks, [0, size])
    return int(first), picks[first:last]


def _is_run(picks: NDArray[np.intp]) -> bool:
    return bool((np.diff(picks) == 1).all())
