import csv
import json

import pandas as pd
import pytest

from deepforest_xr.accuracy import counts_from_points, draw_points
from deepforest_xr.errors import ConfigError, ReadError, WriteError
from deepforest_xr.legend import amazon13
from deepforest_xr.maps import read_points, write_points


@pytest.fixture
def points(make_map):
    return draw_points(make_map().lulc, {1: 3, 2: 4}, seed=3)


def test_csv_is_a_plain_table_to_fill_in(points, tmp_path):
    path = write_points(points, tmp_path / "p.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == [
        "id", "x", "y", "longitude", "latitude", "code", "class", "reference",
    ]  # fmt: skip
    assert {row["reference"] for row in rows} == {""}
    assert [float(row["x"]) for row in rows] == points.x.tolist()


@pytest.mark.parametrize("name", ["p.csv", "p.geojson", "p.json"])
def test_labelled_points_come_back(points, tmp_path, name):
    labelled = points.assign(reference=[1, 1, 2, 2, 2, 1, 2])
    path = write_points(labelled, tmp_path / name)
    read = read_points(path)
    expected = counts_from_points(labelled, amazon13())
    assert (counts_from_points(read, amazon13()) == expected).all()
    pd.testing.assert_series_equal(read.longitude, points.longitude)
    with pytest.raises(WriteError, match="exists"):
        write_points(labelled, path)


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_column(points, tmp_path):
    text = points.assign(reference=1).to_csv(index=False)
    (tmp_path / "p.csv").write_text(text, encoding="utf-8-sig")
    assert read_points(tmp_path / "p.csv").columns[0] == "id"


def test_geojson_may_have_gained_a_height(points, tmp_path):
    path = write_points(points.assign(reference=2), tmp_path / "p.geojson")
    content = json.loads(path.read_text())
    content["features"][0]["geometry"]["coordinates"].append(120.0)
    path.write_text(json.dumps(content))
    assert counts_from_points(read_points(path), amazon13()).sum() == 7


def test_files_that_are_no_points_are_one_line(points, tmp_path):
    with pytest.raises(ConfigError, match=r"got 'p.shp'"):
        write_points(points, tmp_path / "p.shp")
    (tmp_path / "p.geojson").write_text('{"type": "Feature"}')
    (tmp_path / "q.json").write_text("[1")
    (tmp_path / "r.csv").write_text("")
    for name in ("p.geojson", "q.json", "r.csv", "absent.csv"):
        with pytest.raises(ReadError, match=name) as caught:
            read_points(tmp_path / name)
        assert "\n" not in str(caught.value)
