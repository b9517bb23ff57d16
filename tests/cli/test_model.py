"""``deepforest-xr model``: what it lists, shows, installs and exports is what the library has."""

import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

from deepforest_xr import models
from deepforest_xr.cli import console

from .conftest import call

MONTHS = (6, 7)
RUN = {
    "model": "u-net",
    "settings": {"epochs": 3},
    "chips": {
        "count": 12,
        "split": [7, 3, 2],
        "legend": {"name": "left out: it has a table of its own"},
        "cube": {"s2_period": "2018-06-01/2018-11-30", "s1_quantity": "sigma0, not corrected"},
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of two Sentinel-1 months and three bands in one stack."""
    torch.manual_seed(2)
    checkpoint = models.Checkpoint.from_module(
        models.build("u-net", bands=7, classes=13),
        bands=("B02", "B03", "B04"),
        mean=[-10.5] * 4 + [0.125] * 3,
        std=[2.25] * 4 + [0.0625] * 3,
        months=MONTHS,
        provenance=RUN,
    )
    return checkpoint.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPFOREST_XR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def cells(line):
    """Columns of a printed table."""
    return re.split(r"\s{2,}", line.strip())


def test_list_names_every_network_as_it_is(lines):
    code, out, err = lines("model", "list")
    assert (code, err) == (0, [])
    rows = {row[0]: row for row in map(cells, out[1:])}
    for name in models.names():
        known = models.entry(name)
        two = known.is_two_branch
        with torch.device("meta"):
            network = models.build(name, bands=10, classes=13, months=7 if two else None)
        count = sum(p.numel() for p in network.parameters())
        assert rows[name][1:] == [
            "bands, months" if two else "bands",
            f"{count:,}",
            str(known.halo),
            str(known.reach),
            known.summary,
        ]
    assert "10 bands and 13 classes, and 7 months" in out[-1]


def test_show_says_all_that_the_checkpoint_holds(saved, lines):
    checkpoint = models.load(saved)
    code, out, err = lines("model", "show", saved)
    assert (code, err) == (0, [])
    rows = {row[0]: row[1:] for row in map(cells, out) if row[0]}
    assert rows["network"] == [f"u-net: {models.entry('u-net').summary}"]
    assert rows["built with"] == ["bands=7, classes=13"]
    assert rows["parameters"] == [f"{checkpoint.parameters:,}"]
    assert rows["receptive field"] == ["+-768 px; halo of a tile 32 px"]
    assert rows["Sentinel-1 months"] == ["June, July"]
    assert rows["sha256 of weights"] == [checkpoint.sha256]
    assert rows["vh_07"] == ["sigma0 dB", "-10.5", "2.25"]
    assert rows["B03"] == ["reflectance", "0.125", "0.0625"]
    for known in checkpoint.legend.classes:
        assert [str(known.code), known.name, known.color] in [[k, *v] for k, v in rows.items()]
    assert rows["chips.cube.s2_period"] == ["2018-06-01/2018-11-30"]
    assert rows["chips.split"] == ["7, 3, 2"]
    assert rows["settings.epochs"] == ["3"]
    assert "left out" not in "\n".join(out)


def test_show_draws_the_colours_of_the_legend_on_a_terminal(saved, monkeypatch):
    terminal = Console(width=100, force_terminal=True, color_system="truecolor")
    monkeypatch.setattr(console, "out_console", terminal)
    with terminal.capture() as shown:
        assert call("model", "show", saved) == 0
    for red, green, blue in models.load(saved).legend.rgb().values():
        assert f"\x1b[48;2;{red};{green};{blue}m" in shown.get()


def test_show_without_notes_says_so(saved, lines, tmp_path):
    card = json.loads((saved / "model.json").read_text())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model.json").write_text(json.dumps(card | {"provenance": {}}))
    (bare / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    assert lines("model", "show", bare)[1][-1] == "no provenance recorded"


def test_install_says_what_the_default_is_now_and_how_to_undo_it(saved, lines, home, monkeypatch):
    code, out, err = lines("model", "install", saved)
    assert (code, err) == (0, ["Model"])
    folder = models.installed()
    assert out == [
        f"u-net {models.load(saved).sha256[:12]} is the default of classify now: {folder}",
        f"to undo, install another or delete {home / 'default-model'}",
    ]
    monkeypatch.setenv("DEEPFOREST_XR_MODEL", "elsewhere")
    assert lines("model", "install", saved)[2][-1] == (
        "DEEPFOREST_XR_MODEL is set and comes before it"
    )
    (home / "default-model").unlink()
    assert models.installed() is None


def test_the_bar_of_a_download_counts_bytes(saved, monkeypatch):
    terminal = Console(width=100, force_terminal=True, stderr=True)
    monkeypatch.setattr(console, "err_console", terminal)
    with terminal.capture() as said:
        assert call("model", "install", saved) == 0
    size = (saved / "model.safetensors").stat().st_size
    assert f"{size / 1000:.1f}/{size / 1000:.1f} kB" in said.get()


def test_export_writes_onnx_and_says_how_well_it_agrees(saved, lines, tmp_path):
    target = tmp_path / "model.onnx"
    code, out, err = lines("model", "export", saved, "--onnx", target)
    assert (code, err) == (0, [])
    (line,) = out
    said = re.fullmatch(rf"written to {target}: opset (\d+), logits within (\S+) of torch's", line)
    assert int(said[1]) >= 18
    assert float(said[2]) <= 1e-4
    x = np.ones((1, 7, 32, 64), "float32")
    (logits,) = onnxruntime.InferenceSession(str(target)).run(["logits"], {"x": x})
    with torch.no_grad():
        expected = models.load(saved).build()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    code, out, err = lines("model", "export", saved, "--onnx", target)
    assert (code, out) == (1, [])
    assert err == [f"error: {target} exists: choose another name, or pass --overwrite."]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "absent"), "error: absent is not a checkpoint: absent/model.json: No such file"),
        (("install", "absent"), "error: absent is not a checkpoint: model.json: No such file"),
        (("install", "http://127.0.0.1:1/m"), "error: http://127.0.0.1:1/m/model.json could not"),
        (("export", "absent", "--onnx", "m.onnx"), "error: absent is not a checkpoint"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(words, says, lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = lines("model", *words)
    assert (code, out) == (1, [])
    assert err[-1].startswith(says)
    assert err[:-1] in ([], ["Model"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("model", "shew", "x"), ("model", "show"), ("model", "export", "x")]
)
def test_wrong_usage_is_2(words):
    assert call(*words) == 2
