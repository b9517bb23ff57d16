"""Dask arrays into arrays that are written, with few chunks in memory at once.

`dask.array.store` and `compute` end a graph in one task that depends on all others. Dask then
orders the graph as a reduction and reads most of the input before the first block is written:
of a map whose blocks need a halo, more than half of the cube was seen in memory. Without that
task it goes from row to row. It still loses its way in tall maps: these are written in strips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STRIP = 16
"""Rows of chunks in a strip. The rows around it are read again: one more in eight."""

Region = tuple[slice, ...]


def store(
    arrays: Sequence[Any],
    targets: Sequence[Any],
    regions: Sequence[Region] | None = None,
    **how: Any,
) -> None:
    """Write dask arrays, each chunk once, in one computation.

    Parameters
    ----------
    arrays : sequence of dask array
        What is computed.
    targets : sequence of array-like
        Take ``target[region] = chunk``, two chunks at the same time too.
    regions : sequence of tuple of slice, optional
        Where in its target each array goes; default: all of it.
    **how
        For dask: ``scheduler``, ``callbacks``.
    """
    import dask.array
    from dask.base import compute_as_if_collection
    from dask.highlevelgraph import HighLevelGraph

    da: Any = dask.array  # ships incomplete types

    if not arrays:
        return
    given = None if regions is None else list(regions)
    lazy = da.store(list(arrays), list(targets), regions=given, lock=False, compute=False)
    stored = lazy if isinstance(lazy, tuple) else (lazy,)
    graph = HighLevelGraph.merge(*(array.__dask_graph__() for array in stored))
    keys = [array.__dask_keys__() for array in stored]
    compute_as_if_collection(da.Array, graph, keys, **how)


def strips(lengths: Sequence[int]) -> Iterator[slice]:
    """Cut an axis into strips of whole chunks.

    Parameters
    ----------
    lengths : sequence of int
        Of the chunks, in pixels.

    Yields
    ------
    slice
        Pixels of up to `STRIP` chunks.
    """
    edges = np.cumsum((0, *lengths)).tolist()
    for first in range(0, len(lengths), STRIP):
        yield slice(edges[first], edges[min(first + STRIP, len(lengths))])
