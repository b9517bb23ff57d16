"""The reader against plain rasterio reads of the same files."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from deepforest_xr.errors import ReadError
from deepforest_xr.reader import GDAL_ENV, GridReader

CORNER = (500_003.25, 9_000_007.5)  # on nobody's ten-metre raster


def write(path, values, *, resolution=10.0, nodata=0, **options):
    profile = {
        "driver": "GTiff",
        "height": values.shape[0],
        "width": values.shape[1],
        "count": 1,
        "dtype": values.dtype,
        "crs": "EPSG:32721",
        "nodata": nodata,
        "transform": Affine(resolution, 0, CORNER[0], 0, -resolution, CORNER[1]),
    }
    with rasterio.open(path, "w", **profile | options) as out:
        out.write(values, 1)
    return str(path)


def reader(url, shape, *, resolution=10.0, dtype="uint16", fill=0, nodata=0, shift=(0, 0)):
    left, top = CORNER[0] + shift[0], CORNER[1] + shift[1]
    transform = Affine(resolution, 0, left, 0, -resolution, top)
    return GridReader(
        url=url,
        spec=SimpleNamespace(transform=transform, shape=shape),
        resampling=Resampling.nearest,
        dtype=np.dtype(dtype),
        fill_value=fill,
        scale_offset=(1, 0),
        gdal_env=None,
        errors_as_nodata=(),
        crs_wkt=rasterio.CRS.from_epsg(32721).to_wkt(),
        nodata=nodata,
    )


@pytest.fixture
def numbers():
    return np.arange(1, 21 * 34 + 1, dtype="uint16").reshape(21, 34)


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


def test_links_are_signed_when_read_not_when_made(tmp_path, numbers, monkeypatch):
    url = write(tmp_path / "a.tif", numbers)
    signed = []

    def sign(href):
        signed.append(href)
        return url

    monkeypatch.setattr("deepforest_xr.reader.sign", sign)
    grid = reader("https://a.blob.core.windows.net/b/a.tif", (21, 34))
    assert signed == []
    grid.read(Window(0, 0, 3, 2))
    grid.read(Window(0, 0, 3, 2))
    assert len(signed) == 2  # a graph lives for hours, a token for minutes


def test_no_file_stays_open(tmp_path, numbers):
    url = write(tmp_path / "a.tif", numbers)
    reader(url, (21, 34)).read(Window(0, 0, 3, 2))
    from pathlib import Path

    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("only Linux lists open files")
    open_files = [str(h.resolve()) for h in handles.iterdir() if h.is_symlink()]
    assert url not in open_files


def test_folders_are_not_listed_over_http():
    assert GDAL_ENV["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


def test_a_token_does_not_stand_in_an_error(tmp_path, monkeypatch):
    from functools import partial

    from deepforest_xr import reader

    path = tmp_path / "a.tif"
    path.write_text("no raster")
    monkeypatch.setattr(reader, "sign", lambda href: f"{href}?st=2024&sig=SECRET")
    spec = type("Spec", (), {"shape": (4, 5), "transform": None})()
    make = partial(reader.GridReader, crs_wkt="EPSG:32721", nodata=0)
    opened = make(
        url=str(path),
        spec=spec,
        resampling=None,
        dtype=np.dtype("uint16"),
        fill_value=0,
        scale_offset=(1, 0),
        gdal_env=None,
        errors_as_nodata=(),
    )
    with pytest.raises(ReadError, match=r"a\.tif cannot be read") as caught:
        opened.read(None)
    assert "SECRET" not in str(caught.value)
