import io
import json
import logging

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import Geod, Transformer

from deepforest_xr.accuracy import (
    confusion,
    counts_from_points,
    draw_points,
    mapped_area,
    points_to_geojson,
)
from deepforest_xr.accuracy.points import _splitmix64
from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import Legend, amazon13

CODES = np.random.default_rng(0).choice([0, 1, 2, 5], p=[0.1, 0.6, 0.25, 0.05], size=(61, 83))
UNITS = {1: 40, 2: 30, 5: 20}


def test_points_lie_at_the_centres_of_pixels_of_their_class(make):
    lulc = make(CODES)
    points = draw_points(lulc, UNITS, seed=4)
    assert points.code.value_counts().to_dict() == UNITS
    assert (
        points["class"]
        .map(dict(zip(amazon13().names, amazon13().codes, strict=True)))
        .eq(points.code)
        .all()
    )
    for point in points.itertuples():
        here = lulc.sel(x=point.x, y=point.y)  # exact: raises beside a centre
        assert here.item() == point.code
    back = Transformer.from_crs("EPSG:4326", "EPSG:32721", always_xy=True)
    x, y = back.transform(points.longitude, points.latitude)
    np.testing.assert_allclose(x, points.x, atol=1e-4)
    np.testing.assert_allclose(y, points.y, atol=1e-4)
    assert points.id.tolist() == list(range(1, 91))
    assert not points.duplicated(["x", "y"]).any()
    assert points.reference.isna().all()


@settings(deadline=None, max_examples=25)
@given(st.integers(7, 90), st.integers(7, 90), st.integers(0, 5))
def test_the_chunks_do_not_matter_and_the_seed_does(rows, cols, seed):
    grid = Grid.from_bounds((0, 0, 830, 610), crs="EPSG:32721")
    lulc = xr.DataArray(
        CODES.astype("uint8"), dims=("y", "x"), coords=grid.coords(), attrs=amazon13().attrs()
    )
    whole = draw_points(lulc, UNITS, seed=seed)
    pd.testing.assert_frame_equal(draw_points(lulc.chunk(y=rows, x=cols), UNITS, seed=seed), whole)
    assert not draw_points(lulc, UNITS, seed=seed + 1).x.equals(whole.x)


def test_a_larger_sample_holds_the_smaller_one(make):
    small, large = (draw_points(make(CODES), {1: n}, seed=9) for n in (20, 50))
    assert set(zip(small.x, small.y, strict=True)) <= set(zip(large.x, large.y, strict=True))


def test_classes_come_mixed_so_that_order_tells_nothing(make):
    codes = draw_points(make(CODES), {1: 60, 2: 60}).code.to_numpy()
    changes = (codes[1:] != codes[:-1]).sum()
    assert 40 < changes < 80


def test_every_pixel_is_as_likely_as_any_other(make):
    lulc = make(np.ones((6, 10)))
    hits = np.zeros((6, 10))
    for seed in range(600):
        points = draw_points(lulc, {1: 3}, seed=seed)
        rows = ((lulc.y[0].item() - points.y) // 10).astype(int)
        cols = ((points.x - lulc.x[0].item()) // 10).astype(int)
        hits[rows, cols] += 1
    # 30 expected each; chi-square with 59 degrees of freedom, 99.9 % below 98.
    assert ((hits - 30) ** 2 / 30).sum() < 98


def test_the_ranks_are_splitmix64s_own_outputs():
    # First outputs of the reference C code (Vigna) seeded with 1234567.
    expected = [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
        4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    got = _splitmix64(np.arange(5), np.uint64(1234567))
    assert got.tolist() == expected


def test_a_lazy_map_is_drawn_from_block_by_block():
    largest = []

    def block(block_info=None):
        shape = block_info[None]["chunk-shape"]
        largest.append(np.prod(shape))
        return np.full(shape, 1 + block_info[None]["chunk-location"][1] % 2, dtype="uint8")

    lazy = da.map_blocks(
        block, chunks=((10,) * 8, (20,) * 6), dtype="uint8", meta=np.empty((0, 0), "uint8")
    )
    grid = Grid.from_bounds((0, 0, 1200, 800), crs="EPSG:32721")
    lulc = xr.DataArray(lazy, dims=("y", "x"), coords=grid.coords(), attrs=amazon13().attrs())
    with dask.config.set(scheduler="threads"):
        points = draw_points(lulc, {1: 5, 2: 7})
        assert points.code.value_counts().to_dict() == {1: 5, 2: 7}
        # One pass: each of the 48 blocks is made once.
        assert (len(largest), max(largest)) == (48, 200)
        np.testing.assert_allclose(mapped_area(lulc)[:2], [48, 48])


def test_a_class_with_fewer_pixels_is_refused_or_drawn_whole(make, caplog):
    lulc = make([[1, 1, 2], [0, 13, 2]])
    with pytest.raises(ConfigError, match="which has 2 pixels: ask for fewer"):
        draw_points(lulc, {2: 3})
    points = draw_points(lulc, {2: 3, 13: 1}, allow_fewer=True)
    assert sorted(points.code) == [2, 2, 13]
    assert "which has 2 pixels: all are drawn" in caplog.text
    with pytest.raises(ConfigError, match="which has 0 pixels"):
        draw_points(lulc, {5: 3}, allow_fewer=True)


def test_units_follow_the_legend_or_name_codes(make):
    lulc = make(CODES)
    units = np.zeros(13, dtype=int)
    units[[0, 1, 4]] = 40, 30, 20
    pd.testing.assert_frame_equal(draw_points(lulc, units), draw_points(lulc, UNITS))
    with pytest.raises(ConfigError, match="3 numbers of points for 13"):
        draw_points(lulc, [1, 2, 3])
    with pytest.raises(ConfigError, match=r"codes \[99\]"):
        draw_points(lulc, {99: 1})
    for wrong in ({1: -1}, {1: 0}, {}):
        with pytest.raises(ConfigError, match="not all 0"):
            draw_points(lulc, wrong)
    with pytest.raises(
        ConfigError, match=r"of 'Forest Formation' \(code 1\), which has \d+ pixels"
    ):
        draw_points(lulc, {1: 10**6})
    with pytest.raises(DtypeError, match="float64"):
        draw_points(lulc.astype(float), {1: 1})
    with pytest.raises(GridError, match="spatial_ref"):
        draw_points(lulc.drop_vars("spatial_ref"), {1: 1})


@pytest.mark.parametrize("chunks", [None, {"y": 10, "x": 17}])
def test_areas_in_hectares(make, chunks):
    area = mapped_area(make(CODES, chunks=chunks))
    # Pixels of 10 m.
    np.testing.assert_allclose(area, [(code == CODES).sum() / 100 for code in range(1, 14)])


def test_areas_in_degrees_are_those_of_the_ellipsoid():
    grid = Grid.from_bounds((-60, -10, -58, -4), crs="EPSG:4326", resolution=0.5)
    codes = np.ones(grid.shape, dtype="uint8")
    codes[:, 2:] = 2
    codes[0] = 3
    lulc = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=amazon13().attrs())
    # A geodesic polygon whose parallels are densified.
    lat = np.linspace(-10, -4.5, 4000)
    west, east = np.full(4000, -60.0), np.full(4000, -59.0)
    bottom, top = np.linspace(-60, -59, 4000), np.linspace(-59, -60, 4000)
    lons = np.concatenate([bottom, east, top, west])
    lats = np.concatenate([np.full(4000, -10.0), lat, np.full(4000, -4.5), lat[::-1]])
    square_metres, _ = Geod(ellps="WGS84").polygon_area_perimeter(lons, lats)
    area = mapped_area(lulc)
    assert area[0] == pytest.approx(abs(square_metres) / 10_000, rel=1e-7)
    assert area[1] == pytest.approx(area[0], rel=1e-12)
    # A block far from the equator has its own rows' areas.
    np.testing.assert_allclose(mapped_area(lulc.chunk(y=5, x=3)), area)


def test_feet_are_not_metres():
    grid = Grid.from_bounds((0, 0, 300, 200), crs="EPSG:2263", resolution=100)
    lulc = xr.DataArray(
        np.ones((2, 3), "uint8"), dims=("y", "x"), coords=grid.coords(), attrs=amazon13().attrs()
    )
    assert mapped_area(lulc)[0] == pytest.approx(6e4 * (1200 / 3937) ** 2 / 1e4)


def test_the_table_comes_back_from_a_file_labelled(make):
    lulc = make(CODES)
    points = draw_points(lulc, UNITS, seed=1)
    labels = np.random.default_rng(2).choice([1, 2, 5], size=90)
    expected = confusion(points.code.to_numpy(), labels, amazon13().codes)
    read = pd.read_csv(io.StringIO(points.assign(reference=labels).to_csv(index=False)))
    np.testing.assert_array_equal(counts_from_points(read, amazon13()), expected)
    names = dict(zip(amazon13().codes, amazon13().names, strict=True))
    named = read.assign(reference=read.reference.map(names))
    np.testing.assert_array_equal(counts_from_points(named, amazon13(), mapped="class"), expected)


def test_points_without_a_label_are_left_out_and_counted(make, caplog):
    points = draw_points(make(CODES), {1: 3, 2: 2}, seed=1)
    points["reference"] = ["2", " ", None, 2.0, float("nan")]
    with caplog.at_level(logging.WARNING):
        assert counts_from_points(points, amazon13()).sum() == 2
    assert "3 of 5 points" in caplog.text
    for wrong in ("Wood", 99, "1.5"):
        with pytest.raises(LabelError, match=f"reference '{wrong}' is no class"):
            counts_from_points(points.assign(reference=wrong), amazon13())
    with pytest.raises(ConfigError, match="no column 'truth'"):
        counts_from_points(points, amazon13(), reference="truth")


@given(arrays(np.int64, (3, 3), elements=st.integers(0, 9)).filter(lambda a: a.any()))
def test_a_table_of_points_is_the_matrix_it_was_made_from(counts):
    legend = Legend.from_dict(
        amazon13().to_dict() | {"classes": amazon13().to_dict()["classes"][:3]}
    )
    rows, cols = np.indices((3, 3))
    code, reference = (np.repeat(side.ravel(), counts.ravel()) + 1 for side in (rows, cols))
    table = pd.DataFrame({"code": code, "reference": reference})
    np.testing.assert_array_equal(counts_from_points(table, legend), counts)


def test_geojson_is_read_by_others(make, tmp_path):
    points = draw_points(make(CODES), UNITS, seed=1)
    text = points_to_geojson(points)
    content = json.loads(text)
    assert content["type"] == "FeatureCollection"
    assert content["features"][0]["properties"]["reference"] is None
    assert "longitude" not in content["features"][0]["properties"]
    (tmp_path / "p.geojson").write_text(text)
    meta, _, places, columns = pyogrio.raw.read(tmp_path / "p.geojson", columns=["code"])
    assert meta["crs"] == "EPSG:4326"
    found = shapely.from_wkb(places)
    np.testing.assert_allclose(shapely.get_x(found), points.longitude)
    np.testing.assert_allclose(shapely.get_y(found), points.latitude)
    assert columns[0].tolist() == points.code.tolist()
