"""A map walked block by block: what an array in memory and a dask array have in common.

Each block goes through one function together with the row and column of its first pixel, and
the results are merged in a tree, so that neither the map nor all results are in memory.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from deepforest_xr.errors import DtypeError
from deepforest_xr.legend import Legend

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

T = TypeVar("T")
# Results merged by one task.
FAN_IN = 16


def codes_and_legend(lulc: xr.DataArray) -> tuple[Any, Legend]:
    """Array of class codes (y, x), in memory or dask, and the legend of its flags."""
    if lulc.dtype.kind not in "ui":
        raise DtypeError(
            f"a map holds integer class codes, got {lulc.dtype} for {lulc.name!r}: "
            "convert it with `.astype('uint8')`, NaN as 0."
        )
    return lulc.transpose("y", "x").data, Legend.from_attrs(lulc.attrs)


def reduce_blocks(
    array: Any, task: Callable[[np.ndarray, int, int], T], merge: Callable[[list[T]], T]
) -> T:
    """Give the merged result of `task(block, first_row, first_column)` over all blocks.

    Parameters
    ----------
    array : ndarray or dask array, dims (y, x)
        One block where it is in memory.
    task, merge : callables
        `merge` takes a list of results; the order of merging is not fixed.
    """
    if not hasattr(array, "dask"):
        return merge([task(np.asarray(array), 0, 0)])
    import dask

    delayed: Any = dask.delayed  # ships incomplete types
    rows, cols = (np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in array.chunks)
    blocks = array.to_delayed()
    parts = [
        delayed(task)(blocks[i, j], row, col)
        for i, (row, _) in enumerate(pairwise(rows))
        for j, (col, _) in enumerate(pairwise(cols))
    ]
    while True:
        parts = [delayed(merge)(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        if len(parts) == 1:
            merged: T = parts[0].compute()
            return merged
