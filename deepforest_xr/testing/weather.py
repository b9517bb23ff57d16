"""Clouds, their shadows and haze over the ground, and the scene classification of it all.

A cloud takes the place of the ground's light by its opacity and darkens the ground where
its shadow falls, away from the sun. The scene classification (SCL) is made from the same
opacities, so it is right but for what Sen2Cor misses too: haze thinner than 8 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepforest_xr.testing.noise import Shape, stream
from deepforest_xr.testing.signatures import BANDS, cloud_field, haze_field

CLOUD_SHARE = (0.70, 0.75, 0.70, 0.50, 0.25, 0.12, 0.08, 0.10, 0.18, 0.40, 0.55, 0.65)
"""Mean share of the sky under cloud, January to December."""

# Light of an opaque cloud and of the veil, in the order of BANDS; water in the cloud
# absorbs at 0.94, 1.6 and 2.2 um, and haze scatters blue light most.
_CLOUD = (0.62, 0.62, 0.60, 0.60, 0.62, 0.63, 0.64, 0.65, 0.65, 0.40, 0.42, 0.32)
_VEIL = (0.55, 0.50, 0.42, 0.38, 0.36, 0.35, 0.34, 0.33, 0.33, 0.20, 0.20, 0.15)
_SHADOW = 0.65  # of the light that an opaque cloud takes from the ground behind it

NO_DATA, DARK, SHADOW, VEGETATION, NOT_VEGETATED, WATER, UNCLASSIFIED = 0, 2, 3, 4, 5, 6, 7
MEDIUM, HIGH, CIRRUS = 8, 9, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Sky:
    """What stands between one landscape and the satellite on one day."""

    cloud: np.ndarray
    """float32 (y, x), opacity 0 to 1."""

    veil: np.ndarray
    """float32 (y, x), opacity of haze, 0 to about 0.3."""

    shadow: np.ndarray
    """float32 (y, x), 0 in the sun to 1 behind an opaque cloud."""

    def seen(self, band: str, ground: np.ndarray) -> np.ndarray:
        """Reflectance of the ground as it arrives, dims and dtype of `ground`."""
        number = BANDS.index(band)
        lit = ground * (1 - _SHADOW * self.shadow)
        hazy = lit * (1 - self.veil) + _VEIL[number] * self.veil
        white = _CLOUD[number] * (0.75 + 0.4 * self.cloud)
        return np.asarray(hazy * (1 - self.cloud) + white * self.cloud, dtype="float32")


def sky(shape: Shape, *, month: int, day: int, azimuth: float, seed: int) -> Sky:
    """Draw the sky of one date.

    Parameters
    ----------
    shape : (rows, columns)
    month : int
        Sets how cloudy it is on average; see `CLOUD_SHARE`.
    day : int
        Ordinal of the date, the key of its random numbers.
    azimuth : float
        Of the sun, degrees from north; shadows fall the other way.
    seed : int
    """
    rng = stream(seed, "sky", day)
    share = float(np.clip(CLOUD_SHARE[month - 1] + rng.normal(0, 0.06), 0.01, 0.95))
    throw = min(shape) / 9 if min(shape) < 300 else rng.uniform(24, 40)
    down = round(throw * math.cos(math.radians(azimuth)))
    right = round(-throw * math.sin(math.radians(azimuth)))
    # The field reaches beyond the scene: clouds outside throw their shadow into it.
    reach = math.ceil(throw) + 1
    whole = cloud_field((shape[0] + 2 * reach, shape[1] + 2 * reach), share=share, rng=rng)
    veil = haze_field(shape, rng=rng)
    behind = whole[reach - down :, reach - right :][: shape[0], : shape[1]]
    return Sky(
        cloud=whole[reach : reach + shape[0], reach : reach + shape[1]],
        veil=veil,
        shadow=np.minimum(1.4 * behind, 1).astype("float32"),
    )


def classify_scene(red: np.ndarray, green: np.ndarray, nir: np.ndarray, sky: Sky) -> np.ndarray:
    """Scene classification, as Sen2Cor codes it.

    Parameters
    ----------
    red, green, nir : ndarray[float32], dims (y, x)
        Reflectance of the ground without the sky, on the grid of `sky`.
    sky : Sky
        Opacities.

    Returns
    -------
    ndarray[uint8], dims (y, x)
        Codes 2 to 10; without snow (11), defective pixels (1) and no data (0).
    """
    ndvi = (nir - red) / np.maximum(nir + red, 1e-6)
    ndwi = (green - nir) / np.maximum(green + nir, 1e-6)
    scl = np.where(ndvi > 0.36, VEGETATION, NOT_VEGETATED)
    scl[(ndvi > 0.33) & (ndvi <= 0.36)] = UNCLASSIFIED
    scl[(nir < 0.13) & (ndwi < 0)] = DARK
    scl[(ndwi >= 0) & (nir < 0.2)] = WATER
    scl[sky.shadow * (1 - sky.cloud) > 0.3] = SHADOW
    scl[(sky.veil > 0.08) | (sky.cloud > 0.06)] = CIRRUS
    scl[sky.cloud > 0.25] = MEDIUM
    scl[sky.cloud > 0.6] = HIGH
    return np.asarray(scl, dtype="uint8")


def sun(day_of_year: int, *, hour: float = 10.2, latitude: float = -8.0) -> tuple[float, float]:
    """Zenith and azimuth of the sun, degrees, from the declination; good to a degree.

    Parameters
    ----------
    day_of_year : int
    hour : float
        Local solar time.
    latitude : float
        Degrees north.
    """
    tilt = math.radians(-23.44) * math.cos(2 * math.pi * (day_of_year + 10) / 365)
    angle = math.radians(15 * (hour - 12))
    phi = math.radians(latitude)
    up = math.sin(phi) * math.sin(tilt) + math.cos(phi) * math.cos(tilt) * math.cos(angle)
    east = -math.cos(tilt) * math.sin(angle)
    north = math.cos(phi) * math.sin(tilt) - math.sin(phi) * math.cos(tilt) * math.cos(angle)
    return math.degrees(math.acos(up)), math.degrees(math.atan2(east, north)) % 360
