"""From a map to files: Zarr store, Cloud Optimized GeoTIFF, STAC item, pictures, report, points.

Every writer returns where it wrote, leaves nothing that looks finished when it fails, and
says "simulated" in its output when the map was made from simulated scenes.
"""

from deepforest_xr.maps.charts import (
    write_classes_picture,
    write_confusion_picture,
    write_reliability_picture,
    write_report_pictures,
)
from deepforest_xr.maps.cog import write_cog
from deepforest_xr.maps.picture import write_picture
from deepforest_xr.maps.points import read_points, write_points
from deepforest_xr.maps.report import write_report
from deepforest_xr.maps.stac import write_stac_item
from deepforest_xr.maps.zarr import write_zarr

__all__ = [
    "read_points",
    "write_classes_picture",
    "write_cog",
    "write_confusion_picture",
    "write_picture",
    "write_points",
    "write_reliability_picture",
    "write_report",
    "write_report_pictures",
    "write_stac_item",
    "write_zarr",
]
