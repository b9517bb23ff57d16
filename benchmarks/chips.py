"""Batches of training chips against bare Zarr, xbatcher and torchgeo, on the same pixels.

`python -m benchmarks.chips` prints the ratios; a peer that is not installed is left out.
"""

import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import rasterio
import torch
import xarray as xr
import zarr
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import compare
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.chips.pack import PACKINGS
from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.training import TrainSettings
from deepforest_xr.training.data import EpochOrder, _turn, loader

SIDE = 1536
SIZE = 128
MONTHS = range(4, 11)
BATCH = 8
WHAT = "an epoch of training batches"
OURS = "`training.data.loader`"


def run():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cube, labels = scene()
        spec = ChipSpec(size=SIZE, buffer=0, fractions=(0.98, 0.01, 0.01))
        chips = open_chips(write_chips(cube, labels, folder / "chips.zarr", spec=spec))
        count = len(chips.indices("train"))
        note = (
            f"{count} chips of {SIZE} x {SIZE} pixels, {len(BANDS)} bands and {len(MONTHS)} "
            "Sentinel-1 months, one process, files in the page cache; ours shuffled, scaled, "
            "standardised and turned"
        )
        yield from against_zarr(chips, note)
        if is_installed("xbatcher"):
            yield against_xbatcher(chips, packed(cube, labels), folder, note)
        if is_installed("torchgeo"):
            yield against_torchgeo(chips, packed(cube, labels), folder, note)


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


def packed(cube, labels):
    """The peers' pixels: the same integers."""
    arrays = {name: (cube[name].dims, p.pack(cube[name].to_numpy())[0])
              for name, p in PACKINGS.items()}  # fmt: skip
    return xr.Dataset({**arrays, "label": (("y", "x"), labels.to_numpy())})


def is_installed(peer):
    if find_spec(peer) is None:
        print(f"{peer} is not installed: pip install {peer} to compare with it.", file=sys.stderr)
        return False
    return True


def streamed(chips):
    channels = 2 * len(chips.months) + len(chips.bands)
    standard = Standardisation(
        np.zeros(channels, "float32"), np.ones(channels, "float32"), len(chips.months), True
    )
    return loader(chips, "train", standard, TrainSettings(batch=BATCH), training=True)


def spend(batches):
    """Go through an epoch; touch every batch."""
    return sum(int(batch.target[0, 0, 0]) for batch in batches)


def against_zarr(chips, note):
    """Every array of every chip as zarr gives it, chip by chip and in the largest pieces."""
    root = zarr.open_group(chips.path, mode="r")
    arrays = [root[name] for name in ("s2", "s1", "label")]
    wanted = chips.indices("train")

    def one_by_one():
        for begin in range(0, len(wanted), BATCH):
            for array in arrays:
                torch.from_numpy(np.stack([array[int(c)] for c in wanted[begin : begin + BATCH]]))

    def whole_shards():
        step = arrays[0].shards[0]
        for begin in range(0, int(wanted.max()) + 1, step):
            for array in arrays:
                torch.from_numpy(array[begin : begin + step])

    batches = streamed(chips)
    for peer, name in (
        (one_by_one, "bare `zarr`, integers as they are, in order"),
        (whole_shards, "bare `zarr`, whole shards of integers, in order"),
    ):
        yield compare(WHAT, lambda: spend(batches), peer, names=(OURS, name), note=note)


class FromXbatcher(Dataset):
    """The chips of `data`, cut from the cube's Zarr, and the same steps after it, one by one."""

    def __init__(self, data, opened):
        import xbatcher

        # All dims are given: others it would stack to one, broadcast against each other.
        self.cuts = xbatcher.BatchGenerator(opened, dict(opened.sizes) | {"y": SIZE, "x": SIZE})
        self.data = data
        (part,) = data.chips.parts
        self.number = (part.row // SIZE * (SIDE // SIZE) + part.col // SIZE)[data.indices]

    def __getitem__(self, draw):
        cut = self.cuts[int(self.number[draw.position])]
        s2, s1 = (p.unpack(cut[name].to_numpy()) for name, p in PACKINGS.items())
        index = self.data.index_of_code[cut["label"].to_numpy()]
        found = [*self.data.standardisation.apply(s2, s1), index]
        turned = _turn(found, (self.data.augment_seed, draw.epoch, draw.number))
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in turned]


def against_xbatcher(chips, pixels, folder, note):
    """The same cube as Zarr, cut on the fly; the same chips in the same order, turned alike."""
    whole = dict.fromkeys(pixels.dims, -1) | {"y": SIZE, "x": SIZE}  # a chunk holds one chip
    pixels.chunk(whole).to_zarr(folder / "cube.zarr", consolidated=False)
    # Without dask, which would only add its tasks to every chip.
    opened = xr.open_zarr(folder / "cube.zarr", consolidated=False, chunks=None)
    ours = streamed(chips)
    order = EpochOrder(ours.dataset, TrainSettings().seed)
    theirs = DataLoader(FromXbatcher(ours.dataset, opened), batch_size=BATCH, sampler=order)
    for batch, (s2, s1, target) in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, (*batch.inputs, batch.target), (s2, s1, target)))
    return compare(
        WHAT,
        lambda: spend(ours),
        lambda: sum(int(target[0, 0, 0]) for _, _, target in theirs),
        names=(OURS, "`xbatcher.BatchGenerator` on the cube's Zarr"),
        note=f"{note}, and the peer's chips likewise: same order, equal tensors",
        repeats=5,
    )


def against_torchgeo(chips, pixels, folder, note):
    """The same pixels as tiled GeoTIFF, read wherever the peer's sampler draws a chip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        RasterDataset, RandomGeoSampler, stack_samples = import_torchgeo()  # noqa: N806
    (part,) = chips.parts
    layers = {}
    for name in ("s2", "s1", "label"):
        write_tiff(folder / f"{name}.tif", pixels[name].to_numpy(), part.grid)
        layers[name] = RasterDataset(str(folder / f"{name}.tif"))
    layers["label"].is_image = False
    together = layers["s2"] & layers["s1"] & layers["label"]
    count = len(chips.indices("train"))
    sampler = RandomGeoSampler(together, size=SIZE, length=count)
    theirs = DataLoader(together, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples)
    channels = len(BANDS) + 2 * len(MONTHS)
    assert next(iter(theirs))["image"].shape == (BATCH, channels, SIZE, SIZE)

    def epoch():
        return sum(int(batch["mask"][0, 0, 0]) for batch in theirs)

    batches = streamed(chips)
    return compare(
        WHAT,
        lambda: spend(batches),
        epoch,
        names=(OURS, "`torchgeo.samplers.RandomGeoSampler` on tiled GeoTIFF"),
        note=f"{note}; the peer's as many and as large, at random places, cast to float32 only",
        repeats=3,
    )


def write_tiff(path, values, grid):
    """All channels of a tile in one block, as the chips have them, and as hard compressed."""
    layers = values.reshape(-1, *values.shape[-2:])
    with rasterio.open(
        path, "w", driver="GTiff", dtype=layers.dtype, count=len(layers), crs=grid.crs.to_wkt(),
        transform=grid.transform, height=grid.shape[0], width=grid.shape[1], tiled=True,
        blockxsize=SIZE, blockysize=SIZE, interleave="pixel", compress="zstd", zstd_level=3,
    ) as file:  # fmt: skip
        file.write(layers)


def import_torchgeo():
    """Import the peer, also beside a torch without CUDA.

    PyPI's torchvision, which torchgeo needs, is built for CUDA. Beside a CPU torch its
    compiled operators do not load and it fails to import; nothing here calls any of them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    return RasterDataset, RandomGeoSampler, stack_samples


if __name__ == "__main__":
    for result in run():
        print(
            f"{result.what}: {result.ours_seconds:.2f} s, {result.peer} "
            f"{result.peer_seconds:.2f} s: {result.ratio:.2f} x"
        )
