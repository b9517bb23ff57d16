"""A checkpoint's STAC item: valid, true to the checkpoint, the same each time."""

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pystac
import pytest
from jsonschema import Draft7Validator
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import AssetGeneralMLMExtension, MLMExtension
from pystac.extensions.scientific import ScientificExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from deepforest_xr import models
from deepforest_xr.legend import LandCoverClass, Legend, amazon13
from deepforest_xr.models.mlm import to_item

from .conftest import MONTHS, built
from .mlm_rules import MLM, RULES

LEGEND5 = Legend("five", tuple(LandCoverClass(10 + i, f"class {i}", "#00ff7f") for i in range(5)))
RGB = ("B02", "B03", "B04")
CALENDAR = (6, 7, 9)
CUBE = {"s2_period": "2018-06-03/2018-11-30", "s1_quantity": "sigma0, not terrain-corrected"}
RUN = {"model": "x", "settings": {"epochs": 3, "seed": 0}, "chips": {"count": 4, "cube": CUBE}}


def describe(network, **changes):
    two = models.entry(network.model_name).is_two_branch
    channels = 3 + 2 * MONTHS * two
    arguments = {
        "bands": RGB,
        "mean": np.linspace(0.1, 0.9, channels),
        "std": np.linspace(1.1, 1.9, channels),
        "months": CALENDAR if two else None,
        "legend": LEGEND5,
    }
    return models.Checkpoint.from_module(network, **(arguments | changes))


def stacked():
    """A U-Net of Sentinel-2 and two Sentinel-1 months in one input."""
    network = models.build("u-net", bands=7, classes=5)
    return describe(network, months=(6, 7), mean=[0] * 7, std=[1] * 7, provenance=RUN)


@pytest.fixture(scope="module")
def unet():
    return describe(built("u-net"))


def errors(item):
    """What STAC 1.1 and the rules of the extension find wrong."""
    core = []
    try:
        kind = pystac.STACObjectType.ITEM
        JsonSchemaSTACValidator().validate_core(item, kind, item.get("stac_version", "1.1.0"))
    except pystac.STACValidationError as error:
        core = [str(error)]
    return core + [e.message for e in Draft7Validator(RULES).iter_errors(item)]


def saved(checkpoint, folder):
    return json.loads((checkpoint.save(folder) / "item.json").read_text())


def test_the_item_of_every_network_is_valid(case, tmp_path):
    checkpoint = describe(built(*case))
    item = saved(checkpoint, tmp_path / "model")
    assert errors(item) == []
    mlm = MLMExtension.ext(pystac.Item.from_file(tmp_path / "model" / "item.json"))
    two = models.entry(case[0]).is_two_branch
    assert [i.name for i in mlm.input] == (["s2", "s1"] if two else ["x"])
    for given in mlm.input:
        assert len(given.properties["value_scaling"]) == len(given.bands)
        assert len(given.input.shape) == len(given.input.dim_order)
    assert mlm.total_parameters == sum(p.numel() for p in built(*case).parameters())


@pytest.fixture(scope="module")
def official(shared_data):
    """The schemas that the extensions publish, each under the address it names as its own."""
    folder = shared_data / "stac" / "schemas"
    if not folder.is_dir():
        pytest.skip(f"the official schemas are not at {folder}")
    validator = JsonSchemaSTACValidator()
    for path in folder.rglob("*.json"):
        schema = json.loads(path.read_text(encoding="utf-8"))
        validator.schema_cache[schema["$id"].rstrip("#")] = schema
    return validator


def test_the_official_schemas_agree(case, official):
    item = to_item(describe(built(*case), provenance=RUN)).to_dict(include_self_link=False)
    assert MLM in item["stac_extensions"]
    official.validate(item, pystac.STACObjectType.ITEM, "1.1.0", item["stac_extensions"])


@pytest.mark.network
def test_the_published_schemas_agree(unet, socket_enabled):
    assert MLM in to_item(unet).validate()


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(stacked, id="sentinel-1-stacked"),
        pytest.param(lambda: describe(built("u-net"), provenance=RUN), id="without-sentinel-1"),
        pytest.param(lambda: describe(built("deepforest-2a"), provenance=RUN), id="two-inputs"),
        pytest.param(lambda: describe(built("u-net"), provenance={"chips": 3}), id="other-notes"),
    ],
)
def test_the_item_with_and_without_sentinel_1_and_a_run_is_valid(checkpoint, tmp_path):
    assert errors(saved(checkpoint(), tmp_path / "model")) == []


@pytest.mark.parametrize(
    "path",
    [
        ("properties", "mlm:input"),
        ("properties", "mlm:name"),
        ("properties", "mlm:input", 0, "bands"),
        ("properties", "mlm:input", 0, "input", "shape"),
        ("properties", "mlm:input", 0, "value_scaling", 0, "stddev"),
        ("properties", "mlm:output", 0, "result"),
        ("properties", "mlm:output", 0, "classification:classes", 0, "description"),
        ("properties", "bands"),
        ("properties", "datetime"),
        ("assets", "weights", "mlm:artifact_type"),
        ("assets", "weights", "href"),
        ("assets", "weights"),
        ("stac_extensions", 0),
        ("id",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_an_item_that_lacks_a_part_is_not_valid(unet, path):
    item = to_item(unet).to_dict(include_self_link=False)
    assert errors(item) == []
    *inner, last = path
    part = item
    for key in inner:
        part = part[key]
    del part[last]
    assert errors(item)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("properties", "mlm:tasks"), ["mapping"]),
        (("properties", "mlm:input", 0, "value_scaling"), {"type": "z-score"}),
        (("properties", "mlm:input", 0, "input", "data_type"), "real"),
        (("properties", "mlm:output", 0, "classification:classes", 0, "color_hint"), "#00ff00"),
        (("properties", "mlm:framework_version"), "2.13"),
        (("properties", "mlm:speed"), 3),
        (("assets", "card", "mlm:artifact_type"), "torch.save"),
        (("assets", "weights", "mlm:name"), "u-net"),
        (("assets", "weights", "file:checksum"), "ab12"),
        (("assets", "weights", "bands"), None),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_an_item_with_a_wrong_value_is_not_valid(unet, path, value):
    item = copy.deepcopy(to_item(unet).to_dict(include_self_link=False))
    *inner, last = path
    part = item
    for key in inner:
        part = part[key]
    part[last] = value
    if value is None:
        del part[last]
    assert errors(item)


def test_bands_units_and_scaling_are_the_checkpoints_in_its_order():
    checkpoint = describe(built("deepforest-2a"))
    item = to_item(checkpoint)
    s2, s1 = MLMExtension.ext(item).input
    assert (s2.bands, s2.input.shape) == (["B02", "B03", "B04"], [-1, 3, -1, -1])
    assert s1.bands == ["vv_06", "vh_06", "vv_07", "vh_07", "vv_09", "vh_09"]
    assert s1.input.shape == [-1, 3, 2, -1, -1]
    assert s1.input.dim_order == ["batch", "time", "channel", "height", "width"]
    scaling = s1.properties["value_scaling"] + s2.properties["value_scaling"]
    assert [s["mean"] for s in scaling] == list(checkpoint.mean)
    assert [s["stddev"] for s in scaling] == list(checkpoint.std)
    bands = {band["name"]: band for band in item.properties["bands"]}
    assert list(bands) == list(checkpoint.bands)
    assert bands["vh_09"]["description"] == "Sentinel-1 VH, mean of September, gamma0 dB"
    assert (bands["vh_09"]["unit"], bands["B04"]["unit"]) == ("dB", "1")


def test_a_stack_is_one_input_with_sentinel_1_first():
    (x,) = MLMExtension.ext(to_item(stacked())).input
    assert x.bands == ["vv_06", "vh_06", "vv_07", "vh_07", "B02", "B03", "B04"]
    assert x.input.shape == [-1, 7, -1, -1]


def test_classes_stand_in_the_order_of_the_outputs_with_the_legends_colours(unet):
    (output,) = MLMExtension.ext(to_item(unet)).output
    assert output.result.shape == [-1, 5, -1, -1]
    assert [c.value for c in output.classes] == LEGEND5.codes
    assert [c.color_hint for c in output.classes] == ["00FF7F"] * 5
    network = models.build("u-net", bands=3, classes=13)
    (output,) = MLMExtension.ext(to_item(describe(network, legend=None))).output
    assert [c.title for c in output.classes] == amazon13().names


def test_files_are_found_from_the_item_wherever_the_folder_is_moved(unet, tmp_path):
    moved = unet.save(tmp_path / "here").rename(tmp_path / "there")
    item = pystac.Item.from_file(moved / "item.json")
    item.make_asset_hrefs_absolute()
    assert AssetGeneralMLMExtension.ext(item.assets["weights"]).artifact_type
    for asset in item.assets.values():
        content = (moved / asset.href.rsplit("/", 1)[1]).read_bytes()
        assert asset.href.startswith(str(moved))
        described = FileExtension.ext(asset)
        assert described.size == len(content)
        # A multihash: 0x12 is SHA-256, 0x20 its length in bytes.
        assert bytes.fromhex(described.checksum) == b"\x12\x20" + hashlib.sha256(content).digest()
    assert set(item.assets) == {"weights", "card"}


def test_saving_twice_gives_the_same_bytes(unet, tmp_path):
    first, second = unet.save(tmp_path / "a"), models.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("item.json", "model.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_time_is_that_of_the_training_scenes_and_open_where_it_is_not_known(unet):
    known = to_item(dataclasses.replace(unet, provenance=RUN)).properties
    assert known["start_datetime"] == "2018-06-03T00:00:00Z"
    assert known["end_datetime"] == "2018-11-30T23:59:59Z"
    for cube in ({}, {"s2_period": "2018"}, {"s2_period": "then/now"}):
        notes = {"chips": {"cube": cube}}
        unknown = to_item(dataclasses.replace(unet, provenance=notes)).properties
        assert unknown["start_datetime"] == "1900-01-01T00:00:00Z"
        assert unknown["end_datetime"] == "9999-12-31T23:59:59Z"
    assert to_item(unet).geometry is None


def test_only_a_run_of_ours_says_that_it_started_from_scratch(unet):
    ours = to_item(dataclasses.replace(unet, provenance=RUN)).properties
    assert (ours["mlm:pretrained"], ours["mlm:pretrained_source"]) == (False, None)
    assert ours["mlm:hyperparameters"] == {"epochs": 3, "seed": 0}
    assert not {"mlm:pretrained", "mlm:pretrained_source"} & set(to_item(unet).properties)


def test_simulated_scenes_are_named(unet):
    notes = {"chips": {"cube": {"simulated": "true"}}}
    item = to_item(dataclasses.replace(unet, provenance=notes))
    assert "Trained on simulated scenes" in item.properties["description"]
    assert "simulated" not in to_item(unet).properties["description"]


def test_the_paper_is_cited(unet):
    item = to_item(unet)
    assert ScientificExtension.ext(item).publications[0].doi == "10.3390/rs14195000"
    (link,) = item.get_links("cite-as")
    assert link.href == "https://doi.org/10.3390/rs14195000"
