"""A cloud-optimised GeoTIFF on a server: only what is needed is fetched."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import rasterio

from deepforest_xr.errors import ReadError
from deepforest_xr.labels import align_labels
from deepforest_xr.reader import HANDLES, handles

from .rasters import LEFT, TOP, grid_over, write


def server_class():
    """The reader's: a file of another folder of tests."""
    path = Path(__file__).parents[1] / "reader" / "server.py"
    spec = importlib.util.spec_from_file_location("range_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Server


@pytest.fixture
def server(tmp_path):
    HANDLES.clear()
    serving = server_class()(tmp_path)
    yield serving
    HANDLES.clear()
    serving.stop()


@pytest.fixture
def mosaic(tmp_path):
    """A tiled raster that does not compress: 1500 x 1600 pixels, 2.4 MB."""
    codes = np.random.default_rng(1).choice([3, 4, 12, 15, 33, 39], (1500, 1600)).astype("uint8")
    write(tmp_path / "plain.tif", codes, nodata=0)
    with rasterio.open(tmp_path / "plain.tif") as source:
        profile = source.profile | {"tiled": True, "blockxsize": 256, "blockysize": 256}
        with rasterio.open(tmp_path / "brasil.tif", "w", **profile) as out:
            out.write(codes, 1)
    return tmp_path / "brasil.tif"


def fetched(server):
    """Bytes asked for."""
    total = 0
    for _, asked in server.asked:
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            total += int(last) - int(first) + 1
    return total


@pytest.mark.parametrize(("resolution", "token"), [(10, ""), (90, "?token=secret")])
def test_labels_straight_from_a_server_are_those_of_the_file(server, mosaic, resolution, token):
    shape = (300, 240) if resolution == 10 else (33, 27)
    grid = grid_over(shape, resolution, corner=(LEFT + 20_000, TOP - 18_000))
    url = f"{server.url}/brasil.tif{token}"
    labels = align_labels(url, like=grid, collection=8, chunk=128)
    opening = fetched(server)
    assert opening <= 70_000  # the header, no pixel
    assert labels.attrs["source"] == "brasil.tif"
    found = labels.compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, align_labels(mosaic, like=grid, collection=8))
    assert fetched(server) < 0.25 * mosaic.stat().st_size
    # No listing of the folder, no files beside it: some servers answer such with an error.
    assert {path for path, _ in server.asked} == {f"/brasil.tif{token}"}


def test_a_server_that_fails_is_one_line_without_the_token(server, mosaic, monkeypatch):
    monkeypatch.setitem(handles.GDAL_ENV, "GDAL_HTTP_MAX_RETRY", "0")
    grid = grid_over((30, 24), 10, corner=(LEFT + 20_000, TOP - 18_000))
    server.faults = [403] * 9
    with pytest.raises(ReadError, match=r"brasil\.tif cannot be read") as caught:
        align_labels(f"{server.url}/brasil.tif?token=secret", like=grid, collection=8)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_busy_for_a_moment_is_asked_again(server, mosaic, monkeypatch):
    monkeypatch.setitem(handles.GDAL_ENV, "GDAL_HTTP_RETRY_DELAY", "0.01")
    grid = grid_over((30, 24), 10, corner=(LEFT + 20_000, TOP - 18_000))
    # Both the question whether it is there and the first read fail once.
    server.faults = [503, 503]
    labels = align_labels(f"{server.url}/brasil.tif", like=grid, collection=8)
    assert not server.faults
    np.testing.assert_array_equal(labels, align_labels(mosaic, like=grid, collection=8))
