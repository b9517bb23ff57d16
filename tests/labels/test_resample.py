"""Classes by area, against votes, and against polygons cut by shapely."""

from collections import Counter
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import CRS, Transformer
from rasterio.windows import Window

from deepforest_xr.errors import LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.labels import align_labels
from deepforest_xr.legend import UNLABELLED, mapbiomas

from .rasters import LEFT, TOP, grid_over, window_of, write

FOREST, PASTURE, SOY, RICE, MOSAIC, WATER = 3, 15, 39, 40, 21, 33
CODES = st.sampled_from([0, FOREST, PASTURE, SOY, RICE, MOSAIC])

quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def class_of(code):
    return int(mapbiomas(8).lookup(np.array([code]))[0])


@lru_cache
def transformer(source, target):
    return Transformer.from_crs(source, target, always_xy=True)


def polygon_areas(grid, codes, transform, crs, nodata, *, row, col):
    """Area of each class in a pixel of the grid, in source pixels, by cutting polygons."""
    edge = np.linspace(0, 1, 9)[:-1]
    ring = np.array(
        [(col + d, row) for d in edge]
        + [(col + 1, row + d) for d in edge]
        + [(col + 1 - d, row + 1) for d in edge]
        + [(col, row + 1 - d) for d in edge]
    )
    x, y = grid.transform @ (ring[:, 0], ring[:, 1])
    x, y = transformer(grid.crs, crs).transform(x, y)
    cols, rows = ~transform @ (x, y)
    pixel = shapely.Polygon(np.column_stack([cols, rows]))
    areas = Counter()
    left, top, right, bottom = pixel.bounds
    for r in range(max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), codes.shape[0])):
        for c in range(max(int(np.floor(left)), 0), min(int(np.ceil(right)), codes.shape[1])):
            code = codes[r, c]
            if code != nodata and np.isfinite(code):
                area = shapely.intersection(pixel, shapely.box(c, r, c + 1, r + 1)).area
                areas[class_of(int(code))] += area
    return areas, pixel.area


def winner(areas, tolerance=1e-6):
    """Class of the largest area, the lowest of equal ones."""
    if not areas or max(areas.values()) <= tolerance:
        return UNLABELLED
    return min(c for c, area in areas.items() if area >= max(areas.values()) - tolerance)


# ---- grids that share their axes: exact


@quick
@given(values=arrays(np.uint8, (6, 9), elements=CODES), factor=st.sampled_from([(2, 3), (3, 3)]))
def test_nested_pixels_are_counted_vote_by_vote(values, factor, tmp_path):
    down, right = factor
    values = values[:6, : 9 // right * right]
    path = write(tmp_path / "a.tif", values, nodata=0)
    shape = 6 // down, values.shape[1] // right
    bounds = (LEFT, TOP - 180, LEFT + 30 * values.shape[1], TOP)
    grid = Grid.from_bounds(bounds, crs=32721, resolution=(30 * right, 30 * down))
    found = align_labels(path, like=grid, collection=8)
    assert found.attrs["resampling"] == "mode"
    assert found.shape == shape
    for y, x in np.ndindex(shape):
        block = values[down * y : down * (y + 1), right * x : right * (x + 1)].ravel()
        votes = Counter(class_of(v) for v in block if v)
        assert int(found[y, x]) == winner(votes)


def test_nine_pixels_of_ten_metres_vote_for_one_of_thirty(tmp_path):
    five, four = [WATER] * 5 + [FOREST] * 4, [FOREST] * 5 + [WATER] * 4
    values = np.array([five, four], "uint8").reshape(2, 3, 3).transpose(1, 0, 2).reshape(3, 6)
    path = write(tmp_path / "a.tif", values, resolution=10)
    found = align_labels(path, like=grid_over((1, 2), 30), collection=8)
    np.testing.assert_array_equal(found, [[13, 1]])


@quick
@given(
    values=arrays(np.uint8, (8, 11), elements=CODES),
    resolution=st.floats(33, 120),
    shift=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_pixels_that_do_not_nest_are_weighed_exactly(values, resolution, shift, tmp_path):
    path = write(tmp_path / "a.tif", values, nodata=0)
    grid = grid_over((2, 3), resolution, corner=(LEFT + shift[0], TOP + shift[1]))
    found = align_labels(path, like=grid, collection=8).to_numpy()
    transform = Affine(30, 0, LEFT, 0, -30, TOP)
    for row, col in np.ndindex(2, 3):
        areas, _ = polygon_areas(grid, values, transform, grid.crs, 0, row=row, col=col)
        best = sorted(areas.values(), reverse=True) or [0.0]
        if len(best) > 1 and best[0] - best[1] < 1e-5:
            continue  # within float noise either may win
        if 0 < best[0] < 1e-5:
            continue
        assert found[row, col] == winner(areas)


def test_equal_areas_go_to_the_lowest_class_and_a_sliver_decides(tmp_path):
    values = np.array([[PASTURE, FOREST]], "uint8")
    path = write(tmp_path / "a.tif", values)
    even = Grid.from_bounds((LEFT, TOP - 30, LEFT + 60, TOP), crs=32721, resolution=(60, 30))
    assert int(align_labels(path, like=even, collection=8)[0, 0]) == class_of(FOREST)
    bounds = (LEFT - 0.01, TOP - 30, LEFT + 59.99, TOP)
    shifted = Grid.from_bounds(bounds, crs=32721, resolution=(60, 30))
    assert int(align_labels(path, like=shifted, collection=8)[0, 0]) == class_of(PASTURE)


def test_classes_vote_not_codes_and_what_has_no_class_votes_as_unlabelled(tmp_path):
    crops = [[PASTURE, PASTURE, SOY], [PASTURE, SOY, RICE], [PASTURE, RICE, RICE]]
    mosaics = [[MOSAIC, MOSAIC, SOY], [MOSAIC, SOY, FOREST], [MOSAIC, FOREST, SOY]]
    path = write(tmp_path / "a.tif", np.hstack([crops, mosaics]).astype("uint8"))
    found = align_labels(path, like=grid_over((1, 2), 90), collection=8)
    # 4 pasture against 3 soy and 3 rice... 5 crop; 4 of no class against 3 crop and 2 forest.
    np.testing.assert_array_equal(found, [[8, UNLABELLED]])


def test_missing_and_outside_pixels_do_not_vote(tmp_path):
    values = np.full((3, 3), 0, "uint8")
    values[2, 2] = WATER
    path = write(tmp_path / "a.tif", values, nodata=0)
    found = align_labels(path, like=grid_over((2, 2), 90), collection=8)
    np.testing.assert_array_equal(found, [[13, UNLABELLED], [UNLABELLED, UNLABELLED]])


# ---- grids that do not: within the error of sampling


@pytest.mark.parametrize("resolution", [45, 100, 260])
def test_degrees_onto_coarser_metres_take_the_largest_area(tmp_path, resolution):
    rng = np.random.default_rng(3)
    codes = rng.choice([FOREST, PASTURE, SOY, WATER, MOSAIC, 0], (90, 110)).astype("uint8")
    step = 0.00026949
    corner = (-54.0, -8.0)
    path = write(
        tmp_path / "a.tif", codes, resolution=step, crs="EPSG:4326", nodata=0, corner=corner
    )
    x, y = Transformer.from_crs(4326, 32722, always_xy=True).transform(-53.9985, -8.0015)
    rows, cols = 9, 7
    grid = Grid.from_bounds(
        (x, y - rows * resolution, x + cols * resolution, y), crs=32722, resolution=resolution
    )
    found = align_labels(path, like=grid, collection=8).to_numpy()
    transform = Affine(step, 0, corner[0], 0, -step, corner[1])
    right = 0
    for row, col in np.ndindex(rows, cols):
        areas, size = polygon_areas(grid, codes, transform, CRS(4326), 0, row=row, col=col)
        assert areas[found[row, col]] >= max(areas.values()) - 0.012 * size
        right += found[row, col] == winner(areas)
    assert right >= 0.93 * rows * cols


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's
@pytest.mark.parametrize("flip", [Affine.rotation(20), Affine.scale(1, -1)])
def test_a_turned_or_flipped_raster_is_sampled_too(tmp_path, flip):
    codes = np.random.default_rng(4).choice([FOREST, PASTURE, WATER], (40, 50)).astype("uint8")
    path = write(tmp_path / "a.tif", codes)
    transform = Affine.translation(LEFT, TOP) @ flip @ Affine.scale(30, -30)
    with rasterio.open(path, "r+") as out:
        out.transform = transform
    x, y = transform @ (25, 20)
    grid = Grid.from_bounds((x - 150, y - 100, x + 150, y + 100), crs=32721, resolution=100)
    found = align_labels(path, like=grid, collection=8).to_numpy()
    for row, col in np.ndindex(2, 3):
        areas, size = polygon_areas(grid, codes, transform, grid.crs, None, row=row, col=col)
        assert areas[found[row, col]] >= max(areas.values()) - 0.012 * size


# ---- windows


@pytest.mark.parametrize("crs", [32721, 32722])
def test_neither_chunks_nor_windows_show(tmp_path, monkeypatch, crs):
    codes = np.random.default_rng(5).choice([FOREST, PASTURE, SOY, 0], (120, 150)).astype("uint8")
    path = write(tmp_path / "a.tif", codes, nodata=0)
    x, y = Transformer.from_crs(32721, crs, always_xy=True).transform(LEFT, TOP)
    bounds = (x - 33, y - 4000, x + 4777, y + 21)
    for resolution in (70, 7):
        grid = Grid.from_bounds(bounds, crs=crs, resolution=resolution)
        whole = align_labels(path, like=grid, collection=8, chunk=2048).to_numpy()
        parts = align_labels(path, like=grid, collection=8, chunk=1777 // resolution)
        np.testing.assert_array_equal(parts, whole)
        with monkeypatch.context() as patch:
            patch.setattr("deepforest_xr.labels.resample.WINDOW", 11)
            np.testing.assert_array_equal(align_labels(path, like=grid, collection=8), whole)


def test_what_is_read_at_once_stays_small_however_coarse_the_cube(tmp_path, monkeypatch):
    codes = np.full((600, 700), FOREST, "uint8")
    path = write(tmp_path / "a.tif", codes)
    monkeypatch.setattr("deepforest_xr.labels.resample.WINDOW", 100)
    from deepforest_xr.labels import align

    sizes = []
    honest = align._read

    def counted(source, band, box):
        sizes.append([span.stop - span.start for span in box])
        return honest(source, band, box)

    monkeypatch.setattr(align, "_read", counted)
    found = align_labels(path, like=grid_over((12, 14), 1500), collection=8).to_numpy()
    assert (found == 1).all()
    assert max(map(max, sizes)) <= 100
    assert sum(a * b for a, b in sizes) == codes.size


def test_of_a_raster_as_large_as_brazil_only_a_window_is_read(tmp_path, monkeypatch):
    # 155,000 x 158,000 pixels on a grid in degrees, of which all but a corner are missing.
    step, corner = 0.00026949, (-74.0, 5.3)
    profile = {
        "driver": "GTiff", "count": 1, "dtype": "uint8", "crs": 4326, "nodata": 0,
        "width": 155_000, "height": 158_000, "tiled": True, "blockxsize": 512, "blockysize": 512,
        "transform": Affine(step, 0, corner[0], 0, -step, corner[1]), "compress": "deflate",
        "SPARSE_OK": True, "BIGTIFF": "YES",
    }  # fmt: skip
    codes = np.random.default_rng(6).choice([FOREST, PASTURE, WATER], (400, 500)).astype("uint8")
    with rasterio.open(tmp_path / "brasil.tif", "w", **profile) as out:
        out.write(codes, 1, window=Window(70_000, 60_000, 500, 400))
    from deepforest_xr.labels import align

    pixels = []
    honest = align._read

    def counted(source, band, box):
        pixels.append(int(np.prod([span.stop - span.start for span in box])))
        return honest(source, band, box)

    monkeypatch.setattr(align, "_read", counted)
    lon, lat = corner[0] + 70_100 * step, corner[1] - 60_100 * step
    grid = Grid.from_lonlat((lon, lat - 0.02, lon + 0.03, lat), crs=32721, resolution=30.5)
    x, y = np.meshgrid(grid.coords()["x"], grid.coords()["y"])
    lons, lats = Transformer.from_crs(32721, 4326, always_xy=True).transform(x, y)
    rows = np.floor((corner[1] - lats) / step).astype(int) - 60_000
    cols = np.floor((lons - corner[0]) / step).astype(int) - 70_000
    found = align_labels(tmp_path / "brasil.tif", like=grid, collection=8).to_numpy()
    np.testing.assert_array_equal(found, mapbiomas(8).lookup(codes[rows, cols]))
    assert sum(pixels) < 2 * found.size


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rasterio's
def test_an_unknown_code_beside_the_cube_is_not_its_business(tmp_path):
    # Of a turned raster a larger window has to be read than the cube covers.
    transform = Affine.translation(LEFT, TOP) @ Affine.rotation(30) @ Affine.scale(30, -30)
    cols, rows = np.meshgrid(np.arange(80) + 0.5, np.arange(80) + 0.5)
    x, y = transform @ (cols, rows)
    left, top = (v - 200 for v in transform @ (40, 40))
    near = (x > left - 45) & (x < left + 645) & (y < top + 45) & (y > top - 445)
    path = write(tmp_path / "a.tif", np.where(near, FOREST, 99).astype("uint8"))
    with rasterio.open(path, "r+") as out:
        out.transform = transform
    for resolution in (10, 100):
        grid = Grid.from_bounds(
            (left, top - 400, left + 600, top), crs=32721, resolution=resolution
        )
        assert (align_labels(path, like=grid, collection=8) == 1).all()
        over = Grid.from_bounds(
            (left, top - 600, left + 600, top), crs=32721, resolution=resolution
        )
        with pytest.raises(LabelError, match=r"codes \[99\] are not in"):
            align_labels(path, like=over, collection=8).compute()


@pytest.mark.parametrize("crs", [32721, 32722])
def test_heights_given_for_classes_are_one_line_and_no_heap_of_memory(tmp_path, crs):
    heights = np.random.default_rng(7).random((200, 200)).astype("float32")
    path = write(tmp_path / "dem.tif", heights)
    x, y = Transformer.from_crs(32721, crs, always_xy=True).transform(LEFT + 900, TOP - 900)
    grid = Grid.from_bounds((x, y - 3000, x + 3500, y), crs=crs, resolution=100)
    with pytest.raises(LabelError, match="is not a class code but a fraction") as caught:
        align_labels(path, like=grid, collection=8).compute()
    assert "\n" not in str(caught.value)


# ---- real rasters of Amapa

# Raster, band, and where in it several classes meet (share of its height and width).
REAL = [("lorenco_85a22.tif", 34, (0.54, 0.42)), ("utm_cover_AP_rio_2020.tif", None, (0.62, 0.78))]


@pytest.mark.parametrize(("name", "band", "at"), REAL)
def test_a_real_raster_at_a_hundred_metres_is_its_largest_area(name, band, at, shared_data):
    path = shared_data / "mapbiomas" / "rasters" / name
    grid, codes, transform, nodata = window_of(path, band, at, 100)
    labels = align_labels(path, like=grid, collection=8, band=band)
    assert labels.attrs["resampling"] == "mode"
    found = labels.to_numpy()
    assert len(np.unique(found)) > 4
    clear = 0
    for row, col in np.ndindex(grid.shape):
        areas = Counter()
        left, top = grid.transform @ (col, row)
        (c0, r0), (c1, r1) = ~transform @ (left, top), ~transform @ (left + 100, top - 100)
        for r in range(int(r0), int(np.ceil(r1))):
            for c in range(int(c0), int(np.ceil(c1))):
                area = (min(r + 1, r1) - max(r, r0)) * (min(c + 1, c1) - max(c, c0))
                if codes[r, c] != nodata:
                    areas[class_of(int(codes[r, c]))] += area
        best = areas.most_common(2)
        if not best or (len(best) == 2 and best[0][1] - best[1][1] < 1e-5):
            continue
        clear += 1
        assert found[row, col] == best[0][0]
    assert clear > 2000


@pytest.mark.parametrize("resolution", [10, 75])
@pytest.mark.parametrize(("name", "band", "at"), REAL)
def test_a_real_raster_under_a_simulated_cube_in_utm_22n(
    name, band, at, resolution, shared_data, synthetic_cube
):
    path = shared_data / "mapbiomas" / "rasters" / name
    theirs, codes, transform, nodata = window_of(path, band, at, resolution)
    left, bottom, right, top = theirs.bounds
    # Off the file's raster, and in WGS 84 where the file is in SIRGAS 2000.
    bounds = (left + 0.37, bottom + 0.21, right + 0.37, top + 0.21)
    grid = Grid.from_bounds(bounds, crs=32622, resolution=resolution)
    cube = synthetic_cube(grid.shape).assign_coords(grid.coords())
    labels = align_labels(path, like=cube, collection=8, band=band)
    assert Grid.of(labels) == grid
    found = labels.to_numpy()
    assert len(np.unique(found)) > 1
    if resolution == 75:
        for row, col in product(range(0, grid.shape[0], 7), range(0, grid.shape[1], 3)):
            areas, size = polygon_areas(grid, codes, transform, 31976, nodata, row=row, col=col)
            assert areas[found[row, col]] >= max(areas.values()) - 0.012 * size
        return
    x, y = np.meshgrid(grid.coords()["x"], grid.coords()["y"])
    cols, rows = ~transform @ Transformer.from_crs(32622, 31976, always_xy=True).transform(x, y)
    expected = codes[np.floor(rows).astype(int), np.floor(cols).astype(int)]
    expected = np.where(expected == nodata, UNLABELLED, mapbiomas(8).lookup(expected))
    np.testing.assert_array_equal(found, expected)


def test_a_raster_of_another_collection_than_said_is_found_out(shared_data):
    # Said to be of collection 6 by those who cut it, but flooded forest has a code since 8.
    path = shared_data / "mapbiomas" / "rasters" / "utm_cover_AP_rio_2020.tif"
    grid, *_ = window_of(path, None, (0.62, 0.78), 100)
    with pytest.raises(LabelError, match=r"codes \[6\] are not in MapBiomas collection 6"):
        align_labels(path, like=grid, collection=6).compute()
