"""Coverage by month: from metadata against closed areas, read against the cube and the files."""

import logging
from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import rasterio

from deepforest_xr import coverage
from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.errors import ConfigError, MissingAssetError, NoItemsError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.testing import no_compute

DEGREES = Grid.from_bounds((-54.0, -9.0, -53.0, -8.0), crs=4326, resolution=0.1)


def item(name, box, when, collection="sentinel-2-l2a", **properties):
    w, s, e, n = box
    ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    day = datetime.fromisoformat(when).replace(tzinfo=UTC)
    return pystac.Item(name, geometry, list(box), day, properties, collection=collection)


def test_observations_are_shares_of_the_grid_and_clear_ones_free_of_clouds():
    found = coverage(
        [
            item("whole", (-55, -10, -52, -7), "2018-11-03", **{"eo:cloud_cover": 25}),
            item("half", (-54, -9, -53.5, -8), "2018-11-20", **{"eo:cloud_cover": 50}),
            item("next to it", (-53, -9, -52, -8), "2018-11-20", **{"eo:cloud_cover": 0}),
            item("quarter", (-53.5, -8.5, -52, -7), "2019-02-01", **{"eo:cloud_cover": 100}),
            item("radar", (-54, -9, -53, -8), "2018-12-31", "sentinel-1-rtc",
                 **{"sat:orbit_state": "descending"}),
            item("other", (-54, -9, -53, -8), "2015-01-01", "landsat-c2-l2"),
        ],
        DEGREES,
    )  # fmt: skip
    table = found.table
    assert list(table.index) == ["2018-11", "2018-12", "2019-01", "2019-02"]
    assert table["s2_scenes"].tolist() == [2, 0, 0, 1]
    np.testing.assert_allclose(table["s2_observations"], [1.5, 0, 0, 0.25])
    np.testing.assert_allclose(table["s2_clear"], [0.75 + 0.25, 0, 0, 0])
    assert table["s1_scenes"].tolist() == [0, 1, 0, 0]
    assert table["s1_descending"].tolist() == [0, 1, 0, 0]
    assert table["s1_ascending"].sum() == 0
    assert found.empty_s2 == ["2018-12", "2019-01", "2019-02"]
    assert found.empty_s1 == ["2018-11", "2019-01", "2019-02"]
    assert not found.is_read


def test_a_scene_that_states_no_clouds_leaves_the_month_unknown():
    found = coverage([item("a", (-55, -10, -52, -7), "2018-11-03")], DEGREES)
    assert np.isnan(found.table["s2_clear"].iloc[0])
    assert "unknown" in found.to_markdown()
    assert found.empty_s2 == []


@pytest.fixture(scope="module")
def items(scene):
    return list(read_items(scene.items))


def test_metadata_are_enough_and_empty_months_are_warned_of(items, scene, caplog):
    with no_compute(), caplog.at_level(logging.WARNING):
        found = coverage(items, scene.grid)
    assert found.empty_s1 == ["2018-07"]
    assert "Sentinel-1: nothing seen in 2018-07" in caplog.text
    assert "without Sentinel-1: 2018-07" in str(found)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        coverage(items, scene.grid, months=(6, 8))
    assert caplog.text == ""


def test_what_is_read_is_what_the_cube_counts(items, scene):
    told = []
    found = coverage(
        items, scene.grid, read=True, scl_dilation=2, progress=lambda *n: told.append(n)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert found.is_read
    cube = open_cube(items, grid=scene.grid, bands=["B02"], scl_dilation=2)
    assert found.table["s2_clear"].sum() == pytest.approx(float(cube["s2_count"].mean()))
    for month in (6, 7, 8):
        some = [i for i in items if i.datetime.month == month]
        count = open_cube(some, grid=scene.grid, bands=["B02"], scl_dilation=2)["s2_count"]
        row = found.table.loc[f"2018-{month:02}"]
        assert row["s2_clear"] == pytest.approx(float(count.mean()))
        assert row["s2_unseen"] == pytest.approx(float((count == 0).mean()))
    estimate = coverage(items, scene.grid).table
    np.testing.assert_array_equal(estimate["s2_scenes"], found.table["s2_scenes"])


def test_a_real_series_is_counted_as_its_files_say(shared_data):
    site = "00002806639B424A"
    folder = shared_data / "real" / "worldcereal_series"
    series = [i for i in read_items(folder / "items.json") if i.properties["site"] == site]
    grid = Grid.from_bounds((501360, 5629040, 502000, 5629680), crs=32631)
    found = coverage(series, grid, read=True).table
    may = [i for i in series if i.datetime.strftime("%Y-%m") == "2018-05" and "SCL" in i.assets]
    clear = 0
    for scene in may:
        with rasterio.open(scene.assets["SCL"].href) as source:
            clear = clear + np.isin(source.read(1), (2, 4, 5, 6, 7, 11))
    assert found.loc["2018-05", "s2_scenes"] == len(may) > 5
    assert found.loc["2018-05", "s2_clear"] == pytest.approx(clear.mean())
    assert found.loc["2018-05", "s2_unseen"] == pytest.approx((clear == 0).mean())
    guess = coverage(series, grid).table
    np.testing.assert_allclose(guess["s2_observations"], guess["s2_scenes"], rtol=0.01)
    assert float((guess["s2_clear"] - found["s2_clear"]).abs().mean()) < 0.5


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_it_is_drawn(items, scene, tmp_path):
    pytest.importorskip("matplotlib")
    found = coverage(items, scene.grid)
    path = found.write_picture(tmp_path / "coverage.png")
    with rasterio.open(path) as picture:
        assert picture.width >= 600
        red = picture.read([1, 2, 3]).reshape(3, -1).T
        assert (red == [0xF6, 0xD6, 0xD2]).all(1).sum() > 1000  # July
    with pytest.raises(WriteError, match="exists"):
        found.write_picture(path)
    with pytest.raises(ConfigError, match=r"does not end in \.png"):
        found.write_picture(tmp_path / "coverage.pdf")


def test_months_wanted_beyond_those_of_the_items_are_warned_of(caplog):
    scenes = [
        item("june", (-55, -10, -52, -7), "2018-06-03", "sentinel-1-rtc"),
        item("november", (-55, -10, -52, -7), "2018-11-20", "sentinel-1-rtc"),
    ]
    with caplog.at_level(logging.WARNING):
        found = coverage(scenes, DEGREES, months=range(6, 13))
    assert list(found.table.index) == [f"2018-{m:02}" for m in range(6, 13)]
    assert "Sentinel-1: nothing seen in 2018-07, 2018-08, 2018-09, 2018-10, 2018-12" in caplog.text


def test_nothing_over_the_grid_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        found = coverage([item("far", (10, 10, 11, 11), "2018-06-03")], DEGREES)
    assert found.table["s2_scenes"].tolist() == [0]
    assert "Sentinel-2: nothing seen in 2018-06" in caplog.text
    with pytest.raises(ConfigError, match="not calendar months"):
        coverage([item("a", (-55, -10, -52, -7), "2018-06-03")], DEGREES, months=[13])


def test_no_items_and_scenes_without_classes_are_one_line(items, scene):
    with pytest.raises(NoItemsError, match="empty"):
        coverage([], scene.grid)
    poor = [i.clone() for i in items]
    for each in poor:
        each.assets.pop("SCL", None)
    with pytest.raises(MissingAssetError, match="9 of 9 Sentinel-2 scenes lack SCL"):
        coverage(poor, scene.grid, read=True)
