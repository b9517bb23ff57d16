"""Sentinel-2 composites of a cube against direct computations on the files."""

import logging
from datetime import datetime

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import binary_dilation

from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import COMPOSITES, open_cube, optical
from deepforest_xr.errors import ConfigError, MissingAssetError
from deepforest_xr.grid import Grid
from deepforest_xr.reader import read_failures
from deepforest_xr.sentinel import composite
from deepforest_xr.sentinel.s2 import SCL_MASKED

BANDS = ("B02", "B04", "B08", "B11")


@pytest.fixture(scope="module")
def west(scene):
    """Scenes on the grid's own raster: what a cube reads is what the files hold."""
    return [
        i
        for i in read_items(scene.items)
        if i.collection_id == "sentinel-2-l2a" and i.properties["proj:code"] == "EPSG:32721"
    ]


def read(item, band, grid):
    with rasterio.open(item.assets[band].href) as source:
        values = source.read(1).repeat(round(source.res[0] / 10), 0)
        values = values.repeat(round(source.res[0] / 10), 1)
        row = round((source.bounds.top - grid.bounds[3]) / 10)
        col = round((grid.bounds[0] - source.bounds.left) / 10)
    out = np.zeros(grid.shape, values.dtype)
    for y in range(grid.shape[0]):
        for x in range(grid.shape[1]):
            if 0 <= y + row < values.shape[0] and 0 <= x + col < values.shape[1]:
                out[y, x] = values[y + row, x + col]
    return out


@pytest.fixture(scope="module")
def files(west, scene):
    """Reflectance (date, band, y, x), NaN where not clear; scene classes (date, y, x)."""
    west = sorted(west, key=lambda i: (i.datetime, i.id))
    classes = np.stack([read(i, "SCL", scene.grid) for i in west])
    dn = np.stack([[read(i, b, scene.grid) for b in BANDS] for i in west]).astype(int)
    shift = [-1000 if i.properties["s2:processing_baseline"] >= "04" else 0 for i in west]
    reflectance = (dn + np.array(shift)[:, None, None, None]) / 1e4
    clear = ~np.isin(classes, SCL_MASKED) & (dn > 0).all(1)
    return np.where(clear[:, None], reflectance, np.nan).astype("float32"), classes


def disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("chunk", [512, 41])
def test_medoid_and_geometric_median_are_those_of_the_files(west, scene, files, chunk):
    reflectance, _ = files
    for name, expected in (
        ("medoid", composite.medoid_array(reflectance)[0]),
        ("geomad", composite.geomad_array(reflectance)[0]),
    ):
        cube = open_cube(west, grid=scene.grid, bands=BANDS, composite=name, chunk=chunk)
        assert cube["s2"].chunks[0] == (4,)
        np.testing.assert_array_equal(cube["s2"], expected)
        assert cube.attrs["s2_composite"] == COMPOSITES[name]


def test_geomad_adds_the_scatter_around_it(west, scene, files):
    reflectance, _ = files
    cube = open_cube(west, grid=scene.grid, bands=BANDS, composite="geomad", chunk=50)
    scatter = composite.geomad_array(reflectance)[1:]
    for name, expected in zip(("s2_emad", "s2_smad", "s2_bcmad"), scatter, strict=True):
        assert cube[name].dims == ("y", "x")
        np.testing.assert_array_equal(cube[name], expected)
        assert cube[name].attrs["grid_mapping"] == "spatial_ref"
    assert float(cube["s2_emad"].max()) > 0
    assert "s2_emad" not in open_cube(west, grid=scene.grid, bands=BANDS)


def test_the_best_pixel_is_a_date_of_the_files_away_from_clouds(west, scene, files):
    reflectance, classes = files
    cube = open_cube(west, grid=scene.grid, bands=BANDS, composite="best-pixel", chunk=33)
    found = cube["s2"].to_numpy()
    dates = reflectance == found[None]
    seen = np.isfinite(reflectance).all(1).any(0)
    assert (dates.all(1).any(0) == seen).all()
    # Never a pixel beside a cloud where another date has none within three pixels.
    near = np.stack([binary_dilation(np.isin(c, (1, 3, 8, 9, 10)), disk(3)) for c in classes])
    usable = np.isfinite(reflectance).all(1)
    chosen = dates.all(1).argmax(0)
    poor = np.take_along_axis(near, chosen[None], 0)[0] & seen
    assert not (poor & (usable & ~near).any(0)).any()
    assert (near & usable).any()


@pytest.mark.parametrize("pixels", [1, 4])
@pytest.mark.parametrize("name", ["median", "medoid"])
def test_clouds_and_shadows_grow_and_swath_edges_do_not(west, scene, files, pixels, name):
    _, classes = files
    grid = Grid.from_bounds(  # clouds beyond the grid's edge grow into it
        tuple(np.add(scene.grid.bounds, [210, 150, -230, -170])), crs=32721
    )
    cube = open_cube(west, grid=grid, bands=BANDS, scl_dilation=pixels, composite=name, chunk=29)
    rim = np.stack([binary_dilation(np.isin(c, (3, 8, 9, 10)), disk(pixels)) for c in classes])
    clear = ~np.isin(classes, SCL_MASKED) & ~rim
    count = (clear & (classes > 0)).sum(0)
    np.testing.assert_array_equal(cube["s2_count"], count[17:-15, 21:-23])
    plain = open_cube(west, grid=grid, bands=BANDS)
    assert int(cube["s2_count"].sum()) < int(plain["s2_count"].sum())
    assert f"grown by {pixels} pixels" in cube.attrs["s2_mask"]


def test_a_median_of_grown_clouds_is_that_of_what_is_left(west, scene, files):
    reflectance, classes = files
    rim = np.stack([binary_dilation(np.isin(c, (3, 8, 9, 10)), disk(3)) for c in classes])
    left = np.where(rim[:, None], np.float32(np.nan), reflectance)
    cube = open_cube(west, grid=scene.grid, bands=BANDS, scl_dilation=3)
    inner = np.s_[:, 3:-3, 3:-3]  # at the edge clouds beyond the grid count, too
    np.testing.assert_array_equal(cube["s2"][inner], composite.median_array(left)[inner])


def test_each_band_loses_the_offset_it_declares(west, scene):
    mixed = [i.clone() for i in west]
    first = mixed[0]
    for band, offset in (("B02", 0), ("B04", -0.1)):
        first.assets[band].extra_fields["raster:bands"] = [{"nodata": 0, "offset": offset}]
    cube = open_cube([first], grid=scene.grid, bands=("B02", "B04"), scl_masked=()).compute()
    for band, shift in (("B02", 0), ("B04", -1000)):
        dn = read(first, band, scene.grid).astype(int)
        expected = np.where(dn > 0, ((dn + shift) / 1e4).astype("float32"), np.nan)
        np.testing.assert_array_equal(cube["s2"].sel(band=band), expected.astype("float32"))
    assert "1 x -1000 (raster:bands offset)" in cube.attrs["s2_offset"]
    assert "1 x 0 (raster:bands offset)" in cube.attrs["s2_offset"]


def test_the_resampling_of_coarse_bands_is_stated(west, scene):
    attrs = open_cube(west, grid=scene.grid).attrs
    assert attrs["s2_resampling"] == (
        "nearest; measured at 20 m or more: B05, B06, B07, B8A, B11, B12"
    )
    assert open_cube(west, grid=scene.grid, bands=["B02"]).attrs["s2_resampling"] == "nearest"


def test_an_offset_taken_off_twice_is_reported(west, scene, caplog, monkeypatch):
    monkeypatch.setattr(optical, "_WARNED", set())
    old = next(i for i in west if i.properties["s2:processing_baseline"] == "02.12").clone()
    open_cube([old], grid=scene.grid, bands=["B04"]).compute()
    assert "below reflectance" not in caplog.text
    old.properties["s2:processing_baseline"] = "05.00"  # as where a flag is wrong
    with caplog.at_level(logging.WARNING):
        open_cube([old], grid=scene.grid, bands=["B04"], chunk=30).compute()
    assert caplog.text.count("below reflectance -0.02") == 1
    assert old.id in caplog.text


def test_a_scene_that_cannot_be_read_is_left_out_only_if_asked(west, scene, tmp_path):
    poor = [i.clone() for i in west]
    poor[1].assets["B04"].href = str(tmp_path / "gone.tif")
    options = {"grid": scene.grid, "bands": ["B04"]}
    cube = open_cube(poor, on_error="nodata", **options)
    assert cube.attrs["read_failures"] == []
    computed = cube.compute()
    rest = open_cube([i for i in west if i.id != west[1].id], **options).compute()
    np.testing.assert_array_equal(computed["s2"], rest["s2"])
    np.testing.assert_array_equal(computed["s2_count"], rest["s2_count"])
    for each in (cube, computed):
        [line] = read_failures(each)
        assert line.startswith(str(tmp_path / "gone.tif"))
    assert "read_failures" not in rest.attrs


def test_the_best_pixel_needs_scene_classes(west, scene):
    poor = [i.clone() for i in west]
    for item in poor:
        del item.assets["SCL"]
    with pytest.raises(MissingAssetError, match='composite="best-pixel" needs it'):
        open_cube(poor, grid=scene.grid, composite="best-pixel")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"composite": "mean"}, "composite='mean'; expected one of 'best-pixel', 'geomad'"),
        ({"scl_dilation": -1}, "scl_dilation=-1; expected 0 to 100"),
        ({"on_error": "ignore"}, "on_error='ignore'; expected one of 'nodata', 'raise'"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line(west, scene, options, match):
    with pytest.raises(ConfigError, match=match) as caught:
        open_cube(west, grid=scene.grid, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["median", "geomad"])
def test_a_composite_needs_hardly_more_than_its_column_of_dates(tmp_path, name):
    """Digital numbers and clear pixels of all dates, read once, and a strip beside them."""
    import tracemalloc

    import dask

    items = list(forty_dates(tmp_path))
    grid = Grid.from_bounds((600_000, 8_996_160, 603_840, 9_000_000), crs=32721)  # 384 x 384
    bands = ["B02"] if name == "median" else ["B02", "B03"]
    cube = open_cube(items, grid=grid, bands=bands, composite=name)
    column = 40 * 384**2 * (2 * len(bands) + 1)
    with dask.config.set(scheduler="synchronous"):
        cube["s2"].compute()  # opens the files
        tracemalloc.start()
        cube["s2"].compute()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    strip = 2**21 if name == "median" else optical.STRIP_BYTES
    assert peak < 1.3 * column + 3 * strip
    if name == "median":
        assert peak < 2 * column


def forty_dates(folder):
    """Two dates' files under forty dates."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "height": 384, "width": 384, "count": 1, "crs": "EPSG:32721",
               "transform": Affine(10, 0, 600_000, 0, -10, 9_000_000)}  # fmt: skip
    for number in range(2):
        for band, dtype in (("B02", "uint16"), ("B03", "uint16"), ("SCL", "uint8")):
            values = (
                rng.integers(1, 3000, (384, 384)) if dtype == "uint16" else np.full((384, 384), 4)
            )
            with rasterio.open(folder / f"{number}_{band}.tif", "w", dtype=dtype, **profile) as out:
                out.write(values.astype(dtype), 1)
    for day in range(40):
        item = pystac.Item(
            f"day-{day:02}",
            None,
            [-57, -10, -55, -8],
            datetime(2020, 1, 1 + day % 28, day % 24),
            {"proj:code": "EPSG:32721", "s2:processing_baseline": "02.12"},
            collection="sentinel-2-l2a",
        )
        for band in ("B02", "B03", "SCL"):
            fields = {"proj:transform": list(profile["transform"])[:6], "proj:shape": [384, 384]}
            href = str(folder / f"{day % 2}_{band}.tif")
            item.add_asset(band, pystac.Asset(href, extra_fields=fields))
        yield item
