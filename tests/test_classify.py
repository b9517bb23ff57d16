"""A map does not depend on how it is computed, and says in one line why it cannot be."""

import dataclasses
import json

import dask
import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr

import deepforest_xr as dfx
from deepforest_xr import models
from deepforest_xr.classify.block import entropy, margin
from deepforest_xr.errors import (
    BandMismatchError,
    ChecksumError,
    ConfigError,
    ModelError,
    NoModelError,
)
from deepforest_xr.legend import LandCoverClass, Legend
from deepforest_xr.testing import no_compute

BANDS = ("B02", "B04", "B08")
CODES = (4, 9, 17, 30, 200)
LEGEND = Legend("five", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in CODES))

pytestmark = pytest.mark.usefixtures("narrow")


def checkpoint_of(name="u-net", *, bands=BANDS, months=None, seed=3, mean=0.2, std=0.05):
    """A random network whose BatchNorm statistics fit its inputs, as after training."""
    torch.manual_seed(seed)
    radar = len(months or ())
    two = models.entry(name).is_two_branch
    network = models.build(
        name,
        bands=len(bands) + (0 if two else 2 * radar),
        classes=5,
        months=radar if two else None,
    )
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
        elif isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    images = [torch.randn(2, len(bands) + (0 if two else 2 * radar), 64, 96)]
    if two:
        images.append(torch.randn(2, radar, 2, 64, 96))
    with torch.no_grad():
        network(*images)
    return models.Checkpoint.from_module(
        network.eval(),
        bands=bands,
        mean=[-10.0] * (2 * radar) + [mean] * len(bands),
        std=[2.0] * (2 * radar) + [std] * len(bands),
        months=months,
        legend=LEGEND,
    )


@pytest.fixture(scope="module")
def checkpoint(narrow):
    return checkpoint_of()


@pytest.fixture
def folder(checkpoint, tmp_path):
    return checkpoint.save(tmp_path / "model")


@pytest.fixture
def cube(synthetic_cube):
    return synthetic_cube((70, 101), bands=BANDS)


def by_hand(checkpoint, cube):
    """Softmax of the whole scene in one pass, its ends reflected to a multiple of 32."""
    s2 = cube["s2"].sel(band=list(checkpoint.bands)).to_numpy()
    mean, std = (np.array(v)[:, None, None] for v in (checkpoint.mean, checkpoint.std))
    x = np.nan_to_num((s2 - mean) / std)
    rows, cols = s2.shape[1:]
    x = np.pad(x, [(0, 0), (0, -rows % 32), (0, -cols % 32)], mode="symmetric")
    with torch.no_grad():
        logits = checkpoint.build()(torch.from_numpy(x[None]).float())[0]
    return torch.softmax(logits, 0)[:, :rows, :cols].numpy()


def differing(a, b):
    """Share of pixels whose class is another."""
    return float((a["lulc"] != b["lulc"]).mean())


def test_a_map_is_the_networks_argmax_and_its_confidence_the_softmax(checkpoint, cube):
    share = by_hand(checkpoint, cube)
    result = dfx.classify(cube, checkpoint, halo=32, probability=True).compute()
    assert (result["lulc"].to_numpy() == np.array(CODES)[share.argmax(axis=0)]).mean() > 0.999
    percent = 100 * share
    assert abs(result["confidence"].to_numpy() - percent.max(axis=0)).max() < 0.52
    assert abs(result["probability"].to_numpy() - percent).max() < 0.52
    assert abs(result["probability"].sum("class").astype(int) - 100).max() <= 3
    assert result["probability"]["class"].to_numpy().tolist() == LEGEND.names


def test_entropy_and_margin_are_those_of_the_softmax(checkpoint, cube):
    cube["s2"][1, 3:7, 40:52] = np.nan
    sharp = dataclasses.replace(checkpoint, temperature=0.1)
    share = by_hand(checkpoint, cube).astype("float64") ** 10
    share /= share.sum(axis=0)
    result = dfx.classify(cube, sharp, halo=32, uncertainty=True).compute()
    missing = (result["lulc"] == 0).to_numpy()
    assert 0 < missing.mean() < 0.1
    ordered = np.sort(share, axis=0)
    expected = {
        "entropy": 100 * scipy.stats.entropy(share, axis=0) / np.log(5),
        "margin": 100 * (ordered[-1] - ordered[-2]),
    }
    for name, percent in expected.items():
        assert result[name].dtype == np.uint8
        assert result[name].dims == ("y", "x")
        assert result[name].attrs["units"] == "percent"
        assert "0 where lulc is 0" in result[name].attrs["comment"]
        assert abs(result[name].to_numpy() - percent)[~missing].max() < 0.52
        assert len(np.unique(result[name].to_numpy()[~missing])) > 20
        assert (result[name].to_numpy()[missing] == 0).all()
    assert {"entropy", "margin"}.isdisjoint(dfx.classify(cube, checkpoint, halo=32))


def test_entropy_and_margin_of_known_probabilities():
    share = np.zeros((4, 2, 3), "float32")
    share[:, 0, 0] = 1, 0, 0, 0
    share[:, 0, 1] = 0.25
    share[:, 0, 2] = share[::-1, 1, 0] = 0.5, 0.5, 0, 0
    share[:, 1, 1:] = np.array([0.1, 0.6, 0.3, 0.0])[:, None]
    bits = -(0.1 * np.log2(0.1) + 0.6 * np.log2(0.6) + 0.3 * np.log2(0.3))
    of_three = bits / 2  # of log2(4)
    np.testing.assert_allclose(entropy(share), [[0, 1, 0.5], [0.5, of_three, of_three]], atol=1e-6)
    np.testing.assert_allclose(margin(share), [[1, 0, 0], [0, 0.3, 0.3]], atol=1e-6)
    one = np.ones((1, 2, 3), "float32")
    assert (entropy(one) == 0).all()
    assert (margin(one) == 1).all()


def test_the_temperature_changes_the_confidence_and_no_class(checkpoint, cube, tmp_path):
    warm = dataclasses.replace(checkpoint, temperature=2.0)
    folder = warm.save(tmp_path / "warm")
    assert models.load(folder).temperature == 2.0
    plain = dfx.classify(cube, checkpoint, probability=True).compute()
    mild = dfx.classify(cube, folder, probability=True).compute()
    xr.testing.assert_equal(plain["lulc"], mild["lulc"])
    assert mild["confidence"].attrs["temperature"] == 2.0
    # p^(1/T), normalised: from percent, rounded before and after.
    power = np.sqrt(plain["probability"].to_numpy() / 100)
    expected = 100 * power / np.maximum(power.sum(axis=0), 1e-9)
    np.testing.assert_allclose(mild["probability"].to_numpy(), expected, atol=6)
    assert int(mild["confidence"].sum()) < int(plain["confidence"].sum())


def test_a_card_without_a_temperature_is_one_of_1(checkpoint, tmp_path):
    folder = checkpoint.save(tmp_path / "old")
    card = json.loads((folder / "model.json").read_text())
    del card["temperature"]
    (folder / "model.json").write_text(json.dumps(card))
    assert models.load(folder).temperature == 1.0
    with pytest.raises(ConfigError, match="temperature=0 is not a positive number"):
        dataclasses.replace(checkpoint, temperature=0)


def test_a_map_says_what_it_is(checkpoint, cube):
    result = dfx.classify(cube, checkpoint, halo=32)
    assert dict(result.sizes) == {"y": 70, "x": 101}
    assert result["lulc"].dtype == result["confidence"].dtype == np.uint8
    assert Legend.from_attrs(result["lulc"].attrs) == LEGEND
    assert result.attrs["model"] == "u-net"
    assert result.attrs["model_sha256"] == checkpoint.sha256
    assert result.attrs["s2_period"] == cube.attrs["s2_period"]
    assert dfx.Grid.of(result) == dfx.Grid.of(cube)
    assert set(np.unique(result["lulc"])) <= set(CODES)


def test_nothing_is_computed_before_it_is_asked_for(checkpoint, cube):
    with no_compute():
        result = dfx.classify(cube.chunk({"y": 20}), checkpoint, block=32, halo=32)
    with no_compute(), pytest.raises(AssertionError):
        result.compute()


@pytest.mark.parametrize(("shape", "blocks"), [((40, 1700), (128, 576)), ((1670, 33), (256,))])
def test_blocks_leave_no_trace_at_the_networks_halo(checkpoint, synthetic_cube, shape, blocks):
    """A strip, longer than a block with its halo on both sides."""
    cube = synthetic_cube(shape, bands=BANDS)
    whole = dfx.classify(cube, checkpoint, block=1728).compute()
    assert len(np.unique(whole["lulc"])) > 2
    for block in blocks:
        lazy = dfx.classify(cube.chunk({"y": 100, "x": 130}), checkpoint, block=block)
        assert lazy["lulc"].data.npartitions > 1
        assert differing(lazy.compute(), whole) <= 1e-3
    # What the halo is for: without it the blocks show.
    bare = dfx.classify(cube, checkpoint, block=128, halo=0).compute()
    assert differing(bare, dfx.classify(cube, checkpoint, block=1728, halo=0).compute()) > 0.01


def test_chunks_of_the_cube_leave_no_trace(checkpoint, synthetic_cube):
    cube = synthetic_cube((330, 420), bands=BANDS)
    options = {"block": 128, "halo": 64}
    expected = dfx.classify(cube, checkpoint, **options).compute()
    for chunks in ({"y": 100, "x": 130}, {"y": 64, "x": -1, "band": 1}):
        lazy = dfx.classify(cube.chunk(chunks), checkpoint, **options)
        assert lazy["lulc"].data.numblocks == (3, 3)
        xr.testing.assert_equal(lazy.compute(), expected)


@pytest.mark.parametrize(
    ("shape", "block"),
    [((5, 9), 512), ((32, 64), 32), ((33, 95), 32), ((31, 200), 64), ((97, 1), 32)],
)
def test_any_size_is_covered(checkpoint, synthetic_cube, shape, block):
    cube = synthetic_cube(shape, bands=BANDS)
    result = dfx.classify(cube, checkpoint, block=block, halo=32).compute()
    assert result["lulc"].shape == shape
    assert (result["lulc"] > 0).all()
    assert (result["confidence"] >= 20).all()  # of five classes the best has a fifth


def test_no_data_is_0_and_certain_of_nothing(checkpoint, synthetic_cube):
    cube = synthetic_cube((64, 96), bands=BANDS)
    cube["s2"][1, 3:7, 40:52] = np.nan
    cube["s2"][:, 32:, 64:] = np.nan  # one block has nothing at all
    result = dfx.classify(cube, checkpoint, block=32, halo=32, probability=True).compute()
    missing = np.isnan(cube["s2"]).any("band").to_numpy()
    np.testing.assert_array_equal(result["lulc"] == 0, missing)
    assert (result["confidence"].to_numpy()[missing] == 0).all()
    assert (result["probability"].to_numpy()[:, missing] == 0).all()


def test_the_order_of_bands_in_the_cube_does_not_matter(checkpoint, synthetic_cube):
    cube = synthetic_cube((64, 96), bands=(*BANDS, "B12"))
    expected = dfx.classify(cube.sel(band=list(BANDS)), checkpoint, halo=32).compute()
    for order in (["B12", "B08", "B04", "B02"], ["B04", "B02", "B12", "B08"]):
        got = dfx.classify(cube.sel(band=order), checkpoint, halo=32).compute()
        np.testing.assert_array_equal(got["lulc"], expected["lulc"])


def test_the_order_of_months_and_polarizations_does_not_matter(synthetic_cube):
    months = (6, 7)
    stacked = checkpoint_of(months=months)
    cube = synthetic_cube((40, 70), bands=BANDS, months=(5, 6, 7))
    expected = dfx.classify(cube, stacked, halo=32).compute()
    turned = cube.sel(month=[7, 5, 6], polarization=["vh", "vv"]).transpose("x", "y", ...)
    got = dfx.classify(turned, stacked, halo=32).compute()
    np.testing.assert_array_equal(got["lulc"], expected["lulc"])
    swapped = cube.assign_coords(month=[5, 7, 6])
    assert differing(dfx.classify(swapped, stacked, halo=32).compute(), expected) > 0.01


def test_two_branches_map_where_both_sensors_saw(synthetic_cube):
    two = checkpoint_of("deepforest-2b", months=(6, 7))
    cube = synthetic_cube((32, 64), bands=BANDS, months=(6, 7))
    cube["s1"][:, :, :5, :7] = np.nan
    cube["s1"][0, :, 10:12, :] = np.nan  # the other month is there
    cube["s2"][0, 20, 30] = np.nan
    result = dfx.classify(cube, two, block=32, halo=32).compute()
    missing = np.zeros((32, 64), bool)
    missing[:5, :7] = missing[20, 30] = True
    np.testing.assert_array_equal(result["lulc"] == 0, missing)


def refused(error, match, *arguments, **options):
    with pytest.raises(error, match=match) as caught:
        dfx.classify(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_cube_that_does_not_fit_is_refused_in_one_line(checkpoint, cube, synthetic_cube):
    refused(BandMismatchError, "missing: B04", cube.sel(band=["B02", "B08"]), checkpoint)
    refused(BandMismatchError, "expected `s2`", cube.rename(s2="optical"), checkpoint)
    radar = checkpoint_of(months=(6, 7))
    refused(BandMismatchError, "missing: vv_06", cube, radar)
    short = synthetic_cube((32, 64), bands=BANDS, months=(7, 8))
    refused(BandMismatchError, "missing: vv_06, vh_06;", short, radar)
    one = synthetic_cube((32, 64), bands=BANDS, months=(6, 7)).sel(polarization=["vv"])
    refused(BandMismatchError, "vh", one, radar)


@pytest.mark.parametrize(
    "options", [{"block": 100}, {"block": 0}, {"halo": 33}, {"halo": -32}, {"device": "tpu"}]
)
def test_blocks_and_halos_are_multiples_of_32(checkpoint, cube, options):
    refused(ConfigError, next(iter(options)), cube, checkpoint, **options)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder of the user, and no model in the environment."""
    monkeypatch.setenv("DEEPFOREST_XR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPFOREST_XR_MODEL", raising=False)
    return tmp_path / "home"


def test_a_model_is_never_guessed(cube, home):
    refused(
        NoModelError,
        r"model=FOLDER.*DEEPFOREST_XR_MODEL.*deepforest-xr model install PATH\|URL.*never guessed",
        cube,
    )


def test_the_default_is_the_environments_model_then_the_installed_one(
    cube, checkpoint, tmp_path, home, monkeypatch, caplog
):
    caplog.set_level("INFO", "deepforest_xr")
    folders = {
        name: dataclasses.replace(checkpoint, mean=(value,) * 3).save(tmp_path / name)
        for name, value in (("given", 0.1), ("named", 0.2), ("kept", 0.3))
    }
    expected = {n: dfx.classify(cube, f, halo=32).compute() for n, f in folders.items()}
    assert differing(expected["given"], expected["named"]) > 0.01
    assert differing(expected["named"], expected["kept"]) > 0.01
    kept = models.install(folders["kept"])
    xr.testing.assert_identical(dfx.classify(cube, halo=32).compute(), expected["kept"])
    assert f"model: {kept}, the one installed" in caplog.messages
    monkeypatch.setenv("DEEPFOREST_XR_MODEL", str(folders["named"]))
    xr.testing.assert_identical(dfx.classify(cube, halo=32).compute(), expected["named"])
    assert f"model: {folders['named']}, which DEEPFOREST_XR_MODEL names" in caplog.messages
    given = dfx.classify(cube, folders["given"], halo=32).compute()
    xr.testing.assert_identical(given, expected["given"])


def test_a_map_begun_with_the_former_default_ends_with_it(cube, checkpoint, tmp_path, home):
    models.install(checkpoint.save(tmp_path / "first"))
    lazy = dfx.classify(cube, halo=32)
    other = dataclasses.replace(checkpoint, mean=(0.6, 0.1, 0.9)).save(tmp_path / "second")
    models.install(other)
    expected = dfx.classify(cube, checkpoint, halo=32).compute()
    xr.testing.assert_identical(lazy.compute(), expected)
    assert differing(dfx.classify(cube, halo=32).compute(), expected) > 0.01


def test_folder_and_object_give_the_same_map(cube, checkpoint, folder):
    a, b = (dfx.classify(cube, model, halo=32).compute() for model in (checkpoint, str(folder)))
    xr.testing.assert_identical(a, b)


def test_weights_that_were_changed_are_refused(cube, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    refused(ChecksumError, "sha256", cube, folder)
    refused(ModelError, "is not a checkpoint", cube, folder / "absent")


def test_equal_weights_with_other_normalisation_or_legend_are_another_model(cube, tmp_path):
    first = checkpoint_of()
    shifted = dataclasses.replace(first, mean=(0.6, 0.1, 0.9))
    codes = Legend("other", tuple(LandCoverClass(c + 1, f"c{c}", "#00ff00") for c in CODES))
    renamed = dataclasses.replace(first, legend=codes)
    assert first.sha256 == shifted.sha256 == renamed.sha256
    for kind in ("object", "folder"):
        maps = []
        for name, model in (("first", first), ("shifted", shifted), ("renamed", renamed)):
            given = model if kind == "object" else model.save(tmp_path / name)
            maps.append(dfx.classify(cube, given, halo=32).compute())
        assert differing(maps[0], maps[1]) > 0.01
        np.testing.assert_array_equal(maps[0]["lulc"] + np.uint8(1), maps[2]["lulc"])


def test_a_checkpoint_replaced_before_the_map_is_computed_is_refused(cube, tmp_path):
    model = checkpoint_of(seed=11)
    path = model.save(tmp_path / "model")
    lazy = dfx.classify(cube, path, halo=32)
    dataclasses.replace(model, mean=(0.6, 0.1, 0.9)).save(path, overwrite=True)
    with pytest.raises(ModelError, match="was replaced since the map was planned"):
        lazy.compute()


def test_schedulers_agree(cube, folder):
    lazy = dfx.classify(cube, folder, block=32, halo=32)
    with dask.config.set(scheduler="synchronous"):
        one = lazy.compute()
    with dask.config.set(scheduler="threads", num_workers=3):
        xr.testing.assert_identical(lazy.compute(), one)


def test_a_graph_carries_no_weights(checkpoint, cube, folder):
    import cloudpickle

    lazy = dfx.classify(cube.chunk(), folder, block=32, halo=32)
    with_data = len(cloudpickle.dumps(cube.chunk().__dask_graph__()))
    weights = (folder / "model.safetensors").stat().st_size
    assert len(cloudpickle.dumps(lazy.__dask_graph__())) < with_data + max(weights, 150_000)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_another_process_makes_the_same_map_from_the_folder(synthetic_cube, tmp_path):
    from distributed import Client, LocalCluster

    with pytest.MonkeyPatch.context() as patch:
        # The worker is a fresh process: it must find the U-Net that is saved here.
        patch.setattr("deepforest_xr.models.unet.ENCODER_FILTERS", (8, 32, 32, 64, 64, 128))
        patch.setattr("deepforest_xr.models.unet.DECODER_FILTERS", (32, 32, 64, 64, 128))
        model = checkpoint_of()
        path = model.save(tmp_path / "model")
        cube = synthetic_cube((40, 70), bands=BANDS)
        lazy = dfx.classify(cube, path, block=32, halo=32)
        here = lazy.compute(scheduler="threads")
        with (
            LocalCluster(n_workers=1, processes=True, threads_per_worker=2,
                         dashboard_address=None) as cluster,
            Client(cluster),
        ):  # fmt: skip
            there = lazy.compute()
            only_here = dfx.classify(cube, checkpoint_of(seed=4), block=32, halo=32)
            with pytest.raises(ModelError, match="lives in another process"):
                only_here.compute()
    assert differing(there, here) <= 1e-3
    assert abs(there["confidence"].astype(int) - here["confidence"]).max() <= 1


@pytest.mark.gpu
def test_a_gpu_makes_the_map_that_a_cpu_makes(checkpoint, cube):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    maps = [dfx.classify(cube, checkpoint, device=d).compute() for d in ("cpu", "cuda")]
    assert differing(*maps) <= 0.001
