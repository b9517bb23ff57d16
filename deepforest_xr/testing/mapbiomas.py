"""Labels as MapBiomas gives them: coarse, in degrees, and wrong in clumps.

What is done to the truth, in this order: the majority in pixels of 30 m; patches below
about half a hectare taken over by their surroundings; similar classes confused where a
smooth field is high; mosaics of uses at farm edges, a little not observed; and the
truth's thirteen classes written in the codes of collection 8.
"""

from __future__ import annotations

import math

import numpy as np
from affine import Affine
from pyproj import Transformer

from deepforest_xr.grid import Grid, parse_crs
from deepforest_xr.testing.landscape import (
    BARE,
    CANE,
    CROP,
    FOREST,
    GRASSLAND,
    MINING,
    OTHER_NATURAL,
    PASTURE,
    PLANTATION,
    SAVANNA,
    URBAN,
    WATER,
    WETLAND,
)
from deepforest_xr.testing.noise import Shape, rough, smooth, stream
from deepforest_xr.testing.tiles import WEST, Canvas, centers

RESOLUTION = 0.000269494585235856472
"""Degrees: the pixel of the published MapBiomas rasters."""

CONFUSED = 0.075
"""Share of pixels where a class may be taken for a similar one."""

_CODES = {
    FOREST: 3,
    SAVANNA: 4,
    PLANTATION: 9,
    WETLAND: 11,
    GRASSLAND: 12,
    OTHER_NATURAL: 13,
    PASTURE: 15,
    CROP: 39,
    CANE: 20,
    URBAN: 24,
    BARE: 25,
    MINING: 30,
    WATER: 33,
}
_OTHER_CROPS = (41, 19)  # other temporary crops; temporary crops not told apart
_MOSAIC, _NOT_OBSERVED = 21, 27

# What a class is taken for: first where a second field is high, then where it is low.
_SIMILAR = {
    FOREST: (SAVANNA, SAVANNA),
    SAVANNA: (GRASSLAND, FOREST),
    PLANTATION: (FOREST, FOREST),
    WETLAND: (GRASSLAND, SAVANNA),
    GRASSLAND: (PASTURE, SAVANNA),
    OTHER_NATURAL: (GRASSLAND, SAVANNA),
    PASTURE: (GRASSLAND, CROP),
    CROP: (PASTURE, PASTURE),
    CANE: (CROP, PASTURE),
    BARE: (PASTURE, URBAN),
}


def label_grid(on: Canvas) -> Grid:
    """Pixels of the published rasters that cover the truth's grid, in EPSG:4326."""
    west, south, east, north = on.grid.bbox_lonlat
    left = math.floor((west + 180) / RESOLUTION) * RESOLUTION - 180
    top = math.ceil((north - 90) / RESOLUTION) * RESOLUTION + 90
    shape = (math.ceil((top - south) / RESOLUTION), math.ceil((east - left) / RESOLUTION))
    return Grid(parse_crs(4326), Affine(RESOLUTION, 0, left, 0, -RESOLUTION, top), shape)


def labels(truth: np.ndarray, *, on: Canvas, to: Grid, seed: int) -> np.ndarray:
    """Make a MapBiomas-like label raster from the truth.

    Measured over seeds, 9 to 11.5 % of the labelled 30 m pixels of a scene of 256 x 256 or
    more differ from the truth at their centre, up to 14 % in one of 96 x 128, which is
    all edges. About 7 % is confusion, the rest the coarse pixel and the filter; another
    1 to 5 % is left unlabelled (mosaic of uses, not observed).

    Parameters
    ----------
    truth : ndarray[uint8], dims (y, x)
        Codes 1 to 13 on the whole canvas.
    on : Canvas
        Where `truth` lies.
    to : Grid
        Label pixels, from `label_grid`.
    seed : int

    Returns
    -------
    ndarray[uint8], dims (y, x)
        Codes of MapBiomas collection 8; 0 outside the landscape, 27 not observed.
    """
    classes = _drop_small_patches(_majority(truth, on, to))
    rng = stream(seed, "labels")
    classes = _confuse(classes, rng)
    table = np.zeros(14, dtype="uint8")
    for code, published in _CODES.items():
        table[code] = published
    coded: np.ndarray = table[classes]
    kind = smooth(to.shape, scale=12, rng=rng)
    crops = classes == CROP
    coded[crops & (kind > 0.7)] = _OTHER_CROPS[0]
    coded[crops & (kind < -1.2)] = _OTHER_CROPS[1]
    edge = _mixed_with_farms(classes)
    coded[edge & (smooth(to.shape, scale=2.5, rng=rng) > 0.9)] = _MOSAIC
    coded[smooth(to.shape, scale=2.5, rng=rng) > 3.0] = _NOT_OBSERVED
    coded[classes == 0] = 0
    return coded


def _majority(truth: np.ndarray, on: Canvas, to: Grid) -> np.ndarray:
    """Most frequent class of the 10 m pixels whose centre lies in each label pixel."""
    x, y = centers(on.transform, (truth.shape[0], truth.shape[1]))
    lon, lat = Transformer.from_crs(WEST, 4326, always_xy=True).transform(x, y)
    across = np.floor((lon - to.transform.c) / RESOLUTION).astype("int64")
    down = np.floor((to.transform.f - lat) / RESOLUTION).astype("int64")
    inside = (across >= 0) & (across < to.shape[1]) & (down >= 0) & (down < to.shape[0])
    cell = down[inside] * to.shape[1] + across[inside]
    votes = np.bincount(cell * 14 + truth[inside], minlength=14 * math.prod(to.shape))
    winner: np.ndarray = votes.reshape(*to.shape, 14).argmax(axis=2).astype("uint8")
    return winner


def _drop_small_patches(classes: np.ndarray) -> np.ndarray:
    """Give pixels with fewer than four of their own in 3 x 3 to the strongest neighbour.

    Straight edges and corners keep (six and four of nine); what goes is narrower than two
    pixels or smaller than about six, half a hectare.
    """
    votes = np.stack([_around(classes == code) for code in range(14)])
    own = np.take_along_axis(votes, classes[None].astype("int64"), axis=0)[0]
    votes[0] = -1  # nothing becomes "no data"
    strongest = votes.argmax(axis=0).astype("uint8")
    return np.where((own < 4) & (classes > 0), strongest, classes)


def _around(where: np.ndarray) -> np.ndarray:
    """Count of true pixels in the 3 x 3 around each, edges repeated."""
    padded = np.pad(where.astype("int8"), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total: np.ndarray = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return total


def _confuse(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swap classes for similar ones in clumps of a few hectares."""
    shape: Shape = (classes.shape[0], classes.shape[1])
    doubt = rough(shape, scale=4, rng=rng, octaves=3)
    doubt += 0.25 * (_around(np.diff(classes, axis=1, prepend=classes[:, :1]) != 0) > 0)
    first = smooth(shape, scale=6, rng=rng) > 0
    doubtful = doubt > np.quantile(doubt, 1 - CONFUSED)
    swap = np.arange(14, dtype="uint8")[None].repeat(2, axis=0)
    for code, (high, low) in _SIMILAR.items():
        swap[:, code] = high, low
    return np.where(doubtful, np.where(first, swap[0][classes], swap[1][classes]), classes)


def _mixed_with_farms(classes: np.ndarray) -> np.ndarray:
    """Where farmed and natural land meet within a pixel of here."""
    farmed = _around(np.isin(classes, (PASTURE, CROP)))
    return (farmed > 0) & (farmed < 9)
