"""Small label rasters, and windows of real ones."""

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window, from_bounds

from deepforest_xr.grid import Grid

LEFT, TOP = 500_003.25, 9_000_007.5


def write(path, values, *, resolution=30.0, crs="EPSG:32721", nodata=None, corner=(LEFT, TOP)):
    values = np.asarray(values)
    stack = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=stack.shape[0],
        height=stack.shape[1],
        width=stack.shape[2],
        dtype=stack.dtype,
        crs=crs,
        nodata=nodata,
        transform=Affine(resolution, 0, corner[0], 0, -resolution, corner[1]),
    ) as out:
        out.write(stack)
    return path


def grid_over(shape, resolution, *, corner=(LEFT, TOP)):
    left, top = corner
    bounds = (left, top - shape[0] * resolution, left + shape[1] * resolution, top)
    return Grid.from_bounds(bounds, crs=32721, resolution=resolution)


def window_of(path, band, at, resolution):
    """A grid of 40 x 60 pixels off the file's own raster, and the file's codes."""
    with rasterio.open(path) as source:
        left, bottom, right, top = source.bounds
        x, y = round(left + at[1] * (right - left), -1), round(top + at[0] * (bottom - top), -1)
        bounds = (x, y - 40 * resolution, x + 60 * resolution, y)
        grid = Grid.from_bounds(bounds, crs=31976, resolution=resolution)
        window = from_bounds(*bounds, source.transform)
        row, col = int(window.row_off) - 2, int(window.col_off) - 2
        size = (int(window.width) + 6, int(window.height) + 6)
        codes = source.read(band or 1, window=Window(col, row, *size))
        return grid, codes, source.transform @ Affine.translation(col, row), source.nodata
