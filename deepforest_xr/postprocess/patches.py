"""Minimum mapping unit: patches too small to be mapped go to what surrounds them.

The rule, for one pass. A patch is a connected set of pixels of one class; it is small if its
area is below the unit. Along every small patch the pixel sides that it shares with patches
that are not small are counted by their class; the patch takes the class with most sides, of
equals the lowest code. All patches decide at once, from the map as it was, so there is no
order. A small patch among small ones has nobody to ask and waits for the next pass.

A patch can be of any size, but the decision looks no further than 2 n - 2 pixels, n being
the pixels of the unit. A small patch has at most n - 1 pixels, so it and the pixels at its
sides lie within n - 1 of any of its pixels. Whether a patch at its side is small shows
within n - 1 pixels more: they hold all of it, or a connected part of n pixels. Blocks with
that halo therefore decide as the whole map does.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from deepforest_xr.errors import ConfigError, GridError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA
from deepforest_xr.postprocess.blocks import apply, recorded, replaced, require_map, stacked

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

M2_PER_HECTARE = 10_000
# Areas are compared with this relative slack: 0.49999999999999994 ha is 0.5 ha.
SLACK = 1e-9


def minimum_mapping_unit(
    result: xr.Dataset, hectares: float, *, connectivity: int = 4, passes: int = 2
) -> xr.Dataset:
    """Dissolve patches that are smaller than an area in the class that borders them most.

    The rule stands at the top of this file. The map does not depend on the chunks; memory and
    time grow with the square of the unit, because a block reads twice its pixels around. A patch
    at the map's edge counts with what of it is on the map. Patches that touch no patch of
    the unit's size, even after the passes, stay.

    Parameters
    ----------
    result : Dataset
        From `classify`: ``lulc (y, x)`` uint8, 0 is no data, on a grid in metres.
    hectares : float
        Smallest area that stays.
    connectivity : {4, 8}
        Whether pixels that touch at a corner belong to one patch (8) or not (4).
    passes : int
        How often the rule is applied.

    Returns
    -------
    Dataset
        As `result`, lazy where it is, 0 where it was. ``confidence`` as in `majority`.

    Raises
    ------
    ConfigError
        If `hectares` is negative or not finite, `connectivity` neither 4 nor 8, or `passes`
        not positive.
    GridError
        If the grid is not in metres.
    LabelError, DtypeError
        If `result` is no map.
    """
    require_map(result)
    if not 0 <= hectares < math.inf:
        raise ConfigError(f"hectares={hectares} is no area: give 0 or more, 0.5 for instance.")
    if connectivity not in {4, 8}:
        raise ConfigError(f"connectivity={connectivity}; expected 4 (sides) or 8 (and corners).")
    if passes < 1:
        raise ConfigError(f"passes={passes} is not positive; try 2.")
    pixels = math.ceil(hectares * M2_PER_HECTARE / _pixel_area(result) * (1 - SLACK))
    how = f"hectares={hectares:g}, connectivity={connectivity}, passes={passes}"
    step = f"minimum_mapping_unit({how})"
    if pixels <= 1:  # no patch is smaller than one pixel
        return recorded(result, step)
    lulc = stacked(result["lulc"])
    kernel = partial(_dissolve, pixels=pixels, connectivity=connectivity)
    for _ in range(passes):
        lulc = lulc.copy(data=apply(kernel, lulc, depth=2 * pixels - 2, planes=1))
    return replaced(result, lulc.data[0], step)


def _pixel_area(result: xr.Dataset) -> float:
    """Square metres."""
    grid = Grid.of(result)
    if grid.crs.is_geographic:
        raise GridError(
            f"the grid is in degrees ({grid.crs.name}): hectares need a projected grid, UTM for "
            "instance."
        )
    xres, yres = grid.resolution
    metres: float = grid.crs.axis_info[0].unit_conversion_factor
    return xres * yres * metres**2


def _dissolve(window: NDArray[np.uint8], *, pixels: int, connectivity: int) -> NDArray[np.uint8]:
    lulc = window[0]
    patch = _patches(lulc, connectivity)
    small = np.bincount(patch.ravel()) < pixels
    small[0] = False  # no data is no patch
    if not small.any():
        return window
    codes = np.zeros(small.size, dtype="uint8")
    codes[patch.ravel()] = lulc.ravel()
    asking, offered = _sides(patch, small, codes)
    key, sides = np.unique(asking * 256 + offered, return_counts=True)
    owner, code = np.divmod(key, 256)
    order = np.lexsort((code, -sides, owner))
    owner, code = owner[order], code[order]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    codes[owner[first]] = code[first]
    return codes[patch][None]


def _patches(lulc: NDArray[np.uint8], connectivity: int) -> NDArray[np.int64]:
    """Number the patches from 1; 0 is no data."""
    from scipy.ndimage import generate_binary_structure, label

    structure = generate_binary_structure(2, 1 if connectivity == 4 else 2)
    numbers = np.zeros(lulc.shape, dtype="int64")
    known = 0
    for code in np.setdiff1d(lulc, [NODATA]):
        mine, found = label(lulc == code, structure)
        numbers += np.where(mine > 0, mine + known, 0)
        known += found
    return numbers


def _sides(
    patch: NDArray[np.int64], small: NDArray[np.bool_], codes: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pixel side between a small patch and one that is not: the patch, the other's class."""
    asking, offered = [], []
    for one, other in ((patch[:, :-1], patch[:, 1:]), (patch[:-1], patch[1:])):
        for mine, theirs in ((one, other), (other, one)):
            at = small[mine] & ~small[theirs] & (theirs > 0)
            asking.append(mine[at])
            offered.append(codes[theirs[at]].astype("int64"))
    return np.concatenate(asking), np.concatenate(offered)
