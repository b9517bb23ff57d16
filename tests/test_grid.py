"""Grids against closed formulas, rasterio and pyproj."""

import math

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers `.rio`)
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds as warp_bounds

from deepforest_xr.errors import ConfigError, GridError
from deepforest_xr.grid import Grid, parse_crs, transform_bounds

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def on(grid):
    return xr.Dataset({"v": (("y", "x"), np.zeros(grid.shape))}, coords=grid.coords())


def test_bounds_are_the_corner_of_the_first_pixel_whatever_their_digits():
    grid = Grid.from_bounds((717729.8352, 1.25, 717729.8352 + 30, 1.25 + 20), crs=32721)
    assert grid.transform == Affine(10, 0, 717729.8352, 0, -10, 21.25)
    assert grid.shape == (2, 3)


def test_a_last_fraction_of_a_pixel_is_covered_and_float_noise_is_not_a_pixel():
    assert Grid.from_bounds((0, 0, 31, 22), crs=32721).shape == (3, 4)
    assert Grid.from_bounds((0, 0, 30.001, 20.001), crs=32721).shape == (2, 3)


@given(
    shape=SHAPES,
    corner=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e7, 1e7)),
    res=st.tuples(st.floats(0.5, 1000), st.floats(0.5, 1000)),
)
def test_bounds_of_a_grid_give_the_grid_back(shape, corner, res):
    left, top = corner
    bounds = (left, top - shape[0] * res[1], left + shape[1] * res[0], top)
    grid = Grid.from_bounds(bounds, crs=32721, resolution=res)
    assert grid.shape == shape
    assert grid.bounds == pytest.approx(array_bounds(*shape, grid.transform), abs=1e-6)
    assert grid.resolution == res


@pytest.mark.parametrize("bounds", [(5, 0, 5, 1), (5, 0, 4, 1), (0, 3, 1, 2), (0, 0, math.nan, 1)])
def test_empty_or_reversed_bounds_are_refused(bounds):
    with pytest.raises(GridError, match="left, bottom, right, top"):
        Grid.from_bounds(bounds, crs=32721)


@pytest.mark.parametrize("resolution", [0, -10, (10, -10), math.nan])
def test_resolution_must_be_positive(resolution):
    with pytest.raises(GridError, match="resolution"):
        Grid.from_bounds((0, 0, 30, 20), crs=32721, resolution=resolution)


def test_an_unknown_crs_is_one_line():
    with pytest.raises(ConfigError, match="EPSG:999999") as caught:
        Grid.from_bounds((0, 0, 30, 20), crs="EPSG:999999")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("crs", ["EPSG:32721", 32721, "ESRI:102033", CRS(4326).to_wkt()])
def test_a_crs_is_read_from_what_pyproj_reads(crs):
    assert parse_crs(crs) == CRS.from_user_input(crs)


@pytest.mark.parametrize(
    "transform", [(10, 1, 0, 0, -10, 0), (10, 0, 0, 0, 10, 0), (-10, 0, 0, 0, -10, 0)]
)
def test_rotated_or_flipped_is_refused(transform):
    with pytest.raises(GridError, match="north-up"):
        Grid(parse_crs(32721), Affine(*transform), (2, 3))


def test_a_grid_without_pixels_is_refused():
    with pytest.raises(GridError, match="at least one pixel"):
        Grid(parse_crs(32721), Affine(10, 0, 0, 0, -10, 0), (0, 3))


@given(
    shape=SHAPES,
    corner=st.tuples(st.floats(1e5, 9e5), st.floats(1e5, 1e7)),
    resolution=st.sampled_from([10, 20, 29.89280983866547, 30.0]),
)
def test_coordinates_carry_the_grid_bit_for_bit(shape, corner, resolution):
    left, top = corner
    transform = Affine(float(resolution), 0, left, 0, -float(resolution), top)
    grid = Grid(parse_crs("EPSG:32722"), transform, shape)
    assert Grid.of(on(grid)) == grid


@pytest.mark.parametrize(
    ("crs", "bounds", "resolution"),
    [
        ("ESRI:102033", (-1e5, 2e5, -1e5 + 900, 2e5 + 600), 300),
        (4326, (-54.0, -8.1, -53.9, -8.02), 0.000269494585235856472),
        (3857, (-6e6, -9e5, -6e6 + 77, -9e5 + 55), 11),
    ],
)
def test_any_crs_survives_the_coordinates(crs, bounds, resolution):
    grid = Grid.from_bounds(bounds, crs=crs, resolution=resolution)
    back = Grid.of(on(grid))
    assert back == grid
    assert back.crs == CRS.from_user_input(crs)


# rioxarray 0.19 multiplies transforms with `*`.
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_rioxarray_reads_the_same_grid_from_the_coordinates():
    grid = Grid.from_bounds((600010.5, 9e6, 600040.5, 9e6 + 20), crs=32721)
    data = on(grid)
    assert data.rio.crs == rasterio.CRS.from_epsg(32721)
    assert data.rio.transform() == grid.transform
    assert data.rio.bounds() == grid.bounds


def test_a_raster_written_by_rioxarray_is_a_grid(tmp_path):
    values = xr.DataArray(
        np.zeros((2, 3)), dims=("y", "x"), coords={"y": [25.0, 15.0], "x": [5.0, 15.0, 25.0]}
    ).rio.write_crs(32721)
    assert Grid.of(values) == Grid.from_bounds((0, 10, 30, 30), crs=32721)


def test_coordinates_are_pixel_centres_with_y_descending():
    coords = Grid.from_bounds((100, 200, 130, 220), crs=32721).coords()
    np.testing.assert_array_equal(coords["x"], [105, 115, 125])
    np.testing.assert_array_equal(coords["y"], [215, 205])
    assert coords["x"].attrs == {"standard_name": "projection_x_coordinate", "units": "metre"}


def test_degrees_are_called_longitude_and_latitude():
    coords = Grid.from_bounds((-54, -8, -53, -7), crs=4326, resolution=0.25).coords()
    assert coords["x"].attrs == {"standard_name": "longitude", "units": "degrees"}
    assert coords["y"].attrs == {"standard_name": "latitude", "units": "degrees"}
    assert coords["spatial_ref"].attrs["grid_mapping_name"] == "latitude_longitude"


@given(shape=SHAPES, data=st.data())
def test_a_window_has_the_windows_grid(shape, data):
    grid = Grid.from_bounds((717729.8352, 0, 717729.8352 + 10 * shape[1], 10 * shape[0]), crs=32721)
    r0 = data.draw(st.integers(0, shape[0] - 1))
    c0 = data.draw(st.integers(0, shape[1] - 1))
    part = on(grid).isel(y=slice(r0, None), x=slice(c0, None))
    found = Grid.of(part)
    assert found.shape == (shape[0] - r0, shape[1] - c0)
    expected = grid.transform @ Affine.translation(c0, r0)
    assert found.transform.almost_equals(expected, precision=1e-6)


def test_every_second_pixel_is_a_coarser_grid():
    grid = Grid.from_bounds((0, 0, 60, 40), crs=32721)
    coarse = Grid.of(on(grid).isel(x=slice(0, None, 2)))
    assert coarse.resolution == (20, 10)
    # Centres of the pixels kept: the first lies at 5, so its 20 m pixel begins at -5.
    assert coarse.bounds == (-5, 0, 55, 40)


def test_one_pixel_keeps_its_size():
    grid = Grid.from_bounds((0, 0, 60, 40), crs=32721, resolution=(20, 10))
    assert Grid.of(on(grid).isel(y=[3], x=[1])).bounds == (20, 0, 40, 10)


def test_what_is_missing_from_an_array_is_said():
    full = on(Grid.from_bounds((0, 0, 30, 20), crs=32721))
    for drop, named in (("spatial_ref", "write_crs"), ("x", "no `x`"), ("y", "no `y`")):
        with pytest.raises(GridError, match=named):
            Grid.of(full.drop_vars(drop))
    bare = full.copy()
    bare["spatial_ref"].attrs.clear()
    with pytest.raises(GridError, match="crs_wkt"):
        Grid.of(bare)


def test_unevenly_spaced_pixels_are_refused():
    uneven = on(Grid.from_bounds((0, 0, 30, 20), crs=32721)).isel(x=[0, 1, 1])
    uneven = uneven.assign_coords(x=[0.0, 10.0, 30.0])
    with pytest.raises(GridError, match="evenly"):
        Grid.of(uneven)


def test_south_up_arrays_are_refused():
    with pytest.raises(GridError, match="north-up"):
        Grid.of(on(Grid.from_bounds((0, 0, 30, 20), crs=32721)).isel(y=slice(None, None, -1)))


def test_one_lonely_pixel_without_a_transform_has_no_size():
    one = on(Grid.from_bounds((0, 0, 30, 10), crs=32721))
    del one["spatial_ref"].attrs["GeoTransform"]
    with pytest.raises(GridError, match="one pixel along 'y'"):
        Grid.of(one)


@given(west=st.floats(-60, -48), south=st.floats(-15, 3), width=st.floats(0.01, 0.3))
def test_a_box_in_degrees_is_covered_whole_with_edges_on_whole_pixels(west, south, width):
    box = (west, south, west + width, south + 0.1)
    grid = Grid.from_lonlat(box, crs=32722, resolution=20)
    assert all(edge % 20 == 0 for edge in grid.bounds)
    to_utm = Transformer.from_crs(4326, 32722, always_xy=True)
    left, bottom, right, top = grid.bounds
    for lon in np.linspace(box[0], box[2], 7):
        for lat in np.linspace(box[1], box[3], 7):
            x, y = to_utm.transform(lon, lat)
            # Between the points that PROJ looks at, an edge may bulge by centimetres.
            assert left - 1 <= x <= right + 1
            assert bottom - 1 <= y <= top + 1


def test_lonlat_box_agrees_with_rasterio():
    grid = Grid.from_bounds((600000, 9000000, 610000, 9020000), crs=32721)
    expected = warp_bounds("EPSG:32721", "EPSG:4326", *grid.bounds)
    assert grid.bbox_lonlat == pytest.approx(expected, abs=1e-9)
    assert transform_bounds(grid.bounds, 32721, 32721) == pytest.approx(grid.bounds)


def test_two_grids_are_the_same_or_both_sides_are_named():
    grid = Grid.from_bounds((0, 0, 30, 20), crs=32721)
    grid.require_same(Grid.from_bounds((0, 0, 30, 20), crs=32721), ours="a", theirs="b")
    others = [
        Grid.from_bounds((0, 0, 20, 30), crs=32721),
        Grid.from_bounds((1, 0, 31, 20), crs=32721),
        Grid.from_bounds((0, 0, 30, 20), crs=32722),
    ]
    for other in others:
        with pytest.raises(GridError, match=r"the cube is on 2 x 3 .*EPSG:32721.*labels on"):
            grid.require_same(other, ours="the cube", theirs="labels")


def test_describe_names_a_crs_without_an_epsg_number():
    grid = Grid.from_bounds((0, 0, 300, 200), crs="ESRI:102033", resolution=100)
    assert "2 x 3 pixels of 100 in ESRI:102033" in grid.describe()


@pytest.mark.parametrize("bounds", [(0, 0, 30), (0, 0, 30, "top"), 5])
def test_bounds_that_are_not_four_numbers_are_refused(bounds):
    with pytest.raises(GridError, match="four numbers"):
        Grid.from_bounds(bounds, crs=32721)
