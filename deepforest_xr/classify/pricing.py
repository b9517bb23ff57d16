"""The price of a map, counted and probed.

All but the time follows from shapes: the network runs on tensors without data. The time is
that of one block, read and classified as the map would, and scaled by work and by bytes.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.classify.blend import extended_sizes
from deepforest_xr.classify.block import Task, classify_block
from deepforest_xr.classify.explanation import Choice, Explanation, Probe
from deepforest_xr.classify.plan import COUNT, Plan, cut, make_plan
from deepforest_xr.classify.predict import predictor, torch_device
from deepforest_xr.legend import NODATA
from deepforest_xr.maps.storing import STRIP
from deepforest_xr.models import entry
from deepforest_xr.models.network import STRIDE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

    from deepforest_xr.models import Checkpoint
    from deepforest_xr.models.network import Network

SCRATCH = 1.5
"""What operations take for themselves, as a factor on the tensors that are seen: measured on a
CPU 0.9 (DeepForest-1c) to 1.3 (U-Net), and a reserve."""

WAITING = 4 * STRIP
"""Blocks whose chunks dask keeps at most for those beside them: 12 to 58 were measured."""

RESULT_BYTES = 3 * 4
"""Of a pixel and class while a block's probabilities become percent: three float32 at once."""


BLOCKS = (256, 512, 1024, 2048, 4096)
"""Sides in pixels of the blocks that are priced beside those asked for."""


def explain(
    cube: xr.Dataset,
    model: str | Path | Checkpoint | None = None,
    *,
    block: int | None = None,
    halo: int | None = None,
    blend: int = 0,
    device: str = "auto",
    probe: bool = True,
) -> Explanation:
    """Price a map before it is computed.

    The cube is taken as it is: what a cube that is not stored yet takes to be composed from its
    scenes is seen in the probe's time only, not in bytes and memory.

    Parameters
    ----------
    cube, model, block, halo, blend, device
        As in `classify`.
    probe : bool
        Read and classify the block in the middle to estimate the time; random pixels are
        classified instead where it has no data. Without it nothing is read or computed.

    Returns
    -------
    Explanation
        Counts in pixels, GFLOP, bytes and seconds.

    Raises
    ------
    NoModelError, BandMismatchError, ModelError, ChecksumError, ConfigError
        As `classify` does.
    """
    from deepforest_xr.classify.cost import on_meta  # imports torch

    plan = make_plan(cube, model, block=block, halo=halo, device=device, blend=blend)
    task = plan.task()
    where = torch_device(device)
    network = predictor(task.path, task.identity).network(where)
    bare = on_meta(network)
    sides = _sides(plan)
    window = max(sides[0]), max(sides[1])
    counts = Counter(itertools.product(*sides))
    gflop = {shape: _forward(plan, bare, shape)[0] for shape in counts}
    pixels = plan.grid.shape[0] * plan.grid.shape[1]
    middle = len(plan.blocks[0]) // 2, len(plan.blocks[1]) // 2
    read = _chunk_bytes(cube, plan, (0, plan.grid.shape[0]), (0, plan.grid.shape[1]))
    return Explanation(
        grid=plan.grid,
        model=plan.checkpoint.model,
        device=where,
        blocks=(len(plan.blocks[0]), len(plan.blocks[1])),
        block=(max(plan.blocks[0]), max(plan.blocks[1])),
        halo=plan.halo,
        window=window,
        pixels_computed=_pixels_computed(plan),
        gflop_window=gflop[window],
        gflop=sum(gflop[shape] * n for shape, n in counts.items()),
        bytes_read=read,
        bytes_halo=_window_bytes(plan),
        memory_inputs=_input_memory(cube, plan),
        memory_network=_network_memory(plan, bare),
        memory_waiting=_waiting(plan, read),
        result_bytes=2 * pixels,
        layer_bytes=pixels,
        choices=_choices(cube, plan, bare),
        probe=_probe(cube, plan, middle, gflop[sides[0][middle[0]], sides[1][middle[1]]])
        if probe
        else None,
    )


def _sides(plan: Plan) -> tuple[list[int], list[int]]:
    """Sides of the windows along y and x, filled up to multiples of 32."""
    rows, cols = (
        [-(-(end - first) // STRIDE) * STRIDE for first, end in windows] for windows in plan.windows
    )
    return rows, cols


def _pixels_computed(plan: Plan) -> int:
    rows, cols = _sides(plan)
    return sum(rows) * sum(cols)


def _network_memory(plan: Plan, bare: Network) -> int:
    """Bytes of the activations of the largest window, its result and the weights, at most."""
    rows, cols = _sides(plan)
    activations = _forward(plan, bare, (max(rows), max(cols)))[1]
    down, along = (max(extended_sizes(sizes, plan.blend)) for sizes in plan.blocks)
    result = RESULT_BYTES * len(plan.checkpoint.legend.classes) * down * along
    return int(SCRATCH * activations) + result + _weight_bytes(bare)


def _waiting(plan: Plan, read: int) -> int:
    """Bytes that wait for the blocks around theirs: chunks of the cube, logits to be blended."""
    count = len(plan.blocks[0]) * len(plan.blocks[1])
    logits = 0
    if plan.blend and count > 1:
        rows, cols = (sum(extended_sizes(sizes, plan.blend)) for sizes in plan.blocks)
        logits = 4 * len(plan.checkpoint.legend.classes) * rows * cols
    return (read + logits) * min(WAITING, count) // count


def _choices(cube: xr.Dataset, plan: Plan, bare: Network) -> tuple[Choice, ...]:
    """Price blocks of other sizes."""
    used = max(plan.blocks[0] + plan.blocks[1])
    pixels = plan.grid.shape[0] * plan.grid.shape[1]
    found = []
    for block in (b for b in BLOCKS if plan.halo <= b != used and b < max(plan.grid.shape)):
        other = replace(plan, blocks=cut(plan.grid, block, plan.halo))
        memory = _input_memory(cube, other) + _network_memory(other, bare)
        found.append(Choice(block=block, overhead=_pixels_computed(other) / pixels, memory=memory))
    return tuple(found)


def _forward(plan: Plan, bare: Network, window: tuple[int, int]) -> tuple[float, int]:
    """GFLOP and bytes of a forward of one window."""
    from deepforest_xr.classify.cost import forward_cost  # imports torch

    return forward_cost(bare, _shapes(plan, window))


def _shapes(plan: Plan, window: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of the network's inputs for a window."""
    months = len(plan.checkpoint.months or ())
    channels = len(plan.checkpoint.bands)
    if not entry(plan.checkpoint.model).is_two_branch:
        return [(1, channels, *window)]
    return [(1, channels - 2 * months, *window), (1, months, 2, *window)]


def _weight_bytes(network: Network) -> int:
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def _window_bytes(plan: Plan) -> int:
    """Bytes of all windows together in the cube's dtype."""
    rows, cols = (sum(end - first for first, end in windows) for windows in plan.windows)
    return _pixel_bytes(plan) * rows * cols


def _pixel_bytes(plan: Plan) -> int:
    """Bytes of the inputs of one pixel in the cube's dtype."""
    rows, cols = plan.grid.shape
    return sum(array.nbytes for array in plan.inputs.data_vars.values()) // (rows * cols)


def _around(plan: Plan, block: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels of a block and the blocks around it, which its halo is cut from."""
    beyond = 1 if plan.halo else 0
    rows, cols = (
        (sum(sizes[: max(at - beyond, 0)]), sum(sizes[: at + beyond + 1]))
        for sizes, at in zip(plan.blocks, block, strict=True)
    )
    return rows, cols


def _chunk_bytes(cube: xr.Dataset, plan: Plan, rows: tuple[int, int], cols: tuple[int, int]) -> int:
    """Bytes of the cube's chunks that hold the model's channels in a range of pixels.

    Arrays in memory have no chunks, and are not read.
    """
    wanted: dict[str, Sequence[Any]] = {
        "band": [name for name in plan.checkpoint.bands if name in set(cube["band"].to_numpy())],
        "month": list(plan.checkpoint.months or ()),
        "polarization": ["vv", "vh"],
    }
    total = 0
    names = [*plan.inputs.data_vars, *({COUNT} & set(cube.data_vars))]
    for array in (cube[name] for name in names if cube[name].chunks is not None):
        size = array.dtype.itemsize
        for dim in array.dims:
            if dim in ("y", "x"):
                first, end = rows if dim == "y" else cols
                at = np.arange(first, end)
            else:
                labels = array[dim].to_numpy().tolist()
                at = np.array([labels.index(value) for value in wanted[str(dim)]])
            chunks = array.chunksizes[dim]
            touched = np.unique(np.searchsorted(np.cumsum(chunks), at, side="right"))
            size *= int(np.asarray(chunks)[touched].sum())
        total += size
    return total


def _input_memory(cube: xr.Dataset, plan: Plan) -> int:
    """Bytes of chunks, cut blocks and copies that one window needs at once, at most."""
    # The largest neighbourhood is in the middle; at the edge it is smaller, never larger.
    worst = max(
        _chunk_bytes(cube, plan, *_around(plan, at)) + _block_bytes(plan, _around(plan, at))
        for at in _some_blocks(plan)
    )
    rows, cols = _sides(plan)
    pixels = max(rows) * max(cols)
    # The window with its halo in the cube's dtype; stacked, standardised and padded in float32.
    return worst + pixels * (_pixel_bytes(plan) + 3 * 4 * len(plan.checkpoint.bands))


def _block_bytes(plan: Plan, around: tuple[tuple[int, int], tuple[int, int]]) -> int:
    (top, bottom), (left, right) = around
    return _pixel_bytes(plan) * (bottom - top) * (right - left)


def _some_blocks(plan: Plan) -> list[tuple[int, int]]:
    """Blocks at both ends and in the middle of each axis: the largest neighbourhood is one."""
    rows, cols = ({0, 1, n // 2, n - 2, n - 1} & set(range(n)) for n in map(len, plan.blocks))
    return list(itertools.product(sorted(rows), sorted(cols)))


def _probe(cube: xr.Dataset, plan: Plan, block: tuple[int, int], gflop: float) -> Probe:
    """Read and classify one block as the map would."""
    task = plan.task()
    overlapped = plan.with_halo()
    slices = {}
    for dim, at in zip(("y", "x"), block, strict=True):
        ends = np.cumsum(overlapped.chunksizes[dim]).tolist()
        slices[dim] = slice(ends[at - 1] if at else 0, ends[at])
    start = time.perf_counter()
    window = overlapped.isel(slices).compute()
    read_seconds = time.perf_counter() - start
    has_data, compute_seconds = _timed(window, task)
    if not has_data:
        _, compute_seconds = _timed(_random(window, plan), task)
    return Probe(
        pixels="real" if has_data else "random",
        bytes_read=_chunk_bytes(cube, plan, *_around(plan, block)),
        read_seconds=read_seconds,
        gflop=gflop,
        compute_seconds=compute_seconds,
    )


def _timed(window: xr.Dataset, task: Task) -> tuple[bool, float]:
    """Classify a window: whether it has a pixel with data, and seconds."""
    if torch_device(task.device) == "cuda":
        classify_block(window, task=task)  # chooses algorithms at its first call for a size
    start = time.perf_counter()
    result = classify_block(window, task=task)
    return bool((result["lulc"] != NODATA).any()), time.perf_counter() - start


def _random(window: xr.Dataset, plan: Plan) -> xr.Dataset:
    """Put noise with the mean and deviation of the training into a window."""
    rng = np.random.default_rng(0)
    radar = 2 * len(plan.checkpoint.months or ())
    filled = window.copy()
    for name, channels in (("s1", slice(radar)), ("s2", slice(radar, None))):
        if name in window:
            array = window[name]
            noise = rng.standard_normal(array.shape, dtype="float32")
            flat = noise.reshape(-1, *array.shape[-2:])
            flat *= np.array(plan.checkpoint.std[channels], dtype="float32")[:, None, None]
            flat += np.array(plan.checkpoint.mean[channels], dtype="float32")[:, None, None]
            filled[name] = array.copy(data=noise)
    return filled
