"""Training chips of one store kept apart from what another store holds out.

Each store is split for itself. Where stores lie beside one another, or on one another, the
buffer inside each says nothing of the other's test chips.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import shapely
from pyproj import CRS, Transformer

from deepforest_xr.chips.split import BUFFER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from deepforest_xr.chips.store import Store

log = logging.getLogger(__name__)

TOUCH = 1e-3
"""Of a pixel: chips whose sides are nearer than this touch, they do not overlap."""


def keep_apart(parts: tuple[Store, ...]) -> NDArray[np.int32]:
    """Give the splits of several stores as one set.

    Parameters
    ----------
    parts : tuple of Store
        On any grids.

    Returns
    -------
    ndarray[int32], dims (chip,)
        Of all stores in order. Training chips that overlap a chip which another store holds
        out, or lie within either's buffer of one, are 3: buffer. Stores whose cells were
        dealt are as they were: there, chips of all splits share their pixels.
    """
    splits = [part.split.copy() for part in parts]
    for ours, theirs in _neighbours(parts):
        one, other = parts[ours], parts[theirs]
        train = np.flatnonzero(splits[ours] == 0)
        held = np.flatnonzero((other.split == 1) | (other.split == 2))
        near = _near(one, train, other, held)
        if near.any():
            splits[ours][train[near]] = BUFFER
            log.warning(
                "%d of %d training chips of %r are left out: they overlap chips that %r holds "
                "out, or lie within the buffer of them",
                near.sum(),
                len(train),
                str(one.path),
                str(other.path),
            )
    return np.concatenate(splits)


def _neighbours(parts: tuple[Store, ...]) -> Iterator[tuple[int, int]]:
    """Give the pairs of stores whose chips may be near, both ways."""
    dealt = [n for n, part in enumerate(parts) if part.attrs.get("cell") is None]
    if len(dealt) < 2:
        return
    around = np.array([_footprint(parts[n]) for n in dealt], dtype=object)
    pairs = shapely.STRtree(around).query(around, predicate="intersects")
    for ours, theirs in pairs.T:
        if ours != theirs:
            yield dealt[ours], dealt[theirs]


def _footprint(part: Store) -> shapely.Geometry:
    """Give a box in degrees around a store and all that its buffer may reach."""
    grid = part.grid
    left, bottom, right, top = grid.bounds
    reach = 1 + _buffer(part) / part.size  # a store is as wide as a chip, or wider
    x, y = reach * (right - left), reach * (top - bottom)
    to = Transformer.from_crs(grid.crs, CRS(4326), always_xy=True)
    return shapely.box(*to.transform_bounds(left - x, bottom - y, right + x, top + y))


def _buffer(part: Store) -> int:
    """Pixels between training and what is held out, 0 without a buffer."""
    return int(part.attrs.get("buffer_pixels", 0))


def _near(
    one: Store, train: NDArray[np.intp], other: Store, held: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Tell which training chips of a store overlap another's or lie within the buffer of them."""
    grid = one.grid
    buffer = max(_buffer(one), _buffer(other))
    x = abs(grid.transform.a) * (buffer - TOUCH)
    y = abs(grid.transform.e) * (buffer - TOUCH)
    left, bottom, right, top = _bounds(other, held)
    if other.grid.crs != grid.crs:
        to = Transformer.from_crs(other.grid.crs, grid.crs, always_xy=True)
        xs, ys = to.transform(
            np.stack([left, left, right, right]), np.stack([bottom, top, bottom, top])
        )
        left, bottom, right, top = xs.min(0), ys.min(0), xs.max(0), ys.max(0)
    reached = shapely.STRtree(shapely.box(left - x, bottom - y, right + x, top + y))
    near = np.zeros(len(train), dtype=bool)
    left, bottom, right, top = _bounds(one, train)
    chips: NDArray[np.object_] = shapely.box(left, bottom, right, top)
    near[reached.query(chips, predicate="intersects")[0]] = True
    return near


def _bounds(part: Store, chips: NDArray[np.intp]) -> tuple[NDArray[np.float64], ...]:
    """Give left, bottom, right and top of chips, in the store's CRS; each of dims (chip,)."""
    at, size = part.grid.transform, part.size
    xs = at.c + at.a * (part.col[chips] + np.array([[0], [size]]))
    ys = at.f + at.e * (part.row[chips] + np.array([[0], [size]]))
    return xs.min(axis=0), ys.min(axis=0), xs.max(axis=0), ys.max(axis=0)
