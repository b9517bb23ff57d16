"""From rates to the whole basin: formulas only, each input named, so that others can be put in."""

import math
from dataclasses import dataclass

GIGAPIXELS, TILE, RESOLUTION = 67, 10_240, 10
DAY = 24.0


@dataclass(frozen=True)
class Scenes:
    """What of a year is read for each pixel."""

    name: str
    dates: int  # of Sentinel-2, ten bands and the scene classification
    radar: int = 0  # Sentinel-1 scenes, two polarisations

    @property
    def bytes_a_pixel(self):
        """Uncompressed: 16 bits a sample, a quarter of a sample where pixels are of 20 m."""
        optical = (4 + 6 / 4 + 1 / 4) * 2
        return self.dates * optical + self.radar * 2 * 4


@dataclass(frozen=True)
class Machine:
    """A GPU and the cores that read for it."""

    flops: float  # that the network gets out of the GPU, a second
    cores: int
    price: float  # an hour


@dataclass(frozen=True)
class Outcome:
    """The whole basin on such machines."""

    bytes_read: float
    reader_hours: float  # of one core
    gpu_hours: float
    machine_hours: float
    cost: float

    @property
    def is_bound_by_reading(self):
        return self.gpu_hours < self.machine_hours

    @property
    def cores_a_gpu(self):
        """Cores that keep one GPU busy."""
        return self.reader_hours / self.gpu_hours

    @property
    def machines_for_a_day(self):
        return math.ceil(self.machine_hours / DAY)

    @property
    def bytes_a_second(self):
        """Of all machines together, if they take a day."""
        return self.bytes_read / (DAY * 3600)


def read_for_one(halo, tile=TILE):
    """Pixels read for each one mapped: a tile with its halo."""
    return ((tile + 2 * halo) / tile) ** 2


def computed_for_one(block, halo):
    """Pixels computed for each one mapped: a block, no smaller than its halo, with that halo."""
    block = max(block, halo)
    return ((block + 2 * halo) / block) ** 2


def whole_basin(scenes, machine, *, halo, block, flop_a_pixel, bytes_a_core_second):
    """Hours and cost; reading and the GPU go on at the same time, so the slower of both counts."""
    pixels = GIGAPIXELS * 1e9
    bytes_read = pixels * read_for_one(halo) * scenes.bytes_a_pixel
    reader_hours = bytes_read / bytes_a_core_second / 3600
    gpu_hours = pixels * computed_for_one(block, halo) * flop_a_pixel / machine.flops / 3600
    hours = max(gpu_hours, reader_hours / machine.cores)
    return Outcome(bytes_read, reader_hours, gpu_hours, hours, hours * machine.price)
