"""Every fault on a basin of four tiles: is the map the same, and what did it cost?

A runner is a process of its own and dies by SIGKILL. Afterwards one that nothing befalls goes
on to the end. Tiles that were begun are counted in a journal beside the ledger: needed are four,
and one more for each that a fault took out of a runner's hands before it was done.
"""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median

from distributed import Client, LocalCluster

from benchmarks.basin.doom import AtPut, AtStage, Skewed, Unavailable, child
from benchmarks.basin.world import (
    Narrow,
    checkpoint,
    config,
    ground,
    narrowed,
    note,
    read_journal,
    side_for,
)
from deepforest_xr.basin import plan_basin, run_basin
from deepforest_xr.basin.store import open_objects
from tests.basin.conftest import content
from tests.basin.faults import MOMENTS, strays

TILES, TILE, CUTS, SEED = 4, 64, 20, 7
MINUTE = 6.0  # seconds that stand for a minute of 503
STAGES = (AtStage(stage="read"), AtStage(task="read"), AtStage(task="classify"))
STAGES += (AtStage(stage="write"),)
PUTS = ("clock/", "attempts/", "map.zarr/lulc", "map.zarr/confidence", "done/")
DEATHS = (*STAGES, *(AtPut(key, moment) for key, moment in product(PUTS, MOMENTS)))
DEATHS_THERE = (*STAGES[1:], AtPut("map.zarr/lulc", "over"), AtPut("done/", "before"))
ROOM = (0, 4, 8, 12, 16, 24)  # KiB left on the disk


@dataclass(frozen=True)
class Row:
    """One kind of fault."""

    name: str
    done: str  # what was done, in words
    times: int
    identical: int  # of them with the bytes of an undisturbed run
    begun: int
    needed: int
    strays: int
    seconds: float  # median, from the first start to the end
    interrupted: int  # after how many a runner had to be started again


class Basins:
    """Fresh basins of one kind, and the processes that run them."""

    def __init__(self, out):
        self.out = out / "faults"
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self.items, self.model = ground(out, side_for(TILES, 2 * TILE)), checkpoint(out)
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["benchmarks.basin.doom"])
        self.count, self.expected, self.usual = 0, None, 0.0

    def make(self, place=None):
        """A planned basin and its journal."""
        self.count += 1
        folder = place or self.out / f"{self.count}"
        plan = plan_basin(config(self.items, self.model, folder, tiles=TILES, tile=TILE))
        return plan, self.out / f"{self.count}.journal"

    def start(self, plan, journal, doom=None):
        runner = self.processes.Process(target=child, args=(plan.url, journal, doom))
        runner.start()
        return runner

    def finish(self, plan, journal):
        """Run to the end."""
        runner = self.start(plan, journal)
        runner.join()
        assert runner.exitcode == 0, runner.exitcode

    def trial(self, act, place=None):
        """Let something happen to a basin, go on until it is finished, and look at it.

        `act` returns seconds that do not count: those of setting up a cluster.
        """
        plan, journal = self.make(place)
        start = time.perf_counter()
        aside = act(plan, journal) or 0.0
        left = TILES - len(list(Path(plan.url, "done").glob("*.json")))
        if left:
            self.finish(plan, journal)
        seconds = time.perf_counter() - start - aside
        folder = Path(plan.url)
        same = content(folder) == self.expected
        for path in folder.rglob("*#*"):
            os.utime(path, (0, 0))  # remains count as such after a minute: as if it had passed
        self.finish(plan, journal)
        found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        begun, needed = counted(plan, read_journal(journal))
        return same, begun, needed, len(strays(found, plan)), seconds, left > 0

    def row(self, name, done, acts, place=None):
        """All trials of a kind."""
        found = []
        for act in acts:
            found.append(self.trial(act, place))
            print(name, found[-1], flush=True)
            if place is not None:
                shutil.rmtree(place / "basin")
        same, begun, needed, stray, seconds, left = zip(*found, strict=True)
        sums = (sum(same), sum(begun), sum(needed), sum(stray), median(seconds), sum(left))
        return Row(name, done, len(found), *sums)


def counted(plan, lines):
    """How many tiles were begun, and how many had to be."""
    ledger = open_objects(plan.url)
    owners = {}
    for tile in plan.tiles:
        owners[tile.id] = json.loads(ledger.get(f"done/{tile.id}.json"))["owner"]["pid"]
    happened = Counter(lines)
    killed = {pid for what, pid, _ in lines if what == "killed"}
    begun, needed = 0, len(plan.tiles)
    for what, pid, tile in list(happened):
        if what != "begun":
            continue
        number, broken = happened[what, pid, tile], happened["broken", pid, tile]
        begun += number
        needed += broken
        if pid in killed and owners[tile] != pid:
            needed += number - broken - happened["ended", pid, tile]
    return begun, needed


def measure(out):
    """All rows, the undisturbed one first."""
    with narrowed():
        basins = Basins(out)
        plan, journal = basins.make()
        basins.finish(plan, journal)
        basins.expected = content(Path(plan.url))
        rows = [basins.row("nothing", "undisturbed", [lambda *_: None] * 5)]
        basins.usual = rows[0].seconds
        rows += [kind(basins) for kind in KINDS]
    return [row if isinstance(row, dict) else asdict(row) for row in rows]


def doomed(basins, *dooms):
    """Runners at once, to each of which something is to happen."""

    def act(plan, journal):
        runners = [basins.start(plan, journal, doom) for doom in dooms]
        for runner in runners:
            runner.join()

    return act


def deaths(basins):
    what = "SIGKILL as it opens the scenes, reads, classifies, has the map in memory, and before, "
    what += "over (half written) and after each object it puts"
    return basins.row("runner killed", what, [doomed(basins, doom) for doom in DEATHS])


def deaths_there(basins):
    """Workers of a cluster; the same run goes on with those that are left."""

    def act(doom):
        def run(plan, journal):
            begin = time.perf_counter()
            made = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
            with LocalCluster(**made) as cluster, Client(cluster) as client:
                client.register_plugin(Narrow(journal))
                client.wait_for_workers(2)
                client.run(doom.arrange, journal)
                start = time.perf_counter()
                run_basin(plan, client=client)
                end = time.perf_counter()
            return start - begin + time.perf_counter() - end

        return run

    what = "SIGKILL of one of two workers of a LocalCluster as it reads, classifies, has the map "
    what += "in memory, over a shard, before the record"
    return basins.row("worker killed", what, [act(doom) for doom in DEATHS_THERE])


@contextmanager
def separate_cluster(journal, folder):
    """A scheduler and two workers as processes; a client, and the scheduler."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [["scheduler", "--host", "127.0.0.1", "--port", "0", *where]]
    commands += [["worker", *where, "--nthreads", "1", "--no-nanny"]] * 2
    client, quiet = None, subprocess.DEVNULL
    processes = [
        subprocess.Popen([sys.executable, "-m", "dask", *words], stdout=quiet, stderr=quiet)
        for words in commands
    ]
    try:
        client = Client(scheduler_file=str(file), timeout=60)
        client.register_plugin(Narrow(journal))
        client.wait_for_workers(2)
        yield client, processes[0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        if client is not None:
            with suppress(Exception):
                client.close(timeout=1)


def scheduler(basins):
    def act(wanted):
        def run(plan, journal):
            begin = time.perf_counter()
            with separate_cluster(journal, basins.out) as (client, head):
                watch = threading.Thread(target=kill_when, args=(journal, wanted, head))
                watch.start()
                start = time.perf_counter()
                run_basin(plan, client=client)
                end = time.perf_counter()
                watch.join()
            # What its workers had in hand when they were ended is lost with them.
            for pid in {pid for what, pid, _ in read_journal(journal) if what == "begun"}:
                note(journal, "killed", pid=pid)
            return start - begin + time.perf_counter() - end

        return run

    what = "SIGKILL of the scheduler after so many tiles were begun (1, 2, 3); its workers too"
    return basins.row("scheduler killed", what, [act(number) for number in (1, 2, 3)])


def kill_when(journal, begun, process):
    """End a process as soon as so many tiles are begun."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if sum(what == "begun" for what, *_ in read_journal(journal)) >= begun:
            process.kill()
            process.wait()
        time.sleep(0.002)


def full_disk(basins):
    """A small disk of its own: root alone may mount one."""
    place = basins.out / "disk"
    place.mkdir()
    name = "disk full"
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        return {"name": name, "left_out": mounted.stderr.strip() or "no disk could be mounted"}

    def act(room):
        def run(plan, journal):
            fill = place / "ballast"
            free = os.statvfs(place)
            fill.write_bytes(bytes(max(free.f_bavail * free.f_bsize - 1024 * room, 0)))
            doomed(basins, None)(plan, journal)
            fill.unlink()

        return run

    what = f"a file system with room for {', '.join(map(str, ROOM))} KiB more; then there is room"
    try:
        return basins.row(name, what, [act(room) for room in ROOM], place)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def unavailable(basins):
    dooms = [Unavailable(MINUTE, 2 * MINUTE)] * 2 + [Unavailable(MINUTE, MINUTE / 3)] * 2
    what = (
        f"every answer 503 for {MINUTE:g} s from the first shard on, a minute scaled down; twice "
    )
    what += "with patience for it (scaled too), twice without: then the run ends and is begun again"
    return basins.row("store answers 503", what, [doomed(basins, doom) for doom in dooms])


def halves(basins):
    """What a store would hold that keeps halves, and what an earlier writer left."""

    def act(plan, journal):  # noqa: ARG001
        objects = open_objects(plan.url)
        for key, whole in basins.expected.items():
            if key.startswith(("lulc/c/", "confidence/c/")):
                objects.put(f"map.zarr/{key}", whole[: len(whole) // 2])
                part = objects.folder / f"map.zarr/{key}#1"
                part.write_bytes(whole[: len(whole) // 3])
                os.utime(part, (0, 0))  # of a writer that has been gone for more than a minute

    what = "all shards there by half, without a record, and parts of files beside them"
    return basins.row("half-written objects", what, [act] * 2)


def skew(basins):
    first, second = Skewed(24), Skewed(-24)
    acts = [doomed(basins, first, second) for _ in range(3)]
    acts += [cut(basins, random.Random(SEED + n), first, second, number=1) for n in range(3)]
    what = "two runners at once, clocks a day ahead and a day behind; three times one is killed"
    return basins.row("clock skew", what, acts)


def cuts(basins):
    chance = random.Random(SEED)
    acts = [cut(basins, chance, None, None) for _ in range(CUTS)]
    what = "SIGKILL of two runners together, at a random moment of the run"
    return basins.row("power cut", what, acts)


def cut(basins, chance, *dooms, number=None):
    """Kill runners (all, or so many) at a random moment after both have begun."""

    def act(plan, journal):
        runners = [basins.start(plan, journal, doom) for doom in dooms]
        while sum(what == "started" for what, *_ in read_journal(journal)) < len(dooms):
            time.sleep(0.002)
        # Two runners on two cores are quicker than one; after the end there is nothing to cut.
        time.sleep(chance.uniform(0, 0.8 * basins.usual))
        for runner in runners[:number]:
            runner.kill()
        for runner in runners:
            runner.join()
        for runner in runners[:number]:
            note(journal, "killed", pid=runner.pid)

    return act


KINDS = (deaths, deaths_there, scheduler, full_disk, unavailable, halves, skew, cuts)
