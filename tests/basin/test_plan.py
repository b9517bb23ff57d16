"""A plan: the same again is nothing, another is refused, and the empty map is `write_zarr`'s."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
import xarray as xr
from shapely.geometry import shape

from deepforest_xr import classify, open_cube
from deepforest_xr.basin import open_plan, plan_basin
from deepforest_xr.basin import plan as plan_module
from deepforest_xr.basin.scenes import thaw
from deepforest_xr.basin.store import Objects, open_objects
from deepforest_xr.catalogs import read_items, write_items
from deepforest_xr.errors import ConfigError, NoItemsError
from deepforest_xr.maps import write_zarr

from .conftest import BANDS, IDS, PARTS, area_file, content


def test_tiles_are_those_of_the_area(plan):
    assert tuple(tile.id for tile in plan.tiles) == IDS
    assert plan.tiling.grid.shape == (128, 192)
    assert open_plan(plan.url) == plan


def test_each_tile_keeps_its_own_scenes(plan, scene):
    every = {item.id: item for item in read_items(scene.items)}
    objects = open_objects(plan.url)
    for tile in plan.tiles:
        frozen = thaw(objects.get(f"items/{tile.id}.parquet"))
        assert len(frozen) == plan.items[tile.id]
        assert {i.collection_id for i in frozen} == {"sentinel-2-l2a"}
        for item in frozen:
            assert item.assets["B04"].href == every[item.id].assets["B04"].href
    # The two UTM zones: the western tile lies in one granule fewer.
    assert plan.items["r0001c0000"] < plan.items["r0001c0001"] <= 9


def test_attributes_and_layout_are_those_of_write_zarr(plan, scene, tmp_path):
    items = read_items(scene.items)
    cube = open_cube(items, grid=plan.tiling.grid, bands=BANDS)
    lulc = classify(cube, plan.model.path, block=64, halo=32)
    write_zarr(lulc, tmp_path / "whole.zarr")
    expected = xr.open_zarr(tmp_path / "whole.zarr")
    found = xr.open_zarr(f"{plan.url}/map.zarr")
    assert found.attrs == expected.attrs
    assert set(found.variables) == set(expected.variables)
    for name, array in expected.variables.items():
        assert found[name].attrs == array.attrs, name
        assert found[name].dtype == array.dtype, name
        if name in expected.coords:
            np.testing.assert_array_equal(found[name], array)
    kept = content(tmp_path / "basin"), content(tmp_path, "whole.zarr")
    for name in ("lulc", "confidence", "x", "y", "spatial_ref"):
        ours, theirs = (json.loads(k[f"{name}/zarr.json"]) for k in kept)
        assert ours == theirs, name


def test_planned_again_nothing_happens(config, plan, tmp_path, monkeypatch):
    before = content(tmp_path / "basin", "")
    monkeypatch.setattr(Objects, "put", None)
    monkeypatch.setattr(Objects, "create", None)
    assert plan_basin(config()) == plan
    assert plan_basin(config(price_per_hour=3.0)).run_id == plan.run_id
    assert content(tmp_path / "basin", "") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"halo": 64}, "halo was 32, is now 64"),
        ({"resolution": 20.0}, "resolution was 10.0, is now 20.0"),
        ({"mask": True}, "mask was False, is now True"),
        ({"year": None, "datetime": "2018-06"}, "items differ"),
    ],
)
def test_another_plan_is_refused_and_told_apart(config, plan, tmp_path, change, said):
    before = content(tmp_path / "basin", "")
    with pytest.raises(ConfigError, match=said) as caught:
        plan_basin(config(**change))
    assert "\n" not in str(caught.value)
    assert content(tmp_path / "basin", "") == before


def test_keywords_are_the_configuration_or_go_before_it(config, plan, tmp_path):
    given = {k: v for k, v in config().to_mapping().items() if k != "out"}
    given["model"] = Path(given["model"])
    assert plan_basin(**given, out=tmp_path / "basin") == plan
    elsewhere = plan_basin(config(), out=tmp_path / "other")
    assert (elsewhere.run_id, elsewhere.url) == (plan.run_id, str(tmp_path / "other"))
    summer = plan_basin(
        config(), datetime="2018-06-01/2018-08-31", block=None, dry_run=True, out="o"
    )
    assert (summer.config.year, summer.config.datetime) == (None, "2018-06-01/2018-08-31")
    with pytest.raises(ConfigError, match="plan_basin: unknown key 'aio'; did you mean 'aoi'"):
        plan_basin(aio="area.geojson")
    with pytest.raises(ConfigError, match="'aoi' is missing"):
        plan_basin()


def test_signatures_of_links_make_no_other_plan(config, plan, scene, tmp_path):
    items = read_items(scene.items)
    signed = [i.clone() for i in items]
    for item in signed:
        for asset in item.assets.values():
            asset.href += "?sig=today"
    path = write_items(signed, tmp_path / "signed.json")
    assert plan_basin(config(source=str(path))).run_id == plan.run_id


def test_a_dry_run_writes_nothing(config, tmp_path, plan):
    out = tmp_path / "elsewhere"
    dry = plan_basin(config(out=str(out)), dry_run=True)
    assert dry.run_id == plan.run_id
    assert not out.exists()


def test_a_plan_whose_writing_stopped_is_no_plan_and_is_begun_again(config, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    put, seen = Objects.put, []

    def stopping(self, key, value):
        if len(seen) == 7:
            raise Stopped
        seen.append(key)
        put(self, key, value)

    whole = plan_basin(config(out=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "put", stopping)
        with pytest.raises(Stopped):
            plan_basin(config())
    with pytest.raises(ConfigError, match="planning was not finished"):
        open_plan(tmp_path / "basin")
    (tmp_path / "basin/map.zarr/stray").write_bytes(b"of another plan")
    (tmp_path / "basin/items/r0.parquet#1").parent.mkdir(exist_ok=True)
    (tmp_path / "basin/items/r0.parquet#1").write_bytes(b"half")
    plan_basin(config())
    found, expected = content(tmp_path / "basin", ""), content(tmp_path / "whole", "")
    assert found.keys() == expected.keys()
    different = {key for key in found if found[key] != expected[key]}
    assert different <= {"plan.json"}  # it says where it is
    assert whole.run_id == open_plan(tmp_path / "basin").run_id


def test_a_folder_of_something_else_is_refused(config, tmp_path):
    (tmp_path / "basin/map.zarr").mkdir(parents=True)
    (tmp_path / "basin/map.zarr/zarr.json").write_text("{}")
    with pytest.raises(ConfigError, match="of something else"):
        plan_basin(config())
    assert content(tmp_path / "basin", "") == {"map.zarr/zarr.json": b"{}"}


def test_another_plan_that_is_being_written_is_refused(config, tmp_path):
    objects = open_objects(tmp_path / "basin", make=True)
    owner = {"host": "there", "pid": 5}
    objects.put("planning.json", json.dumps({"run_id": "0", "owner": owner}).encode())
    with pytest.raises(ConfigError, match=r"being planned .* by process 5 on there"):
        plan_basin(config())
    assert objects.names("clock/") == []


def test_tiles_without_scenes_are_told(config, scene, tmp_path):
    beside = (835_300, 9_108_600, 835_700, 9_109_000)
    plan = plan_basin(config(aoi=str(area_file(tmp_path / "wide", (*PARTS, beside)))))
    assert list(plan.empty.values()) == ["no Sentinel-2 scene"]
    assert "1 of 5 tiles have no Sentinel-2 scene: r0001c0009" in plan.warnings
    assert plan.estimate.empty == 1
    assert not open_objects(plan.url).get("items/r0001c0009.parquet")
    nowhere = area_file(tmp_path / "off", [beside])
    with pytest.raises(NoItemsError, match="no scene for"):
        plan_basin(config(aoi=str(nowhere), out=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_tiles_that_scenes_cover_in_part_are_told(plan, scene):
    """Against counting the pixels whose centre lies in a footprint."""
    items = [i for i in read_items(scene.items) if i.collection_id == "sentinel-2-l2a"]
    footprints = [shape(item.geometry) for item in items]
    to = pyproj.Transformer.from_crs(plan.tiling.grid.crs, "EPSG:4326", always_xy=True)
    counted = {}
    for tile in plan.tiles:
        coords = plan.tiling.grid_of(tile).coords()
        lon, lat = to.transform(*np.meshgrid(coords["x"], coords["y"]))
        seen = np.any([shapely.contains_xy(f, lon, lat) for f in footprints], axis=0)
        counted[tile.id] = 100 * seen.mean()
    (warning,) = plan.warnings
    begin, _, shares = warning.partition(": ")
    assert begin == "3 of 4 tiles are covered by Sentinel-2 scenes in part"
    told = {tile: float(share) for tile, share in re.findall(r"(\w+) to (\S+) %", shares)}
    assert list(told) == sorted(told, key=counted.get)
    assert told == pytest.approx({t: c for t, c in counted.items() if c < 100}, abs=0.5)


def test_months_without_radar_are_told(config, monkeypatch):
    real = plan_module._wanted
    monkeypatch.setattr(
        plan_module,
        "_wanted",
        lambda *a: dataclasses.replace(real(*a), months=(6, 7, 8)),
    )
    plan = plan_basin(config(), dry_run=True)
    assert any("4 of 4 tiles have no Sentinel-1 scene in month 7" in w for w in plan.warnings)


def test_time_and_cost_are_those_measured_or_none(config):
    plain = plan_basin(config(), dry_run=True).estimate
    assert (plain.hours, plain.cost) == (None, None)
    assert "not measured" in str(plain)
    assert plain.gigapixels == pytest.approx(4 * 64 * 64 / 1e9)
    priced = plan_basin(config(seconds_per_megapixel=9.0, price_per_hour=2.5), dry_run=True)
    hours = 4 * 64 * 64 / 1e6 * 9 / 3600
    assert priced.estimate.hours == pytest.approx(hours)
    assert priced.estimate.cost == pytest.approx(2.5 * hours)


def test_bytes_to_read_are_those_of_the_windows(config, plan):
    # A tile that one scene covers whole: 128 x 128 pixels with its halo, three bands of 10 m
    # and the classes at 20 m, two bytes each.
    window = 128 * 128 * 2 * (3 + 1 / 4)
    most = sum(plan.items.values()) * window
    assert most / 6 < plan.estimate.bytes_read < most


def test_the_plan_is_drawn_as_geojson(plan):
    found = plan.geojson()
    assert [f["id"] for f in found["features"]] == list(IDS)
    west, south, east, north = plan.tiling.grid.bbox_lonlat
    for feature in found["features"]:
        for lon, lat in feature["geometry"]["coordinates"][0]:
            assert west - 1e-5 <= lon <= east + 1e-5
            assert south - 1e-5 <= lat <= north + 1e-5
