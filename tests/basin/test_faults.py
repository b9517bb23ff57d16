"""Whatever ends a run, the next one goes on, and the map is that of a run nothing happened to."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from deepforest_xr.basin import basin_status, plan_basin, run_basin
from deepforest_xr.basin import run as run_module
from deepforest_xr.basin.store import open_objects

from .conftest import IDS, content
from .faults import MOMENTS, DeadError, dying, strays
from .memory import unavailable


@pytest.fixture
def made(monkeypatch):
    """How often each tile was begun."""
    counts = Counter()
    real = run_module.make_tile

    def counted(plan, tile, *args, **options):
        counts[tile.id] += 1
        return real(plan, tile, *args, **options)

    monkeypatch.setattr(run_module, "make_tile", counted)
    return counts


def die(monkeypatch, plan, last, moment, **options):
    """Run until the `last` put; what was put, or None if the run came to its end before."""
    with monkeypatch.context() as patch:
        store = dying(patch, plan.url, last, moment)
        try:
            run_basin(plan, max_attempts=100, **options)
        except DeadError:
            return store.puts
    return None


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_runner_killed_at_every_put_of_a_tile(plan, undisturbed, monkeypatch, moment):
    seen = Counter()
    for last in range(1, 99):
        puts = die(monkeypatch, plan, last, moment, shard=(1, 4))
        if puts is None:
            break
        kind = puts[-1].split("/")[0] if "map" not in puts[-1] else puts[-1].split("/")[1]
        seen[kind] += 1
    assert {"clock", "attempts", "lulc", "confidence", "done"} <= seen.keys()
    assert run_basin(plan, max_attempts=100).is_complete
    assert content(open_objects(plan.url).folder) == undisturbed


def test_twenty_power_cuts(config, undisturbed, monkeypatch, made, tmp_path):
    chance, cuts, basins = random.Random(7), 0, 0
    while cuts < 20:
        plan = plan_basin(config(out=str(tmp_path / f"basin{basins}")))
        basins += 1
        while die(monkeypatch, plan, chance.randint(1, 9), chance.choice(MOMENTS)) is not None:
            cuts += 1
        assert run_basin(plan, max_attempts=100).is_complete
        folder = open_objects(plan.url).folder
        assert content(folder) == undisturbed
        for path in folder.rglob("*#*"):  # too young to be called dead
            os.utime(path, (0, 0))
        run_basin(plan)
        found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        assert strays(found, plan) == []
    # Finished tiles are never computed again; each cut costs at most the tile in hand.
    assert 4 * basins <= sum(made.values()) <= 4 * basins + cuts


def test_half_written_shards_are_replaced_and_their_remains_removed(plan, undisturbed, monkeypatch):
    puts = die(monkeypatch, plan, 3, "over", shard=(2, 4))
    assert puts[-1] == "map.zarr/lulc/c/1/0"
    folder = open_objects(plan.url).folder
    assert list(folder.rglob("*#1"))
    assert run_basin(plan, shard=(2, 4)).is_complete
    assert list(folder.rglob("*#1")) == []
    assert content(folder)["lulc/c/1/0"] == undisturbed["lulc/c/1/0"]


def test_a_shard_that_was_damaged_before_it_was_done_is_written_again(plan, undisturbed):
    objects = open_objects(plan.url)
    objects.put("map.zarr/lulc/c/0/1", b"something else")
    run_basin(plan)
    assert content(objects.folder) == undisturbed


class Unsteady:
    """A folder that answers every second put with 503, as many times as it is told."""

    def __init__(self, store, times):
        self.store, self.times = store, times

    def put(self, *args, **options):
        self.times -= 1
        if self.times > 0 and self.times % 2:
            raise unavailable()
        return self.store.put(*args, **options)

    def __getattr__(self, name):
        return getattr(self.store, name)


def test_a_store_that_is_out_of_order_for_a_while_is_survived(plan, undisturbed, monkeypatch):
    folder = open_objects(plan.url)
    unsteady = dataclasses.replace(
        folder, store=Unsteady(folder.store, 30), pause=lambda _seconds: None
    )
    monkeypatch.setattr("deepforest_xr.basin.card.open_objects", lambda url: unsteady)
    assert run_basin(plan).made == 4
    assert basin_status(plan).states[IDS[0]].attempts == 0
    assert content(folder.folder) == undisturbed


CHILD = """
import sys
import torch
torch.set_num_threads(1)
import deepforest_xr.models.unet as unet
unet.ENCODER_FILTERS, unet.DECODER_FILTERS = (4,) * 6, (4,) * 5
from deepforest_xr.basin import tile
if "--hang" in sys.argv:
    import threading
    sys.argv.remove("--hang")
    def hang(*args, **options):
        threading.Event().wait(600)
    tile.open_cube = hang
from deepforest_xr.cli import main
main()
"""


def start(*words, **options):
    """The command line in a process of its own."""
    words = [sys.executable, "-c", CHILD, *map(str, words)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_a_claim(plan, process):
    until = time.monotonic() + 120
    while not open_objects(plan.url).names("attempts/"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_signal_and_then_the_rest(plan, undisturbed, number, code):
    with start("basin", "run", plan.url, "--hang") as process:
        wait_for_a_claim(plan, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    states = basin_status(plan).states.values()
    if code == 75:
        assert "run again to go on" in out
        assert {(s.status, s.attempts) for s in states} == {("waiting", 0)}
    else:
        # Not for the lease of ten minutes: its process is known to be gone.
        assert sorted(s.status for s in states) == ["running", *["waiting"] * 3]
    assert run_basin(plan).made == 4
    folder = open_objects(plan.url).folder
    assert content(folder) == undisturbed
    found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    assert strays(found, plan) == []


def test_a_plan_made_again_elsewhere_is_the_same_run(config, plan, tmp_path):
    other = plan_basin(config(out=str(tmp_path / "other")))
    assert other.run_id == plan.run_id


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: root alone may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("room", [0, 24])
def test_a_disk_that_is_full_and_then_has_room(config, disk, undisturbed, room):
    plan = plan_basin(config(out=str(disk / "basin")))
    fill, free = disk / "fill", os.statvfs(disk)
    fill.write_bytes(bytes(free.f_bavail * free.f_bsize - 1024 * room))
    with start("basin", "run", plan.url) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "No space left on device" in err.splitlines()[-1]
    fill.unlink()
    with start("basin", "run", plan.url) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.startswith("4 of 4 tiles are done")
    folder = open_objects(plan.url).folder
    assert content(folder) == undisturbed
    found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    assert strays(found, plan) == []
    assert {s.status for s in basin_status(plan).states.values()} == {"done"}
