"""The GDAL reader behind stackstac's ``reader=`` hook: one asset, warped onto the cube's grid.

A file is opened when it is read, and closed again: links are signed at that moment, no
handle crosses threads or processes, and the number of open files is that of the threads.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rasterio
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from deepforest_xr.catalogs import sign
from deepforest_xr.errors import ReadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rasterio.enums import Resampling
    from rasterio.windows import Window

log = logging.getLogger(__name__)

GDAL_ENV = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the folder over HTTP
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",  # a connection this long below LIMIT bytes a second is dead
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_NUM_THREADS": "1",  # dask has the threads
}


# GDAL interpolates coordinates within a window, by default to an eighth of a pixel: the
# result would depend on the chunks. 0 means exact, but WarpedVRT of rasterio 1.4 fails with it.
TOLERANCE = 0.001


@dataclass(frozen=True)
class GridReader:
    """Reads windows of one single-band asset on a fixed target grid.

    The first eight fields are what stackstac passes; the last two are bound beforehand.
    """

    url: str
    """Unsigned link or path."""

    spec: Any
    """stackstac's RasterSpec: transform and shape of the target grid."""

    resampling: Resampling
    """How GDAL resamples where the grids differ."""

    dtype: np.dtype[Any]
    """Type of the array returned."""

    fill_value: float
    """Value of missing pixels in the array returned."""

    scale_offset: tuple[float, float]
    """Always (1, 0): radiometry is done in `sentinel`."""

    gdal_env: Any
    """Unused; `GDAL_ENV` holds."""

    errors_as_nodata: tuple[Exception, ...]
    """Always empty: a file that cannot be read is an error."""

    crs_wkt: str
    """Target CRS; stackstac's own field holds EPSG numbers only."""

    nodata: float
    """Missing value of the source where its file does not state one."""

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window of the target grid.

        Returns
        -------
        ndarray[dtype], (window.height, window.width)

        Raises
        ------
        ReadError
            If the file cannot be opened or a block of it cannot be read.
        """
        try:
            with rasterio.Env(**GDAL_ENV), rasterio.open(sign(self.url), sharing=False) as source:
                return self._warp(source, window)
        except (RasterioError, OSError) as error:
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split()) or type(cause).__name__
            # A signed link carries a token, which does not belong into a log.
            reason = re.sub(r"\?[^\s'\"]*", "", reason)[:200].rstrip(".")
            raise ReadError(
                f"{self.url} cannot be read: {reason}. The file is missing, cut off, not a raster "
                "or out of reach; fetch it again, or leave its scene out of the items."
            ) from error

    def _warp(self, source: Any, window: Window) -> NDArray[Any]:
        height, width = self.spec.shape
        with WarpedVRT(
            source,
            crs=self.crs_wkt,
            transform=self.spec.transform,
            height=height,
            width=width,
            resampling=self.resampling,
            src_nodata=source.nodata if source.nodata is not None else self.nodata,
            nodata=self.fill_value,
            dtype=self.dtype.name,
            tolerance=TOLERANCE,
        ) as vrt:
            data: NDArray[Any] = vrt.read(1, window=window, out_dtype=self.dtype)
        return data

    def close(self) -> None:
        """Nothing stays open between reads."""
