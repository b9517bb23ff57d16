"""``assess``: a label raster, a sample drawn, the sample labelled."""

import json

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr

from deepforest_xr.accuracy import area_adjusted, counts_from_points, mapped_area
from deepforest_xr.legend import amazon13
from deepforest_xr.maps import write_zarr


@pytest.fixture(scope="module")
def truth(scene):
    with rasterio.open(scene.truth) as raster:
        return raster.read(1)


@pytest.fixture
def stored(scene, truth, tmp_path):
    """A map that is right but for every fifth column, and sure of 90 % everywhere."""
    grid = scene.grid
    codes = truth.astype("uint8")
    assert codes.shape == grid.shape
    present = np.unique(codes[codes > 0])
    codes[:, ::5] = np.where(codes[:, ::5] == present[0], present[1], present[0])
    dataset = xr.Dataset(
        {
            "lulc": (("y", "x"), codes, amazon13().attrs()),
            "confidence": (("y", "x"), np.full(codes.shape, 90, dtype="uint8")),
        },
        coords=grid.coords(),
        attrs={"simulated": "true"},
    )
    path = tmp_path / "map.zarr"
    write_zarr(dataset.chunk(y=32, x=50), path)
    return path


def test_points_are_drawn_labelled_and_assessed(stored, scene, truth, lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = ("assess", "map.zarr", "--draw", "p.csv", "--units", 400, "--minimum", 20, "--seed", 3)
    code, out, _ = lines(*draw)
    assert code == 0
    assert "points written to p.csv" in out[0]
    points = pd.read_csv("p.csv")
    assert points.reference.isna().all()
    code, _, err = lines(*draw)
    assert code == 1
    assert "exists" in next(line for line in err if line.startswith("error: "))
    code, _, err = lines("assess", "map.zarr", "p.csv")
    assert code == 1
    assert f"none of {len(points)} points" in next(x for x in err if x.startswith("error: "))

    left, _, _, top = scene.grid.bounds
    rows, cols = ((top - points.y) // 10).astype(int), ((points.x - left) // 10).astype(int)
    points.assign(reference=truth[rows, cols]).to_csv("labelled.csv", index=False)
    code, out, _ = lines("assess", "map.zarr", "labelled.csv", "--out", "r", "--pictures", "pic")
    assert code == 0
    assert any("overall accuracy" in line for line in out)
    content = json.loads((tmp_path / "r" / "accuracy.json").read_text())
    counts = counts_from_points(pd.read_csv("labelled.csv"), amazon13())
    area = mapped_area(xr.open_zarr("map.zarr").lulc)
    expected = area_adjusted(counts, area)
    found = content["area_adjusted"]
    assert found["overall_accuracy"] == pytest.approx(expected.overall_accuracy)
    assert found["overall_accuracy"] == pytest.approx(0.8, abs=2 * expected.overall_accuracy_ci95)
    assert content["simulated"] is True
    assert sorted(p.name for p in (tmp_path / "pic").iterdir()) == ["classes.png", "confusion.png"]


def test_calibration_is_counted_when_asked_for(stored, scene, lines, tmp_path):
    words = ("assess", stored, scene.labels, "--collection", 8, "--out", tmp_path / "r.json")
    assert lines(*words)[0] == 0
    assert json.loads((tmp_path / "r.json").read_text())["calibration"] is None
    again = (*words, "--calibration", "--pictures", tmp_path / "pic", "--overwrite")
    assert lines(*again)[0] == 0
    content = json.loads((tmp_path / "r.json").read_text())
    error = content["calibration"]["expected_calibration_error"]
    assert error == pytest.approx(abs(0.9 - content["overall_accuracy"]))
    assert (tmp_path / "pic" / "reliability.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((), "either a reference or --draw"),
        (("p.csv", "--draw", "q.csv"), "either a reference or --draw"),
        (("p.csv", "--calibration"), "--calibration cannot go with labelled points"),
        (("p.csv", "--collection", 8), "--collection cannot go with labelled points"),
        (("--draw", "q.shp"), "points are .csv or .geojson"),
        (("--draw", "q.csv", "--allocation", "best"), "'best' is unknown"),
        (("--draw", "q.csv", "--units", 3), "total=3 points are too few"),
        (("--draw", "q.csv", "--expected", 80), "0 to 1"),
        (("absent.csv",), "absent.csv"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    stored, lines, capsys, tmp_path, monkeypatch, words, match
):
    monkeypatch.chdir(tmp_path)
    code, _, err = lines("assess", "map.zarr", *words)
    assert code in (1, 2)
    # Wrong usage is typer's own box, the rest our one line.
    said = " ".join([*err, capsys.readouterr().err]).replace("│", " ")
    assert match in " ".join(said.split())
    assert [p.name for p in tmp_path.iterdir()] == ["map.zarr"]
