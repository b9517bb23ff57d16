"""Windows of rasters on a cube's grid: local, over HTTP or from S3, behind stackstac's hook."""

from deepforest_xr.reader.failures import ATTRIBUTE, Failures, read_failures
from deepforest_xr.reader.grid_reader import TOLERANCE, GridReader, Prepare
from deepforest_xr.reader.handles import GDAL_ENV, HANDLES

__all__ = [
    "ATTRIBUTE",
    "GDAL_ENV",
    "HANDLES",
    "TOLERANCE",
    "Failures",
    "GridReader",
    "Prepare",
    "read_failures",
]
