"""The pyramid against counting by hand, and as readers open it."""

import dataclasses
import json
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import rioxarray  # noqa: F401  registers .rio
import xarray as xr
import zarr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from deepforest_xr.basin import plan_basin, pyramid, run_basin
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.pyramid import mean_of_four, mode_of_four
from deepforest_xr.basin.store import open_objects
from deepforest_xr.grid import Grid

from .conftest import basin_of, content
from .faults import DeadError, Dying
from .finished import fill, pixels

RASTERS = array_shapes(min_dims=2, max_dims=2, max_side=7)
FEW = st.integers(0, 3) | st.just(254)


def blocks(values):
    rows, cols = values.shape
    for row in range(0, rows, 2):
        for col in range(0, cols, 2):
            four = values[row : row + 2, col : col + 2].ravel().tolist()
            yield row // 2, col // 2, [v for v in four if v != 0]


def mode_by_hand(values):
    out = np.zeros([-(-n // 2) for n in values.shape], dtype="uint8")
    for row, col, valid in blocks(values):
        counts = Counter(valid)
        out[row, col] = min(counts, key=lambda c: (-counts[c], c)) if counts else 0
    return out


def mean_by_hand(values):
    out = np.zeros([-(-n // 2) for n in values.shape], dtype="uint8")
    for row, col, valid in blocks(values):
        out[row, col] = round(sum(valid) / len(valid)) if valid else 0
    return out


@given(arrays(np.uint8, RASTERS, elements=FEW))
def test_the_mode_leaves_no_data_out_and_takes_the_lower_of_equals(codes):
    np.testing.assert_array_equal(mode_of_four(codes), mode_by_hand(codes))


@given(arrays(np.uint8, RASTERS, elements=st.integers(0, 100)))
def test_the_mean_is_that_of_pixels_with_data(percent):
    np.testing.assert_array_equal(mean_of_four(percent), mean_by_hand(percent))


def test_halving_again_and_again_does_not_raise_the_mean():
    percent = np.random.default_rng(0).integers(40, 61, (512, 256)).astype("uint8")
    coarse = percent
    for _ in range(6):
        coarse = mean_of_four(coarse)
    assert abs(coarse.mean() - percent.mean()) < 0.2


@pytest.fixture(scope="module")
def finished(scene, model, tmp_path_factory):
    plan = plan_basin(basin_of(scene, model, tmp_path_factory.mktemp("pyramid")))
    layers = fill(plan, pixels(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "LONGEST", 40)
        patch.setattr(pyramid, "STRIP", 6)
        finish_basin(plan, cogs=None)
    return plan, layers


def test_every_level_is_the_map_halved(finished):
    plan, layers = finished
    codes, percent = layers["lulc"], layers["confidence"]
    for number in (1, 2, 3):
        codes, percent = mode_by_hand(codes), mean_by_hand(percent)
        level = xr.open_zarr(f"{plan.url}/map.zarr/overviews/{number}").compute()
        np.testing.assert_array_equal(level.lulc, codes)
        np.testing.assert_array_equal(level.confidence, percent)
    assert codes.shape == (16, 24)
    assert len(np.unique(codes)) > 5
    names = open_objects(plan.url).names("map.zarr/overviews/")
    assert not [name for name in names if "/4/" in name]


def test_a_level_opens_as_a_map_with_place_and_classes(finished):
    plan, _ = finished
    grid = plan.tiling.grid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        level = xr.open_zarr(f"{plan.url}/map.zarr/overviews/2")
        by_group = xr.open_zarr(f"{plan.url}/map.zarr", group="overviews/2").compute()
        whole = xr.open_zarr(f"{plan.url}/map.zarr")
    xr.testing.assert_identical(level.compute(), by_group)
    assert level.rio.crs == grid.crs.to_wkt()
    assert Grid.of(level).transform == grid.transform @ Affine.scale(4)
    np.testing.assert_array_equal(level.x, whole.x.values.reshape(-1, 4).mean(axis=1))
    np.testing.assert_array_equal(level.y, whole.y.values.reshape(-1, 4).mean(axis=1))
    assert level.lulc.attrs["flag_meanings"] == whole.lulc.attrs["flag_meanings"]
    assert level.attrs["simulated"] == whole.attrs["simulated"] == "true"


def test_levels_are_listed_as_the_convention_asks(finished):
    plan, _ = finished
    root = json.loads(open_objects(plan.url).get("map.zarr/overviews/zarr.json"))
    attrs = root["attributes"]
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    named = {c["name"]: c["uuid"] for c in attrs["zarr_conventions"]}
    assert named["multiscales"] == "d35379db-88df-4056-af3a-620245f8e347"
    layout = attrs["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == ["1", "2", "3"]
    assert [entry.get("derived_from") for entry in layout] == [None, "1", "2"]
    for number, entry in enumerate(layout, start=1):
        assert entry["transform"]["scale"] == [2.0, 2.0]
        assert entry["spatial:transform"][0] == 10.0 * 2**number
        level = xr.open_zarr(f"{plan.url}/map.zarr/overviews/{number}")
        assert entry["spatial:shape"] == list(level.lulc.shape)
    tree = xr.open_datatree(f"{plan.url}/map.zarr", engine="zarr", group="overviews")
    assert sorted(tree.children) == ["1", "2", "3"]


def test_the_root_lists_what_zarr_finds(finished, tmp_path):
    plan, _ = finished
    copy = shutil.copytree(open_objects(plan.url).folder / "map.zarr", tmp_path / "map.zarr")
    told = json.loads((copy / "zarr.json").read_text())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(copy)
    assert json.loads((copy / "zarr.json").read_text()) == told
    assert "overviews/3/lulc" in told["consolidated_metadata"]["metadata"]


def test_map_and_levels_open_at_once_without_a_warning(finished):
    plan, layers = finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = xr.open_groups(f"{plan.url}/map.zarr", engine="zarr")
        tree = xr.open_datatree(f"{plan.url}/map.zarr", group="overviews", engine="zarr")
    assert [*groups] == ["/", "/overviews", "/overviews/1", "/overviews/2", "/overviews/3"]
    np.testing.assert_array_equal(groups["/"].lulc, layers["lulc"])
    coarse = mode_by_hand(mode_by_hand(layers["lulc"]))
    np.testing.assert_array_equal(groups["/overviews/2"].lulc, coarse)
    np.testing.assert_array_equal(tree["2"].lulc, coarse)


def test_a_small_map_needs_no_pyramid_and_its_metadata_stay(plan):
    fill(plan, pixels(plan))
    before = open_objects(plan.url).get(pyramid.ROOT)
    assert finish_basin(plan, cogs=None).levels == 0
    assert open_objects(plan.url).names("map.zarr/overviews/") == []
    assert open_objects(plan.url).get(pyramid.ROOT) == before


@pytest.fixture
def most(plan, monkeypatch):
    """A basin that will have levels, its tiles but the last done; and its pixels."""
    monkeypatch.setattr(pyramid, "LONGEST", 40)
    layers = pixels(plan)
    fill(plan, layers, plan.tiles[:3])
    return plan, layers


def test_a_run_goes_on_after_it_was_finished_in_part(most):
    plan, layers = most
    finish_basin(plan, cogs=None, partial=True)
    assert run_basin(plan).made == 1
    finish_basin(plan, cogs=None)
    whole = content(open_objects(plan.url).folder, "")
    codes = xr.open_zarr(f"{plan.url}/map.zarr").lulc.values
    np.testing.assert_array_equal(codes[:64], layers["lulc"][:64])
    level = xr.open_zarr(f"{plan.url}/map.zarr", group="overviews/1").lulc.values
    np.testing.assert_array_equal(level, mode_by_hand(codes))
    assert not finish_basin(plan, cogs=None).is_new
    assert content(open_objects(plan.url).folder, "") == whole
    finish_basin(plan, cogs=None, overwrite=True)
    assert content(open_objects(plan.url).folder, "") == whole


class AtRoot(Dying):
    """Dies at the first, second or a later put of the map's own metadata."""

    def __init__(self, folder, which, moment):
        super().__init__(folder, 0, moment)
        self.which = which

    def put(self, key, content, **options):
        self.which -= key == pyramid.ROOT
        if self.which == 0:
            self.last = len(self.puts) + 1
        return super().put(key, content, **options)


def levels_of(plan):
    """Levels that the map's metadata list, and those whose shards are there."""
    objects = open_objects(plan.url)
    listed = json.loads(objects.get(pyramid.ROOT))["consolidated_metadata"]["metadata"]
    told = {name.split("/")[1] for name in listed if name.startswith("overviews/")}
    return told, {key.split("/")[2] for key in objects.names("map.zarr/overviews/") if "/c/" in key}


@pytest.mark.parametrize("moment", ["before", "over", "after"])
@pytest.mark.parametrize("which", [1, 2])
def test_levels_are_listed_only_while_they_are_whole(most, monkeypatch, which, moment):
    plan, layers = most
    folder, planned = open_objects(plan.url).folder, open_objects(plan.url).get(pyramid.ROOT)
    finish_basin(plan, cogs=None, partial=True)
    assert levels_of(plan) == ({"1", "2", "3"}, {"1", "2", "3"})
    fill(plan, layers, plan.tiles[3:])
    dead = dataclasses.replace(open_objects(folder), store=AtRoot(folder, which, moment))
    with monkeypatch.context() as patch:
        patch.setattr("deepforest_xr.basin.card.open_objects", lambda url: dead)
        with pytest.raises(DeadError):
            finish_basin(plan, cogs=None)
    told, there = levels_of(plan)
    assert there == {"1", "2", "3"}  # at the first they are not yet removed, at the second made
    assert told == (there if (which == 1) == (moment != "after") else set())
    np.testing.assert_array_equal(xr.open_zarr(f"{plan.url}/map.zarr").lulc, layers["lulc"])
    monkeypatch.setattr("deepforest_xr.basin.finish.STAGING_SECONDS", -1.0)
    finish_basin(plan, cogs=None)
    resumed = content(folder)
    shutil.rmtree(folder / "map.zarr" / "overviews")
    shutil.rmtree(folder / "finish")
    open_objects(folder).put(pyramid.ROOT, planned)
    finish_basin(plan, cogs=None)
    assert content(folder) == resumed


def test_a_basin_finished_before_levels_were_listed_has_them_listed(most):
    plan, layers = most
    fill(plan, layers, plan.tiles[3:])
    objects = open_objects(plan.url)
    planned = objects.get(pyramid.ROOT)
    finish_basin(plan)
    whole = content(objects.folder, "")
    card = json.loads(objects.get("finish/finished.json"))
    del card["pyramid"]["objects"][pyramid.ROOT]
    objects.put("finish/finished.json", json.dumps(card).encode())
    objects.put(pyramid.ROOT, planned)
    assert finish_basin(plan).is_new
    assert content(objects.folder, "") == whole
    assert not finish_basin(plan).is_new
