"""An exported network computes in onnxruntime what it computes in torch, at any size."""

import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.errors import MissingExtraError, ModelError, WriteError
from deepforest_xr.legend import LandCoverClass, Legend
from deepforest_xr.models import export

from .conftest import CASES, MONTHS, built, inputs, smooth

LEGEND5 = Legend("five", tuple(LandCoverClass(i, f"class {i}", "#00ff00") for i in range(1, 6)))
CALENDAR = (6, 7, 9)
# Tracing with free sizes takes torch up to half a minute a network: one of each kind is enough
# for every run, `pytest -m slow` has them all.
QUICK = ("u-net", "deepforest-1b", "deepforest-2a")


def shaken(name, s2_branch=None):
    """A network whose BatchNorms do something, unlike those of a new one; still well-behaved."""
    network = copy.deepcopy(built(name, s2_branch))
    random = torch.Generator().manual_seed(7)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for values, center in (
                (part.running_mean, 0.0),
                (part.running_var, 1.0),
                (part.weight.data, 1.0),
                (part.bias.data, 0.0),
            ):
                values.uniform_(center - 0.3, center + 0.3, generator=random)
    return network


def describe(network):
    two = models.entry(network.model_name).is_two_branch
    channels = 3 + 2 * MONTHS * two
    return models.Checkpoint.from_module(
        network,
        bands=("B02", "B03", "B04"),
        mean=np.linspace(0.1, 0.9, channels),
        std=np.linspace(1.1, 1.9, channels),
        months=CALENDAR if two else None,
        legend=LEGEND5,
    )


@pytest.fixture(scope="module")
def unet():
    return describe(shaken("u-net"))


@pytest.fixture(scope="module")
def program(unet):
    """The traced network; tracing takes longer than all else."""
    with export._quiet():
        return export._trace(unet.build())


@pytest.fixture(scope="module")
def exported(unet, program, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_trace", lambda network: program)
        return models.export_onnx(unet, tmp_path_factory.mktemp("onnx") / "new" / "unet.onnx")


def session(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case[1] or case[0], marks=[pytest.mark.slow] * (case[0] not in QUICK))
        for case in CASES
    ],
)
def test_onnxruntime_agrees_with_torch(case, tmp_path):
    network = shaken(*case)
    folder = describe(network).save(tmp_path / "model")
    written = models.export_onnx(folder, tmp_path / "model.onnx")
    onnx.checker.check_model(str(written.path), full_check=True)
    run = session(written.path)
    two = models.entry(case[0]).is_two_branch
    assert [i.name for i in run.get_inputs()] == (["s2", "s1"] if two else ["x"])
    assert [o.name for o in run.get_outputs()] == ["logits"]
    worst = 0.0
    for count, rows, cols in ((1, 32, 32), (2, 96, 64), (5, 32, 128)):
        given = inputs(network, rows, cols, n=count, seed=rows + cols)
        with torch.no_grad():
            expected = network(*given).numpy()
        feed = {i.name: x.numpy() for i, x in zip(run.get_inputs(), given, strict=True)}
        (logits,) = run.run(None, feed)
        assert logits.shape == (count, 5, rows, cols)
        # Logits of random weights may be small: then 1e-4 alone would say little.
        worst = max(worst, np.abs(logits - expected).max() / min(1, expected.std()))
    assert worst <= 1e-4
    assert 0 < written.difference <= 1e-4


def test_sizes_are_free_and_the_opset_is_the_files(exported):
    model = onnx.load(str(exported.path))
    (x,) = model.graph.input
    batch, bands, rows, cols = x.type.tensor_type.shape.dim
    assert bands.dim_value == 3
    assert batch.dim_param
    assert rows.dim_param
    assert cols.dim_param
    assert rows.dim_param != cols.dim_param
    assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [
        ("", exported.opset)
    ]
    assert exported.opset >= 18


def test_names_normalisation_and_legend_travel_in_the_file(exported, unet, tmp_path):
    card = json.loads(session(exported.path).get_modelmeta().custom_metadata_map["model.json"])
    assert card == json.loads((unet.save(tmp_path / "model") / "model.json").read_text())
    assert [band["name"] for band in card["bands"]] == ["B02", "B03", "B04"]
    # All that a program without torch needs: reflectance to classes.
    reflectance = 0.5 + smooth(3, 32, 64, seed=9).numpy()
    mean, std = (np.array(card[key], "float32")[:, None, None] for key in ("mean", "std"))
    (logits,) = session(exported.path).run(None, {"x": (reflectance - mean) / std})
    codes = np.array([c["code"] for c in card["legend"]["classes"]])
    with torch.no_grad():
        expected = unet.build()(torch.from_numpy((reflectance - mean) / std)).argmax(1)
    assert (codes[logits.argmax(1)] == expected.numpy() + 1).mean() > 0.999


def test_it_is_one_file_in_a_folder_made_for_it(exported):
    assert [p.name for p in exported.path.parent.iterdir()] == ["unet.onnx"]


@pytest.mark.parametrize(
    ("shift", "says"), [(2e-4, r"2\.\de-04"), (float("nan"), "inf")], ids=["another", "no-number"]
)
def test_a_file_that_does_not_compute_the_network_is_not_written(
    unet, program, tmp_path, monkeypatch, shift, says
):
    network = unet.build()
    with torch.no_grad():
        network.head.bias[2] += shift
    monkeypatch.setattr(export, "_trace", lambda network: program)
    monkeypatch.setattr(models.Checkpoint, "build", lambda self: network)
    with pytest.raises(ModelError, match=f"u-net differs by {says} in onnxruntime") as caught:
        models.export_onnx(unet, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_unless_asked(unet, tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(WriteError, match="exists"):
        models.export_onnx(unet, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_without_the_extra_the_hint_is_how_to_install_it(unet, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(MissingExtraError, match=r'needs onnxscript: pip install "deepforest-xr\['):
        models.export_onnx(unet, tmp_path / "model.onnx")
