"""What a basin costs a tile as it grows, and a model of the whole Amazon from that.

`python -m benchmarks.basin` writes docs/scaling.md. Tiles are small (256 pixels) and simulated:
what is measured is whether the cost of a tile stays the same, and of what it is made.
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyproj
import shapely
import torch
from distributed import Client, LocalCluster

from benchmarks.measure import machine
from deepforest_xr import models
from deepforest_xr.basin import BasinConfig, plan_basin, run_basin
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.store import open_objects
from deepforest_xr.testing import simulate_scene

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
CRS, TILE, HALO = "EPSG:32721", 256, 32
BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
LEDGER_TILES = 10_000
AMAZON_GIGAPIXELS, AMAZON_TILE = 67, 10_240


@dataclass(frozen=True)
class Measured:
    """One run."""

    tiles: int
    seconds: float
    """Of the run, the cluster being there and warm."""

    by_stage: dict
    """Seconds of threads to read and to classify, and wall-clock seconds to write, all tiles."""

    peak_memory: int
    """Bytes of the largest worker."""

    tasks: int
    """That the scheduler saw."""

    @property
    def per_megapixel(self):
        """Wall-clock seconds."""
        return self.seconds / (self.tiles * TILE**2 / 1e6)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("runs/basin"))
    options.add_argument("--tiles", type=int, nargs="+", default=[1, 4, 16])
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--page", type=Path, default=PAGE)
    chosen = options.parse_args()
    side = math.isqrt(max(chosen.tiles))
    scene = simulated(chosen.out, (side + 1) * TILE)
    model = checkpoint(chosen.out)
    runs = []
    for tiles in chosen.tiles:
        runs.append(run(scene, model, chosen.out / f"{tiles}", tiles, workers=chosen.workers))
        print(runs[-1])
    listed = listing()
    chosen.page.write_text(page(runs, listed, chosen.workers), encoding="utf-8")
    print(f"written to {chosen.page}")


def simulated(out, side):
    folder = out / f"scene-{side}"
    if not (folder / "items.json").exists():
        return simulate_scene(folder, shape=(side, side), months=(6, 7, 8), missing_months=())
    from deepforest_xr.testing import open_scene

    return open_scene(folder)


def checkpoint(out):
    """A U-Net of full size that was never trained: it costs what a trained one does."""
    path = out / "model"
    if not path.exists():
        torch.manual_seed(0)
        network = models.build("u-net", bands=len(BANDS), classes=13).eval()
        made = models.Checkpoint.from_module(
            network, bands=BANDS, mean=[0.1] * len(BANDS), std=[0.1] * len(BANDS)
        )
        made.save(path)
    return path


def run(scene, model, folder, tiles, *, workers):
    """Map a square of tiles on a fresh cluster, whose workers made one tile before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        warm = plan_basin(config(scene, model, folder / "warm", workers))
        run_basin(warm, client=client)
        before = client.run_on_scheduler(_tasks)
        plan = plan_basin(config(scene, model, folder / "basin", tiles))
        begin = time.perf_counter()
        summary = run_basin(plan, client=client)
        seconds = time.perf_counter() - begin
        tasks = client.run_on_scheduler(_tasks) - before
    if summary.made != tiles:
        raise SystemExit(f"{summary.made} of {tiles} tiles were made:\n{summary}")
    records = [json.loads(p.read_text()) for p in (folder / "basin" / "done").glob("*.json")]
    stages = {n: sum(r["seconds"][n] for r in records) for n in ("read", "classify", "write")}
    return Measured(tiles, seconds, stages, max(r["peak_memory"] for r in records), tasks)


def _tasks(dask_scheduler):
    """How many tasks a scheduler has seen."""
    return len({entry[0] for entry in dask_scheduler.transition_log})


def config(scene, model, folder, tiles):
    """Settings of a basin of so many tiles, as square as may be."""
    left, _, _, top = scene.grid.bounds
    step = TILE * 10
    west, north = math.ceil(left / step) * step, math.floor(top / step) * step
    cols = math.isqrt(tiles)
    rows = tiles // cols
    inner = shapely.box(west + 50, north - rows * step + 50, west + cols * step - 50, north - 50)
    to = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    folder.mkdir(parents=True, exist_ok=True)
    area = shapely.transform(inner, to.transform, interleaved=False)
    (folder / "area.geojson").write_text(shapely.to_geojson(area))
    return BasinConfig(
        aoi=str(folder / "area.geojson"),
        source=str(scene.items),
        model=str(model),
        out=str(folder),
        year=2018,
        crs=CRS,
        tile=TILE,
        block=TILE,
        halo=HALO,
        device="cpu",
    )


def listing():
    """Seconds to learn the state of 10,000 finished tiles from the ledger, on this disk."""
    with tempfile.TemporaryDirectory() as folder:
        objects = open_objects(folder, make=True)
        tiles = [f"r{n // 100:04d}c{n % 100:04d}" for n in range(LEDGER_TILES)]
        for tile in tiles:
            objects.put(f"attempts/{tile}/1.json", b"{}")
            objects.put(f"done/{tile}.json", b"{}")
        begin = time.perf_counter()
        states = Ledger(objects).states(tiles)
        seconds = time.perf_counter() - begin
    assert all(state.status == "done" for state in states.values())
    return seconds


def page(runs, listed, workers):
    """Markdown: what was measured, and the whole basin from it."""
    columns = ("tiles", "s", "s a megapixel", "read, s", "classify, s", "write, s", "peak memory")
    lines = [
        "# Scaling",
        "",
        f"`python -m benchmarks.basin` writes this page. Measured {datetime.now(UTC):%Y-%m-%d} on",
        f"{machine()}: simulated scenes of three months, tiles of {TILE} pixels with a halo of",
        f"{HALO}, a U-Net of full size without training, {workers} workers of one thread on a",
        "LocalCluster. Seconds by stage are those of all tiles together.",
        "",
        f"| {' | '.join(columns)} | tasks a tile |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    lines += [
        f"| {r.tiles} | {r.seconds:.1f} | {r.per_megapixel:.1f} | {r.by_stage['read']:.1f} | "
        f"{r.by_stage['classify']:.1f} | {r.by_stage['write']:.2f} | "
        f"{r.peak_memory / 1e9:.2f} GB | {r.tasks / r.tiles:.1f} |"
        for r in runs
    ]
    lines += [
        "",
        "One tile keeps one worker busy and the others idle: compare from as many tiles as there",
        "are workers on. Peak memory is that of the largest worker since it began.",
        "",
        f"The state of {LEDGER_TILES:,} finished tiles is read from the ledger in {listed:.1f} s",
        "(this disk; a store with requests over a network answers 1,000 keys a request).",
        "",
        *_whole_basin(runs[-1]),
    ]
    return "\n".join(lines)


def _whole_basin(last):
    """What the largest run says of 67 gigapixels, and what it does not."""
    megapixels = last.tiles * TILE**2 / 1e6
    read, forward = (last.by_stage[name] / megapixels for name in ("read", "classify"))
    small = ((TILE + 2 * HALO) / TILE) ** 2
    large = ((AMAZON_TILE + 2 * models.entry("u-net").halo) / AMAZON_TILE) ** 2
    hours = (read + forward) / small * large * AMAZON_GIGAPIXELS * 1000 / 3600
    return [
        "## The whole basin",
        "",
        f"{AMAZON_GIGAPIXELS} gigapixels are",
        f"{AMAZON_GIGAPIXELS * 1e9 / AMAZON_TILE**2:,.0f} tiles of {AMAZON_TILE:,} pixels. In",
        "seconds of one core of this machine a megapixel mapped, the largest run above took",
        f"{read:.1f} to read and {forward:.1f} for the forward pass, with {small:.2f} pixels",
        f"computed for each one mapped; tiles of {AMAZON_TILE:,} pixels with the U-Net's own halo",
        f"need {large:.2f}. At these rates the basin takes {hours:,.0f} core hours.",
        "",
        "    hours = megapixels x (read + forward) x computed for one mapped / 3600 / workers",
        "",
        "The forward pass belongs on GPUs, where it was not measured; then reading bounds the",
        f"run, with {read / (read + forward):.0%} of the core hours here. It grows with the scenes",
        "of a year and the way to their store, which were three months and a disk. Put the rates",
        "of your machines into `seconds_per_megapixel` and `price_per_hour`: `basin plan` prints",
        "hours and",
        "cost from them, and nothing without.",
        "",
    ]


if __name__ == "__main__":
    main()
