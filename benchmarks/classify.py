"""`classify` from Zarr to Zarr against other ways of tiling, with one network on one scene.

`python -m benchmarks.classify` prints what it measures, `--model FOLDER` takes a U-Net that is
trained on the ten bands and saves two minutes. Peers that are not installed are left out.
Beside the speed of each stands how far its map is from one pass over the whole scene: a fast
loop with seams is no peer of a slower one without.
"""

import argparse
import tempfile
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import dask
import numpy as np
import rasterio
import torch
import xarray as xr
import zarr

import deepforest_xr as dfx
from benchmarks.chips import import_torchgeo, is_installed
from benchmarks.measure import Result, in_turns
from benchmarks.postprocess import trained
from deepforest_xr.classify import predict
from deepforest_xr.classify.predict import Predictor, predictor
from deepforest_xr.models.checkpoint import load
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.testing import simulate_scene

SHAPE = (768, 1152)
BLOCK = 384
HALO = 128
STAMP = 256
WHAT = "classify, Zarr to Zarr"
OURS = "`classify` and `write_zarr`"

BARE_SHAPE = (2048, 2560)
BARE_MONTHS = range(4, 11)
BARE = ((512, 0), (512, 256), (512, 544), (1024, 0), (1024, 256), (1024, 544))  # block and halo

# Dask threads, torch threads, and whether the lock around the forward is taken.
THREADS = ((1, 1, True), (1, 2, True), (2, 1, True), (2, 2, True), (2, 1, False), (2, 2, False))


@dataclass(frozen=True)
class Scene:
    """One scene as Zarr and as GeoTIFF, and the network."""

    kept: tempfile.TemporaryDirectory
    folder: Path
    model: object  # folder of the checkpoint
    network: object  # optimized
    scale: tuple  # mean and standard deviation, (band, 1, 1)
    codes: np.ndarray  # of the network's outputs
    whole: np.ndarray  # map of one pass

    def standard(self, pixels):
        return torch.from_numpy(((pixels - self.scale[0]) / self.scale[1]).astype("float32"))

    def target(self, name):
        group = zarr.open_group(self.folder / f"{name}.zarr", mode="w")
        return group.create_array("lulc", shape=SHAPE, chunks=(BLOCK, BLOCK), dtype="uint8")

    def seams(self, name):
        """Share of the pixels of a written map that are not those of one pass."""
        made = zarr.open_group(self.folder / f"{name}.zarr", mode="r")["lulc"][:]
        return (made != self.whole).mean()


def run(model=None, repeats=2):
    """Yield ours against each peer; all take their turns in one run."""
    scene = _scene(model)
    ways = {"ours": (OURS, partial(_ours, scene)), **_peers(scene)}
    spent = {key: [] for key in ways}
    times = in_turns(
        {key: partial(_counted, call, spent[key]) for key, (_, call) in ways.items()},
        repeats=repeats,
    )
    seconds = {key: median(taken) for key, taken in times.items()}
    cpu = {key: median(taken[1:]) for key, taken in spent.items()}  # the first was to warm up
    for key, (title, _) in ways.items():
        if key != "ours":
            note = _note(scene, key, seconds, cpu)
            yield Result(WHAT, OURS, title, seconds["ours"], seconds[key], note)


def _counted(call, spent):
    """CPU seconds of all cores beside the wall clock's: they hold on a busy machine too."""
    begin = time.process_time()
    call()
    spent.append(time.process_time() - begin)


def _note(scene, key, seconds, cpu):
    speed = {way: SHAPE[0] * SHAPE[1] / 1e3 / taken for way, taken in seconds.items()}
    return (
        f"u-net, {SHAPE[0]} x {SHAPE[1]} x {len(BANDS)} bands, CPU; thousand pixels a second, CPU "
        f"seconds and pixels that differ from one pass: peer {speed[key]:.0f}, {cpu[key]:.1f}, "
        f"{100 * scene.seams(key):.2g} %, ours (blocks of {BLOCK}, halo {HALO}) "
        f"{speed['ours']:.0f}, {cpu['ours']:.1f}, {100 * scene.seams('ours'):.2g} %"
    )


def _peers(scene):
    found = {
        "loop": ("loop: read, forward, argmax, write, same halo", partial(_loop, scene)),
        "stamps": (
            f"stamps of {STAMP}, half overlapping, mean probability",
            partial(_stamps, scene),
        ),
    }
    if is_installed("torchgeo"):
        _write_tiff(scene)
        found["torchgeo"] = (
            "`torchgeo.samplers.GridGeoSampler` on GeoTIFF, same halo",
            _torchgeo(scene),
        )
    if is_installed("terratorch"):
        tiled = _terratorch()
        size = BLOCK + 2 * HALO
        for key, title, options in (
            ("terratorch", "same halo", {"crop": size, "stride": BLOCK, "delta": HALO}),
            ("terratorch-default", "its defaults: 224, 192, 8", {}),
        ):
            call = partial(_tiled, scene, tiled, key, options)
            found[key] = (f"`terratorch` `tiled_inference`, {title}", call)
    return found


@cache
def _scene(model):
    """Made once; its folder goes with the process."""
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    if model is None:
        if find_spec("torchgeo"):
            import_torchgeo()  # lightning imports its torchvision, which needs the same help
        model = trained(folder / "training", "S2")
    _write_cube(folder)
    checkpoint = load(model)
    scale = tuple(np.array(v, "float32")[:, None, None] for v in (checkpoint.mean, checkpoint.std))
    cube = xr.open_zarr(folder / "cube.zarr")
    whole = dfx.classify(cube, model, block=2048, device="cpu")["lulc"].to_numpy()
    network = dfx.models.optimize_for_inference(checkpoint.build())
    codes = np.array(checkpoint.legend.codes, dtype="uint8")
    return Scene(kept, folder, model, network, scale, codes, whole)


def _write_cube(folder):
    """A simulated scene; missing pixels have their band's mean, so that no peer meets NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = simulate_scene(folder / "scene", shape=SHAPE, seed=7, months=(6, 7, 8))
        cube = dfx.open_cube(dfx.read_items(made.items), grid=made.grid, dataset="S2").load()
    cube = cube.assign(s2=cube["s2"].fillna(cube["s2"].mean(("y", "x"))))
    dfx.write_zarr(cube.chunk(y=BLOCK, x=BLOCK), folder / "cube.zarr")


def _ours(scene):
    cube = xr.open_zarr(scene.folder / "cube.zarr")
    made = dfx.classify(cube, scene.model, block=BLOCK, halo=HALO, device="cpu")
    dfx.write_zarr(made, scene.folder / "ours.zarr", overwrite=True)


@torch.inference_mode()
def _loop(scene):
    source = zarr.open_group(scene.folder / "cube.zarr", mode="r")["s2"]
    target = scene.target("loop")
    for top in range(0, SHAPE[0], BLOCK):
        for left in range(0, SHAPE[1], BLOCK):
            rows = slice(max(top - HALO, 0), min(top + BLOCK + HALO, SHAPE[0]))
            cols = slice(max(left - HALO, 0), min(left + BLOCK + HALO, SHAPE[1]))
            window = scene.standard(source[:, rows, cols])
            classes = scene.codes[scene.network(window[None])[0].argmax(0).numpy()]
            y, x = top - rows.start, left - cols.start
            target[top : top + BLOCK, left : left + BLOCK] = classes[y : y + BLOCK, x : x + BLOCK]


@torch.inference_mode()
def _stamps(scene):
    """Mean of the probabilities of all stamps that hold a pixel."""
    source = zarr.open_group(scene.folder / "cube.zarr", mode="r")["s2"]
    total = np.zeros((len(scene.codes), *SHAPE), dtype="float32")
    for top in range(0, SHAPE[0] - STAMP // 2, STAMP // 2):
        for left in range(0, SHAPE[1] - STAMP // 2, STAMP // 2):
            at = (slice(None), slice(top, top + STAMP), slice(left, left + STAMP))
            total[at] += scene.network(scene.standard(source[at])[None])[0].softmax(0).numpy()
    scene.target("stamps")[:] = scene.codes[total.argmax(axis=0)]


def _write_tiff(scene):
    cube = xr.open_zarr(scene.folder / "cube.zarr")
    grid = dfx.Grid.of(cube)
    with rasterio.open(
        scene.folder / "s2.tif", "w", driver="GTiff", dtype="float32", count=len(BANDS),
        crs=grid.crs.to_wkt(), transform=grid.transform, height=SHAPE[0], width=SHAPE[1],
        tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="zstd", zstd_level=3,
    ) as file:  # fmt: skip
        file.write(cube["s2"].to_numpy())


def _torchgeo(scene):
    """Chips with the halo in them, from which the middle is kept, and the edge of the scene."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        RasterDataset, _, _ = import_torchgeo()  # noqa: N806
        from torchgeo.samplers import GridGeoSampler
    size = BLOCK + 2 * HALO
    data = RasterDataset(str(scene.folder / "s2.tif"))
    sampler = GridGeoSampler(data, size=size, stride=BLOCK)
    batches = torch.utils.data.DataLoader(data, sampler=sampler, batch_size=None)
    grid = dfx.Grid.of(xr.open_zarr(scene.folder / "cube.zarr"))

    @torch.inference_mode()
    def loop():
        target = scene.target("torchgeo")
        for sample in batches:
            x, y = sample["bounds"][:2]
            left, top = (round(v) for v in ~grid.transform @ (x.start, y.stop))
            found = scene.network(scene.standard(sample["image"].numpy())[None])[0]
            classes = scene.codes[found.argmax(0).numpy()]
            rows, cols = (_kept(at, n, size) for at, n in zip((top, left), SHAPE, strict=True))
            cut = classes[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
            target[rows, cols] = cut

    return loop


def _kept(first, length, size):
    """The middle of a chip, or up to the edge of the scene."""
    begin = 0 if first <= 0 else first + HALO
    end = length if first + size >= length else first + size - HALO
    return slice(begin, end)


def _terratorch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_torchgeo()  # which it imports, torchvision included
        from terratorch.tasks.tiled_inference import tiled_inference
    return tiled_inference


@torch.inference_mode()
def _tiled(scene, tiled_inference, key, options):
    """As its tasks do it: the scene in memory, logits of all of it, then the classes."""
    source = zarr.open_group(scene.folder / "cube.zarr", mode="r")["s2"]
    image = scene.standard(source[:])[None]
    logits = tiled_inference(scene.network, image, batch_size=1, **options)
    scene.target(key)[:] = scene.codes[logits[0].argmax(0).numpy()]


def overhead():
    """Seconds a megapixel of all but the network, by block and halo."""
    rng = np.random.default_rng(0)
    grid = dfx.Grid.from_bounds((0, 0, 10 * BARE_SHAPE[1], 10 * BARE_SHAPE[0]), crs="EPSG:32721")
    s2 = rng.random((len(BANDS), *BARE_SHAPE), dtype="float32")
    s1 = rng.random((len(BARE_MONTHS), 2, *BARE_SHAPE), dtype="float32") - 15
    cube = xr.Dataset(
        {"s2": (("band", "y", "x"), s2), "s1": (("month", "polarization", "y", "x"), s1)},
        coords={"band": list(BANDS), "month": list(BARE_MONTHS), "polarization": ["vv", "vh"]}
        | grid.coords(),
    )
    channels = 2 * len(BARE_MONTHS) + len(BANDS)
    checkpoint = dfx.models.Checkpoint.from_module(
        dfx.models.build("u-net", bands=channels),
        bands=dfx.models.channel_names(BARE_MONTHS, BANDS),
        months=list(BARE_MONTHS),
        mean=[0.0] * channels,
        std=[1.0] * channels,
    )
    with tempfile.TemporaryDirectory() as name, patch.object(Predictor, "_forward", _constant):
        folder = Path(name)
        dfx.write_zarr(cube.chunk(y=512, x=512), folder / "cube.zarr")
        opened = xr.open_zarr(folder / "cube.zarr")

        def written(block, halo):
            made = dfx.classify(opened, checkpoint, block=block, halo=halo, device="cpu")
            dfx.write_zarr(made, folder / "map.zarr", overwrite=True)

        calls = {key: partial(written, *key) for key in BARE}
        times = in_turns(calls, repeats=3)
    pixels = BARE_SHAPE[0] * BARE_SHAPE[1] / 1e6
    return {key: median(seconds) / pixels for key, seconds in times.items()}


def _constant(self, arrays, device, *, logits):  # noqa: ARG001
    """Every class as likely everywhere: in place of a network."""
    return np.full((len(self.codes), *arrays[0].shape[-2:]), 1 / len(self.codes), dtype="float32")


def threads(model=None, repeats=2):
    """Seconds of `classify` to Zarr by Dask's threads, torch's, and the lock."""
    given = torch.get_num_threads()
    scene = _scene(model)
    loaded = predictor(str(Path(scene.model).resolve()), load(scene.model).identity)
    lock = loaded.lock

    def timed(workers, cores, is_locked):
        loaded.lock = lock if is_locked else nullcontext()
        # Torch keeps the number for each thread apart: it is set where the forward runs.
        set_here = patch.object(predict, "share_cores", partial(torch.set_num_threads, cores))
        with dask.config.set(scheduler="threads", num_workers=workers), set_here:
            _ours(scene)

    try:
        times = in_turns({key: partial(timed, *key) for key in THREADS}, repeats=repeats)
    finally:
        torch.set_num_threads(given)
        loaded.lock = lock
    return {key: median(seconds) for key, seconds in times.items()}


def section(bare, by_threads):
    """Lines of Markdown."""
    pixels = SHAPE[0] * SHAPE[1] / 1e3
    lines = [
        "## Classify",
        "",
        "`python -m benchmarks.classify` gives these numbers alone. No GPU was there.",
        "",
        f"Without the network (a constant in its place): {BARE_SHAPE[0]} x {BARE_SHAPE[1]} pixels,",
        f"{len(BANDS)} bands and {len(BARE_MONTHS)} Sentinel-1 months of float32 noise, in Zarr",
        "chunks of 512, read, standardised and written; seconds a megapixel of the map. Blocks",
        "are no smaller than the halo.",
        "",
        "| block | halo | s/megapixel |",
        "| --- | --- | --- |",
        *(f"| {block} | {halo} | {seconds:.2f} |" for (block, halo), seconds in bare.items()),
        "",
        f"Threads: {SHAPE[0]} x {SHAPE[1]} pixels, blocks of {BLOCK}, halo {HALO}, Dask's threaded",
        "scheduler. `classify` runs one forward at a time, which here can be switched off.",
        "",
        "| Dask threads | torch threads | forwards at once | s | thousand pixels a second |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (workers, cores, is_locked), seconds in by_threads.items():
        at_once = 1 if is_locked else workers
        lines.append(
            f"| {workers} | {cores} | {at_once} | {seconds:.2f} | {pixels / seconds:.0f} |"
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classify")
    parser.add_argument("--model", type=Path)
    chosen = parser.parse_args().model
    for result in run(chosen):
        print(
            f"| {result.what} | {result.ours} | {result.peer} | {result.ours_seconds:.2f} "
            f"| {result.peer_seconds:.2f} | {result.ratio:.2f} |\n- {result.note}.",
            flush=True,
        )
    by_threads = threads(chosen)
    print(by_threads, flush=True)
    print("\n".join(section(overhead(), by_threads)))
