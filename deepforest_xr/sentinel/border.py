"""Border noise of Sentinel-1 GRD scenes: very low values along the edge of the swath.

Until IPF 2.90 (March 2018) the processor left "no value" samples at the sides of a scene
that are not exactly zero, and some products after it still carry them. Averaged over dates
they draw dark seams along the edges of swaths.

Linear power in, linear power out; a dask-backed input stays lazy. What is masked depends on
a neighbourhood of finite reach, so that any chunking gives the same as one chunk. Noise
farther from the no-data area than that reach stays.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel.speckle import by_window

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

THRESHOLD = 1e-3
"""Linear power, -30 dB: Earth Engine's edge mask for VV. Calm water lies near -25 dB in VV;
in VH it comes close to -30 dB, where 3e-4 (-35 dB) is safer."""

CORE = 5
"""Side in pixels of the square of missing values that makes an area no-data. Smaller holes
are zeros left by the removal of thermal noise over water, or defects: nothing is grown
from them."""


def mask_border_noise(
    power: xr.DataArray, *, threshold: float = THRESHOLD, width: int = 64, margin: int = 3
) -> xr.DataArray:
    """Make the low values that hang on a scene's no-data area missing.

    No-data is what holds a `CORE` x `CORE` square of missing pixels (NaN, infinite, zero or
    negative), the image's frame counting as missing for the square. From there the mask
    grows, one pixel a step and at most `width` steps, through pixels below `threshold`;
    then, in every direction, by `margin` pixels of any value.

    This is thresholding (Ali et al. 2018) confined to what is connected with the edge by
    mathematical morphology (Stasolla and Neyt 2018), each in its simplest form. Dark water
    stays unless it touches the no-data area: there up to ``width + margin`` pixels go.

    Parameters
    ----------
    power : DataArray[float32], dims (..., y, x)
        Linear gamma0 or sigma0, before any speckle filter or average.
    threshold : float
        Linear power below which a pixel may be border noise.
    width : int
        Steps, pixels: how far from the no-data area noise is looked for.
    margin : int
        Pixels taken off along the no-data area once the noise is gone; closes holes up to
        twice as wide. 0 takes none.

    Returns
    -------
    DataArray[float32], dims, chunks, coordinates and attributes of `power`
        NaN where missing or masked, `power` elsewhere.

    Raises
    ------
    ConfigError
        If a setting cannot be, y or x is not a dimension, or `power` is in decibels.

    References
    ----------
    I. Ali et al., Methods to remove the border noise from Sentinel-1 synthetic aperture
    radar data, IEEE J. Sel. Top. Appl. Earth Obs. Remote Sens. 11 (2018) 777-786.
    M. Stasolla, X. Neyt, An operational tool for the automatic detection and removal of
    border noise in Sentinel-1 GRD products, Sensors 18 (2018) 3454.
    """
    _check_settings(threshold, width, margin)
    kernel = partial(mask_border_noise_array, threshold=threshold, width=width, margin=margin)
    return by_window(power, kernel, reach=reach(width=width, margin=margin))


def reach(*, width: int = 64, margin: int = 3) -> int:
    """Pixels beyond its own that an output pixel of `mask_border_noise` depends on."""
    return width + margin + CORE - 1


def mask_border_noise_array(
    values: NDArray[Any], *, threshold: float = THRESHOLD, width: int = 64, margin: int = 3
) -> NDArray[np.float32]:
    """`mask_border_noise` of an array with dims (..., y, x)."""
    _check_settings(threshold, width, margin)
    valid = (values > 0) & (values < np.inf)
    gone = ~valid
    low = values < threshold
    for place in np.ndindex(values.shape[:-2]):
        gone[place] |= _border(gone[place], low[place], width, margin)
    return np.where(gone, np.float32(np.nan), values).astype("float32")


def _border(
    missing: NDArray[np.bool_], low: NDArray[np.bool_], width: int, margin: int
) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation, binary_erosion

    core = np.ones((CORE, CORE))
    # The frame as missing: a strip of three columns at the image's side is no-data, too.
    grown = binary_dilation(binary_erosion(missing, core, border_value=1), core)
    around = np.ones((3, 3))  # SciPy takes zero iterations for "until nothing changes"
    if width and grown.any():
        grown = binary_dilation(grown, around, iterations=width, mask=grown | low)
    if margin and grown.any():
        grown = binary_dilation(grown, around, iterations=margin)
    return np.asarray(grown)


def _check_settings(threshold: float, width: int, margin: int) -> None:
    if not (math.isfinite(threshold) and 0 < threshold < 1):
        raise ConfigError(
            f"threshold={threshold} is not a linear power between 0 and 1; -30 dB is 0.001."
        )
    if width < 0 or margin < 0:
        raise ConfigError(f"width={width} and margin={margin} must be 0 pixels or more.")
