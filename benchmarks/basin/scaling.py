"""Seconds, memory and tasks of basins of 1 to 64 tiles, each on a fresh LocalCluster."""

import json
import math
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from distributed import Client, LocalCluster

from benchmarks.basin.world import HALO, Narrow, checkpoint, config, ground, narrowed, side_for
from deepforest_xr.basin import plan_basin, run_basin

TILE = 512
STAGES = ("read", "classify", "write")


@dataclass(frozen=True)
class Run:
    """One run of one basin."""

    tiles: int
    workers: int
    tile: int  # side in pixels
    seconds: float  # wall clock, of the run alone
    cpu_seconds: float  # of the workers' processes
    peak: int  # bytes that the largest worker held at most during the run
    held: int  # bytes that this worker held when the run began
    tasks: int  # that the scheduler saw
    stages: dict  # seconds of threads by stage, all tiles
    bytes_read: int  # as the plan estimates them, uncompressed

    @property
    def megapixels(self):
        return self.tiles * self.tile**2 / 1e6

    @property
    def per_megapixel(self):
        """Wall-clock seconds of a busy worker."""
        return self.seconds * min(self.workers, self.tiles) / self.megapixels

    @property
    def cpu_per_megapixel(self):
        return self.cpu_seconds / self.megapixels


def measure(out, *, sizes, repeats, tile=TILE):
    """Sizes in turns, on one worker; the largest also on two."""
    jobs = [(tiles, 1) for tiles in sizes]
    if max(sizes) > 1:
        jobs.append((max(sizes), 2))
    items = ground(out, side_for(max(sizes), tile))
    runs, below = [], math.isqrt(max(sizes))
    with narrowed():
        model = checkpoint(out)
        for turn in range(repeats):
            for tiles, workers in jobs:
                folder = out / "scaling"
                how = {"workers": workers, "tile": tile, "below": below}
                runs.append(run(items, model, folder, tiles, **how))
                print(f"turn {turn + 1}: {runs[-1]}", flush=True)
    shutil.rmtree(out / "scaling", ignore_errors=True)
    return {"halo": HALO, "runs": [asdict(r) for r in runs]}


def run(items, model, folder, tiles, *, workers, tile, below):
    """Map a square of tiles on fresh processes, each of which has made a tile before."""
    shutil.rmtree(folder, ignore_errors=True)
    made = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(n_workers=workers, **made) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers)
        client.register_plugin(Narrow())
        # Elsewhere on the same files: GDAL keeps what it has decoded.
        settings = config(items, model, folder / "warm", tiles=workers, tile=tile, below=below)
        run_basin(plan_basin(settings), client=client)
        plan = plan_basin(config(items, model, folder / "basin", tiles=tiles, tile=tile))
        before = client.run(begin)
        seen = client.run_on_scheduler(tasks)
        start = time.perf_counter()
        summary = run_basin(plan, client=client)
        seconds = time.perf_counter() - start
        after = client.run(end)
        seen = client.run_on_scheduler(tasks) - seen
    if summary.made != tiles:
        raise SystemExit(f"{summary.made} of {tiles} tiles were made:\n{summary}")
    done = Path(plan.url, "done").glob("*.json")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in done]
    largest = max(after, key=lambda worker: after[worker]["peak"])
    return Run(
        tiles=tiles,
        workers=workers,
        tile=tile,
        seconds=seconds,
        cpu_seconds=sum(after[w]["cpu"] - before[w]["cpu"] for w in after),
        peak=after[largest]["peak"],
        held=before[largest]["held"],
        tasks=len(seen),
        stages={name: sum(r["seconds"][name] for r in records) for name in STAGES},
        bytes_read=plan.estimate.bytes_read,
    )


def tasks(dask_scheduler):
    """Names of the tasks that a scheduler has seen."""
    return {entry[0] for entry in dask_scheduler.transition_log}


def begin():
    """On a worker: let the peak of its memory begin anew."""
    import gc

    gc.collect()
    forget_peak()
    return {"cpu": time.process_time(), "held": status("VmRSS")}


def end():
    """On a worker: what the run took."""
    return {"cpu": time.process_time(), "peak": status("VmHWM")}


def forget_peak():
    """Let the high-water mark begin anew; where Linux does not allow it, it stays."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status(name):
    """Bytes of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
