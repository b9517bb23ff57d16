"""What a map will cost, as a user reads it: blocks, work, bytes, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deepforest_xr.grid import Grid


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
class Choice:
    """What another size of blocks takes."""

    block: int
    """Side in pixels."""

    overhead: float
    """Pixels computed for each pixel mapped."""

    memory: int
    """Bytes of one block at its peak."""


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
    the map, at most: those of 64 blocks, whatever the map's size. 0 for a cube in memory. With
    `blend` the logits of these blocks too."""

    result_bytes: int
    """Of ``lulc`` and ``confidence``, uncompressed."""

    layer_bytes: int
    """Of each further layer: entropy, margin, or the probability of one class."""

    choices: tuple[Choice, ...]
    """Blocks of other sizes, smaller than the map."""

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
            f"{self.overhead:.2f} pixels computed for each mapped{self._others()}",
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

    def _others(self) -> str:
        if not self.choices:
            return ""
        told = (f"block={c.block} {c.overhead:.2f} and {_bytes(c.memory)}" for c in self.choices)
        return "; " + ", ".join(told)

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
