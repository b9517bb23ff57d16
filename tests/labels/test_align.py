"""Label rasters on a grid, against index arithmetic and real MapBiomas rasters."""

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import Transformer

from deepforest_xr.errors import ConfigError, LabelError, ReadError
from deepforest_xr.grid import Grid
from deepforest_xr.labels import align_labels
from deepforest_xr.legend import UNLABELLED, LandCoverClass, Legend, amazon13, mapbiomas
from deepforest_xr.testing import no_compute

from .rasters import LEFT, TOP, grid_over, window_of, write

FOREST, PASTURE, SOY, MOSAIC = 3, 15, 39, 21


CODES = st.sampled_from([0, FOREST, 4, 9, PASTURE, SOY, MOSAIC, 27, 33])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=arrays(np.uint8, (3, 5), elements=CODES), factor=st.sampled_from([2, 3, 5]))
def test_finer_pixels_repeat_the_label(values, factor, tmp_path):
    path = write(tmp_path / "a.tif", values)
    found = align_labels(path, like=grid_over((3 * factor, 5 * factor), 30 / factor), collection=8)
    expected = mapbiomas(8).lookup(values).repeat(factor, axis=0).repeat(factor, axis=1)
    assert found.dtype == np.uint8
    assert found.attrs["resampling"] == "nearest"
    np.testing.assert_array_equal(found, expected)


def test_the_same_pixel_size_is_not_counted_but_copied(tmp_path):
    values = np.arange(1, 14, dtype="uint8").repeat(4)[:51].reshape(3, 17)
    path = write(tmp_path / "a.tif", values)
    found = align_labels(path, like=grid_over((3, 17), 30), legend=amazon13())
    assert found.attrs["resampling"] == "nearest"
    np.testing.assert_array_equal(found, values)


def test_outside_of_the_raster_is_unlabelled(tmp_path):
    path = write(tmp_path / "a.tif", np.full((2, 3), FOREST, "uint8"))
    around = grid_over((6, 9), 30, corner=(LEFT - 60, TOP + 30))
    found = align_labels(path, like=around, collection=8).to_numpy()
    expected = np.full((6, 9), UNLABELLED)
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("nodata", [None, 0, 27, 255])
def test_nodata_whatever_its_number_is_unlabelled(tmp_path, nodata):
    values = np.array([[FOREST, 0, 27], [PASTURE, 33, 3]], "uint8")
    values[1, 2] = 3 if nodata is None else nodata
    found = align_labels(
        write(tmp_path / "a.tif", values, nodata=nodata), like=grid_over((2, 3), 30), collection=8
    )
    last = 1 if nodata is None else UNLABELLED
    np.testing.assert_array_equal(found, [[1, 255, 255], [7, 13, last]])


@pytest.mark.parametrize("nodata", [np.nan, None])
def test_whole_numbers_stored_as_float_are_codes_and_nan_is_unlabelled(tmp_path, nodata):
    values = np.array([[3, np.nan, 15], [39, 33, np.nan]], "float32")
    path = write(tmp_path / "a.tif", values, nodata=nodata)
    found = align_labels(path, like=grid_over((2, 3), 30), collection=8)
    np.testing.assert_array_equal(found, [[1, 255, 7], [8, 13, 255]])


def test_fractions_are_no_codes(tmp_path):
    path = write(tmp_path / "a.tif", np.array([[3, 3.5, 15], [39, 33, 3]], "float32"))
    with pytest.raises(LabelError, match=r"3\.5"):
        align_labels(path, like=grid_over((2, 3), 30), collection=8).compute()


def test_an_unknown_code_is_named_when_read_not_before(tmp_path):
    path = write(tmp_path / "a.tif", np.array([[3, 99, 15], [3, 98, 3]], "uint8"))
    with no_compute():
        labels = align_labels(path, like=grid_over((2, 3), 30), collection=8)
    with pytest.raises(LabelError, match=r"a\.tif: label codes \[98, 99\] are not in") as caught:
        labels.compute()
    assert "\n" not in str(caught.value)


def test_a_band_is_a_year_and_must_be_said(tmp_path):
    values = np.stack([np.full((2, 3), c, "uint8") for c in (FOREST, PASTURE, SOY, 33)])
    path = write(tmp_path / "a.tif", values)
    grid = grid_over((2, 3), 30)
    with pytest.raises(ConfigError, match="4 bands: say which one with band="):
        align_labels(path, like=grid, collection=8)
    for band, expected in enumerate((1, 7, 8, 13), start=1):
        found = align_labels(path, like=grid, collection=8, band=band)
        np.testing.assert_array_equal(found, np.full((2, 3), expected))
    for band in (0, 5, -1):
        with pytest.raises(ConfigError, match="bands 1 to 4"):
            align_labels(path, like=grid, collection=8, band=band)


def test_a_raster_elsewhere_is_one_line_with_both_extents(tmp_path):
    path = write(tmp_path / "a.tif", np.full((2, 3), FOREST, "uint8"))
    with pytest.raises(LabelError, match=r"500003\.25.*do not overlap") as caught:
        align_labels(path, like=grid_over((2, 3), 30, corner=(LEFT + 90, TOP)), collection=8)
    assert "\n" not in str(caught.value)


def test_a_raster_of_the_whole_world_overlaps_every_zone(tmp_path):
    # Its corners have no place in a UTM zone.
    values = np.full((18, 36), FOREST, "uint8")
    path = write(tmp_path / "a.tif", values, resolution=10, crs="EPSG:4326", corner=(-180, 90))
    found = align_labels(path, like=grid_over((2, 3), 30), collection=8)
    np.testing.assert_array_equal(found, np.ones((2, 3)))


def test_what_the_codes_mean_must_be_said_once(tmp_path):
    path = write(tmp_path / "a.tif", np.full((2, 3), FOREST, "uint8"))
    grid = grid_over((2, 3), 30)
    with pytest.raises(ConfigError, match="collection="):
        align_labels(path, like=grid)
    with pytest.raises(ConfigError, match="one of the two"):
        align_labels(path, like=grid, collection=8, legend=amazon13())
    with pytest.raises(ConfigError, match="collection 3 has no crosswalk"):
        align_labels(path, like=grid, collection=3)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "text.tif").write_text("no raster\nat all")
    for name in ("absent.tif", "text.tif"):
        with pytest.raises(ReadError, match=name) as caught:
            align_labels(tmp_path / name, like=grid_over((2, 3), 30), collection=8)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_without_a_crs_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", np.full((2, 3), FOREST, "uint8"), crs=None)
    with pytest.raises(LabelError, match="no CRS"):
        align_labels(path, like=grid_over((2, 3), 30), collection=8)


def test_attributes_carry_classes_colours_and_source(tmp_path):
    path = write(tmp_path / "a.tif", np.full((2, 3), FOREST, "uint8"))
    legend = Legend(
        "two", (LandCoverClass(3, "wood", "#00ff00"), LandCoverClass(9, "ice", "#fff0ff"))
    )
    attrs = align_labels(path, like=grid_over((2, 3), 30), legend=legend).attrs
    assert attrs["flag_values"].tolist() == [3, 9]
    assert attrs["flag_meanings"] == "wood ice"
    assert attrs["flag_colors"] == "#00ff00 #fff0ff"
    assert attrs["source"] == "a.tif"
    assert attrs["codes"] == "legend 'two'"
    assert attrs["unlabelled"] == 255
    assert "simulated" not in attrs
    assert Legend.from_attrs(attrs) == legend


# ---- the simulated scene


def test_the_truth_on_its_own_grid_is_itself(scene, synthetic_cube):
    with no_compute():
        labels = align_labels(scene.truth, like=scene.grid, legend=amazon13(), chunk=40)
    assert labels.chunks == ((40, 40, 16), (40, 40, 40, 8))
    with rasterio.open(scene.truth) as source:
        np.testing.assert_array_equal(labels, source.read(1))
    assert labels.attrs["simulated"] == "true"
    assert Grid.of(labels) == scene.grid


@pytest.mark.parametrize("resolution", [10, 100])
def test_chunks_do_not_show(scene, resolution):
    grid = Grid.from_bounds(scene.grid.bounds, crs=scene.grid.crs, resolution=resolution)
    whole = align_labels(scene.labels, like=grid, collection=8, chunk=512)
    parts = align_labels(scene.labels, like=grid, collection=8, chunk=7)
    np.testing.assert_array_equal(whole, parts)


def test_degrees_onto_metres_takes_the_pixel_under_each_centre(scene):
    found = align_labels(scene.labels, like=scene.grid, collection=8).to_numpy()
    y, x = scene.grid.coords()["y"].to_numpy(), scene.grid.coords()["x"].to_numpy()
    to_degrees = Transformer.from_crs(scene.grid.crs, 4326, always_xy=True)
    lon, lat = to_degrees.transform(*np.meshgrid(x, y))
    with rasterio.open(scene.labels) as source:
        cols, rows = ~source.transform @ (lon, lat)
        codes = source.read(1)[np.floor(rows).astype(int), np.floor(cols).astype(int)]
    np.testing.assert_array_equal(found, mapbiomas(8).lookup(codes))


def test_labels_agree_with_the_truth_they_were_made_from(scene):
    truth = align_labels(scene.truth, like=scene.grid, legend=amazon13()).to_numpy()
    labels = align_labels(scene.labels, like=scene.grid, collection=8).to_numpy()
    known = labels != UNLABELLED
    assert 0.9 < known.mean() < 1
    assert (labels[known] == truth[known]).mean() > 0.65


# ---- real rasters

# Raster, band, and where in it several classes meet (share of its height and width).
REAL = [("lorenco_85a22.tif", 34, (0.5, 0.5)), ("utm_cover_AP_rio_2020.tif", None, (0.7, 0.7))]


@pytest.mark.parametrize(("name", "band", "at"), REAL)
def test_a_real_raster_at_ten_metres_is_its_nearest_pixel(name, band, at, shared_data):
    path = shared_data / "mapbiomas" / "rasters" / name
    grid, codes, transform, nodata = window_of(path, band, at, 10)
    found = align_labels(path, like=grid, collection=8, band=band).to_numpy()
    x, y = np.meshgrid(grid.coords()["x"], grid.coords()["y"])
    cols, rows = ~transform @ (x, y)
    expected = codes[np.floor(rows).astype(int), np.floor(cols).astype(int)]
    expected = np.where(expected == nodata, UNLABELLED, mapbiomas(8).lookup(expected))
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 1


def test_a_real_raster_of_floats_in_degrees(shared_data):
    path = shared_data / "mapbiomas" / "rasters" / "rio_claro_mapbiomas_af_trinacional_2020.tif"
    grid = Grid.from_lonlat((-47.62, -22.41, -47.6, -22.395), crs=32723)
    labels = align_labels(path, like=grid, collection=5)
    with rasterio.open(path) as source:
        present = np.unique(source.read(1))
    present = present[np.isfinite(present)]
    assert set(np.unique(labels)) <= {*amazon13().codes, UNLABELLED}
    assert len(np.unique(labels)) > 2
    assert len(present) > 2
