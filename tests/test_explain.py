"""The price of a map is known before it is made: counted, and held against what it takes."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import deepforest_xr as dfx
from deepforest_xr import models
from deepforest_xr.classify import pricing
from deepforest_xr.classify.cost import forward_cost, on_meta
from deepforest_xr.errors import BandMismatchError, ConfigError, NoModelError
from deepforest_xr.testing import no_compute

from .test_classify import BANDS, checkpoint_of

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def model(narrow):
    return checkpoint_of()


def windows_by_hand(shape, block, halo):
    """Every window of a grid whose sides are multiples of the block, filled up to 32."""
    for top, left in itertools.product(range(0, shape[0], block), range(0, shape[1], block)):
        rows = min(top + block + halo, shape[0]) - max(top - halo, 0)
        cols = min(left + block + halo, shape[1]) - max(left - halo, 0)
        yield -(-rows // 32) * 32, -(-cols // 32) * 32


def test_blocks_and_windows_are_those_of_the_map(model, synthetic_cube):
    cube = synthetic_cube((192, 320), bands=BANDS).chunk({"y": 50, "x": 70})
    found = dfx.explain(cube, model, block=64, halo=32, probe=False)
    lazy = dfx.classify(cube, model, block=64, halo=32)
    windows = list(windows_by_hand((192, 320), 64, 32))
    assert found.blocks == lazy["lulc"].data.numblocks == (3, 5)
    assert found.block == (64, 64)
    assert found.window == max(windows) == (128, 128)
    assert found.pixels_computed == sum(rows * cols for rows, cols in windows)
    assert found.overhead == pytest.approx(found.pixels_computed / (192 * 320))
    assert found.area_km2 == pytest.approx(1.92 * 3.2)
    assert found.result_bytes == lazy.lulc.nbytes + lazy.confidence.nbytes
    assert found.layer_bytes == lazy.lulc.nbytes
    assert found.bytes_halo == sum(rows * cols for rows, cols in windows) * 3 * 4


def test_a_map_in_one_block_has_no_halo(model, synthetic_cube):
    found = dfx.explain(synthetic_cube((70, 101), bands=BANDS), model, probe=False)
    assert found.blocks == (1, 1)
    assert found.window == (96, 128)
    assert found.pixels_computed == 96 * 128
    assert found.bytes_read == 0  # it is in memory


def test_work_is_what_torch_counts_while_it_computes(model, synthetic_cube):
    cube = synthetic_cube((192, 320), bands=BANDS)
    found = dfx.explain(cube, model, block=64, halo=32, probe=False)
    network = models.optimize_for_inference(model.build())
    gflop = {}
    for shape in set(windows_by_hand((192, 320), 64, 32)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, *shape))
        gflop[shape] = counter.get_total_flops() / 1e9
    total = sum(gflop[shape] for shape in windows_by_hand((192, 320), 64, 32))
    assert found.gflop == pytest.approx(total, rel=1e-6)
    assert found.gflop_window == pytest.approx(gflop[128, 128], rel=1e-6)


@pytest.mark.parametrize("name", ["deepforest-1b", "deepforest-2b"])
def test_counting_leaves_the_network_alone_and_takes_no_memory(name):
    months = 2 if name == "deepforest-2b" else None
    plain = models.build(name, bands=3, classes=5, months=months)
    network = models.optimize_for_inference(plain)
    bare = on_meta(network)
    assert {t.device.type for t in (*bare.parameters(), *bare.buffers())} == {"meta"}
    assert {t.device.type for t in (*network.parameters(), *network.buffers())} == {"cpu"}
    sizes = [(1, 3, 64, 96)] + ([(1, 2, 2, 64, 96)] if months else [])
    gflop, live = forward_cost(bare, sizes)
    large = [(*size[:-2], 6400, 9600) for size in sizes]  # some 80 gigabytes
    more = forward_cost(bare, large)
    assert 0.5 < more[0] / gflop / 10_000 < 1.1
    assert more[1] > 500 * live > 0
    network(*map(torch.zeros, sizes))  # still has its weights


def test_what_is_read_are_whole_chunks_with_a_wanted_band_each_once(model, synthetic_cube):
    plain = synthetic_cube((70, 100), bands=("B02", "B03", "B04", "B08", "B12"), months=(6, 7))
    pixels = 70 * 100
    for chunks, bands in ({"band": 1}, 3), ({"band": 2}, 4), ({}, 5), ({"band": 3}, 5):
        cube = plain.chunk({"y": 30, "x": 40, **chunks})
        found = dfx.explain(cube, model, block=32, halo=32, probe=False)
        assert found.bytes_read == bands * pixels * 4, chunks
    radar = checkpoint_of(months=(7,))
    cube = plain.chunk({"y": 30, "x": 40, "band": 1, "month": 1})
    found = dfx.explain(cube, radar, block=32, halo=32, probe=False)
    assert found.bytes_read == (3 + 2) * pixels * 4
    assert found.bytes_halo > found.bytes_read
    small = cube.assign(s2=cube["s2"].astype("float64"))
    assert dfx.explain(small, radar, probe=False).bytes_read == (3 * 2 + 2) * pixels * 4


def test_what_waits_is_all_of_a_small_map_and_no_more_of_a_large_one(model, synthetic_cube):
    cube = synthetic_cube((32 * 6, 32 * 9), bands=BANDS).chunk({"y": 32, "x": 32})
    found = dfx.explain(cube, model, block=32, halo=32, probe=False)
    assert found.memory_waiting == found.bytes_read == 6 * 9 * 32 * 32 * 3 * 4
    large = synthetic_cube((32 * 9, 32 * 16), bands=BANDS).chunk({"y": 32, "x": 32})
    found = dfx.explain(large, model, block=32, halo=32, probe=False)
    assert found.memory_waiting == 64 * 32 * 32 * 3 * 4
    assert dfx.explain(large.compute(), model, block=32, halo=32, probe=False).memory_waiting == 0


def test_other_blocks_are_priced_as_if_they_were_asked_for(model, synthetic_cube):
    cube = synthetic_cube((320, 700), bands=BANDS).chunk({"y": 50, "x": 70})
    found = dfx.explain(cube, model, block=64, halo=32, probe=False)
    assert [choice.block for choice in found.choices] == [256, 512]
    for choice in found.choices:
        asked = dfx.explain(cube, model, block=choice.block, halo=32, probe=False)
        assert choice.overhead == pytest.approx(asked.overhead)
        assert choice.memory == asked.memory
        assert choice.block not in [other.block for other in asked.choices]
        assert f"block={choice.block} {choice.overhead:.2f} and " in str(found)
    assert found.overhead > found.choices[0].overhead > found.choices[1].overhead > 1
    assert found.memory < found.choices[0].memory < found.choices[1].memory


def test_blending_is_priced(model, synthetic_cube):
    cube = synthetic_cube((32 * 9, 32 * 16), bands=BANDS).chunk({"y": 32, "x": 32})
    plain = dfx.explain(cube, model, block=32, halo=32, probe=False)
    blended = dfx.explain(cube, model, block=32, halo=32, blend=32, probe=False)
    classes = len(model.legend.classes)
    logits = classes * (32 * 9 + 2 * 8 * 32) * (32 * 16 + 2 * 15 * 32) * 4
    share = 64 / (9 * 16)
    assert blended.memory_waiting - plain.memory_waiting == pytest.approx(logits * share, abs=2)
    assert blended.memory_network - plain.memory_network == 12 * classes * (96**2 - 32**2)
    whole = dfx.explain(cube, model, block=512, halo=32, blend=32, probe=False)
    assert whole.memory_waiting == whole.bytes_read  # one block has nothing to blend with


@pytest.mark.parametrize("name", models.names())
def test_the_default_block_is_the_largest_that_takes_7_gb(name):
    entry = models.entry(name)
    months = 12 if entry.is_two_branch else None
    bands = 10 if entry.is_two_branch else 10 + 2 * 12  # the widest dataset
    bare = on_meta(models.optimize_for_inference(models.build(name, bands=bands, months=months)))

    def taken(block):
        side = block + 2 * entry.halo
        shapes = [(1, bands, side, side)] + ([(1, 12, 2, side, side)] if months else [])
        return pricing.SCRATCH * forward_cost(bare, shapes)[1]

    assert entry.block % 32 == 0
    if taken(1024) <= 7e9:
        assert entry.block == 1024
    else:
        assert entry.block == entry.halo
        assert taken(entry.halo) < 9e9


def test_nothing_is_computed_without_a_probe(model, synthetic_cube):
    cube = synthetic_cube((70, 101), bands=BANDS).chunk({"y": 20})
    with no_compute():
        found = dfx.explain(cube, model, block=32, halo=32, probe=False)
        assert found.probe is found.seconds is found.seconds_per_block is None
        assert "not probed" in str(found)
    with no_compute(), pytest.raises(AssertionError, match="was computed"):
        dfx.explain(cube, model, block=32, halo=32)


def test_the_probe_is_one_block_in_the_middle(model, synthetic_cube, monkeypatch):
    cube = synthetic_cube((160, 224), bands=BANDS)
    seen = []
    block = pricing.classify_block

    def spy(window, *, task):
        seen.append(window["s2"].to_numpy())
        return block(window, task=task)

    monkeypatch.setattr(pricing, "classify_block", spy)
    found = dfx.explain(cube.chunk({"y": 50}), model, block=32, halo=32)
    assert len(seen) == 1
    assert seen[0].shape == (3, 96, 96)
    np.testing.assert_array_equal(seen[0], cube["s2"][:, 32:128, 64:160])  # block 2 of 5, 3 of 7
    assert found.probe.pixels == "real"
    assert found.probe.gflop == found.gflop_window
    assert found.probe.bytes_read == 3 * 4 * 150 * 224
    expected = found.probe.compute_seconds * found.gflop / found.probe.gflop
    expected += found.probe.read_seconds * found.bytes_read / found.probe.bytes_read
    assert found.seconds == pytest.approx(expected)
    assert found.seconds_per_block == pytest.approx(expected / 35)


def test_where_the_middle_has_no_data_random_pixels_are_classified(synthetic_cube, monkeypatch):
    from deepforest_xr.classify.predict import Predictor

    stacked = checkpoint_of(months=(6, 7))
    cube = synthetic_cube((96, 160), bands=BANDS, months=(6, 7))
    cube["s2"][:] = np.nan
    seen = []
    forward = Predictor._forward
    monkeypatch.setattr(
        Predictor, "_forward", lambda s, a, d, **o: seen.append(a[0]) or forward(s, a, d, **o)
    )
    found = dfx.explain(cube, stacked, block=32, halo=32)
    assert found.probe.pixels == "random"
    assert "random pixels" in str(found)
    (standardised,) = seen
    assert abs(standardised.mean(axis=(1, 2))).max() < 0.1
    assert abs(standardised.std(axis=(1, 2)) - 1).max() < 0.1


def test_the_lines_say_all_of_it(model, synthetic_cube):
    cube = synthetic_cube((192, 320), bands=BANDS).chunk({"y": 50, "x": 70})
    found = dfx.explain(cube, model, block=64, halo=32)
    lines = dict(line.split(maxsplit=1) for line in str(found).splitlines())
    assert list(lines) == [
        "map", "blocks", "windows", "work", "reads", "memory", "writes", "time"
    ]  # fmt: skip
    assert lines["map"] == "192 x 320 pixels, 6.144 km2, u-net on cpu"
    assert lines["blocks"] == "3 x 5 = 15 of up to 64 x 64 pixels"
    assert lines["windows"].endswith(
        f"halo of 32: {found.overhead:.2f} pixels computed for each mapped; block=256 1.20 and "
        f"{found.choices[0].memory / 1e6:.3g} MB"
    )
    assert "737 kB in whole chunks" in lines["reads"]
    assert "123 kB uncompressed, and 61.4 kB each" in lines["writes"]
    assert "in one process" in lines["time"]


def test_degrees_have_square_kilometres_too(model, synthetic_cube):
    cube = synthetic_cube((96, 160), bands=BANDS)
    grid = dfx.Grid.from_bounds((-55, -1, -54, 0), crs=4326, resolution=1 / 96)
    square = cube.isel(x=slice(96)).assign_coords(grid.coords())
    found = dfx.explain(square, model, probe=False)
    assert found.area_km2 == pytest.approx(111.32 * 110.57, rel=1e-3)


def test_what_classify_refuses_is_refused(model, synthetic_cube):
    cube = synthetic_cube((70, 101), bands=BANDS)
    with pytest.raises(BandMismatchError, match="missing: B04"):
        dfx.explain(cube.sel(band=["B02", "B08"]), model)
    with pytest.raises(ConfigError, match="block=100"):
        dfx.explain(cube, model, block=100)
    with pytest.raises(NoModelError, match="never guessed"):
        dfx.explain(cube)


MEASURE = """
import json, sys, threading, time
import dask, torch, xarray as xr
import deepforest_xr as dfx

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

torch.set_num_threads(1)
cube, folder = xr.open_zarr(sys.argv[1]), sys.argv[2]
options = {"block": int(sys.argv[3]), "halo": 64}
dask.config.set(scheduler="synchronous")
found = dfx.explain(cube, folder, probe=False, **options)
small = cube.isel(y=slice(64), x=slice(64))
dfx.classify(small, folder, block=64, halo=64).compute()  # weights, libraries
before = peak = resident()
ended = False

def watch():
    global peak
    while not ended:
        peak = max(peak, resident())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
dfx.classify(cube, folder, **options).compute()
ended = True
watcher.join()
print(json.dumps([found.memory, peak - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "shape", "block"), [("u-net", (384, 1152), 384), ("deepforest-1b", (320, 640), 320)]
)
def test_the_memory_of_a_block_is_bounded(name, shape, block, synthetic_cube, tmp_path):
    """A fresh process with the real network: never more than was said, nor less than a third."""
    torch.manual_seed(0)
    bands = ("B02", "B03", "B04", "B08", "B12")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (8, 32, 32, 64, 64, 128))
        patch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (32, 32, 64, 64, 128))
        network = models.build(name, bands=5, classes=13).eval()
    folder = models.Checkpoint.from_module(
        network, bands=bands, mean=[0.2] * 5, std=[0.05] * 5
    ).save(tmp_path / "model")
    cube = synthetic_cube(shape, bands=bands).chunk({"y": 128, "x": 128})
    dfx.write_zarr(cube, tmp_path / "cube.zarr")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, tmp_path / "cube.zarr", folder, str(block)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, taken = json.loads(done.stdout.splitlines()[-1])
    assert taken > 20e6
    assert taken <= said <= 3 * taken, (said / 1e6, taken / 1e6)
