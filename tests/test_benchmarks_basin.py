"""What the page about scaling says of its numbers, and the model of the whole basin."""

import pytest

pytest.importorskip("matplotlib")

from benchmarks.basin.model import (
    Machine,
    Scenes,
    computed_for_one,
    read_for_one,
    whole_basin,
)
from benchmarks.basin.page import verdicts
from benchmarks.basin.scaling import Run


def run(tiles, *, seconds, peak=500_000_000, tasks=None, workers=1):
    return Run(
        tiles=tiles,
        workers=workers,
        tile=1000,
        seconds=seconds,
        cpu_seconds=seconds / 2,
        peak=peak,
        held=peak // 2,
        tasks=tiles if tasks is None else tasks,
        stages={},
        bytes_read=1,
    )


def test_seconds_are_those_of_busy_workers():
    assert run(1, seconds=3.0, workers=2).per_megapixel == 3.0
    assert run(4, seconds=6.0, workers=2).per_megapixel == 3.0


@pytest.mark.parametrize(("factor", "said"), [(1.09, "within"), (1.11, "more than")])
def test_growth_is_judged_by_medians_of_all_sizes(factor, said):
    sizes = {1: [run(1, seconds=t) for t in (2.0, 2.0, 9.0)], 4: [run(4, seconds=8.0 * factor)]}
    clock, _, memory, _ = verdicts(sizes)
    assert f"{said} the goal" in clock
    assert "least at 1 tile, most at 4 tiles" in clock
    assert "0%" in memory


@pytest.mark.parametrize(("tasks", "said"), [(40, "met"), (41, "missed")])
def test_tasks_are_counted_a_tile(tasks, said):
    sizes = {1: [run(1, seconds=1.0)], 4: [run(4, seconds=4.0, tasks=tasks)]}
    assert verdicts(sizes)[-1].endswith(f"is {said}.")


def test_a_block_is_no_smaller_than_its_halo():
    assert computed_for_one(1024, 512) == 4
    assert computed_for_one(64, 512) == computed_for_one(512, 512) == 9
    assert read_for_one(512, tile=1024) == 4


def test_the_slower_of_reading_and_gpu_takes_the_time():
    scenes = Scenes("two dates, one radar scene", 2, radar=1)
    assert scenes.bytes_a_pixel == 2 * 11.5 + 8
    inputs = {"halo": 0, "block": 32, "flop_a_pixel": 1e6, "bytes_a_core_second": 31e6}
    # 67e9 pixels: 67e3 core seconds to read, 67e15 FLOP.
    reading = whole_basin(scenes, Machine(67e12, 4, 2.0), **inputs)
    assert reading.is_bound_by_reading
    assert reading.machine_hours == pytest.approx(67e3 / 4 / 3600)
    assert reading.cost == pytest.approx(2 * 67e3 / 4 / 3600)
    assert reading.cores_a_gpu == pytest.approx(67)
    gpu = whole_basin(scenes, Machine(1e12, 4, 2.0), **inputs)
    assert not gpu.is_bound_by_reading
    assert gpu.machine_hours == pytest.approx(67e3 / 3600)
    assert gpu.machines_for_a_day == 1
