"""The command ``basin``: plan, run, status, and what their exit codes say."""

import json

import pyproj
import pytest
import shapely
import torch
from shapely.geometry import mapping

from deepforest_xr import models
from deepforest_xr.basin.scenes import freeze, thaw
from deepforest_xr.basin.store import open_objects

from .conftest import call

BANDS = ("B02", "B04", "B08")


@pytest.fixture
def toml(scene, tmp_path):
    """Settings of two tiles beside one another, written as a user would."""
    torch.manual_seed(3)
    network = models.build("u-net", bands=3, classes=13).eval()
    model = models.Checkpoint.from_module(network, bands=BANDS, mean=[0.2] * 3, std=[0.05] * 3)
    model.save(tmp_path / "model")
    to = pyproj.Transformer.from_crs(32721, 4326, always_xy=True)
    box = shapely.box(830_300, 9_109_200, 830_900, 9_109_300)
    area = mapping(shapely.transform(box, to.transform, interleaved=False))
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    path = tmp_path / "plan.toml"
    path.write_text(
        f"""aoi = "area.geojson"
source = "{scene.items}"
model = "model"
out = "basin"
year = 2018
crs = "EPSG:32721"
tile = 64
block = 32
device = "cpu"
"""
    )
    return path


def test_from_a_file_to_a_finished_map(toml, tmp_path, lines):
    code, out, _ = lines("basin", "plan", toml, "--dry-run", "--tiles", tmp_path / "tiles.json")
    assert code == 0
    assert "tiles    2, 0 of them without scenes" in out
    assert "time     not measured" in out
    assert not (tmp_path / "basin").exists()
    assert len(json.loads((tmp_path / "tiles.json").read_text())["features"]) == 2
    words = ("basin", "plan", toml, "--picture", tmp_path / "plan.png")
    assert lines(*words)[0] == 0
    assert (tmp_path / "plan.png").stat().st_size > 1000
    code, _, err = lines(*words)
    assert code == 1
    assert "plan.png exists" in err[-1]
    code, out, err = lines("basin", "run", tmp_path / "basin", "--shard", "1/2")
    assert code == 0
    assert err == ["Tiles done: 0 of 1", "Tiles done: 1 of 1"]
    assert out == ["1 of 1 tiles are done, 1 of them in this run"]
    code, out, _ = lines("basin", "status", tmp_path / "basin", "--json")
    assert json.loads("\n".join(out))["counts"]["done"] == 1
    code, out, _ = lines("basin", "resume", tmp_path / "basin")
    assert out == ["2 of 2 tiles are done, 1 of them in this run"]
    code, out, _ = lines("basin", "status", tmp_path / "basin", "--map", tmp_path / "states.png")
    assert code == 0
    assert any(line.split()[:2] == ["done", "2"] for line in out)
    assert (tmp_path / "states.png").stat().st_size > 1000


def test_a_tile_that_is_set_aside_ends_its_shard_with_42(toml, tmp_path, lines):
    assert call("basin", "plan", toml) == 0
    objects = open_objects(tmp_path / "basin")
    key = objects.names("items/")[0]
    items = thaw(objects.get(key))
    for item in items:
        item.assets["B08"].href = str(tmp_path / "gone.tif")
    objects.put(key, freeze(items))
    assert call("basin", "run", tmp_path / "basin", "--shard", "1/2") == 0
    code, out, _ = lines("basin", "run", tmp_path / "basin", "--max-attempts", 2)
    assert code == 42
    assert "gone.tif" in " ".join(out)
    code, out, _ = lines("basin", "status", tmp_path / "basin")
    assert code == 0
    assert any("gone.tif" in line for line in out)
    assert any(line.split()[:3] == ["set", "aside", "1"] for line in out)
    code, out, _ = lines("basin", "status", tmp_path / "basin", "--max-attempts", 3)
    assert any(line.split()[:3] == ["set", "aside", "0"] for line in out)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "nowhere"), 1, "is no folder"),
        (("status", "."), 1, "holds no plan"),
        (("plan", "none.toml"), 1, "cannot be read"),
        (("run", ".", "--lease", "0"), 1, "holds no plan"),
    ],
)
def test_errors_are_one_line(words, code, said, lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended, out, err = lines("basin", *words)
    assert ended == code
    assert out == []
    assert err[0].startswith("error: ")
    assert said in err[0]


@pytest.mark.parametrize("shard", ["1", "/4", "a/b", "-1/3"])
def test_a_shard_that_is_none_is_wrong_usage(shard, toml, tmp_path):
    call("basin", "plan", toml)
    assert call("basin", "run", tmp_path / "basin", f"--shard={shard}") == 2


def test_a_scheduler_that_does_not_answer_is_to_be_tried_again(toml, tmp_path, monkeypatch):
    import dask

    call("basin", "plan", toml)
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        words = ("basin", "run", tmp_path / "basin", "--scheduler", "tcp://127.0.0.1:9")
        assert call(*words) == 75
