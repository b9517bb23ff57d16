"""Cubes of scenes whose truth is known, against plain rasterio reads."""

import calendar

import dask
import numpy as np
import pytest
import rasterio

from deepforest_xr.cube import DATASETS, open_cube
from deepforest_xr.errors import NoItemsError, ReadError
from deepforest_xr.grid import Grid
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.testing import no_compute

from .conftest import grid_of, optical, radar, read


def same(one, other):
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_nothing_is_read_and_all_times_are_in_one_chunk(items, scene):
    with no_compute():
        cube = open_cube(items, grid=scene.grid, months=(6, 7, 8), chunk=40)
    assert cube["s2"].dims == ("band", "y", "x")
    assert cube["s1"].dims == ("month", "polarization", "y", "x")
    assert cube["s2_count"].dims == ("y", "x")
    assert cube["s1_count"].dims == ("month", "y", "x")
    for array in cube.data_vars.values():
        assert array.chunks[-2:] == ((40, 40, 16), (40, 40, 40, 8))
    assert cube["s1"].dtype == cube["s2"].dtype == np.float32
    assert cube["s1_count"].dtype == cube["s2_count"].dtype == np.uint16
    # Ten bands of nine dates each: a task a date would be 90 a chunk for reading alone.
    reads = [k for k in cube["s2"].__dask_graph__() if "fetch" in str(k)]
    assert len(reads) <= 12 * (10 + 1)


def test_the_graph_can_be_sent_to_another_process(items, small):
    import cloudpickle

    cube = cloudpickle.loads(cloudpickle.dumps(open_cube(items, grid=small)))
    assert cube["s2"].shape == (10, *small.shape)


def test_the_cubes_grid_is_the_one_asked_for(whole, scene):
    assert Grid.of(whole) == scene.grid
    assert whole["s2"].attrs["grid_mapping"] == "spatial_ref"
    assert list(whole["band"].to_numpy()) == list(BANDS)
    assert list(whole["polarization"].to_numpy()) == ["vv", "vh"]


def test_mixed_baselines_and_zones_leave_no_step(items, scene, whole):
    baselines = {i.properties["s2:processing_baseline"] for i in optical(items)}
    zones = {i.properties["proj:code"] for i in optical(items)}
    assert len(baselines) == len(zones) == 2
    assert "-1000 (baseline 05.00)" in whole.attrs["s2_offset"]
    assert "0 (baseline 02.12)" in whole.attrs["s2_offset"]
    with rasterio.open(scene.truth) as source:
        truth = source.read(1)
    # Forest in the blue reflects 2 % everywhere; an offset left in would be 12 %, or -8 %.
    blue = whole["s2"].sel(band="B02").to_numpy()
    forest = truth == 1
    halves = np.array_split(np.arange(truth.shape[1]), 4)
    middles = [np.nanmedian(blue[:, cols][forest[:, cols]]) for cols in halves]
    np.testing.assert_allclose(middles, 0.022, atol=0.012)
    assert np.nanmin(blue) > 0


def test_classes_look_as_they_were_made(scene, whole):
    with rasterio.open(scene.truth) as source:
        truth = source.read(1)
    near = whole["s2"].sel(band="B08").to_numpy()
    red = whole["s2"].sel(band="B04").to_numpy()
    level = {c: np.nanmedian(near[truth == c]) for c in (1, 11, 13)}
    assert level[1] == pytest.approx(0.265, abs=0.04)  # forest
    assert level[13] < 0.12  # water, mixed with its banks in so small a scene
    assert np.nanmedian(red[truth == 11]) > 0.13  # bare ground


def test_the_simulation_is_said(whole):
    assert whole.attrs["simulated"] == "true"
    assert whole.attrs["s2_mask"] == "SCL classes 0, 1, 3, 8, 9, 10 left out"
    assert whole.attrs["dataset"] == "S1TsS2 months 6, 7, 8"
    assert whole.attrs["resampling"] == "nearest"


def test_clouds_are_left_out(items, small):
    masked = open_cube(items, grid=small, bands=["B02"]).compute()
    seen = open_cube(items, grid=small, bands=["B02"], scl_masked=()).compute()
    assert (masked["s2_count"] <= seen["s2_count"]).all()
    assert masked["s2_count"].sum() < seen["s2_count"].sum()
    # The same with every class masked in turn: the counts add up.
    total = sum(
        open_cube(items, grid=small, bands=["B02"], scl_masked=[c for c in range(12) if c != kept])[
            "s2_count"
        ].astype(int)
        for kept in range(12)
    )
    np.testing.assert_array_equal(total, seen["s2_count"])


def test_an_empty_month_is_the_middle_of_its_neighbours_in_power(whole):
    assert whole.attrs["s1_empty_months"] == "7"
    assert (whole["s1_count"].sel(month=7) == 0).all()
    assert (whole["s1_count"].sel(month=[6, 8]) > 0).all()
    power = 10 ** (whole["s1"].astype(float) / 10)
    middle = (power.sel(month=6) + power.sel(month=8)) / 2
    np.testing.assert_allclose(power.sel(month=7), middle, rtol=1e-5)


def test_an_ascending_cube_has_ascending_passes_only(items, scene):
    one = [i for i in radar(items) if i.properties["sat:orbit_state"] == "ascending"]
    assert 0 < len(one) < len(radar(items))
    chosen = open_cube(items, grid=scene.grid, months=(6,), orbit="ascending").compute()
    same(chosen, open_cube([*optical(items), *one], grid=scene.grid, months=(6,)).compute())
    june = next(i for i in one if i.datetime.month == 6)
    source_grid = grid_of(june, "vv")
    rows = round((source_grid.bounds[3] - scene.grid.bounds[3]) / 10)
    cols = round((scene.grid.bounds[0] - source_grid.bounds[0]) / 10)
    expected = read(june, "vv")[rows : rows + 96, cols : cols + 128]
    np.testing.assert_allclose(chosen["s1"][0, 0], 10 * np.log10(expected), atol=2e-5)


def rewritten(item, folder, key, change):
    """A copy of an item one of whose files holds other values."""
    copy = item.clone()
    with rasterio.open(item.assets[key].href) as source:
        values, profile = source.read(1), source.profile
    path = folder / f"{item.id}_{key}.tif"
    with rasterio.open(path, "w", **profile | {"driver": "GTiff"}) as out:
        out.write(change(values), 1)
    copy.assets[key].href = str(path)
    return copy


def test_zeros_at_the_border_of_a_swath_are_no_measurement(items, scene, tmp_path):
    june = [i for i in radar(items) if i.datetime.month == 6]
    first, second = june

    def border(values):
        return np.where(np.arange(values.shape[1]) < values.shape[1] // 2, 0, values)

    spoilt = [rewritten(first, tmp_path, key, border) for key in ("vv",)]
    spoilt[0].assets["vh"].href = rewritten(first, tmp_path, "vh", border).assets["vh"].href
    cube = open_cube([*optical(items), *spoilt, second], grid=scene.grid, months=(6,)).compute()
    alone = open_cube([*optical(items), second], grid=scene.grid, months=(6,)).compute()
    once = (cube["s1_count"] == 1).to_numpy()[0]
    assert 0.3 < once.mean() < 0.7
    np.testing.assert_array_equal(
        cube["s1"].to_numpy()[0][:, once], alone["s1"].to_numpy()[0][:, once]
    )


@pytest.mark.parametrize("crs", [32721, 32722])
@pytest.mark.parametrize("resolution", [10, 20, 30])
def test_chunks_do_not_show(items, small, crs, resolution):
    grid = Grid.from_lonlat(small.bbox_lonlat, crs=crs, resolution=resolution)
    bands = ["B04", "B11"]
    parts = open_cube(items, grid=grid, bands=bands, months=(6, 8), chunk=32).compute()
    same(parts, open_cube(items, grid=grid, bands=bands, months=(6, 8), chunk=512).compute())


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
@pytest.mark.parametrize(("crs", "resolution"), [(32721, 20), (32721, 30), (32722, 10)])
def test_chunks_do_not_show_where_values_are_interpolated(
    items, small, resampling, crs, resolution
):
    grid = Grid.from_lonlat(small.bbox_lonlat, crs=crs, resolution=resolution)
    options = {"grid": grid, "bands": ["B04", "B11"], "resampling": resampling}
    parts = open_cube(items, **options, chunk=37).compute()
    same(parts, open_cube(items, **options, chunk=512).compute())


def test_the_order_of_items_does_not_matter(items, small):
    options = {"grid": small, "bands": ["B04"], "months": (6, 8)}
    forth = open_cube(items, **options)
    back = open_cube(items[::-1], **options)
    same(forth.compute(), back.compute())
    assert forth.attrs == back.attrs


def test_nearest_keeps_measured_values_at_twenty_metres(items, small):
    one = [i for i in optical(items) if i.properties["s2:mgrs_tile"] == "21LZM"][:1]
    grid = Grid.from_bounds(small.bounds, crs=32721, resolution=20)
    cube = open_cube(one, grid=grid, bands=["B08"], scl_masked=()).compute()
    fine = open_cube(
        one, grid=Grid.from_bounds(grid.bounds, crs=32721), bands=["B08"], scl_masked=()
    )
    fine = fine["s2"][0].to_numpy()
    blocks = fine.reshape(grid.shape[0], 2, grid.shape[1], 2).swapaxes(1, 2)
    found = cube["s2"][0].to_numpy()
    seen = np.isfinite(found)
    assert seen.mean() > 0.3
    assert (blocks[seen].reshape(-1, 4) == found[seen][:, None]).any(1).all()


def test_averages_at_twenty_metres_are_means_of_four(items, small):
    one = [i for i in optical(items) if i.properties["s2:mgrs_tile"] == "21LZM"][:1]
    grid = Grid.from_bounds(small.bounds, crs=32721, resolution=20)
    options = {"bands": ["B08"], "scl_masked": ()}
    found = open_cube(one, grid=grid, resampling="average", **options)["s2"][0].to_numpy()
    fine = open_cube(one, grid=Grid.from_bounds(grid.bounds, crs=32721), **options)
    blocks = fine["s2"][0].to_numpy().reshape(grid.shape[0], 2, grid.shape[1], 2)
    mean = blocks.mean(axis=(1, 3))
    inside = np.isfinite(mean)
    np.testing.assert_allclose(found[inside], mean[inside], atol=6e-5)


def test_a_crs_without_an_epsg_number_shows_the_same_ground(items, scene, small):
    left, bottom, _right, _top = small.bounds
    part = Grid.from_bounds((left, bottom, left + 400, bottom + 300), crs=32721)
    grid = Grid.from_lonlat(part.bbox_lonlat, crs="ESRI:102033", resolution=10)
    june = [i for i in optical(items) if i.datetime.month == 6]
    cube = open_cube(june, grid=grid, bands=["B8A"]).compute()
    assert Grid.of(cube).crs.to_authority() == ("ESRI", "102033")
    reference = open_cube(june, grid=small, bands=["B8A"]).compute()
    assert np.isfinite(cube["s2"]).any()
    assert float(cube["s2"].median()) == pytest.approx(
        float(
            reference["s2"].sel(x=slice(left, left + 400), y=slice(bottom + 300, bottom)).median()
        ),
        abs=0.01,
    )


def test_beyond_the_data_is_missing_and_counted_nought(items, scene, whole):
    left, bottom, right, top = scene.grid.bounds
    wide = Grid.from_bounds((left - 3000, bottom - 2000, right + 1000, top + 500), crs=32721)
    cube = open_cube(items, grid=wide, bands=["B04"], months=(6, 7, 8)).compute()
    inner = {"y": slice(50, 50 + 96), "x": slice(300, 300 + 128)}
    np.testing.assert_array_equal(cube["s2"].isel(inner)[0], whole["s2"].sel(band="B04"))
    # A centre on the border of two turned pixels may fall to either.
    assert float((cube["s1"].isel(inner) != whole["s1"]).mean()) < 1e-3
    far = cube.isel(x=slice(0, 150))
    assert np.isnan(far["s2"]).all()
    assert np.isnan(far["s1"]).all()
    assert (far["s2_count"] == 0).all()
    assert (far["s1_count"] == 0).all()


def beside(item, folder, *, when, shift):
    """A copy of a scene on another day, its files moved off the grid by some metres."""
    copy = item.clone()
    copy.id = f"{item.id}-beside"
    copy.datetime = when
    for key, asset in copy.assets.items():
        with rasterio.open(asset.href) as source:
            profile = source.profile | {"driver": "GTiff"}
            profile["transform"] = rasterio.Affine.translation(shift, 0) @ source.transform
            path = folder / f"{copy.id}_{key}.tif"
            with rasterio.open(path, "w", **profile) as out:
                out.write(source.read(1), 1)
        asset.href = str(path)
        asset.extra_fields["proj:transform"] = list(profile["transform"])[:6]
        asset.extra_fields["proj:shape"] = [profile["height"], profile["width"]]
    return copy


@pytest.mark.parametrize("engine", ["stackstac", "odc-stac"])
@pytest.mark.filterwarnings("ignore:The 'shapely:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_scene_whose_box_in_degrees_meets_the_grid_but_not_its_pixels_changes_nothing(
    items, small, tmp_path, engine
):
    west = [i for i in items if i.properties["proj:code"] == "EPSG:32721"]
    one = next(i for i in optical(west) if i.properties["s2:processing_baseline"] == "02.12")
    june = next(i for i in radar(west) if i.datetime.month == 6)
    far = beside(one, tmp_path, when=one.datetime.replace(day=1), shift=60_000)
    far.properties["s2:processing_baseline"] = "05.00"
    may = beside(june, tmp_path, when=june.datetime.replace(month=5), shift=90_000)
    options = {"grid": small, "bands": ["B04"], "months": (5, 6), "engine": engine}
    cube = open_cube([far, may, one, june], **options)
    alone = open_cube([one, june], **options)
    same(cube.compute(), alone.compute())
    assert cube.attrs == alone.attrs
    assert cube.attrs["s2_scenes"] == 1
    assert cube.attrs["s1_empty_months"] == "5"
    with pytest.raises(NoItemsError, match="no Sentinel-2 scene over"):
        open_cube([far], grid=small)


def test_a_scene_listed_twice_is_seen_once(items, small):
    some = optical(items)
    same(
        open_cube([*some, *some], grid=small, bands=["B04"]).compute(),
        open_cube(some, grid=small, bands=["B04"]).compute(),
    )


def test_a_file_without_a_crs_is_refused(items, small, tmp_path):
    poor = optical(items)[0].clone()
    asset = poor.assets["B04"]
    with rasterio.open(asset.href) as source:
        values, profile = source.read(1), source.profile | {"driver": "GTiff", "crs": None}
    asset.href = str(tmp_path / "nowhere.tif")
    with rasterio.open(asset.href, "w", **profile) as out:
        out.write(values, 1)
    with pytest.raises(ReadError, match="states no coordinate reference system"):
        open_cube([poor], grid=small, bands=["B04"]).compute()


def test_the_papers_datasets():
    assert DATASETS["S1TsS2_12"] == tuple(range(1, 13))
    assert [calendar.month_abbr[m] for m in DATASETS["S1TsS2_7"]] == [
        "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]  # fmt: skip
    assert DATASETS["S2"] == ()


def test_a_scheduler_of_any_kind_gives_the_same(items, small):
    cube = open_cube(items, grid=small, bands=["B04"], chunk=20)
    with dask.config.set(scheduler="synchronous"):
        one = cube.compute()
    with dask.config.set(scheduler="threads", num_workers=4):
        same(one, cube.compute())
