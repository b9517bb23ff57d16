"""The reader against plain rasterio reads of the same files."""

import traceback
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from deepforest_xr.catalogs import Link
from deepforest_xr.errors import ReadError
from deepforest_xr.reader import GDAL_ENV, HANDLES, GridReader, handles

from .conftest import CORNER, reader, write


def test_on_its_own_grid_a_file_is_read_bit_for_bit(tmp_path, numbers):
    url = write(tmp_path / "a.tif", numbers)
    np.testing.assert_array_equal(reader(url, (21, 34)).read(Window(0, 0, 34, 21)), numbers)


@pytest.mark.parametrize("window", [(0, 0, 1, 1), (33, 20, 1, 1), (5, 3, 12, 7), (0, 20, 34, 1)])
def test_a_window_is_that_part_of_the_whole(tmp_path, numbers, window):
    url = write(tmp_path / "a.tif", numbers)
    col, row, width, height = window
    np.testing.assert_array_equal(
        reader(url, (21, 34)).read(Window(*window)),
        numbers[row : row + height, col : col + width],
    )


def test_twenty_metre_pixels_are_repeated_on_a_ten_metre_grid(tmp_path, numbers):
    url = write(tmp_path / "a.tif", numbers, resolution=20.0)
    found = reader(url, (42, 68)).read(Window(0, 0, 68, 42))
    np.testing.assert_array_equal(found, numbers.repeat(2, axis=0).repeat(2, axis=1))


def test_outside_of_the_file_is_the_fill_value(tmp_path, numbers):
    url = write(tmp_path / "a.tif", numbers.astype("float32"), nodata=-32768)
    grid = reader(url, (25, 40), dtype="float32", fill=np.nan, shift=(-30, 20))
    found = grid.read(Window(0, 0, 40, 25))
    np.testing.assert_array_equal(found[2:23, 3:37], numbers)
    assert np.isfinite(found).sum() == numbers.size


def test_a_missing_value_becomes_the_fill_value_whether_the_file_states_it_or_not(tmp_path):
    values = np.array([[1, -32768, 3], [0, 5, np.nan]], "float32")
    for stated in (-32768, None):
        url = write(tmp_path / f"{stated}.tif", values, nodata=stated)
        grid = reader(url, (2, 3), dtype="float32", fill=np.nan, nodata=-32768)
        np.testing.assert_array_equal(
            grid.read(Window(0, 0, 3, 2)), [[1, np.nan, 3], [0, 5, np.nan]]
        )


def test_counts_of_any_size_are_kept(tmp_path):
    values = np.array([[1, 65_535, 3], [0, 999, 1000]], "uint16")
    url = write(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(reader(url, (2, 3)).read(Window(0, 0, 3, 2)), values)


def test_a_window_does_not_depend_on_how_the_grid_is_cut(tmp_path, numbers):
    # A turned zone: every pixel takes its nearest, wherever the window begins.
    url = write(tmp_path / "a.tif", numbers)
    turned = partial(reader, url, (30, 44))
    wkt = rasterio.CRS.from_epsg(32722).to_wkt()
    left, _, _, top = transform_bounds(
        "EPSG:32721", "EPSG:32722", CORNER[0], CORNER[1] - 210, CORNER[0] + 340, CORNER[1]
    )
    grid = turned()
    grid = GridReader(
        **{f: getattr(grid, f) for f in grid.__dataclass_fields__}
        | {
            "crs_wkt": wkt,
            "spec": SimpleNamespace(transform=Affine(10, 0, left, 0, -10, top), shape=(30, 44)),
        }
    )
    whole = grid.read(Window(0, 0, 44, 30))
    assert (whole > 0).sum() > 500
    for row in range(0, 30, 7):
        for col in range(0, 44, 9):
            part = grid.read(Window(col, row, min(9, 44 - col), min(7, 30 - row)))
            np.testing.assert_array_equal(part, whole[row : row + 7, col : col + 9])


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ReadError, match=r"absent\.tif cannot be read") as caught:
        reader(str(tmp_path / "absent.tif"), (2, 3)).read(Window(0, 0, 3, 2))
    assert "\n" not in str(caught.value)


def test_a_file_cut_in_half_is_one_line(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 60_000, (210, 340), dtype="uint16")
    whole = tmp_path / "a.tif"
    write(whole, values, tiled=True, blockxsize=64, blockysize=64)
    half = tmp_path / "half.tif"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ReadError, match=r"half\.tif cannot be read") as caught:
        reader(str(half), (210, 340)).read(Window(0, 0, 340, 210))
    assert "\n" not in str(caught.value)


def test_what_is_no_raster_is_one_line(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("<html>\nExpired\n</html>")
    with pytest.raises(ReadError, match="not recognized") as caught:
        reader(str(path), (2, 3)).read(Window(0, 0, 3, 2))
    assert "\n" not in str(caught.value)


def test_folders_are_not_listed_over_http():
    assert GDAL_ENV["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


def test_a_token_does_not_stand_in_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    path.write_text("no raster")
    monkeypatch.setattr(handles, "link", lambda href: Link(f"{href}?st=2024&sig=SECRET"))
    with pytest.raises(ReadError, match=r"a\.tif cannot be read") as caught:
        reader(str(path), (4, 5)).read(Window(0, 0, 5, 4))
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


# ---- without a warp, bit for bit what the warp gives


def warped(url, target, window):
    """GDAL's own warp of the same file, coordinates exact to a thousandth of a pixel."""
    with (
        rasterio.open(url) as source,
        WarpedVRT(
            source,
            crs="EPSG:32721",
            transform=target.spec.transform,
            height=target.spec.shape[0],
            width=target.spec.shape[1],
            resampling=Resampling.nearest,
            src_nodata=0,
            nodata=0,
            tolerance=0.001,
        ) as vrt,
    ):
        return vrt.read(1, window=window)


def is_native(target):
    """Whether the file waiting now is read without a warp."""
    [opened] = next(iter(HANDLES._waiting.values()))
    return not isinstance(opened.view, WarpedVRT)


@pytest.mark.parametrize("source", [10.0, 20.0, 60.0, 30.0])
@pytest.mark.parametrize("target", [10.0, 20.0, 30.0])
@pytest.mark.parametrize("shift", [(0, 0), (-40, 60), (123.4, -57.7), (3000, 0)])
def test_nearest_is_gdals_to_the_bit(tmp_path, source, target, shift):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 60_000, (23, 37), dtype="uint16")
    url = write(tmp_path / "a.tif", values, resolution=source)
    grid = reader(url, (50, 41), resolution=target, shift=shift)
    for window in (Window(0, 0, 41, 50), Window(7, 11, 20, 13)):
        np.testing.assert_array_equal(grid.read(window), warped(url, grid, window))
    if source % target == 0:
        assert is_native(grid)


@pytest.mark.parametrize("shift", [0, 1e-7, -1e-7])
def test_a_coarser_grid_whose_centres_lie_between_pixels_is_left_to_gdal(tmp_path, shift):
    values = np.arange(1, 41, dtype="uint16").reshape(4, 10)
    url = write(tmp_path / "a.tif", values)
    grid = reader(url, (2, 5), resolution=20.0, shift=(shift, 0))
    window = Window(0, 0, 5, 2)
    np.testing.assert_array_equal(grid.read(window), warped(url, grid, window))
    assert not is_native(grid)


def test_bilinear_on_its_own_pixels_is_the_file_and_elsewhere_a_warp(tmp_path, numbers):
    url = write(tmp_path / "a.tif", numbers)
    own = reader(url, (10, 12), resampling=Resampling.bilinear, shift=(50, -30))
    np.testing.assert_array_equal(own.read(Window(0, 0, 12, 10)), numbers[3:13, 5:17])
    HANDLES.clear()
    half = reader(url, (10, 12), resampling=Resampling.bilinear, shift=(5, 0))
    # Between n and n + 1 lies n + 0.5, which is rounded up.
    np.testing.assert_array_equal(half.read(Window(0, 0, 12, 10)), numbers[:10, :12] + 1)
    np.testing.assert_array_equal(half.read(Window(3, 4, 5, 2)), numbers[4:6, 3:8] + 1)


def test_another_missing_value_becomes_the_fill_value_without_a_warp(tmp_path):
    values = np.array([[1, 255, 3], [0, 5, 255]], "uint8")
    url = write(tmp_path / "a.tif", values, nodata=None)
    grid = reader(url, (2, 3), dtype="uint8", nodata=0, nodata_of={url: 255.0})
    np.testing.assert_array_equal(grid.read(Window(0, 0, 3, 2)), [[1, 0, 3], [0, 5, 0]])
    assert is_native(grid)


# ---- a step over a scene's pixels


class BoxMax:
    """The largest of the pixels around: what is missing outside counts as 0."""

    reach, dtype, fill = 2, "uint16", 0.0

    def __call__(self, values):
        from scipy.ndimage import maximum_filter

        return maximum_filter(values, 5, mode="constant")


def test_a_step_sees_beyond_its_window_and_beyond_the_grid(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.integers(1, 60_000, (40, 30), dtype="uint16")
    url = write(tmp_path / "a.tif", values)
    whole = BoxMax()(values)
    inner = reader(url, (20, 17), shift=(70, -50), prepare=BoxMax())
    np.testing.assert_array_equal(inner.read(Window(0, 0, 17, 20)), whole[5:25, 7:24])
    np.testing.assert_array_equal(inner.read(Window(4, 6, 5, 3)), whole[11:14, 11:16])
    larger = reader(url, (50, 40), shift=(-50, 50), prepare=BoxMax())
    found = larger.read(Window(0, 0, 40, 50))
    np.testing.assert_array_equal(found[5:45, 5:35], whole)
    assert (found[:3] == 0).all()


# ---- over HTTP


def test_over_http_it_is_the_same_and_only_parts_are_fetched(tmp_path, server):
    rng = np.random.default_rng(2)
    values = rng.integers(1, 60_000, (600, 500), dtype="uint16")
    path = write(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    grid = reader(f"{server.url}/a.tif", (600, 500))
    window = Window(448, 0, 40, 60)
    np.testing.assert_array_equal(grid.read(window), values[:60, 448:488])
    ranges = [r for _, r in server.asked if r]
    fetched = sum(int(r[6:].split("-")[1]) - int(r[6:].split("-")[0]) + 1 for r in ranges)
    assert 0 < fetched < 0.4 * (tmp_path / "a.tif").stat().st_size
    assert path.endswith("a.tif")


def test_an_open_file_is_not_asked_for_its_header_again(tmp_path, server):
    values = np.arange(1, 600 * 500 + 1, dtype="uint32").reshape(600, 500)
    write(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    grid = reader(f"{server.url}/a.tif", (600, 500), dtype="uint32")
    grid.read(Window(0, 0, 64, 64))
    before = len(server.asked)
    grid.read(Window(0, 0, 64, 64))
    assert len(server.asked) == before  # neither header nor block
    grid.read(Window(256, 512, 64, 64))
    assert len(server.asked) <= before + 2


@pytest.mark.parametrize("fault", [429, 500, 503, "break off"])
def test_what_passes_is_tried_again(tmp_path, server, impatient, numbers, fault):
    write(tmp_path / "a.tif", numbers)
    server.faults = [fault, fault]
    grid = reader(f"{server.url}/a.tif", (21, 34))
    np.testing.assert_array_equal(grid.read(Window(0, 0, 34, 21)), numbers)
    assert server.faults == []


def test_a_block_that_breaks_off_is_fetched_again(tmp_path, server, impatient):
    rng = np.random.default_rng(3)
    values = rng.integers(1, 60_000, (600, 500), dtype="uint16")
    write(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    grid = reader(f"{server.url}/a.tif", (600, 500))
    grid.read(Window(0, 0, 8, 8))
    server.faults = [503, "break off", 503]
    np.testing.assert_array_equal(grid.read(Window(448, 576, 50, 24)), values[576:600, 448:498])
    assert server.faults == []


def test_what_stays_is_an_error_after_four_attempts(tmp_path, server, impatient, numbers):
    write(tmp_path / "a.tif", numbers)
    server.faults = [503] * 1000
    with pytest.raises(ReadError, match=r"a\.tif cannot be read: .*503") as caught:
        reader(f"{server.url}/a.tif", (21, 34)).read(Window(0, 0, 3, 2))
    assert "\n" not in str(caught.value)
    assert 4 <= 1000 - len(server.faults) <= 12


@pytest.mark.parametrize("fault", [403, 404])
def test_what_will_not_pass_is_not_tried_again(tmp_path, server, impatient, numbers, fault):
    write(tmp_path / "a.tif", numbers)
    server.faults = [fault] * 1000
    with pytest.raises(ReadError, match=str(fault)):
        reader(f"{server.url}/a.tif", (21, 34)).read(Window(0, 0, 3, 2))
    assert 1000 - len(server.faults) <= 3


def test_a_page_of_text_is_asked_for_once_more_and_no_more(tmp_path, server, impatient):
    (tmp_path / "a.tif").write_text("<html>\nExpired\n</html>" * 20)
    waited = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepforest_xr.reader.grid_reader.time.sleep", waited.append)
        with pytest.raises(ReadError, match="not recognized"):
            reader(f"{server.url}/a.tif", (21, 34)).read(Window(0, 0, 3, 2))
    assert len(waited) == 1
