"""Two rates that the model of the whole basin needs: the real network's, and that of reading."""

import time
from dataclasses import asdict, dataclass

import dask
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import scenes
from benchmarks.basin.world import BANDS, CRS, DATES
from deepforest_xr import models
from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.grid import Grid
from deepforest_xr.testing import open_scene, simulate_scene

SIDE, SCENE, WINDOW, MONTHS = 320, 1024, 2048, (6, 7, 8)
SAMPLE_BYTES, COARSE = 2, ("B11", "B12", "SCL")


@dataclass(frozen=True)
class Forward:
    """The network on one device."""

    device: str
    side: int  # pixels
    seconds: list  # of each turn
    flop: int  # of one forward pass, as torch counts them

    @property
    def megapixels(self):
        return self.side**2 / 1e6


def measure(out, *, repeats, ground, across, side=SIDE):
    """The full U-Net on one core, and on a GPU where there is one; reading in two ways.

    `ground` are scenes on one grid, `across` its pixels.
    """
    found = [forward("cpu", side=side, repeats=repeats)]
    if torch.cuda.is_available():
        found.append(forward("cuda", side=4 * side, repeats=repeats))
    own = read_window(ground, scenes.grid(across), min(across, WINDOW), DATES, repeats)
    both = {"native": own, "warped": warped(out, repeats)}
    return {"forward": [asdict(one) for one in found], **both}


def forward(device, *, side, repeats):
    """Random weights cost what trained ones do."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = models.build("u-net", bands=len(BANDS), classes=13).eval()
        network = models.optimize_for_inference(network).to(device)
        image = torch.randn(1, len(BANDS), side, side, device=device)
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                network(image)
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                network(image).sum().item()  # waits for a GPU
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    name = torch.cuda.get_device_name() if device == "cuda" else "one core"
    return Forward(name, side, seconds, counter.get_total_flops())


def warped(out, repeats):
    """Scenes of two UTM zones, with clouds and overlaps, onto the grid of one."""
    folder = out / "scene"
    if (folder / "items.json").exists():
        scene = open_scene(folder)
    else:
        scene = simulate_scene(folder, shape=(SCENE, SCENE), months=MONTHS, missing_months=())
    return read_window(scene.items, scene.grid, SCENE - 64, len(MONTHS), repeats)


def read_window(file, grid, side, dates, repeats):
    """Seconds from scenes to a composite of a corner, on one core."""
    left, _, _, top = grid.bounds
    window = Grid.from_bounds((left, top - 10 * side, left + 10 * side, top), crs=CRS)
    items, seconds = read_items(file), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with dask.config.set(scheduler="synchronous"):
            open_cube(items, grid=window, dataset="S2", bands=list(BANDS)).load()
        seconds.append(time.perf_counter() - start)
    # The first turn opens the files.
    return {"side": side, "dates": dates, "seconds": seconds[1:], "bytes": dates * per_date(side)}


def per_date(side):
    """Bytes of one date, uncompressed: bands of 10 m, and those of 20 m with a quarter of it."""
    samples = sum(0.25 if band in COARSE else 1 for band in (*BANDS, "SCL"))
    return int(samples * SAMPLE_BYTES * side**2)
