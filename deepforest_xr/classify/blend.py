"""Logits of neighbouring blocks, faded into one another over their border.

A network whose field is wider than the halo sees other pixels from either side of a border.
What its halo gave anyway, the logits of pixels beyond the block, is not thrown away: over
`blend` pixels on both sides each block counts by a squared cosine of the distance. The weights
of all blocks add up to 1 everywhere, so that where they agree nothing changes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Piece:
    """What one block gives to another, along one axis."""

    step: int
    """Of the giving block: -1 the one before, 0 the block itself, 1 the one after."""

    target: slice
    """Pixels of the block that get it."""

    source: slice
    """Pixels of the giving block's extended logits."""

    weight: NDArray[np.float32]
    """Of each of these pixels."""


def extended_sizes(sizes: Sequence[int], blend: int) -> tuple[int, ...]:
    """Give the sizes of blocks with `blend` pixels of their neighbours on each side."""
    last = len(sizes) - 1
    return tuple(n + blend * ((k > 0) + (k < last)) for k, n in enumerate(sizes))


def pieces(size: int, blend: int, *, is_first: bool, is_last: bool) -> list[Piece]:
    """Give what a block of `size` pixels is made of along an axis; its weights add up to 1."""
    before = 0 if is_first else blend
    # Half of the fade: from one half at the border to nothing, `blend` pixels away from it.
    fade = np.cos((1 + (np.arange(blend) + 0.5) / blend) * np.pi / 4, dtype="float64") ** 2
    own = np.ones(size)
    found = []
    if not is_first:
        own[:blend] -= fade
        found.append(Piece(-1, slice(0, blend), slice(-blend, None), fade.astype("float32")))
    if not is_last:
        own[-blend:] -= fade[::-1]
        at = slice(size - blend, size)
        found.append(Piece(1, at, slice(0, blend), fade[::-1].astype("float32")))
    return [Piece(0, slice(0, size), slice(before, before + size), own.astype("float32")), *found]


def blended(extended: Any, blocks: tuple[tuple[int, ...], tuple[int, ...]], blend: int) -> da.Array:
    """Fade extended logits into those of the blocks.

    Parameters
    ----------
    extended : dask array[float32], dims (class, y, x)
        A chunk is a block with `blend` pixels of its neighbours on each side, but none beyond
        the edge of the data; NaN without data.
    blocks : pair of tuple of int
        Sizes of the blocks along y and x, in pixels, each at least `blend`.
    blend : int
        Pixels on each side of a border, at least 1.

    Returns
    -------
    dask array[float32], dims (class, y, x)
        A chunk is a block.
    """
    name = f"blend-{tokenize(extended, blocks, blend)}"
    axes = [
        [
            pieces(n, blend, is_first=k == 0, is_last=k == len(sizes) - 1)
            for k, n in enumerate(sizes)
        ]
        for sizes in blocks
    ]
    graph = {}
    for i, j in itertools.product(*(range(len(sizes)) for sizes in blocks)):
        pairs = list(itertools.product(axes[0][i], axes[1][j]))
        keys = [(extended.name, 0, i + rows.step, j + cols.step) for rows, cols in pairs]
        # A list of lists: in a graph a pair in a tuple would be taken for a key.
        graph[name, 0, i, j] = (_faded, keys, [list(pair) for pair in pairs])
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[extended])
    return da.Array(layers, name, chunks=(extended.chunks[0], *blocks), dtype="float32")


def _faded(
    logits: list[NDArray[np.float32]], pairs: list[tuple[Piece, Piece]]
) -> NDArray[np.float32]:
    """Add up what a block and its neighbours give."""
    whole = pairs[0]  # the block itself
    shape = (len(logits[0]), len(whole[0].weight), len(whole[1].weight))
    total = np.zeros(shape, dtype="float32")
    for given, (rows, cols) in zip(logits, pairs, strict=True):
        weight = rows.weight[:, None] * cols.weight
        total[:, rows.target, cols.target] += weight * given[:, rows.source, cols.source]
    return total
