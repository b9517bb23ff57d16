"""The files and items of a small simulated scene."""

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.warp import Resampling, reproject, transform

from deepforest_xr.errors import ConfigError
from deepforest_xr.legend import amazon13, mapbiomas
from deepforest_xr.testing import simulate_scene
from deepforest_xr.testing.weather import CIRRUS, HIGH, MEDIUM, SHADOW, VEGETATION, sun

SHAPE = (96, 128)
MONTHS = (2, 3, 8)
RECORDED = Path(__file__).parents[2] / "../shared/data/stac/planetary-computer"
# What Planetary Computer adds for its own services and for products that have no pixels.
NOT_SIMULATED = {"AOT", "WVP", "visual", "preview", "tilejson", "rendered_preview"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return simulate_scene(
        tmp_path_factory.mktemp("scene"), shape=SHAPE, months=MONTHS, missing_months=(3,), seed=4
    )


@pytest.fixture(scope="module")
def items(scene):
    return json.loads(scene.items.read_text())["features"]


@pytest.fixture(scope="module")
def s2(items):
    return [i for i in items if i["collection"] == "sentinel-2-l2a"]


@pytest.fixture(scope="module")
def s1(items):
    return [i for i in items if i["collection"] == "sentinel-1-rtc"]


def read(scene, item, key):
    with rasterio.open(scene.folder / item["assets"][key]["href"]) as source:
        return source.read(1)


def onto_grid(scene, item, key, fill):
    """The asset on the truth's grid by nearest neighbour, `fill` where it has no data."""
    out = np.full(scene.grid.shape, fill, dtype="float32")
    with rasterio.open(scene.folder / item["assets"][key]["href"]) as source:
        reproject(
            rasterio.band(source, 1),
            out,
            dst_crs=scene.grid.crs.to_wkt(),
            dst_transform=scene.grid.transform,
            dst_nodata=fill,
            resampling=Resampling.nearest,
        )
    return out


def recorded(name):
    path = RECORDED / name
    if not path.exists():
        pytest.skip(f"recorded items are not beside this checkout: {name}")
    found = json.loads(path.read_text())
    return found[0] if isinstance(found, list) else found.get("features", [found])[0]


def test_truth_holds_every_class_on_its_grid(scene):
    with rasterio.open(scene.truth) as source:
        assert source.shape == scene.grid.shape == SHAPE
        assert source.transform == scene.grid.transform
        assert source.crs.to_epsg() == scene.grid.crs.to_epsg() == 32721
        assert sorted(np.unique(source.read(1))) == amazon13().codes


def test_everything_says_it_is_simulated(scene, items):
    assert all(i["properties"]["deepforest:simulated"] is True for i in items)
    assert all(i["id"].startswith("SIM_") for i in items)
    for path in scene.folder.rglob("*.tif"):
        with rasterio.open(path) as source:
            assert source.tags()["TIFFTAG_IMAGEDESCRIPTION"].startswith("simulated by deepforest")
    for path in scene.folder.glob("sentinel-*.json"):
        assert "simulated" in json.loads(path.read_text())["description"]


def test_no_asset_points_outside_the_folder(scene, items):
    for item in items:
        for asset in item["assets"].values():
            assert asset["href"].startswith("./")
            assert (scene.folder / asset["href"]).is_file()


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("s2", "sentinel-2-l2a.item.baseline-04.00.json"),
        ("s2", "sentinel-2-l2a.items.2024-04.json"),
        ("s1", "sentinel-1-rtc.items.2024-04.json"),
    ],
)
def test_items_have_the_fields_of_planetary_computer(request, group, name):
    ours, theirs = request.getfixturevalue(group)[0], recorded(name)
    assert set(ours["properties"]) - {"deepforest:simulated"} == set(theirs["properties"])
    for key, value in theirs["properties"].items():
        assert type(ours["properties"][key]) is type(value), key
    data = {k: a for k, a in theirs["assets"].items() if "data" in a["roles"]}
    assert set(ours["assets"]) == set(data) - NOT_SIMULATED
    for key, asset in ours["assets"].items():
        assert set(asset) == set(data[key]), key
        same = [k for k in ("type", "roles", "title", "gsd", "eo:bands") if k in asset]
        assert {k: asset[k] for k in same} == {k: data[key][k] for k in same}


def test_pystac_reads_the_collection(scene, items):
    found = pystac.ItemCollection.from_file(str(scene.items))
    assert [i.id for i in found] == [i["id"] for i in items]
    assert pystac.Collection.from_file(str(scene.folder / "sentinel-2-l2a.json")).extent


def test_declared_grids_are_those_of_the_files(scene, items):
    for item in items:
        for asset in item["assets"].values():
            declared = item["properties"] | asset
            with rasterio.open(scene.folder / asset["href"]) as source:
                assert list(source.shape) == declared["proj:shape"]
                assert list(source.transform)[:6] == declared["proj:transform"][:6]
                assert list(source.bounds) == declared["proj:bbox"]
                assert source.crs.to_epsg() == declared["proj:epsg"]


def test_grids_of_a_granule_nest(s2):
    for item in s2:
        corners = {tuple(a["proj:bbox"]) for a in item["assets"].values()}
        assert len(corners) == 1
        assert all(edge % 60 == 0 for edge in corners.pop())


def test_two_zones_and_granules_that_overlap(s2, s1):
    assert {i["properties"]["proj:epsg"] for i in s2} == {32721, 32722}
    assert {i["properties"]["proj:epsg"] for i in s1} == {32721, 32722}
    west, middle, east = (i["bbox"] for i in s2[:3])
    assert west[0] < middle[0] < west[2] < middle[2]
    assert middle[0] < east[0] < middle[2] < east[2]


def test_every_date_covers_the_whole_grid(scene, s2):
    for number in range(0, len(s2), 3):
        seen = sum(onto_grid(scene, item, "B01", 0) > 0 for item in s2[number : number + 3])
        assert seen.min() >= 1
        assert (seen >= 2).any()


def test_every_acquisition_covers_the_whole_grid(scene, s1):
    for item in s1:
        assert np.isfinite(onto_grid(scene, item, "vv", np.nan)).all()
        assert (onto_grid(scene, item, "vv", np.nan) > 0).all()


def test_missing_months_have_no_radar(s1, s2):
    assert {i["properties"]["datetime"][5:7] for i in s1} == {"02", "08"}
    assert {i["properties"]["datetime"][5:7] for i in s2} == {"02", "03", "08"}
    assert {i["properties"]["sat:orbit_state"] for i in s1} == {"ascending", "descending"}


def overlap(scene, s2, key, size):
    """Numbers of one place in the first two granules of the date where baselines differ."""
    for number in range(0, len(s2), 3):
        pair = s2[number : number + 2]
        levels = [i["properties"]["s2:processing_baseline"] for i in pair]
        if levels[0] != levels[1]:
            break
    (left, bottom, right, top), other = (i["assets"][key]["proj:bbox"] for i in pair)
    box = max(left, other[0]), max(bottom, other[1]), min(right, other[2]), min(top, other[3])
    cut = []
    for item in pair:
        x0, _, _, y0 = item["assets"][key]["proj:bbox"]
        rows = slice(int((y0 - box[3]) / size), int((y0 - box[1]) / size))
        cols = slice(int((box[0] - x0) / size), int((box[2] - x0) / size))
        cut.append(read(scene, item, key)[rows, cols].astype(int))
    return levels, cut


@pytest.mark.parametrize(("key", "size"), [("B02", 10), ("B11", 20), ("B01", 60)])
def test_the_offset_is_all_that_differs_between_baselines_of_one_date(scene, s2, key, size):
    levels, cut = overlap(scene, s2, key, size)
    offset = [1000 if level >= "04.00" else 0 for level in levels]
    assert sorted(offset) == [0, 1000]
    both = (cut[0] > 0) & (cut[1] > 0)
    assert both.sum() > 10
    np.testing.assert_array_equal((cut[0] - offset[0])[both], (cut[1] - offset[1])[both])


def test_both_baselines_occur_and_ids_match(s2):
    levels = {i["properties"]["s2:processing_baseline"] for i in s2}
    assert levels == {"02.12", "05.00"}
    for item in s2:
        level = item["properties"]["s2:processing_baseline"].replace(".", "")
        assert f"_N{level}_" in item["properties"]["s2:product_uri"]
        assert item["properties"]["s2:mgrs_tile"] in item["id"]


def test_cloudy_pixels_are_brighter_and_shadows_darker_than_vegetation(scene, s2):
    blue, infrared, scl = [], [], []
    for item in s2:
        offset = 1000 if item["properties"]["s2:processing_baseline"] >= "04.00" else 0
        scl.append(read(scene, item, "SCL").ravel())
        blue.append(read(scene, item, "B02")[::2, ::2].ravel() - float(offset))
        infrared.append(read(scene, item, "B8A").ravel() - float(offset))
    scl, blue, infrared = map(np.concatenate, (scl, blue, infrared))
    mean = {c: blue[scl == c].mean() for c in (VEGETATION, CIRRUS, MEDIUM, HIGH)}
    assert mean[VEGETATION] < mean[CIRRUS] < mean[MEDIUM] < mean[HIGH]
    assert mean[HIGH] > 4000
    assert infrared[scl == SHADOW].mean() < 0.8 * infrared[scl == VEGETATION].mean()


def test_cloud_cover_is_counted_from_the_scene_classification(scene, s2):
    for item in s2:
        scl = read(scene, item, "SCL")
        cloudy = np.isin(scl, (MEDIUM, HIGH, CIRRUS)).sum() / (scl > 0).sum()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(100 * cloudy, abs=1e-3)
    cover = {i["properties"]["datetime"][5:7]: i["properties"]["eo:cloud_cover"] for i in s2}
    assert cover["02"] > cover["08"]


def test_zero_borders_end_in_march_2018(scene, s1):
    zeros = {
        (i["properties"]["datetime"][5:7], i["properties"]["sat:orbit_state"]): bool(
            (read(scene, i, "vh") == 0).any()
        )
        for i in s1
    }
    assert [key for key, any_zero in zeros.items() if any_zero] == [("02", "descending")]


def test_labels_are_wrong_about_as_often_as_stated(scene):
    with rasterio.open(scene.truth) as source:
        truth = source.read(1)
    with rasterio.open(scene.labels) as source:
        labels, where = source.read(1), source.transform
        assert source.crs.to_epsg() == 4326
    row, col = (axis.ravel() for axis in np.indices(labels.shape))
    lon, lat = where.c + where.a * (col + 0.5), where.f + where.e * (row + 0.5)
    x, y = (np.array(v) for v in transform("EPSG:4326", "EPSG:32721", lon, lat))
    col = np.floor((x - scene.grid.transform.c) / 10).astype(int)
    row = np.floor((scene.grid.transform.f - y) / 10).astype(int)
    inside = (col >= 0) & (col < SHAPE[1]) & (row >= 0) & (row < SHAPE[0])
    coded = labels.ravel()[inside]
    assert (coded > 0).all()
    found, expected = mapbiomas(8).lookup(coded), truth[row[inside], col[inside]]
    labelled = found < 255
    assert labelled.mean() > 0.9
    assert 0.08 < (found != expected)[labelled].mean() < 0.15


def test_a_month_has_the_same_pixels_alone_and_in_a_year(scene, items, tmp_path):
    alone = simulate_scene(tmp_path, shape=SHAPE, months=[8], seed=4)
    again = json.loads(alone.items.read_text())["features"]
    before = [i for i in items if i["properties"]["datetime"][5:7] == "08"]
    assert [i["id"] for i in again] == [i["id"] for i in before]
    for item in again:
        for key in item["assets"]:
            np.testing.assert_array_equal(read(alone, item, key), read(scene, item, key))
    for one, other in ((alone.truth, scene.truth), (alone.labels, scene.labels)):
        with rasterio.open(one) as a, rasterio.open(other) as b:
            np.testing.assert_array_equal(a.read(1), b.read(1))


def test_overviews_only_where_larger_than_512(tmp_path):
    wide = simulate_scene(tmp_path, shape=(64, 540), months=[7], missing_months=[7], seed=0)
    with rasterio.open(wide.truth) as source:
        assert source.overviews(1)
        assert source.block_shapes == [(256, 256)]
    with rasterio.open(wide.labels) as source:
        assert not source.overviews(1)


@pytest.mark.parametrize(
    "wrong", [{"months": [13]}, {"months": []}, {"s2_per_month": 0}, {"s1_looks": 0}, {"seed": -1}]
)
def test_wrong_arguments_are_said_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        simulate_scene(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_sun_stands_north_in_june_and_south_of_east_in_december():
    zenith, azimuth = sun(172)
    assert 35 < zenith < 50
    assert 30 < azimuth < 60
    assert 100 < sun(355)[1] < 135
