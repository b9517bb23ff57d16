"""What each class reflects and scatters back, month by month; numbers made, not measured.

A class lies between two states, one green or wet, one dry or bare, and its course through
the year says where. Fields of one class differ, the state and the brightness vary in
space, and forest and plantation, or pasture, grassland and savanna, overlap on any single
date: one image is not enough to tell them, a year of both sensors mostly is.

The levels are plausible for Mato Grosso and Para, nothing more: no conclusion about the
real Amazon can be drawn from them.
"""

from __future__ import annotations

import numpy as np

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
    Land,
)
from deepforest_xr.testing.noise import rough, smooth, stream

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

# Percent reflectance in the order of BANDS: green or wet state, then dry or bare state.
_REFLECTANCE = {
    FOREST: (
        (1.5, 2.0, 4.0, 2.2, 6.0, 19.0, 25.0, 27.0, 28.5, 28.0, 12.5, 5.0),
        (1.8, 2.2, 4.2, 2.6, 6.6, 18.5, 24.0, 26.0, 27.5, 27.0, 13.5, 5.8),
    ),
    SAVANNA: (
        (2.5, 3.5, 6.0, 5.0, 9.5, 19.0, 23.0, 25.0, 26.5, 26.5, 19.0, 10.0),
        (3.5, 5.0, 7.5, 8.5, 12.5, 17.5, 20.0, 22.0, 23.5, 24.0, 25.0, 15.5),
    ),
    PLANTATION: (
        (1.4, 1.9, 3.8, 2.0, 5.8, 21.0, 28.5, 30.5, 31.5, 31.0, 12.0, 4.5),
        (1.6, 2.1, 4.0, 2.4, 6.2, 20.0, 27.0, 29.0, 30.0, 29.5, 13.0, 5.2),
    ),
    WETLAND: (
        (3.0, 4.0, 6.0, 4.5, 7.5, 13.0, 15.5, 16.5, 17.0, 16.0, 9.0, 4.5),
        (3.0, 4.2, 7.0, 6.0, 10.0, 18.0, 22.0, 24.0, 25.0, 25.0, 17.0, 9.0),
    ),
    GRASSLAND: (
        (2.8, 4.2, 7.5, 6.5, 11.5, 20.0, 23.5, 25.5, 27.0, 27.0, 23.0, 13.0),
        (4.5, 6.5, 9.5, 11.5, 15.0, 18.5, 20.5, 22.5, 24.5, 25.0, 32.0, 21.5),
    ),
    OTHER_NATURAL: (
        (4.0, 5.5, 8.0, 8.5, 12.0, 17.0, 19.0, 20.5, 22.0, 22.0, 24.0, 16.0),
        (5.5, 7.5, 10.5, 12.5, 15.5, 18.0, 20.0, 21.5, 23.0, 23.5, 31.0, 23.0),
    ),
    PASTURE: (
        (2.5, 3.8, 7.5, 5.5, 11.0, 22.0, 26.5, 28.5, 30.0, 30.0, 22.5, 11.5),
        (4.0, 6.0, 9.0, 10.5, 14.5, 20.0, 22.5, 24.5, 26.5, 27.0, 32.0, 20.0),
    ),
    CROP: (
        (2.0, 3.0, 6.5, 3.2, 9.5, 32.0, 43.0, 46.0, 47.0, 46.5, 20.0, 9.0),
        (5.0, 7.5, 11.0, 14.5, 17.5, 20.0, 21.5, 23.5, 25.5, 26.0, 36.0, 29.0),
    ),
    CANE: (
        (2.2, 3.3, 7.0, 4.2, 10.5, 27.0, 35.0, 38.0, 39.5, 39.0, 21.0, 10.0),
        (4.5, 6.5, 9.5, 11.5, 15.0, 18.0, 20.0, 22.0, 23.5, 24.0, 33.0, 24.0),
    ),
    URBAN: (
        (9.0, 11.0, 13.0, 14.5, 16.0, 18.0, 19.0, 20.5, 21.5, 22.0, 25.0, 21.5),
        (10.0, 12.0, 14.5, 16.5, 18.0, 19.5, 20.5, 22.0, 23.0, 23.5, 28.0, 24.5),
    ),
    BARE: (
        (9.0, 11.5, 15.0, 18.5, 21.0, 23.0, 24.0, 26.0, 27.5, 28.0, 37.0, 32.0),
        (10.0, 13.0, 17.0, 21.0, 24.0, 26.0, 27.0, 29.0, 30.5, 31.0, 42.0, 36.0),
    ),
    MINING: (
        (8.0, 10.0, 14.0, 17.5, 19.5, 20.0, 20.5, 21.5, 22.0, 22.0, 25.0, 20.0),
        (9.0, 11.5, 15.5, 19.5, 21.5, 22.5, 23.0, 24.5, 25.0, 25.0, 30.0, 25.0),
    ),
    WATER: (
        (5.0, 6.0, 7.5, 6.0, 5.5, 4.0, 3.5, 3.0, 2.8, 2.5, 1.5, 1.0),
        (3.0, 4.0, 5.0, 3.5, 3.0, 2.5, 2.0, 1.8, 1.6, 1.5, 1.0, 0.7),
    ),
}

# gamma0 in dB: (VV, VH) of the green or wet state, then of the dry or bare state. A flooded
# wetland is bright in VV, because trunks and water reflect twice.
_GAMMA0 = {
    FOREST: ((-6.5, -11.8), (-6.9, -12.2)),
    SAVANNA: ((-8.8, -14.6), (-9.8, -16.0)),
    PLANTATION: ((-7.5, -12.2), (-7.9, -12.6)),
    WETLAND: ((-7.8, -15.0), (-9.8, -16.5)),
    GRASSLAND: ((-10.8, -17.2), (-12.4, -19.6)),
    OTHER_NATURAL: ((-9.9, -17.0), (-10.9, -18.6)),
    PASTURE: ((-9.9, -16.2), (-11.8, -18.8)),
    CROP: ((-8.3, -14.0), (-12.4, -20.5)),
    CANE: ((-8.0, -13.2), (-11.5, -18.8)),
    URBAN: ((-3.5, -10.5), (-3.7, -10.7)),
    BARE: ((-12.5, -21.0), (-13.5, -22.5)),
    MINING: ((-11.0, -18.5), (-11.8, -19.5)),
    WATER: ((-18.0, -26.0), (-19.5, -27.0)),
}

# How dry or bare, in the middle of January to December: rain from October to April, two
# crops a year (soy to January, maize to June), cane cut field by field from May on.
_SEASON = (0.0, 0.0, 0.05, 0.15, 0.4, 0.7, 0.9, 1.0, 0.9, 0.5, 0.2, 0.05)
_COURSE = {
    CROP: (0.1, 0.7, 0.35, 0.05, 0.25, 0.7, 0.95, 1.0, 1.0, 0.8, 0.35, 0.05),
    CANE: (0.1, 0.05, 0.05, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.6, 0.4, 0.2),
}
_PHASE = {CROP: 0.5, CANE: 1.5, PASTURE: 0.4}  # months, spread between fields
_STATE_SPREAD = 0.28  # of the way from green to dry, in space
_BRIGHTNESS_SPREAD = 0.15  # relative, in space, the same all year
_DATE_SPREAD = 0.04  # relative, pixel by pixel, new on every date
_BACKSCATTER_SPREAD = 0.8  # dB, in space


class Signal:
    """Reflectance and backscatter of one landscape, at any day of the year."""

    def __init__(self, land: Land, *, seed: int) -> None:
        self._codes = land.codes
        self._seed = seed
        shape = land.codes.shape
        rng = stream(seed, "fields")
        count = int(land.parcels.max()) + 1
        field = rng.standard_normal((4, count)).astype("float32")
        field[:, 0] = 0  # nobody's land has no fields
        state, bright, echo, phase = field[:, land.parcels]
        texture = [rough(shape, scale=7, rng=rng, octaves=4) for _ in range(3)]
        self._state = _STATE_SPREAD * (0.7 * texture[0] + 0.7 * state)
        self._gain = np.exp(_BRIGHTNESS_SPREAD * (0.8 * texture[1] + 0.6 * bright))
        self._echo = _BACKSCATTER_SPREAD * (0.7 * texture[2] + 0.7 * echo)
        spread = np.array([_PHASE.get(c, 0.0) for c in range(14)], dtype="float32")
        self._phase = spread[self._codes] * phase

    def dryness(self, month: float) -> np.ndarray:
        """Where each pixel is between its green (0) and its dry state (1).

        Parameters
        ----------
        month : float
            1.5 is the middle of January.

        Returns
        -------
        ndarray[float32], dims (y, x)
        """
        middle = np.arange(1, 13) + 0.5
        dry = np.empty(self._codes.shape, dtype="float32")
        for code in range(1, 14):
            here = self._codes == code
            course = _COURSE.get(code, _SEASON)
            dry[here] = np.interp(month + self._phase[here], middle, course, period=12)
        return np.asarray(np.clip(dry + self._state, 0, 1), dtype="float32")

    def reflectance(self, band: str, dry: np.ndarray, *, day: int) -> np.ndarray:
        """Surface reflectance of one band before the atmosphere.

        Parameters
        ----------
        band : str
            One of `BANDS`.
        dry : ndarray, dims (y, x)
            From `dryness`.
        day : int
            Ordinal of the date: its noise is its own.

        Returns
        -------
        ndarray[float32], dims (y, x)
            1 = 100 %.
        """
        number = BANDS.index(band)
        states = np.zeros((2, 14), dtype="float32")
        for code, values in _REFLECTANCE.items():
            states[:, code] = values[0][number] / 100, values[1][number] / 100
        rng = stream(self._seed, f"date {band}", day)
        noise = rng.standard_normal(dry.shape, dtype=np.float32)
        mean = states[0][self._codes] * (1 - dry) + states[1][self._codes] * dry
        return np.asarray(mean * self._gain * (1 + _DATE_SPREAD * noise), dtype="float32")

    def gamma0(self, polarization: str, dry: np.ndarray) -> np.ndarray:
        """Backscatter without speckle.

        Parameters
        ----------
        polarization : {"vv", "vh"}
        dry : ndarray, dims (y, x)
            From `dryness`.

        Returns
        -------
        ndarray[float32], dims (y, x)
            gamma0, linear power.
        """
        number = ("vv", "vh").index(polarization)
        states = np.zeros((2, 14), dtype="float32")
        for code, values in _GAMMA0.items():
            states[:, code] = values[0][number], values[1][number]
        decibel = states[0][self._codes] * (1 - dry) + states[1][self._codes] * dry
        return np.asarray(10 ** ((decibel + self._echo) / 10), dtype="float32")


def speckle(mean: np.ndarray, *, looks: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply by gamma-distributed speckle of unit mean.

    Neighbours are independent, which real speckle is not quite: its grain is about two
    pixels of 10 m wide. Filters look a little better here than they are.

    Parameters
    ----------
    mean : ndarray[float32], any dims
        Linear power.
    looks : float
        Equivalent number of looks: variance = mean squared / looks.
    rng : Generator

    Returns
    -------
    ndarray[float32], dims of `mean`
    """
    grain = rng.standard_gamma(looks, size=mean.shape, dtype=np.float32) / np.float32(looks)
    return np.asarray(mean * grain, dtype="float32")


def cloud_field(shape: tuple[int, int], *, share: float, rng: np.random.Generator) -> np.ndarray:
    """Opacity of clouds, 0 (clear) to 1, with `share` of the area above 0.

    Returns
    -------
    ndarray[float32], dims (y, x)
    """
    size = min(shape)
    mass = rough(shape, scale=0.06 * size + 3, rng=rng, octaves=5)
    depth = np.maximum(mass - np.quantile(mass, 1 - share), 0)
    return np.asarray(1 - np.exp(-3.5 * depth), dtype="float32")


def haze_field(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Opacity of a thin veil, 0 to about 0.3, most of it too thin for a mask to see.

    Returns
    -------
    ndarray[float32], dims (y, x)
    """
    veil = smooth(shape, scale=0.15 * min(shape) + 4, rng=rng)
    return np.clip(0.09 * (veil - 0.8), 0, 0.3).astype("float32")
