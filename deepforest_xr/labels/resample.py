"""Which class a cube's pixel has, given a window of a label raster: nearest, or by area.

Arrays in, arrays out, but for the window that a `Read` fetches. Coordinates are exact (every
centre or corner is transformed) and follow from a pixel's place in the whole grid, so that a
result does not depend on how the grid is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pyproj import Transformer

from deepforest_xr.errors import LabelError
from deepforest_xr.legend import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from affine import Affine
    from numpy.typing import NDArray
    from pyproj import CRS

    from deepforest_xr.grid import Grid

    Floats = NDArray[np.float64]
    Box = tuple[slice, slice]

# A place this near to an edge between two source pixels lies on it: float noise decides nothing.
TIE = 1e-6

SAMPLES = (89, 144, 233, 377, 610, 987)
"""Points in a target pixel where axes are not shared: Fibonacci numbers from 144 on.

The points of a Fibonacci lattice have each a row and a column of their own: an edge that is
nearly parallel to an axis, as label rasters' are, moves an area by one point in 144, where a
square of 12 x 12 points moves it by twelve.
"""

SAMPLES_A_PIXEL = 16
"""Points in a source pixel, as far as `SAMPLES` allows."""

WINDOW = 2048
"""Side of what is read at once in source pixels, about: bounds the memory of coarse grids."""


class Read(Protocol):
    """Reads a window of the label raster."""

    def __call__(self, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Codes, and where there are any (no missing value)."""
        ...


class Translate(Protocol):
    """Turns codes of the raster into codes of the legend, or says why it cannot."""

    def __call__(self, codes: NDArray[Any]) -> NDArray[np.uint8]:
        """Shape of `codes`; 255 where no class fits."""
        ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where the pixels of a target grid lie in a source raster."""

    grid: Grid
    """Target."""

    transform: Affine
    """Of the source, pixels to coordinates; may be rotated."""

    shape: tuple[int, int]
    """Of the source, rows and columns."""

    crs: CRS | None
    """Of the source, None where it is the grid's."""

    ratio: float
    """Side of a target pixel in source pixels, about."""

    @property
    def shares_axes(self) -> bool:
        """Whether rows follow from rows and columns from columns, both in the same direction."""
        t = self.transform
        return self.crs is None and not (t.b or t.d) and t.a > 0 > t.e

    def of(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        """Source rows and columns of target rows and columns, whole numbers at edges.

        Not finite where a place of the grid has no coordinates in the source's CRS.
        """
        t = self.grid.transform
        x, y = np.broadcast_arrays(t.c + t.a * cols, t.f + t.e * rows)
        if self.crs is not None:
            x, y = Transformer.from_crs(self.grid.crs, self.crs, always_xy=True).transform(x, y)
        inverse = ~self.transform
        source_cols = inverse.a * x + inverse.b * y + inverse.c
        source_rows = inverse.d * x + inverse.e * y + inverse.f
        return _snapped(source_rows), _snapped(source_cols)

    def box(self, rows: Floats, cols: Floats, *, are_edges: bool = False) -> Box | None:
        """Part of the source that the places lie in, None where they all lie outside.

        A place on the edge between two source pixels belongs to the second, unless it is
        itself an edge of what is looked for.
        """
        spans = []
        for places, size in zip((rows, cols), self.shape, strict=True):
            finite = places[np.isfinite(places)]
            if not finite.size:
                return None
            first = max(math.floor(finite.min()), 0)
            end = math.ceil(finite.max()) if are_edges else math.floor(finite.max()) + 1
            last = min(end, size)
            if first >= last:
                return None
            spans.append(slice(first, last))
        return spans[0], spans[1]


def nearest(places: Places, block: Box, read: Read, translate: Translate) -> NDArray[np.uint8]:
    """Class of the source pixel under each target pixel's centre.

    Parameters
    ----------
    places : Places
    block : (rows, columns)
        Part of the target grid.
    read, translate : Read, Translate

    Returns
    -------
    ndarray[uint8], shape of `block`
        255 outside of the source and where it is missing.
    """
    rows, cols = _indices(block)
    source_rows, source_cols = places.of(rows[:, None] + 0.5, cols[None, :] + 0.5)
    labels = np.full(source_rows.shape, UNLABELLED, dtype="uint8")
    box = places.box(source_rows, source_cols)
    if box is None:
        return labels
    codes, valid = read(box)
    picked, row, col = _picks(source_rows, source_cols, box)
    known = valid[row, col]
    picked[picked] = known
    labels[picked] = translate(codes[row[known], col[known]])
    return labels


def largest_share(
    places: Places, block: Box, read: Read, translate: Translate
) -> NDArray[np.uint8]:
    """Class with the largest area in each target pixel.

    Areas of classes are compared, not of source codes: soybean and rice together are
    crop. Codes without a counterpart vote together as unlabelled; missing pixels and what
    lies outside of the source do not vote. Of equal areas the lowest class wins.
    The areas are exact where the grids share their axes, else they are shares of 144 to
    987 points spread evenly over the pixel: classes within about a percent of the pixel of
    each other may swap.

    Parameters and result are those of `nearest`.
    """
    rows, cols = _indices(block)
    labels = np.full((rows.size, cols.size), UNLABELLED, dtype="uint8")
    side = max(int(WINDOW / places.ratio), 1)
    for top in range(0, rows.size, side):
        for left in range(0, cols.size, side):
            part = slice(top, top + side), slice(left, left + side)
            down, right = (
                np.append(axis[span], axis[span][-1] + 1)
                for axis, span in zip((rows, cols), part, strict=True)
            )
            corners = places.of(down[:, None], right[None, :])
            labels[part] = _vote(places, corners, read, translate)
    return labels


def _vote(
    places: Places, corners: tuple[Floats, Floats], read: Read, translate: Translate
) -> NDArray[np.uint8]:
    """Winners of a part of the grid whose pixels have these corners in the source."""
    rows, cols = corners
    box = places.box(rows, cols, are_edges=True)
    if box is None:
        return np.full((rows.shape[0] - 1, rows.shape[1] - 1), UNLABELLED, dtype="uint8")
    codes, voters = _numbered(*read(box))
    shares: _Areas | _Points
    if places.shares_axes:
        shares = _Areas(rows[:, 0], cols[0], box)
    else:
        shares = _Points(rows, cols, box, *_samples(places.ratio))
    targets = _targets(codes, voters, shares, translate)
    classes, slots = np.unique(targets, return_inverse=True)
    # One slot more for what does not vote.
    return _winners(shares.of(np.append(slots, classes.size)[voters], classes.size), classes)


@dataclass(frozen=True, slots=True)
class _Areas:
    """Overlaps of target pixels with the source pixels of a box, where axes are shared."""

    rows: Floats
    """Edges of target rows in source rows."""

    cols: Floats
    """Edges of target columns in source columns."""

    box: Box

    def of(self, voters: NDArray[Any], classes: int) -> NDArray[Any]:
        """Area of each class in each target pixel, in source pixels."""
        down, heights = _overlaps(self.rows, self.box[0])
        across, widths = _overlaps(self.cols, self.box[1])
        areas = np.empty((classes, len(heights), len(widths)))
        for slot in range(classes):
            inside = voters == slot
            tall = sum(heights[:, k, None] * inside[down[:, k]] for k in range(down.shape[1]))
            areas[slot] = sum(
                widths[:, k] * np.asarray(tall)[:, across[:, k]] for k in range(across.shape[1])
            )
        return areas

    def met(self, voters: NDArray[Any], codes: int) -> NDArray[np.bool_]:
        """Which codes a target pixel covers: all, a box ends where the pixels do."""
        del voters
        return np.ones(codes, dtype=bool)


@dataclass(frozen=True, slots=True)
class _Points:
    """Points spread evenly over target pixels, and the source pixels that they meet."""

    rows: Floats
    """Source rows of the target pixels' corners."""

    cols: Floats
    """Source columns of the same."""

    box: Box

    step: int
    """Fibonacci number before `number`."""

    number: int
    """Points in a target pixel."""

    def of(self, voters: NDArray[Any], classes: int) -> NDArray[Any]:
        """Points of each class in each target pixel."""
        shape = self.rows.shape[0] - 1, self.rows.shape[1] - 1
        # A frame of what does not vote takes the points that lie outside.
        framed = np.pad(voters, 1, constant_values=classes).ravel()
        counts = np.zeros((classes + 1) * shape[0] * shape[1], dtype="uint16")
        every = np.arange(shape[0] * shape[1])
        for place in self._layers():
            # Each pixel once: no index repeats.
            counts[framed[place].ravel() * every.size + every] += 1
        return counts.reshape(classes + 1, *shape)[:classes]

    def met(self, voters: NDArray[Any], codes: int) -> NDArray[np.bool_]:
        """Which codes a point meets: a box is larger than what the pixels cover."""
        framed = np.pad(voters, 1, constant_values=codes).ravel()
        met = np.zeros(codes + 1, dtype=bool)
        for place in self._layers():
            met[framed[place]] = True
        return met[:codes]

    def _layers(self) -> Iterator[NDArray[np.intp]]:
        """Places in the framed box of one point of every pixel after the other."""
        height, width = (span.stop - span.start for span in self.box)
        rows = _bilinear(self.rows - self.box[0].start + 1 + TIE)
        cols = _bilinear(self.cols - self.box[1].start + 1 + TIE)
        for point in range(self.number):
            down = (point + 0.5) / self.number
            right = (point * self.step % self.number + 0.5) / self.number
            row, col = (c[0] + down * c[1] + right * (c[2] + down * c[3]) for c in (rows, cols))
            np.clip(row, 0, height + 1, out=row)
            np.clip(col, 0, width + 1, out=col)
            yield row.astype(np.intp) * (width + 2) + col.astype(np.intp)


def _bilinear(corners: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """At a pixel's corner, and the slopes down, right and of both; far outside where not finite."""
    finite = np.where(np.isfinite(corners), corners, -1e12)
    corner, right = finite[:-1, :-1], finite[:-1, 1:] - finite[:-1, :-1]
    down, both = finite[1:, :-1] - corner, finite[1:, 1:] - finite[1:, :-1] - right
    return corner, down, right, both


def _targets(
    codes: NDArray[Any], voters: NDArray[Any], shares: _Areas | _Points, translate: Translate
) -> NDArray[np.uint8]:
    """Class of each code; a code that no target pixel meets may be unknown."""
    try:
        return translate(codes)
    except LabelError:
        met = shares.met(voters, codes.size)
        targets = np.full(codes.shape, UNLABELLED, dtype="uint8")
        targets[met] = translate(codes[met])
        return targets


def _winners(areas: NDArray[Any], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class of the largest area, the lowest of equal ones, 255 where nobody voted."""
    labels = np.full(areas.shape[1:], UNLABELLED, dtype="uint8")
    best = np.zeros(areas.shape[1:])
    for area, code in zip(areas, classes, strict=True):
        ahead = area > best + TIE
        labels[ahead], best[ahead] = code, area[ahead]
    return labels


def _overlaps(edges: Floats, span: slice) -> tuple[NDArray[np.intp], Floats]:
    """Source pixels each target pixel covers along an axis, and how much of each.

    Returns
    -------
    ndarray[int], ndarray[float64], dims (target, overlap)
        Places in `span`; where there are fewer overlaps than columns, the surplus is 0.
    """
    first = np.floor(edges[:-1])
    longest = int((np.ceil(edges[1:]) - first).max())
    pixels = first[:, None] + np.arange(longest)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    inside = (pixels >= span.start) & (pixels < span.stop)
    index = np.clip(pixels - span.start, 0, span.stop - span.start - 1)
    return index.astype(np.intp), np.where(inside, np.maximum(covered, 0.0), 0.0)


def _numbered(
    values: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Codes in a window, ascending, and each pixel's place in them; one past the end: none."""
    codes, places = np.unique(values[valid], return_inverse=True)
    numbers = np.full(values.shape, codes.size, dtype=np.intp)
    numbers[valid] = places
    return codes, numbers


def _picks(
    rows: Floats, cols: Floats, box: Box
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Which places lie in the box, and those places' pixels in it."""
    with np.errstate(invalid="ignore"):  # places without coordinates are not finite
        row, col = np.floor(rows + TIE) - box[0].start, np.floor(cols + TIE) - box[1].start
        inside = (row >= 0) & (row < box[0].stop - box[0].start)
        inside &= (col >= 0) & (col < box[1].stop - box[1].start)
    return inside, row[inside].astype(np.intp), col[inside].astype(np.intp)


def _indices(block: Box) -> tuple[Floats, Floats]:
    """Rows and columns of a block as floats: pixels' upper left corners."""
    rows, cols = (np.arange(axis.start, axis.stop, dtype="float64") for axis in block)
    return rows, cols


def _snapped(places: Floats) -> Floats:
    whole = np.rint(places)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(places - whole) < TIE, whole, places)


def _samples(ratio: float) -> tuple[int, int]:
    """Two Fibonacci numbers in a row, the second as many points as the pixel needs."""
    wanted = SAMPLES_A_PIXEL * ratio**2
    enough = next((i for i, n in enumerate(SAMPLES) if i and n >= wanted), len(SAMPLES) - 1)
    return SAMPLES[enough - 1], SAMPLES[enough]
