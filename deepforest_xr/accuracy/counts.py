"""The confusion matrix: pixels by map class and reference class, summed block by block.

Arrays in, one small matrix out. Rows are map classes, columns reference classes; a matrix is
a sum over pixels, so matrices of tiles add up to the matrix of the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepforest_xr.errors import DtypeError, GridError, LabelError
from deepforest_xr.legend import NODATA, UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

# One position for each byte: the class's row, or one of these two.
SKIPPED, UNKNOWN = -1, -2


def confusion(map_codes: Any, reference_codes: Any, codes: Sequence[int]) -> np.ndarray:
    """Count pixels by map class and reference class.

    Parameters
    ----------
    map_codes : ndarray, dask array or DataArray of integers, any shape
        0 (no data) is not counted.
    reference_codes : same kinds, same shape
        255 (unlabelled) is not counted.
    codes : sequence of int
        Classes, in the order of rows and columns.

    Returns
    -------
    ndarray[int64], dims (map, reference)
        Pixels. Computed block by block where an input is dask-backed.

    Raises
    ------
    DtypeError
        If an input does not hold integers.
    GridError
        If the shapes differ.
    LabelError
        If a counted pixel has a code that is not in `codes`.
    """
    mapped, reference = _plain(map_codes, "map"), _plain(reference_codes, "reference")
    if mapped.shape != reference.shape:
        raise GridError(f"the map has shape {mapped.shape}, the reference {reference.shape}.")
    in_memory = isinstance(mapped, np.ndarray) and isinstance(reference, np.ndarray)
    return (_count if in_memory else _count_blocks)(mapped, reference, tuple(map(int, codes)))


def _plain(codes: Any, side: str) -> Any:
    """Array of integers, in memory or dask, without coordinates."""
    array = codes.data if isinstance(codes, xr.DataArray) else codes
    array = array if hasattr(array, "dask") else np.asarray(array)
    if array.dtype.kind not in "ui":
        raise DtypeError(
            f"confusion needs integer class codes, got {array.dtype} for the {side}: "
            "convert it with `.astype('uint8')`, NaN as 0 in a map and as 255 in a reference."
        )
    return array


def _count(mapped: np.ndarray, reference: np.ndarray, codes: tuple[int, ...]) -> np.ndarray:
    rows = _positions(mapped, codes, skipped=NODATA)
    cols = _positions(reference, codes, skipped=UNLABELLED)
    counted = (rows != SKIPPED) & (cols != SKIPPED)
    rows, cols = rows[counted], cols[counted]
    for side, positions, values in (("map", rows, mapped), ("reference", cols, reference)):
        if (positions == UNKNOWN).any():
            unknown = np.unique(values[counted][positions == UNKNOWN]).tolist()
            raise LabelError(
                f"the {side} holds codes {unknown} that are not in the legend {sorted(codes)}: "
                "use one legend for both (0 is no data in a map, 255 unlabelled in a reference)."
            )
    size = len(codes)
    return np.bincount(rows * size + cols, minlength=size * size).reshape(size, size)


def _positions(values: np.ndarray, codes: tuple[int, ...], *, skipped: int) -> np.ndarray:
    table = np.full(256, UNKNOWN, dtype="int64")
    table[list(codes)] = np.arange(len(codes))
    table[skipped] = SKIPPED
    inside = True if values.dtype == np.uint8 else (values >= 0) & (values <= UNLABELLED)
    positions: np.ndarray = table[np.where(inside, values, 0)]
    return np.where(inside, positions, UNKNOWN)


def _count_blocks(mapped: Any, reference: Any, codes: tuple[int, ...]) -> np.ndarray:
    import dask.array

    da: Any = dask.array  # ships incomplete types

    chunks = mapped.chunks if hasattr(mapped, "dask") else reference.chunks
    mapped = da.asarray(mapped).rechunk(chunks)
    reference = da.asarray(reference).rechunk(chunks)
    dims, size = mapped.ndim, len(codes)

    def count(mapped_block: np.ndarray, reference_block: np.ndarray) -> np.ndarray:
        block = _count(mapped_block, reference_block, codes)
        return block.reshape((1,) * dims + block.shape)

    blocks = da.map_blocks(
        count,
        mapped,
        reference,
        chunks=(*((1,) * n for n in mapped.numblocks), (size,), (size,)),
        new_axis=[dims, dims + 1],
        meta=np.empty((0,) * (dims + 2), dtype="int64"),
    )
    total = blocks.sum(axis=tuple(range(dims))).compute()
    return np.asarray(total, dtype="int64")
