"""Where a source and a target grid share their axes: which source pixel each target pixel is.

Then no warp is needed: rows and columns map on their own, and reading is the decoding of
the file. What is decided here is what GDAL's nearest neighbour decides, pixel for pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

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

    def centres(self, first: int, size: int) -> NDArray[np.float64]:
        """Centres of `size` target pixels from `first` on, in source pixels."""
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
class Span:
    """What of a source serves a run of target pixels along one axis."""

    read: tuple[int, int]
    """Source pixels, from and to."""

    take: NDArray[np.intp] | None
    """Which of them, None for each once."""

    place: slice
    """Where in the run they go."""


@lru_cache(maxsize=4096)  # all dates and bands of a tile share them
def _span(axis: Axis, first: int, size: int, limit: int) -> Span | None:
    """None where the run lies outside of the file."""
    picked = np.floor(axis.centres(first, size)).astype(np.intp)
    begin, end = np.searchsorted(picked, [0, limit])  # they ascend
    inside = picked[begin:end]
    if not inside.size:
        return None
    take = None if (np.diff(inside) == 1).all() else inside - inside[0]
    return Span((int(inside[0]), int(inside[-1]) + 1), take, slice(int(begin), int(end)))


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

    def read(
        self,
        source: Any,
        rows: tuple[int, int],
        cols: tuple[int, int],
        *,
        dtype: np.dtype[Any],
        fill: Any,
    ) -> NDArray[Any]:
        """Read (first, number of) rows and columns of the target grid, `fill` outside the file."""
        shape = rows[1], cols[1]
        down = _span(self.rows, *rows, self.source_shape[0])
        along = _span(self.cols, *cols, self.source_shape[1])
        if down is None or along is None:
            return np.full(shape, fill, dtype=dtype)
        data: NDArray[Any] = source.read(1, window=(down.read, along.read), out_dtype=dtype)
        if along.take is not None:
            data = data.take(along.take, axis=1)
        if down.take is not None:
            data = data.take(down.take, axis=0)
        if data.shape == shape:
            return data
        out = np.full(shape, fill, dtype=dtype)
        out[down.place, along.place] = data
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
