"""A simulated Amazon frontier: thirteen classes on a 10 m grid, drawn from a seed.

A river meanders through with its tributaries, sand, wetland and a mine beside it. A road
with side roads every mile opens the forest like a fishbone; rectangular parcels along
them are pasture, fields, cane and plantations. What is left is forest, savanna,
grassland and rock by moisture.

Every class is painted with a fixed number of pixels, rare ones first, on the pixels
where its score is lowest: shares hold by construction, not by luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepforest_xr.errors import ConfigError
from deepforest_xr.testing.noise import Shape, rough, smooth, stream

FOREST, SAVANNA, PLANTATION, WETLAND, GRASSLAND, OTHER_NATURAL, PASTURE = range(1, 8)
CROP, CANE, URBAN, BARE, MINING, WATER = range(8, 14)

SHARES = {
    FOREST: 16.4,
    SAVANNA: 31.2,
    PLANTATION: 0.07,
    WETLAND: 0.03,
    GRASSLAND: 10.1,
    OTHER_NATURAL: 5.5,
    PASTURE: 23.2,
    CROP: 10.8,
    CANE: 0.09,
    URBAN: 0.42,
    BARE: 1.0,
    MINING: 0.001,
    WATER: 1.1,
}
"""Percent of the area, as in the paper's table 5 (Cherif et al. 2022)."""

SMALLEST_SIDE = 64
ROAD_SPACING = 5  # strips of parcels between two side roads
STRIP_WIDTH = (18.0, 40.0)  # pixels, across a parcel
PARCEL_LENGTH = (24.0, 70.0)  # pixels, along it


@dataclass(frozen=True, slots=True, kw_only=True)
class Land:
    """A landscape, with what its signal needs besides the classes."""

    codes: np.ndarray
    """uint8 (y, x), classes 1 to 13."""

    parcels: np.ndarray
    """int32 (y, x), which field a pixel belongs to; 0 where nobody farms."""


def landscape(shape: Shape, *, seed: int = 0) -> np.ndarray:
    """Draw land cover at 10 m, in about the class shares of the paper.

    The big classes keep their shares at every size (savanna takes what rounding leaves).
    Rare classes are raised where their share would be too few pixels to use: each has at
    least 1 pixel in 400, between 12 and 120 pixels. Mining, 0.001 % in the paper, is
    therefore 0.25 % of a scene of 96 x 128 and 0.02 % of one of 768 x 768.

    Parameters
    ----------
    shape : (rows, columns)
        At least 64 x 64 pixels of 10 m.
    seed : int
        Same seed and shape, same landscape.

    Returns
    -------
    ndarray[uint8], dims (y, x)
        Codes 1 to 13 of `deepforest_xr.legend.amazon13`; no pixel is empty.

    Raises
    ------
    ConfigError
        If a side is shorter than 64 pixels.
    """
    return build(shape, seed=seed).codes


def build(shape: Shape, *, seed: int) -> Land:
    """Draw the landscape and its parcels; see `landscape`."""
    if min(shape) < SMALLEST_SIDE:
        raise ConfigError(
            f"shape={tuple(shape)} is too small for thirteen classes: "
            f"simulate at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels."
        )
    painter = _Painter(shape)
    river = _river(shape, stream(seed, "river"))
    roads = _roads(shape, stream(seed, "roads"))
    painter.paint(WATER, river)
    bank = river - river[painter.codes == WATER].max()
    _paint_spots(painter, bank, roads, stream(seed, "spots"))
    _paint_bare(painter, bank, roads, stream(seed, "bare"))
    _paint_farms(painter, bank, roads, stream(seed, "farms"))
    _paint_nature(painter, bank, stream(seed, "nature"))
    farmed = np.isin(painter.codes, (PLANTATION, PASTURE, CROP, CANE))
    return Land(codes=painter.codes, parcels=np.where(farmed, roads.parcels + 1, 0))


class _Painter:
    """An empty map, and how many pixels each class may take of it."""

    def __init__(self, shape: Shape) -> None:
        self.codes = np.zeros(shape, dtype="uint8")
        area = self.codes.size
        least = min(max(area // 400, 12), 120)
        whole = sum(SHARES.values())
        self.quota = {c: max(round(area * s / whole), least) for c, s in SHARES.items()}

    def paint(
        self, code: int, score: np.ndarray, *, over: int = 0, pixels: int | None = None
    ) -> None:
        """Give `code` to the pixels of class `over` (0: empty) with the lowest score."""
        count = self.quota[code] if pixels is None else pixels
        places = np.flatnonzero(self.codes == over)
        count = min(count, places.size)
        if count == 0:
            return
        values = score.ravel()[places]
        limit = np.partition(values, count - 1)[count - 1]
        below = places[values < limit]
        level = places[values == limit][: count - below.size]  # ties by position: repeatable
        self.codes.ravel()[below] = code
        self.codes.ravel()[level] = code


@dataclass(frozen=True, slots=True, kw_only=True)
class _Roads:
    distance: np.ndarray
    """float32 (y, x), pixels to the nearest road; the main road counts as wider."""

    main: np.ndarray
    """float32 (y, x), pixels to the main road."""

    parcels: np.ndarray
    """int32 (y, x), number of the parcel, from 0."""

    along: np.ndarray
    """float32 (y, x), 0 to 1 from one end of the parcel to the other."""

    axes: tuple[np.ndarray, np.ndarray]
    """float32 (y, x), pixels along the main road and away from it."""


def _axes(shape: Shape, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates from the centre, turned by `angle` (radians)."""
    y, x = np.indices(shape, dtype="float32")
    y -= shape[0] / 2
    x -= shape[1] / 2
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _inside(shape: Shape) -> np.ndarray:
    """0 in the middle, growing by 100 a half side outside of it: rare things stay inside."""
    y, x = (np.abs(np.linspace(-1, 1, n, dtype="float32")) for n in shape)
    return np.asarray(100 * np.maximum(np.maximum(y[:, None], x[None, :]) - 0.6, 0))


def _river(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Distance to the water's middle, pixels; tributaries count as two and a half times."""
    u, v = _axes(shape, rng.uniform(0.9, 1.3))
    side = min(shape)
    v = v + 0.16 * side * rng.choice((-1.0, 1.0))
    v += min(9, 0.04 * side) * smooth(shape, scale=16, rng=rng)
    u += min(9, 0.04 * side) * smooth(shape, scale=16, rng=rng)
    waves = rng.uniform(0, 2 * math.pi, size=4)
    v -= min(22, 0.07 * side) * np.sin(u / 34 + waves[0])
    v -= min(30, 0.08 * side) * np.sin(u / 130 + waves[1])
    score = np.abs(v)
    for bank, wave in zip((-1, 1), waves[2:], strict=True):
        mouth = rng.uniform(-0.35, 0.35) * side
        reach = bank * v
        course = u - mouth - 0.5 * reach - 14 * np.sin(reach / 26 + wave)
        score = np.where(reach > 0, np.minimum(score, 2.5 * np.abs(course)), score)
    return np.asarray(score, dtype="float32")


def _roads(shape: Shape, rng: np.random.Generator) -> _Roads:
    """Lay the main road, side roads at right angles, and cut parcels between them."""
    u, v = _axes(shape, rng.uniform(-0.35, 0.1))
    v = v + 0.05 * min(shape) + 10 * np.sin(u / 150 + rng.uniform(0, 6))
    reach = float(np.hypot(*shape))
    strips = np.cumsum(rng.uniform(*STRIP_WIDTH, size=int(2 * reach / STRIP_WIDTH[0]))) - reach
    strip = np.searchsorted(strips, u)
    # One search for all strips: each strip's cuts lie in a range of v of its own.
    cuts = np.cumsum(
        rng.uniform(*PARCEL_LENGTH, size=(strips.size + 1, int(2 * reach / PARCEL_LENGTH[0]))),
        axis=1,
    )
    cuts = np.clip(cuts - reach, -reach, reach) + 4 * reach * np.arange(strips.size + 1)[:, None]
    key = (v + 4 * reach * strip).ravel()
    found = np.searchsorted(cuts.ravel(), key).clip(1, cuts.size - 1)
    low, high = cuts.ravel()[found - 1], cuts.ravel()[found]
    along = np.clip((key - low) / np.maximum(high - low, 1), 0, 0.999)
    _, parcels = np.unique(found, return_inverse=True)
    main = np.abs(v)
    distance = main / 1.5
    for position in strips[::ROAD_SPACING]:
        ends = rng.uniform(0.18, 0.55, size=2) * min(shape)
        beyond = np.maximum(np.where(v > 0, v - ends[0], -v - ends[1]), 0)
        distance = np.minimum(distance, np.hypot(u - position, beyond))
    return _Roads(
        distance=distance.astype("float32"),
        main=main.astype("float32"),
        parcels=parcels.reshape(shape).astype("int32"),
        along=along.reshape(shape).astype("float32"),
        axes=(u, v),
    )


def _paint_spots(
    painter: _Painter, bank: np.ndarray, roads: _Roads, rng: np.random.Generator
) -> None:
    """Mines and wetland beside the river, a town on the main road."""
    shape = bank.shape
    inside = _inside(shape)
    ragged = rough(shape, scale=6, rng=rng, octaves=3)
    mines = 2 if painter.quota[MINING] >= 80 else 1
    near_water = (bank > 4) & (bank < 9) & (inside == 0)
    painter.paint(MINING, _nearest(shape, near_water, mines, rng) + 0.5 * ragged)
    marsh = smooth(shape, scale=9, rng=rng)
    painter.paint(WETLAND, np.maximum(bank - 4, 0) + inside - 4 * marsh)
    on_road = (roads.main < 2) & (inside == 0) & (bank > 0.08 * min(shape))
    if not on_road.any():  # a tiny scene whose road runs along the river
        on_road = (roads.main < 2) & (painter.codes == 0)
    town = _nearest(shape, on_road, 1, rng)
    village = 2.2 * _nearest(shape, on_road, 1, rng)
    painter.paint(URBAN, np.minimum(town, village) * (1 + 0.15 * ragged) + 0.3 * roads.distance)


def _nearest(shape: Shape, where: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels to the nearest of `count` places drawn from `where`."""
    places = np.flatnonzero(where if where.any() else np.ones(shape, bool))
    y, x = np.indices(shape, dtype="float32")
    distance = np.full(shape, np.inf, dtype="float32")
    for place in rng.choice(places, size=count):
        row, col = divmod(int(place), shape[1])
        distance = np.minimum(distance, np.hypot(y - row, x - col))
    return distance


def _paint_bare(
    painter: _Painter, bank: np.ndarray, roads: _Roads, rng: np.random.Generator
) -> None:
    """Unpaved roads first, then half of what is left as sand bars, half as bare patches."""
    left = painter.quota[BARE]
    lanes = int(((roads.distance < 0.55) & (painter.codes == 0)).sum())
    lanes = min(lanes, round(0.7 * left))
    painter.paint(BARE, roads.distance, pixels=lanes)
    sand = (left - lanes) // 2
    painter.paint(BARE, bank - 3 * smooth(bank.shape, scale=7, rng=rng), pixels=sand)
    patches = smooth(bank.shape, scale=3, rng=rng) - roads.distance / 60
    painter.paint(BARE, -patches, pixels=left - lanes - sand)


def _paint_farms(
    painter: _Painter, bank: np.ndarray, roads: _Roads, rng: np.random.Generator
) -> None:
    """Clear parcels from the roads outwards, and give some of them to crops."""
    shape = bank.shape
    side = min(shape)
    settled = roads.distance / 35 + smooth(shape, scale=0.1 * side + 8, rng=rng)
    settled += np.where(bank < 12, 1.5, 0)  # riparian forest is protected by law
    for code in (CANE, PLANTATION):
        near = (roads.distance < 25) & (bank > 8) & (_inside(shape) == 0) & (painter.codes == 0)
        painter.paint(code, _block(near, roads, rng))
    cleared = painter.quota[PASTURE] + painter.quota[CROP]
    painter.paint(PASTURE, _by_parcel(settled, roads), pixels=cleared)
    plateau = smooth(shape, scale=0.09 * side + 6, rng=rng) - bank / side
    plateau += 8 / side * _inside(shape)  # so that a tiny scene has its field inside
    painter.paint(CROP, _by_parcel(plateau, roads), over=PASTURE)


def _block(where: np.ndarray, roads: _Roads, rng: np.random.Generator) -> np.ndarray:
    """Distance from a place drawn from `where`, so that what is near is a square block."""
    places = np.flatnonzero(where if where.any() else np.ones(where.shape, bool))
    place = rng.choice(places)
    aside, on = (np.abs(axis - axis.flat[place]) for axis in roads.axes)
    return np.asarray(np.maximum(aside, on))


def _by_parcel(score: np.ndarray, roads: _Roads) -> np.ndarray:
    """Order whole parcels by their mean score, and the pixels of one from end to end."""
    parcels = roads.parcels.ravel()
    size = np.bincount(parcels)
    mean = np.bincount(parcels, weights=score.ravel()) / np.maximum(size, 1)
    rank = np.empty(size.size)
    rank[np.argsort(mean, kind="stable")] = np.arange(size.size)
    return np.asarray(rank[roads.parcels] + roads.along)


def _paint_nature(painter: _Painter, bank: np.ndarray, rng: np.random.Generator) -> None:
    """Forest where it is wet, rock and grass in patches, savanna on the rest."""
    shape = bank.shape
    side = min(shape)
    moist = rough(shape, scale=0.07 * side + 10, rng=rng, octaves=5)
    moist += 1.6 * np.exp(-np.maximum(bank, 0) / 14)
    painter.paint(FOREST, -moist)
    painter.paint(OTHER_NATURAL, -rough(shape, scale=14, rng=rng))
    painter.paint(GRASSLAND, moist * 0.4 - rough(shape, scale=22, rng=rng))
    painter.codes[painter.codes == 0] = SAVANNA
