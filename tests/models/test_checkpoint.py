"""A checkpoint gives back the same network, or says in one line why not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.errors import (
    BandMismatchError,
    ChecksumError,
    ConfigError,
    ModelError,
    WriteError,
)
from deepforest_xr.legend import LandCoverClass, Legend, amazon13

from .conftest import MONTHS, built, inputs

LEGEND5 = Legend("five", tuple(LandCoverClass(i, f"class {i}", "#00ff00") for i in range(1, 6)))
RGB = ("B02", "B03", "B04")
CALENDAR = (6, 7, 9)
S1_NAMES = ("vv_06", "vh_06", "vv_07", "vh_07", "vv_09", "vh_09")


def describe(network, **changes):
    two = models.entry(network.model_name).is_two_branch
    channels = 3 + 2 * MONTHS * two
    arguments = {
        "bands": RGB,
        "mean": np.linspace(0.1, 0.2, channels),
        "std": np.linspace(0.3, 0.7, channels, dtype="float32"),
        "months": CALENDAR if two else None,
        "legend": LEGEND5,
    }
    return models.Checkpoint.from_module(network, **(arguments | changes))


@pytest.fixture(scope="module")
def unet():
    """A U-Net's checkpoint; the smallest network."""
    return describe(built("u-net"), provenance={"region": "Amazonas", "loss": 0.25})


@pytest.fixture
def saved(unet, tmp_path):
    return unet.save(tmp_path / "model")


def test_round_trip_gives_bit_equal_logits(case, tmp_path):
    network = built(*case)
    before = describe(network)
    after = models.load(before.save(tmp_path / "runs" / "a"))
    pair = inputs(network, 32, 64)
    rebuilt = after.build()
    assert not rebuilt.training
    assert type(rebuilt) is type(network)
    with torch.no_grad():
        assert torch.equal(rebuilt(*pair), network(*pair))


def test_round_trip_keeps_every_field(unet, saved):
    after = models.load(saved)
    for field in dataclasses.fields(unet):
        if field.name != "state_dict":
            assert getattr(after, field.name) == getattr(unet, field.name)
    assert after.provenance["region"] == "Amazonas"
    assert after.state_dict.keys() == unet.state_dict.keys()


def test_model_json_says_units_and_checksum(unet, saved):
    card = json.loads((saved / "model.json").read_text())
    assert card["bands"][0] == {"name": "B02", "unit": "reflectance"}
    assert card["sha256"] == unet.sha256
    assert card["format"] == 1
    two = describe(built("deepforest-2b"))
    assert two.bands == S1_NAMES + RGB
    assert two.card()["bands"][0] == {"name": "vv_06", "unit": "gamma0 dB"}


@pytest.mark.parametrize(
    ("provenance", "unit"),
    [
        ({"chips": {"cube": {"s1_quantity": "sigma0, not terrain-corrected"}}}, "sigma0 dB"),
        ({"chips": {"cube": {"s1_quantity": "gamma0"}}}, "gamma0 dB"),
        ({"chips": {"cube": {}}}, "gamma0 dB"),
        ({"chips": "none"}, "gamma0 dB"),
    ],
)
def test_the_radar_unit_is_that_of_the_cube_of_the_chips(provenance, unit, tmp_path):
    two = describe(built("deepforest-2a"), provenance=provenance)
    assert two.units == (unit,) * 6 + ("reflectance",) * 3
    card = json.loads((two.save(tmp_path / "model") / "model.json").read_text())
    assert [band["unit"] for band in card["bands"]] == list(two.units)


def test_parameters_are_counted_as_the_network_has_them(unet):
    assert unet.parameters == sum(p.numel() for p in built("u-net").parameters())


def test_checksum_follows_the_weights_and_nothing_else():
    network = models.build("u-net", bands=3, classes=5)
    first, again = describe(network), describe(network, mean=[0, 0, 0])
    with torch.no_grad():
        network.head.bias[0] += 1
    assert first.sha256 == again.sha256 != describe(network).sha256
    assert first.state_dict["head.bias"][0] == 0  # the checkpoint has its own copy


def test_a_built_network_does_not_share_weights_nor_draw_random_numbers(unet):
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    network = unet.build()
    assert torch.equal(torch.rand(1), expected)
    with torch.no_grad():
        network.head.bias.fill_(7)
    assert not (unet.state_dict["head.bias"] == 7).any()
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("place", [10, -1])  # in the header, in the last weight
def test_tampered_weights_are_refused(saved, place):
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"model\.safetensors: sha256 \w{64}, expected \w{64}:"):
        models.load(saved)


def test_truncated_weights_are_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ChecksumError, match="copy or download the checkpoint again"):
        models.load(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"is not a checkpoint: .*{name}"):
        models.load(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has format None, this version reads 1"),
        ('{"format": 99}', "has format 99, this version reads 1"),
    ],
)
def test_a_broken_card_is_named(saved, text, message):
    (saved / "model.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        models.load(saved)


@pytest.mark.parametrize("key", ["model", "bands", "legend", "mean"])
@pytest.mark.parametrize("value", [None, "nonsense", {}])
def test_a_wrong_value_in_the_card_is_one_error(saved, key, value):
    path = saved / "model.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {key: value}))
    with pytest.raises(ModelError, match=r"model\.json cannot be used") as caught:
        models.load(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused_in_one_line(unet):
    other = dataclasses.replace(unet, build_arguments=unet.build_arguments | {"bands": 3})
    weights = dict(unet.state_dict)
    weights.pop("head.bias")
    with pytest.raises(ModelError, match=r"are not those of u-net.*head\.bias") as caught:
        dataclasses.replace(other, state_dict=weights).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mean": [0.1, 0.2]}, ConfigError, r"mean has 2 values for 3 channels \(B02, B03, B04\)"),
        ({"std": [1.0] * 4}, ConfigError, "std has 4 values for 3 channels"),
        ({"std": [1, 0, 1]}, ConfigError, "std of B03 is 0.0"),
        ({"std": [1, 1, np.nan]}, ConfigError, "std of B04 is nan"),
        ({"mean": [1, np.inf, 1]}, ConfigError, "mean of B03 is inf"),
        ({"bands": RGB[:2]}, BandMismatchError,
         r"u-net takes 3 channels, got 2 names \(0 of Sentinel-1, months=None\): B02, B03"),
        ({"bands": ("B02", "B03", "B99")}, ConfigError, r"\['B99'\]; Sentinel-2 bands are B02"),
        ({"bands": ("B02", "B03", "B03")}, ConfigError, "comes twice"),
        ({"months": (6, 13)}, ConfigError, "not calendar months"),
        ({"legend": amazon13()}, ConfigError, "u-net has 5 classes, legend 'amazon13' 13"),
        ({"provenance": {"a": object()}}, ConfigError, "not plain JSON"),
        ({"provenance": {"a": float("nan")}}, ConfigError, "not plain JSON"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_when_made(changes, error, message):
    with pytest.raises(error, match=message):
        describe(built("u-net"), **changes)


def test_months_of_a_two_branch_network_are_counted():
    network = built("deepforest-2b")
    with pytest.raises(BandMismatchError, match=r"built for 3 months, got months=\(6, 7\)"):
        describe(network, months=(6, 7))
    with pytest.raises(BandMismatchError, match=r"built for 3 months, got months=\(\)"):
        describe(network, months=None)


def test_sentinel_1_names_may_be_given_or_left_to_the_months():
    network = models.build("u-net", bands=9, classes=5)
    stacked = {"months": CALENDAR, "mean": [0] * 9, "std": [1] * 9}
    short, full = (describe(network, bands=b, **stacked) for b in (RGB, S1_NAMES + RGB))
    assert short.bands == full.bands == S1_NAMES + RGB
    for wrong in (RGB + S1_NAMES, S1_NAMES[::-1] + RGB, S1_NAMES[:4] + RGB):
        with pytest.raises(BandMismatchError, match=r"do not fit months=\(6, 7, 9\)"):
            describe(network, bands=wrong, **stacked)


def test_bands_that_do_not_fit_the_months_are_named_on_both_sides():
    network = models.build("u-net", bands=9, classes=5)
    given = ("vv_06", "vh_06", "vv_08", "vh_08", *RGB)
    with pytest.raises(BandMismatchError) as caught:
        describe(network, bands=given, months=(6, 7, 9), mean=[0] * 9, std=[1] * 9)
    assert "missing: vv_07, vh_07, vv_09, vh_09; unexpected: vv_08, vh_08." in str(caught.value)
    with pytest.raises(BandMismatchError, match="not in this order: vh_06, vv_06, B02, B03, B04"):
        describe(network, bands=("vh_06", "vv_06", *RGB), months=(6,), mean=[0] * 9, std=[1] * 9)


def test_bands_of_a_two_branch_network_are_counted_by_sensor():
    with pytest.raises(BandMismatchError) as caught:
        describe(built("deepforest-2a"), bands=RGB[:2], mean=[0] * 9, std=[1] * 9)
    assert "takes 9 channels (vv and vh of 3 months, 3 bands of Sentinel-2)" in str(caught.value)
    assert "got 8 names (6 of Sentinel-1, months=(6, 7, 9)): vv_06, " in str(caught.value)


def test_legend_defaults_to_the_papers():
    network = models.build("u-net", bands=3, classes=13)
    assert describe(network, legend=None).legend == amazon13()


def test_a_module_of_another_origin_is_refused():
    with pytest.raises(ModelError, match=r"Linear was not made by models\.build"):
        models.Checkpoint.from_module(torch.nn.Linear(1, 1), bands=RGB, mean=[0] * 3, std=[1] * 3)


def test_a_cube_must_have_the_channels_in_any_order(unet):
    unet.require_channels(["B04", "B03", "B02", "vv_06"])
    with pytest.raises(BandMismatchError, match="missing: B03, B04; not used by it: B08") as caught:
        unet.require_channels(["B02", "B08"])
    assert "u-net needs 3 channels" in str(caught.value)


def test_save_never_replaces_unasked_nor_what_is_no_checkpoint(unet, saved):
    with pytest.raises(WriteError, match="exists"):
        unet.save(saved)
    two = describe(built("u-net"), mean=[7, 8, 9])
    assert models.load(two.save(saved, overwrite=True)).mean == (7, 8, 9)
    (saved / "notes.txt").write_text("keep me")
    with pytest.raises(WriteError, match=r"holds 'notes\.txt'"):
        unet.save(saved, overwrite=True)
    assert (saved / "notes.txt").read_text() == "keep me"
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    (saved.parent / "file").write_text("mine")
    with pytest.raises(WriteError, match="is a file and no folder"):
        unet.save(saved.parent / "file", overwrite=True)


def test_a_folder_made_by_hand_needs_no_item(unet, saved):
    (saved / "item.json").unlink()
    assert models.load(saved).identity == unet.identity
    unet.save(saved, overwrite=True)
    assert sorted(p.name for p in saved.iterdir()) == [
        "item.json",
        "model.json",
        "model.safetensors",
    ]


def test_a_save_that_fails_leaves_nothing_behind(unet, tmp_path, monkeypatch):
    old = unet.save(tmp_path / "model")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WriteError, match="No space left on device"):
        unet.save(tmp_path / "model", overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert models.load(old).sha256 == unet.sha256


def test_an_empty_folder_is_free(unet, tmp_path):
    (tmp_path / "empty").mkdir()
    assert models.load(unet.save(tmp_path / "empty")).sha256 == unet.sha256
    shutil.rmtree(tmp_path / "empty")


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": None},
        {"provenance": ["chips"]},
        {"bands": [{"name": 3}] * 3},
        {"build_arguments": {"bands": 3, "classes": 5, "months": None, "depth": 4}},
    ],
)
def test_a_card_of_another_making_is_refused_in_one_line(saved, change):
    card = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps(card | change))
    with pytest.raises(ModelError) as caught:
        models.load(saved).build()
    assert "\n" not in str(caught.value)


def test_a_card_that_is_no_text_is_refused(saved):
    (saved / "model.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ModelError, match=r"model\.json is not JSON"):
        models.load(saved)
