"""Majority: the most frequent class of a window, counted in whole numbers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from deepforest_xr.legend import NODATA
from deepforest_xr.postprocess.blocks import (
    apply,
    replaced,
    require_map,
    require_window,
    stacked,
)

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


def majority(result: xr.Dataset, *, size: int = 3) -> xr.Dataset:
    """Give every pixel the most frequent class of the square window around it.

    Where several classes are equally frequent the pixel keeps its own if that is among them,
    else it takes the lowest code. Pixels without data, and what lies beyond the map, have no
    voice. The map does not depend on the chunks.

    Parameters
    ----------
    result : Dataset
        From `classify`: ``lulc (y, x)`` uint8, 0 is no data.
    size : int
        Side of the window in pixels, odd; 1 changes nothing.

    Returns
    -------
    Dataset
        As `result`, lazy where it is, 0 where it was. ``confidence`` uint8 percent where the
        class is another one: that class's probability if `result` has probabilities, which
        stay the network's, else 0, not known. ``attrs["postprocess"]`` says what was done.

    Raises
    ------
    ConfigError
        If `size` is even or not positive.
    LabelError, DtypeError
        If `result` is no map.
    """
    require_map(result)
    require_window("size", size)
    found = apply(partial(_majority, size=size), stacked(result["lulc"]), depth=size // 2, planes=1)
    return replaced(result, found[0], f"majority(size={size})")


def _majority(window: NDArray[np.uint8], *, size: int) -> NDArray[np.uint8]:
    lulc = window[0]
    most = np.zeros(lulc.shape, dtype="int32")
    own = np.zeros(lulc.shape, dtype="int32")
    best = lulc.copy()
    for code in np.setdiff1d(lulc, [NODATA]):  # ascending: the lowest of equals stays
        mine = lulc == code
        count = _count(mine, size)
        own[mine] = count[mine]
        ahead = count > most
        best[ahead], most[ahead] = code, count[ahead]
    keeps = (own == most) | (lulc == NODATA)
    kept: NDArray[np.uint8] = np.where(keeps, lulc, best)[None]
    return kept


def _count(mask: NDArray[np.bool_], size: int) -> NDArray[np.int32]:
    """How many pixels of a window are set, by differences of running sums: exact."""
    reach = size // 2
    sums = mask.astype("int32")
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (reach + 1, reach)
        running = np.cumsum(np.pad(sums, width), axis=axis, dtype="int32")
        ends = np.moveaxis(running, axis, 0)
        sums = np.moveaxis(ends[size:] - ends[:-size], 0, axis)
    return sums
