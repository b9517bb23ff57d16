import json
import re

import numpy as np
import pystac
import pytest
from pyproj import CRS, Transformer
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.projection import ProjectionExtension

from deepforest_xr.errors import ConfigError, GridError, LabelError, ReadError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend, amazon13
from deepforest_xr.maps import write_cog, write_stac_item, write_zarr
from deepforest_xr.maps.stac import classification_classes

YEAR = {"start": "2018-01-01", "end": "2018-12-31"}


@pytest.fixture
def written(make_map, tmp_path):
    def write(**kwargs):
        dataset = make_map(**kwargs)
        cog = write_cog(dataset, tmp_path / "files" / "map.tif")
        confidence = write_cog(dataset, tmp_path / "files" / "map.tif", variable="confidence")
        return dataset, {"lulc": cog, "confidence": confidence}

    return write


@pytest.mark.parametrize("crs", ["EPSG:32721", "ESRI:102033", "EPSG:4326"])
def test_place_and_pixels_are_the_grids(written, tmp_path, crs):
    dataset, assets = written(crs=crs)
    grid = Grid.of(dataset)
    path = write_stac_item(dataset, tmp_path / "map.json", assets=assets, **YEAR)
    item = pystac.Item.from_file(path)
    projection = ProjectionExtension.ext(item)
    assert CRS.from_user_input(projection.code) == grid.crs
    assert projection.shape == [37, 53]
    assert projection.transform == list(grid.transform)[:6]
    assert item.bbox == pytest.approx(grid.bbox_lonlat, abs=1e-6)
    ring = np.array(item.geometry["coordinates"][0])
    np.testing.assert_array_equal(ring[0], ring[-1])
    west, south, east, north = item.bbox
    assert (ring.min(axis=0) >= np.array([west, south]) - 1e-6).all()
    assert (ring.max(axis=0) <= np.array([east, north]) + 1e-6).all()
    twice_area = np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1])
    assert twice_area > 0  # anticlockwise
    left, _, _, top = grid.bounds
    corner = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(left, top)
    np.testing.assert_allclose(ring[0], corner, atol=1e-6)


def test_a_crs_without_a_code_is_given_as_wkt(make_map, tmp_path):
    crs = "+proj=tmerc +lon_0=-58 +k=0.9996 +x_0=500000 +y_0=10000000 +ellps=WGS84"
    dataset = make_map(crs=crs)
    path = write_stac_item(dataset, tmp_path / "map.json", assets={}, **YEAR)
    properties = json.loads(path.read_text())["properties"]
    assert properties["proj:code"] is None
    assert CRS.from_wkt(properties["proj:wkt2"]) == Grid.of(dataset).crs


def test_a_grid_outside_its_crs_is_one_line(make_map, tmp_path):
    dataset = make_map(crs="+proj=aea +lat_0=-11 +lon_0=-61 +lat_1=-1 +lat_2=-19 +ellps=WGS84")
    with pytest.raises(GridError, match="outside what its CRS covers"):
        write_stac_item(dataset, tmp_path / "map.json", assets={}, **YEAR)


def test_classes_keep_the_rules_of_the_extension(written, tmp_path):
    dataset, assets = written()
    path = write_stac_item(dataset, tmp_path / "map.json", assets=assets, **YEAR)
    item = pystac.Item.from_file(path)
    classes = ClassificationExtension.ext(item.assets["lulc"]).classes
    assert [c.value for c in classes] == [0, *amazon13().codes]
    assert [c.nodata for c in classes] == [True] + [None] * 13
    assert all(re.fullmatch("[0-9A-Za-z-_]+", c.name) for c in classes)
    assert all(re.fullmatch("[0-9A-Fa-f]{6}", c.color_hint) for c in classes[1:])
    assert [c.properties["title"] for c in classes[1:]] == amazon13().names
    assert len({c.name for c in classes}) == len(classes)
    assert "classification:classes" not in item.assets["confidence"].extra_fields


def test_any_class_name_becomes_a_machine_name():
    odd = Legend(
        "odd",
        (LandCoverClass(7, "Água / river (deep)", "#0000ff"), LandCoverClass(8, "…", "#00ff00")),
    )
    names = [c["name"] for c in classification_classes(odd)]
    assert all(re.fullmatch("[0-9A-Za-z-_]+", name) for name in names)


def test_files_are_found_from_the_item_and_measured(written, tmp_path):
    dataset, assets = written()
    path = write_stac_item(dataset, tmp_path / "items" / "map.json", assets=assets, **YEAR)
    item = json.loads(path.read_text())
    assert item["assets"]["lulc"]["href"] == "./../files/map.tif"
    for key, file in assets.items():
        asset = item["assets"][key]
        assert (path.parent / asset["href"]).resolve() == file
        assert asset["file:size"] == file.stat().st_size
        assert (asset["data_type"], asset["nodata"]) == ("uint8", 0)
    assert pystac.Item.from_file(path).assets["lulc"].media_type == pystac.MediaType.COG


def test_what_stands_beside_a_geotiff_is_listed_with_it(make_percent, tmp_path):
    dataset = make_percent()
    assets = {
        name: write_cog(dataset, tmp_path / "map.tif", variable=name)
        for name in ("lulc", "confidence", "entropy", "probability")
    }
    (tmp_path / "map.png").write_bytes(b"")
    (tmp_path / "report.qml").write_text("of something else")
    assets["preview"] = tmp_path / "map.png"
    path = write_stac_item(dataset, tmp_path / "map.json", assets=assets, **YEAR)
    found = json.loads(path.read_text())["assets"]
    hrefs = {key: asset["href"].removeprefix("./") for key, asset in found.items()}
    assert hrefs == {
        "lulc": "map.tif", "lulc-style": "map.qml", "lulc-names": "map.tif.aux.xml",
        "confidence": "map_confidence.tif", "confidence-style": "map_confidence.qml",
        "entropy": "map_entropy.tif", "entropy-style": "map_entropy.qml",
        "probability": "map_probability.tif", "probability-style": "map_probability.qml",
        "preview": "map.png",
    }  # fmt: skip
    assert found["lulc-style"]["roles"] == ["style"]
    assert found["lulc-names"]["type"] == "application/xml"
    nodata = {key: asset["nodata"] for key, asset in found.items() if "nodata" in asset}
    assert nodata == {"lulc": 0, "confidence": 0, "entropy": 255, "probability": 255}
    assert {key for key, asset in found.items() if asset.get("unit") == "%"} == set(nodata) - {
        "lulc"
    }


@pytest.mark.parametrize("kind", ["dataset", "zarr", "cog"])
def test_a_map_is_described_alike_in_memory_and_on_disk(written, tmp_path, kind):
    dataset, assets = written(crs="ESRI:102033")
    store = write_zarr(dataset, tmp_path / "map.zarr")
    source = {"dataset": dataset, "zarr": store, "cog": assets["lulc"]}[kind]
    path = write_stac_item(source, tmp_path / "map.json", assets={"lulc": store}, **YEAR)
    item = json.loads(path.read_text())
    properties = item["properties"]
    assert properties["deepforest:simulated"] is True
    assert properties["deepforest:model"] == 'a <b> & "c"'
    assert properties["proj:code"] == "ESRI:102033"
    assert properties["gsd"] == 10
    assert item["assets"]["lulc"]["classification:classes"] == classification_classes(amazon13())
    assert item["assets"]["lulc"]["file:size"] > 1000


def test_time_is_a_moment_or_a_period(make_map, tmp_path):
    def properties(name, **time):
        path = write_stac_item(make_map(), tmp_path / name, assets={}, **time)
        return json.loads(path.read_text())["properties"]

    assert properties("a.json", datetime="2018-07-01")["datetime"] == "2018-07-01T00:00:00Z"
    period = properties("b.json", **YEAR)
    assert (period["datetime"], period["end_datetime"]) == (None, "2018-12-31T00:00:00Z")
    for wrong in ({}, {"start": "2018-01-01"}, {"start": "2019", "end": "2018-01-01"}):
        with pytest.raises(ConfigError):
            properties("c.json", **wrong)
    with pytest.raises(ConfigError, match="swap"):
        properties("c.json", start="2019-01-01", end="2018-01-01")


def test_what_cannot_be_described_is_one_line(make_map, tmp_path):
    target = tmp_path / "map.json"
    with pytest.raises(ConfigError, match="does not exist"):
        write_stac_item(make_map(), target, assets={"lulc": tmp_path / "no.tif"}, **YEAR)
    with pytest.raises(ReadError, match="not a map"):
        write_stac_item(tmp_path / "no.tif", target, assets={}, **YEAR)
    unnamed = make_map()
    unnamed.lulc.attrs.clear()
    with pytest.raises(LabelError):
        write_stac_item(unnamed, target, assets={}, **YEAR)
    assert list(tmp_path.iterdir()) == []
    target.write_text("old")
    with pytest.raises(WriteError, match="exists"):
        write_stac_item(make_map(), target, assets={}, **YEAR)
