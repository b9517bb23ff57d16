"""Small rasters, readers of them, and a server that can fail."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from deepforest_xr.reader import HANDLES, GridReader, handles

from .server import Server

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


def reader(
    url, shape, *, resolution=10.0, dtype="uint16", fill=0, nodata=0, shift=(0, 0), **options
):
    left, top = CORNER[0] + shift[0], CORNER[1] + shift[1]
    transform = Affine(resolution, 0, left, 0, -resolution, top)
    fields = {
        "url": url,
        "spec": SimpleNamespace(transform=transform, shape=shape),
        "resampling": Resampling.nearest,
        "dtype": np.dtype(dtype),
        "fill_value": fill,
        "scale_offset": (1, 0),
        "gdal_env": None,
        "errors_as_nodata": (),
        "crs_wkt": rasterio.CRS.from_epsg(32721).to_wkt(),
        "nodata": nodata,
    }
    return GridReader(**fields | options)


@pytest.fixture
def numbers():
    return np.arange(1, 21 * 34 + 1, dtype="uint16").reshape(21, 34)


@pytest.fixture(autouse=True)
def no_open_files():
    HANDLES.clear()
    yield
    HANDLES.clear()


@pytest.fixture
def server(tmp_path):
    serving = Server(tmp_path)
    yield serving
    serving.stop()


@pytest.fixture
def impatient(monkeypatch):
    """No pauses, and GDAL does not retry: each failure reaches our own retries."""
    monkeypatch.setattr("deepforest_xr.reader.grid_reader.PAUSES", (0, 0, 0))
    monkeypatch.setitem(handles.GDAL_ENV, "GDAL_HTTP_MAX_RETRY", "0")
