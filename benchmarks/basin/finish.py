"""Seconds and memory of `finish_basin` on tiles of full size, each run in a fresh process.

No scene is read and no network runs: tiles are put as a run would put them, with a landscape as
their classes. What finishing costs depends on pixels alone, and on how well they compress.
"""

import gc
import hashlib
import json
import multiprocessing
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.basin.model import TILE
from benchmarks.basin.scaling import forget_peak, status
from benchmarks.basin.world import checkpoint, config, ground, narrowed, side_for
from deepforest_xr.basin import open_plan, plan_basin, template
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.tile import shard_keys
from deepforest_xr.testing.landscape import landscape

PATCH = 2048
"""Side of the landscape that tiles are laid with; shifted anew each time, it repeats nowhere."""

RAGGED = 0.05
"""Share of pixels that take their class from up to two pixels beside them: edges are ragged."""

STEPS = ("Verifying tiles", "Building the pyramid", "Writing GeoTIFFs", "Summing areas")
REST = "picture, page, catalog"


@dataclass(frozen=True)
class Finish:
    """One basin, finished once."""

    tiles: int
    workers: int
    tile: int  # side in pixels
    seconds: float  # wall clock
    cpu_seconds: float
    held: int  # bytes that the process held when it began
    peak: int  # bytes that it held at most; it has no children
    steps: dict  # (seconds, peak) by step
    shards: int  # bytes of the map that it was made from
    pyramid: int  # bytes written to the map's store
    cogs: int  # bytes of GeoTIFFs
    files: int  # bytes of all files, GeoTIFFs too


def measure(out, *, sizes, workers=(1, 2), repeats=1, tile=TILE):
    """Every size with every number of workers, in turns."""
    folders = {tiles: prepared(out, tiles, max(sizes), tile) for tiles in sizes}
    runs = []
    for turn in range(repeats):
        for tiles, folder in folders.items():
            for count in workers:
                runs.append(run(folder, out / "finishing", workers=count))
                print(f"turn {turn + 1}: {tiles} tiles: {runs[-1]}", flush=True)
    return {"runs": [asdict(r) for r in runs]}


def run(folder, copy, *, workers):
    """Finish a copy of a basin in a process that has done nothing before."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        told = pool.submit(finish, copy, workers).result()
    shutil.rmtree(copy)
    return told


def finish(folder, workers):
    """In that process: finish, and tell what it took step by step."""
    from deepforest_xr.basin.finish import finish_basin
    from deepforest_xr.maps.canvas import require_matplotlib

    require_matplotlib()
    plan, steps = open_plan(folder), {}
    gc.collect()
    forget_peak()
    held, peak, cpu = status("VmRSS"), 0, time.process_time()
    start = last = time.perf_counter()

    def end(step):
        nonlocal peak, last
        now, most = time.perf_counter(), status("VmHWM")
        steps[step], last, peak = (now - last, most), now, max(peak, most)
        forget_peak()

    finish_basin(
        plan,
        workers=workers,
        progress=lambda step, done, total: end(step) if done == total else None,
    )
    end(REST)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss:
        raise SystemExit("finish has started a process, whose memory is not counted")
    card = json.loads((folder / "finish" / "finished.json").read_text(encoding="utf-8"))
    files = card["files"]
    return Finish(
        tiles=len(plan.tiles),
        workers=workers,
        tile=plan.tiling.tile,
        seconds=seconds,
        cpu_seconds=cpu,
        held=held,
        peak=peak,
        steps=steps,
        shards=sum((folder / key).stat().st_size for t in plan.tiles for key in _keys(t)),
        pyramid=sum(card["pyramid"]["objects"].values()),
        cogs=sum(size for name, size in files.items() if name.endswith(".tif")),
        files=sum(files.values()),
    )


def _keys(tile):
    return shard_keys(tile).values()


def prepared(out, tiles, most, tile):
    """Folder of a basin whose tiles are done; made once."""
    folder = out / f"finish-{tiles}-of-{tile}"
    if (folder / "ready").exists():
        return folder / "basin"
    shutil.rmtree(folder, ignore_errors=True)
    items = ground(out, side_for(most, tile), has_pixels=False)
    with narrowed():
        how = {"tiles": tiles, "tile": tile, "inside": tile}
        plan = plan_basin(config(items, checkpoint(out), folder, **how))
    if len(plan.tiles) != tiles:
        raise SystemExit(f"{len(plan.tiles)} tiles were planned, not {tiles}")
    fill(plan)
    (folder / "ready").touch()
    return folder / "basin"


def fill(plan):
    """Put every tile, and record it as done."""
    rng, ledger = np.random.default_rng(0), Ledger(plan.open())
    side, patch = plan.tiling.tile, min(PATCH, plan.tiling.tile)
    land = landscape((patch, patch), seed=0)
    # Of unit variance, and in patches like fields.
    sure = gaussian_filter(rng.standard_normal(land.shape), 8, mode="wrap")
    sure = (sure / sure.std()).astype("float32")
    for tile in plan.tiles:
        layers = {name: np.zeros((side, side), dtype="uint8") for name in template.VARIABLES}
        for row, col in np.ndindex(side // patch, side // patch):
            place = np.s_[row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
            layers["lulc"][place], layers["confidence"][place] = mapped(land, sure, rng)
        record(plan, ledger, tile, layers)
    ledger.close()


def mapped(land, sure, rng):
    """Classes as a classifier leaves them, and confidence in percent."""
    offset = rng.integers(0, land.shape[0], 2)
    codes = np.roll(land, offset, axis=(0, 1))
    near = np.roll(codes, rng.integers(-2, 3, 2), axis=(0, 1))
    codes = np.where(rng.random(codes.shape) < RAGGED, near, codes)
    noise = rng.standard_normal(codes.shape, dtype="float32")
    percent = 80 + 10 * np.roll(sure, offset, axis=(0, 1)) + 2 * noise
    return codes, np.rint(percent.clip(20, 100)).astype("uint8")


def record(plan, ledger, tile, layers):
    """Put the shards of a tile and its record, as `make_tile` and a runner do."""
    shards = {}
    for name, key in shard_keys(tile).items():
        content = template.encode(layers[name], plan.tiling.tile)
        ledger.objects.put(key, content)
        digest = hashlib.sha256(content).hexdigest()
        shards[name] = {"key": key, "sha256": digest, "size": len(content)}
    told = {
        "tile": tile.id,
        "run_id": plan.run_id,
        "pixels": layers["lulc"].size,
        "classes": {},
        "nodata": float((layers["lulc"] == 0).mean()),
        "seconds": dict.fromkeys(("read", "classify", "map", "write"), 0.0),
        "shards": shards,
        "read_failures": [],
        "versions": plan.versions,
    }
    lease = ledger.claim(ledger.states([tile.id])[tile.id])
    if not ledger.finish(lease, told):
        raise SystemExit(f"tile {tile.id} was not recorded")
