"""Batches of training chips against bare Zarr and against xbatcher, on the same pixels.

`python -m benchmarks.chips` prints the ratios; a peer that is not installed is left out.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr

from benchmarks.measure import compare
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.training import TrainSettings
from deepforest_xr.training.data import loader

SIDE = 1536
SIZE = 128
MONTHS = range(4, 11)
BATCH = 8


def run():
    with tempfile.TemporaryDirectory() as folder:
        cube, labels = scene()
        spec = ChipSpec(size=SIZE, buffer=0, fractions=(0.98, 0.01, 0.01))
        path = write_chips(cube, labels, Path(folder) / "chips.zarr", spec=spec)
        chips = open_chips(path)
        batches = streamed(chips)
        count = len(chips.indices("train"))
        note = (
            f"{count} chips of {SIZE} x {SIZE} pixels, {len(BANDS)} bands and {len(MONTHS)} "
            "Sentinel-1 months, one process, files in the page cache"
        )
        yield compare(
            "an epoch of training batches",
            lambda: spend(batches),
            lambda: raw(path, chips.indices("train")),
            names=("`training.data.loader`", "bare `zarr`, integers as they are, in order"),
            note=f"{note}; ours shuffled, scaled, standardised and turned",
            repeats=5,
        )
        yield from against_xbatcher(cube, labels, Path(folder), batches, note)


def scene():
    """A cube with the noise and the smoothness of a landscape."""
    grid = Grid.from_bounds((0, 0, 10 * SIDE, 10 * SIDE), crs="EPSG:32721")
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.standard_normal(grid.shape), axis=0), axis=1)
    smooth = ((smooth - smooth.mean()) / smooth.std()).astype("float32")
    noise = rng.standard_normal((len(BANDS), *grid.shape), dtype="float32")
    power = rng.standard_normal((len(MONTHS), 2, *grid.shape), dtype="float32")
    data = {
        "s2": (("band", "y", "x"), 0.3 + 0.05 * smooth + 0.02 * noise),
        "s1": (("month", "polarization", "y", "x"), -10 + 2 * smooth + power),
    }
    coords = {"band": list(BANDS), "month": list(MONTHS), "polarization": ["vv", "vh"]}
    codes = np.clip(7 + 3 * smooth, 1, 13).astype("uint8")
    labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=amazon13().attrs())
    return xr.Dataset(data, coords=coords | grid.coords()), labels


def streamed(chips):
    channels = 2 * len(chips.months) + len(chips.bands)
    standard = Standardisation(
        np.zeros(channels, "float32"), np.ones(channels, "float32"), len(chips.months), True
    )
    return loader(chips, "train", standard, TrainSettings(batch=BATCH), training=True)


def spend(batches):
    """Go through an epoch; touch every batch."""
    return sum(int(batch.target[0, 0, 0]) for batch in batches)


def raw(path, chips):
    """Every array of every chip as zarr gives it, stacked to batches."""
    root = zarr.open_group(path, mode="r")
    arrays = [root[name] for name in ("s2", "s1", "label")]
    for begin in range(0, len(chips), BATCH):
        for array in arrays:
            torch.from_numpy(np.stack([array[int(c)] for c in chips[begin : begin + BATCH]]))


def against_xbatcher(cube, labels, folder, batches, note):
    """The same cube as Zarr, cut on the fly."""
    if find_spec("xbatcher") is None:
        print("xbatcher is not installed: pip install xbatcher to compare with it.")
        return
    import xbatcher

    # The peer's store has the same integers in chunks as large as a chip.
    packed = {
        "s2": (cube["s2"].clip(1e-4) * 10_000).round().astype("uint16"),
        "s1": (cube["s1"] * 100).round().astype("int16"),
        "label": labels,
    }
    store = xr.Dataset(packed).drop_vars("spatial_ref", errors="ignore").drop_attrs()
    store.chunk({"y": SIZE, "x": SIZE}).to_zarr(folder / "cube.zarr", consolidated=False)

    def epoch():
        opened = xr.open_zarr(folder / "cube.zarr", consolidated=False)
        cuts = xbatcher.BatchGenerator(opened, input_dims={"y": SIZE, "x": SIZE})
        for cut in cuts:
            s2 = torch.from_numpy(cut["s2"].to_numpy() / np.float32(10_000))
            s1 = torch.from_numpy(cut["s1"].to_numpy() / np.float32(100))
            int(s2[0, 0, 0] + s1[0, 0, 0, 0] + int(cut["label"].to_numpy()[0, 0]))

    yield compare(
        "an epoch of training batches",
        lambda: spend(batches),
        epoch,
        names=("`training.data.loader`", "`xbatcher.BatchGenerator` on the cube's Zarr"),
        note=f"{note}; the peer in order, scaled only, over all chips of the area",
        repeats=3,
    )


if __name__ == "__main__":
    for result in run():
        print(
            f"{result.what}: {result.ours_seconds:.2f} s, {result.peer} "
            f"{result.peer_seconds:.2f} s: {result.ratio:.2f} x"
        )
