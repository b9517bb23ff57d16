"""The command line: each stage a call, each error one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dask
import pytest
import xarray as xr
from typer.testing import CliRunner

from deepforest_xr import cli, models
from deepforest_xr.chips import open_chips
from deepforest_xr.classify import mapping
from deepforest_xr.grid import Grid

from .conftest import call

COMMANDS = (
    "search", "coverage", "cube", "chips", "train", "explain", "classify", "postprocess", "assess",
    "demo",
)  # fmt: skip


@pytest.fixture(scope="module")
def chain(scene, tmp_path_factory):
    """Every stage of a small map, by commands alone."""
    at = tmp_path_factory.mktemp("chain")
    left, bottom, right, top = scene.grid.bounds
    steps = {
        "search": (scene.items, "--out", at / "items.parquet"),
        "cube": (at / "items.parquet", "--out", at / "cube.zarr", "--crs", "EPSG:32721",
                 "--bounds", left, bottom, right, top),
        "chips": (at / "cube.zarr", scene.labels, "--collection", 8, "--size", 32,
                  "--out", at / "chips.zarr"),
        "train": (at / "chips.zarr", "--model", "u-net", "--out", at / "run", "--epochs", 1,
                  "--batch", 4, "--device", "cpu"),
        "classify": (at / "cube.zarr", "--model", at / "run/checkpoint", "--out", at / "map.zarr",
                     "--cog", at / "map.tif", "--picture", at / "map.png", "--probability"),
        "assess": (at / "map.zarr", scene.labels, "--collection", 8, "--chips", at / "chips.zarr",
                   "--out", at / "report.json", "--picture", at / "confusion.png",
                   "--calibration"),
    }  # fmt: skip
    for name, words in steps.items():
        assert call(name, *words) == 0, name
    return at


def test_the_stages_chain(chain, scene):
    assert Grid.of(xr.open_zarr(chain / "map.zarr")) == scene.grid
    store = open_chips(chain / "chips.zarr")
    assert store.attrs["cube"]["simulated"]
    assert models.load(chain / "run/checkpoint").model == "u-net"
    assert xr.open_zarr(chain / "map.zarr")["probability"].dims == ("class", "y", "x")
    assert json.loads((chain / "report.json").read_text())["temperature_scaling"]
    for name in ("map.tif", "map.json", "map.png", "report.json", "confusion.png"):
        assert (chain / name).stat().st_size > 0
    assert not [p for p in chain.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "words",
    [
        ("chips", "cube.zarr", "LABELS", "--collection", 8, "--size", 32, "--out", "chips.zarr"),
        ("classify", "cube.zarr", "--model", "run/checkpoint", "--out", "map.zarr"),
        ("assess", "map.zarr", "LABELS", "--collection", 8, "--out", "report.json"),
        ("train", "chips.zarr", "--model", "u-net", "--out", "run"),
    ],
)
def test_what_exists_is_refused(chain, scene, lines, words, monkeypatch):
    monkeypatch.chdir(chain)
    words = [scene.labels if word == "LABELS" else word for word in words]
    code, out, err = lines(*words)
    assert code == 1
    assert out == []
    assert "exists" in next(line for line in err if line.startswith("error: "))


def test_a_map_that_was_interrupted_goes_on(chain, lines, monkeypatch):
    monkeypatch.chdir(chain)
    whole = ("classify", "cube.zarr", "--model", "run/checkpoint", "--block", 32, "--halo", 32)
    assert call(*whole, "--out", "expected.zarr") == 0
    made = []

    def counted(window, *, task, plain=mapping.classify_block):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(1)
        return plain(window, task=task)

    monkeypatch.setattr(mapping, "classify_block", counted)
    with dask.config.set(scheduler="synchronous"):
        assert lines(*whole, "--out", "again.zarr")[0] == 130
        assert not Path("again.zarr").exists()
        monkeypatch.undo()
        monkeypatch.chdir(chain)
        code, _, err = lines(*whole, "--blend", 32, "--out", "again.zarr")
        assert code == 1
        assert any("blend was 0, is now 32" in line for line in err)
        done = len(list(Path().glob(".again.zarr.unfinished/again.zarr/lulc/c/*/*")))
        assert 3 <= done <= 5
        assert call(*whole, "--out", "again.zarr") == 0
    xr.testing.assert_identical(xr.open_zarr("again.zarr"), xr.open_zarr("expected.zarr"))
    assert not Path(".again.zarr.unfinished").exists()


def test_a_style_beside_the_cog_is_not_overwritten(chain, lines, monkeypatch):
    monkeypatch.chdir(chain)
    style = Path("styled.qml")
    style.write_text("mine")
    words = ("classify", "cube.zarr", "--model", "run/checkpoint", "--out", "styled.zarr")
    code, _, err = lines(*words, "--cog", "styled.tif")
    assert code == 1
    assert any("styled.qml exists" in line for line in err)
    assert not Path("styled.zarr").exists()
    assert style.read_text() == "mine"


def test_overwrite_replaces(chain, scene, monkeypatch):
    monkeypatch.chdir(chain)
    words = ("assess", "map.zarr", scene.labels, "--collection", 8, "--out", "report.json")
    before = (chain / "report.json").stat().st_mtime_ns
    assert call(*words, "--overwrite") == 0
    assert (chain / "report.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    answer = CliRunner().invoke(cli.app, [command, "--help"])
    assert answer.exit_code == 0
    assert "Example" in answer.output
    assert f"deepforest-xr {command}" in answer.output


def test_the_commands_are_these():
    answer = CliRunner().invoke(cli.app, ["-h"])
    assert answer.exit_code == 0
    assert all(f" {command} " in answer.output for command in COMMANDS)
    assert {c.callback.__name__ for c in cli.app.registered_commands} == set(COMMANDS)
    groups = {
        group.name: {
            c.name or c.callback.__name__ for c in group.typer_instance.registered_commands
        }
        for group in cli.app.registered_groups
    }
    assert groups == {
        "basin": {"plan", "run", "resume", "status", "finish"},
        "k8s": {"render", "fetch-model", "retry"},
        "legend": {"show"},
        "model": {"list", "show", "install", "export"},
    }


@pytest.mark.parametrize("command", ["train", "demo"])
def test_help_names_the_networks_there_are(command):
    answer = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "300"})
    assert ", ".join(models.names()) in answer.output


@pytest.mark.parametrize("command", ["list", "show", "install", "export"])
def test_help_of_the_model_commands_shows_an_example(command):
    answer = CliRunner().invoke(cli.app, ["model", command, "--help"])
    assert answer.exit_code == 0
    assert f"deepforest-xr model {command}" in answer.output


@pytest.mark.parametrize(
    "words",
    [
        ("clasify",),
        ("train",),
        ("cube", "items.json", "--out", "c", "--crs", "EPSG:32721"),
        ("classify", "cube.zarr", "--out", "m", "--blocks", "3"),
        ("train", "c", "--out", "r", "--epochs", "many"),
    ],
)
def test_wrong_usage_is_2(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*words) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("search", "ITEMS", "--bbox", 10, 50, 11, 51, "--out", "OUT"), "no scene"),
        (("search", "nowhere.json", "--out", "OUT"), "nowhere.json"),
        (("cube", "ITEMS", "--crs", "EPSG:32721", "--bounds", 0, 0, 640, 640, "--out", "OUT"),
         "no Sentinel-2 scene"),
        (("cube", "ITEMS", "--crs", "EPSG:99", "--bounds", 0, 0, 640, 640, "--out", "OUT"),
         "EPSG:99"),
        (("chips", "CHAIN/cube.zarr", "nothing.tif", "--collection", 8, "--out", "OUT"),
         "nothing.tif"),
        (("chips", "CHAIN/cube.zarr", "LABELS", "--collection", 3, "--out", "OUT"), "collection 3"),
        (("chips", "CHAIN/cube.zarr", "LABELS", "--collection", 8, "--size", 512, "--out", "OUT"),
         "no whole chip"),
        (("train", "CHAIN/cube.zarr", "--out", "OUT"), "is not a store of chips"),
        (("train", "CHAIN/chips.zarr", "--model", "unet", "--out", "OUT"), "Did you mean 'u-net'"),
        (("train", "CHAIN/chips.zarr", "--model", "deepforest-2b", "--out", "OUT"), "Sentinel-1"),
        (("classify", "CHAIN/cube.zarr", "--out", "OUT"), "A model is never guessed"),
        (("classify", "CHAIN/cube.zarr", "--model", "CHAIN", "--out", "OUT"), "not a checkpoint"),
        (("classify", "CHAIN/chips.zarr", "--model", "CHAIN/run/checkpoint", "--out", "OUT"), ""),
        (("classify", "absent.zarr", "--model", "CHAIN/run/checkpoint", "--out", "OUT"),
         "does not exist"),
        (("assess", "CHAIN/map.zarr", "LABELS", "--collection", 8, "--band", 7, "--out", "OUT.md"),
         "bands 1 to 1"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_leaves_no_file(
    chain, scene, lines, words, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPFOREST_XR_MODEL", raising=False)
    known = {"ITEMS": scene.items, "LABELS": scene.labels}
    words = [known.get(w, str(w).replace("CHAIN", str(chain))) for w in words]
    code, out, err = lines(*words)
    assert code == 1
    assert out == []
    # Without a terminal a stage's title is all that its progress bar prints.
    *titles, line = err
    assert titles in ([], ["Cube"], ["Chips"], ["Map"])
    assert line.startswith("error: ")
    assert says in line
    assert "unexpected" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_says_one_line_and_debug_the_traceback(tmp_path):
    words = [sys.executable, "-m", "deepforest_xr.cli", "classify", "absent.zarr", "--out", "m"]
    plain, debug = (
        subprocess.run(w, capture_output=True, text=True, cwd=tmp_path, env={**os.environ})
        for w in (words, [*words, "--debug"])
    )
    assert plain.returncode == debug.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.count("\n") == 1
    assert "'absent.zarr' does not exist" in plain.stderr
    assert "Traceback" in debug.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_exists_is_refused_before_the_map_is_computed(chain, lines, tmp_path):
    taken = tmp_path / "map.tif"
    taken.write_text("mine")
    words = ["classify", str(chain / "cube.zarr"), "--model", str(chain / "run" / "checkpoint")]
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--out", str(tmp_path / "new.zarr"), "--cog", str(taken)])
    assert caught.value.code == 1
    assert taken.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]
