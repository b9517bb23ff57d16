"""What a map will cost, before it is computed: blocks, work, bytes, memory and time.

All but the time follows from shapes: the network runs on tensors without data. The time is
that of one block, read and classified as the map would, and scaled by work and by bytes.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.classify.block import Task, classify_block
from deepforest_xr.classify.plan import Plan, make_plan
from deepforest_xr.classify.predict import predictor, torch_device
from deepforest_xr.legend import NODATA
from deepforest_xr.maps.storing import STRIP
from deepforest_xr.models import entry
from deepforest_xr.models.network import STRIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import xarray as xr

    from deepforest_xr.grid import Grid
    from deepforest_xr.models import Checkpoint
    from deepforest_xr.models.network import Network

SCRATCH = 1.5
"""What operations take for themselves, as a factor on the tensors that are seen: measured on a
CPU 0.9 (DeepForest-1b, DeepLab) to 1.3 (U-Net), and a reserve."""

WAITING = 4 * STRIP
"""Blocks whose chunks dask keeps at most for those beside them: 12 to 58 were measured."""

RESULT_BYTES = 3 * 4
"""Of a pixel and class while a block's probabilities become percent: three float32 at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One block, measured."""

    pixels: str
    """"real", those of the cube's middle block, or "random" where it has no data."""

    bytes_read: int
    """Of the cube's chunks that were read for it."""

    read_seconds: float
    """To read its window into memory."""

    gflop: float
    """Of its window."""

    compute_seconds: float
    """To classify the window, the model being loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The price of a map; `str` gives the lines that a user reads."""

    grid: Grid
    """Of the map."""

    model: str
    """Name of the network."""

    device: str
    """"cpu" or "cuda", where the blocks would run in this process."""

    blocks: tuple[int, int]
    """Rows and columns of blocks."""

    block: tuple[int, int]
    """Sides in pixels of the largest block."""

    halo: int
    """Pixels around a block."""

    window: tuple[int, int]
    """Sides in pixels of the largest window: block and halo on the data, filled up to 32."""

    pixels_computed: int
    """Of all windows together."""

    gflop_window: float
    """Of the largest window, in billions of operations."""

    gflop: float
    """Of all windows together."""

    bytes_read: int
    """Of the chunks that hold the model's bands and months, each once and whole, uncompressed in
    the cube's dtype: what one computation of the whole map reads. 0 for a cube in memory."""

    bytes_halo: int
    """Of all windows together, halos included and other bands not: what blocks read that are
    computed one by one from a store with chunks of a pixel."""

    memory_inputs: int
    """Bytes: chunks, blocks around and copies of one window, at most."""

    memory_network: int
    """Bytes: activations of one window and weights, at most; on the GPU if there is one."""

    memory_waiting: int
    """Bytes of the cube's chunks that wait for the blocks around theirs while `write_zarr` writes
    the map, at most: those of 64 blocks, whatever the map's size. 0 for a cube in memory."""

    result_bytes: int
    """Of ``lulc`` and ``confidence``, uncompressed."""

    layer_bytes: int
    """Of each further layer: entropy, margin, or the probability of one class."""

    probe: Probe | None
    """None if it was not asked for."""

    @property
    def area_km2(self) -> float:
        """Square kilometres of the grid."""
        return _area_km2(self.grid)

    @property
    def overhead(self) -> float:
        """Pixels computed for each pixel mapped, 1 without halo and filling."""
        return self.pixels_computed / (self.grid.shape[0] * self.grid.shape[1])

    @property
    def memory(self) -> int:
        """Bytes of one block at its peak, beside those of the process itself."""
        return self.memory_inputs + self.memory_network

    @property
    def seconds(self) -> float | None:
        """Of the whole map in one process: the probe's, by work and by bytes."""
        if self.probe is None:
            return None
        computing = self.probe.compute_seconds * self.gflop / self.probe.gflop
        reading = self.probe.read_seconds * self.bytes_read / max(self.probe.bytes_read, 1)
        return computing + reading

    @property
    def seconds_per_block(self) -> float | None:
        """Mean over all blocks."""
        total = self.seconds
        return None if total is None else total / (self.blocks[0] * self.blocks[1])

    def __str__(self) -> str:
        rows, cols = self.grid.shape
        count = self.blocks[0] * self.blocks[1]
        parts = {
            "map": f"{rows} x {cols} pixels, {self.area_km2:,.4g} km2, {self.model} on "
            f"{self.device}",
            "blocks": f"{self.blocks[0]} x {self.blocks[1]} = {count:,} of up to "
            f"{_sides(self.block)} pixels",
            "windows": f"up to {_sides(self.window)} pixels with a halo of {self.halo}: "
            f"{self.overhead:.2f} pixels computed for each mapped",
            "work": f"{self.gflop:,.4g} GFLOP, {self.gflop_window:,.4g} for the largest window",
            "reads": f"{_bytes(self.bytes_read)} in whole chunks, each once, uncompressed; "
            f"{_bytes(self.bytes_halo)} as windows",
            "memory": f"up to {_bytes(self.memory)} for a block: {_bytes(self.memory_inputs)} for "
            f"inputs, {_bytes(self.memory_network)} for the network; up to "
            f"{_bytes(self.memory_waiting)} in chunks that wait for the next blocks",
            "writes": f"{_bytes(self.result_bytes)} uncompressed, and {_bytes(self.layer_bytes)} "
            "each for entropy, margin and the probability of a class",
            "time": self._time(),
        }
        return "\n".join(f"{name:<9}{text}" for name, text in parts.items())

    def _time(self) -> str:
        if self.probe is None or self.seconds is None or self.seconds_per_block is None:
            return "not probed"
        speed = self.probe.gflop / max(self.probe.compute_seconds, 1e-9)
        return (
            f"about {_duration(self.seconds)} in one process, {self.seconds_per_block:.3g} s a "
            f"block (one block of {self.probe.pixels} pixels: read in "
            f"{self.probe.read_seconds:.3g} s, classified in {self.probe.compute_seconds:.3g} s, "
            f"{speed:,.0f} GFLOP/s)"
        )


def explain(
    cube: xr.Dataset,
    model: str | Path | Checkpoint | None = None,
    *,
    block: int = 512,
    halo: int | None = None,
    device: str = "auto",
    probe: bool = True,
) -> Explanation:
    """Price a map before it is computed.

    The cube is taken as it is: what a cube that is not stored yet takes to be composed from its
    scenes is seen in the probe's time only, not in bytes and memory.

    Parameters
    ----------
    cube, model, block, halo, device
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
    from deepforest_xr.classify.cost import forward_cost, on_meta

    plan = make_plan(cube, model, block=block, halo=halo, device=device)
    task = plan.task()
    where = torch_device(device)
    network = predictor(task.path, task.identity).network(where)
    bare = on_meta(network)
    sides = [_padded(windows) for windows in plan.windows]
    counts = Counter(itertools.product(sides[0], sides[1]))
    gflop = {shape: forward_cost(bare, _shapes(plan, shape))[0] for shape in counts}
    window = max(sides[0]), max(sides[1])
    activations = forward_cost(bare, _shapes(plan, window))[1]
    pixels = plan.grid.shape[0] * plan.grid.shape[1]
    largest = max(plan.blocks[0]), max(plan.blocks[1])
    result = RESULT_BYTES * len(plan.checkpoint.legend.classes) * largest[0] * largest[1]
    middle = len(plan.blocks[0]) // 2, len(plan.blocks[1]) // 2
    count = len(plan.blocks[0]) * len(plan.blocks[1])
    read = _chunk_bytes(cube, plan, (0, plan.grid.shape[0]), (0, plan.grid.shape[1]))
    return Explanation(
        grid=plan.grid,
        model=plan.checkpoint.model,
        device=where,
        blocks=(len(plan.blocks[0]), len(plan.blocks[1])),
        block=largest,
        halo=plan.halo,
        window=window,
        pixels_computed=sum(rows * cols * n for (rows, cols), n in counts.items()),
        gflop_window=gflop[window],
        gflop=sum(gflop[shape] * n for shape, n in counts.items()),
        bytes_read=read,
        bytes_halo=_window_bytes(plan),
        memory_inputs=_input_memory(cube, plan, window),
        memory_network=int(SCRATCH * activations) + result + _weight_bytes(network),
        memory_waiting=read * min(WAITING, count) // count,
        result_bytes=2 * pixels,
        layer_bytes=pixels,
        probe=_probe(cube, plan, middle, gflop[sides[0][middle[0]], sides[1][middle[1]]])
        if probe
        else None,
    )


def _padded(windows: Iterable[tuple[int, int]]) -> list[int]:
    """Sides of windows, filled up to multiples of 32."""
    return [-(-(end - first) // STRIDE) * STRIDE for first, end in windows]


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
    for array in (cube[name] for name in plan.inputs.data_vars if cube[name].chunks is not None):
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


def _input_memory(cube: xr.Dataset, plan: Plan, window: tuple[int, int]) -> int:
    """Bytes of chunks, cut blocks and copies that one window needs at once, at most."""
    # The largest neighbourhood is in the middle; at the edge it is smaller, never larger.
    worst = max(
        _chunk_bytes(cube, plan, *_around(plan, at)) + _block_bytes(plan, _around(plan, at))
        for at in _some_blocks(plan)
    )
    pixels = window[0] * window[1]
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


def _area_km2(grid: Grid) -> float:
    if not grid.crs.is_geographic:
        metres = float(grid.crs.axis_info[0].unit_conversion_factor)
        width, height = grid.resolution
        return grid.shape[0] * grid.shape[1] * width * height * metres**2 / 1e6
    left, bottom, right, top = grid.bounds
    # A parallel is no geodesic: many short ones come close to it.
    along = np.linspace(left, right, 361)
    lons = [*along, *along[::-1]]
    lats = [bottom] * len(along) + [top] * len(along)
    geod = grid.crs.get_geod()
    assert geod is not None  # noqa: S101  - a geographic CRS has an ellipsoid
    return abs(float(geod.polygon_area_perimeter(lons, lats)[0])) / 1e6


def _sides(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"
