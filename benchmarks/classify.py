"""`classify` from Zarr to Zarr against a loop written by hand with the same network and halo."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr

import deepforest_xr as dfx
from benchmarks.measure import compare
from deepforest_xr.sentinel.s2 import BANDS

SHAPE = (768, 1152)
BLOCK = 384
HALO = 128


def run():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cube = _cube(folder / "cube.zarr")
        torch.manual_seed(0)
        network = dfx.models.build("u-net").eval()
        checkpoint = dfx.models.Checkpoint.from_module(
            network, bands=BANDS, mean=[0.2] * len(BANDS), std=[0.1] * len(BANDS)
        )
        yield compare(
            "classify, Zarr to Zarr",
            lambda: dfx.write_zarr(
                dfx.classify(cube, checkpoint, block=BLOCK, halo=HALO),
                folder / "map.zarr",
                overwrite=True,
            ),
            lambda: _loop(folder, dfx.models.optimize_for_inference(network)),
            names=("`classify` and `write_zarr`", "loop: read, forward, argmax, write"),
            note=f"u-net, {SHAPE[0]} x {SHAPE[1]} x 10 bands, blocks of {BLOCK}, halo {HALO}, CPU",
            repeats=3,
        )


def _cube(path):
    grid = dfx.Grid.from_bounds((0, 0, 10 * SHAPE[1], 10 * SHAPE[0]), crs="EPSG:32721")
    rng = np.random.default_rng(0)
    values = rng.random((len(BANDS), *SHAPE), dtype="float32")
    cube = xr.Dataset(
        {"s2": (("band", "y", "x"), values)}, coords={"band": list(BANDS), **grid.coords()}
    )
    dfx.write_zarr(cube.chunk(y=BLOCK, x=BLOCK), path)
    return xr.open_zarr(path)


@torch.inference_mode()
def _loop(folder, network):
    source = zarr.open_group(folder / "cube.zarr", mode="r")["s2"]
    target = zarr.open_group(folder / "loop.zarr", mode="w")
    target = target.create_array("lulc", shape=SHAPE, chunks=(BLOCK, BLOCK), dtype="uint8")
    for top in range(0, SHAPE[0], BLOCK):
        for left in range(0, SHAPE[1], BLOCK):
            rows = slice(max(top - HALO, 0), min(top + BLOCK + HALO, SHAPE[0]))
            cols = slice(max(left - HALO, 0), min(left + BLOCK + HALO, SHAPE[1]))
            window = ((source[:, rows, cols] - 0.2) / 0.1).astype("float32")
            classes = network(torch.from_numpy(window)[None])[0].argmax(0).numpy() + 1
            y, x = top - rows.start, left - cols.start
            target[top : top + BLOCK, left : left + BLOCK] = classes[y : y + BLOCK, x : x + BLOCK]
