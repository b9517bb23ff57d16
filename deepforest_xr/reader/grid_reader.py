"""One asset on the cube's grid, behind stackstac's ``reader=`` hook.

Where the grids share their axes the file is decoded and nothing else; GDAL warps elsewhere.
Links are signed at the moment a file is opened, errors that pass are tried again.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from deepforest_xr.errors import ReadError
from deepforest_xr.reader import handles
from deepforest_xr.reader.failures import report
from deepforest_xr.reader.nearest import Picks, picks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from rasterio.windows import Window

    from deepforest_xr.reader.handles import Opened

log = logging.getLogger(__name__)

# GDAL interpolates coordinates within a window, by default to an eighth of a pixel: the
# result would depend on the chunks. 0 means exact, but WarpedVRT of rasterio 1.4 fails with it.
TOLERANCE = 0.001

PAUSES = (1.0, 4.0, 16.0)
"""Seconds before the second, third and fourth attempt, after GDAL's own."""

TRANSIENT = re.compile(
    r"HTTP (response code|error code)\s*:?\s*(408|425|429|500|502|503|504)"
    r"|timed? ?-?out|connection reset|connection refused|recv failure|empty reply"
    r"|(couldn't|could not|failed to) (connect|resolve)|transfer closed|partial file",
    re.IGNORECASE,
)
"""Errors that pass: a busy server, a broken connection."""

# A download that breaks off within a block; a local file would stay broken.
BROKEN_OFF = re.compile(r"TIFFFillTile|TIFFRead|TIFFFetch|IReadBlock|Read failed|Read error")
NO_RASTER = "not recognized as"


class Prepare(Protocol):
    """A step over one scene's pixels that looks at most `reach` pixels around each."""

    @property
    def reach(self) -> int:
        """Pixels around a window that its result depends on."""
        ...

    @property
    def dtype(self) -> str:
        """Type it is given: that of the file, where the array's is another."""
        ...

    @property
    def fill(self) -> float:
        """Value of missing pixels it is given."""
        ...

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Same shape as `values`."""
        ...


@dataclass(frozen=True)
class GridReader:
    """Reads windows of one single-band asset on a fixed target grid.

    The first eight fields are what stackstac passes; the others are bound beforehand. Missing
    is what equals the missing value: internal masks and alpha bands are not looked at.
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
    """Unused; `handles.GDAL_ENV` holds."""

    errors_as_nodata: tuple[Exception, ...]
    """Always empty: `failures` says what becomes of errors."""

    crs_wkt: str
    """Target CRS; stackstac's own field holds EPSG numbers only."""

    nodata: float
    """Missing value of the source where its file does not state one."""

    nodata_of: Mapping[str, float] = field(default_factory=dict)
    """The same for links whose items declare another."""

    prepare: Prepare | None = None
    """What is done to a window before it is returned, with as much around it as that needs."""

    failures: str | None = None
    """Name of the `Failures` that lists what cannot be read; None: an error stops the run."""

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window of the target grid.

        Returns
        -------
        ndarray[dtype], (window.height, window.width)

        Raises
        ------
        ReadError
            If the file cannot be opened or a block of it cannot be read, after retries of
            what may pass, unless `failures` takes it.
        """
        try:
            return self._persistently(window)
        except (RasterioError, OSError) as error:
            reason, name = _reason(error), _without_token(self.url)
            if self.failures is None:
                raise ReadError(
                    f"{name} cannot be read: {reason}. The file is missing, cut off, not a "
                    "raster or out of reach; fetch it again, leave its scene out of the items, or "
                    'open the cube with on_error="nodata".'
                ) from None  # the cause shows the signed link
            report(self.failures, f"{name}: {reason}")
            shape = int(window.height), int(window.width)
            return np.full(shape, self.fill_value, dtype=self.dtype)

    def _persistently(self, window: Window) -> NDArray[Any]:
        for attempt, pause in enumerate(PAUSES):
            try:
                return self._attempt(window, fresh=attempt > 0)
            except (RasterioError, OSError) as error:
                if not _may_pass(error, self.url, attempt):
                    raise
                name = _without_token(self.url)
                log.info("%s: %s; again in %g s", name, _reason(error), pause)
                time.sleep(pause)
        return self._attempt(window, fresh=True)

    def _attempt(self, window: Window, *, fresh: bool) -> NDArray[Any]:
        target = self._target
        with handles.HANDLES.lease(self.url, target, fresh=fresh) as opened:
            if opened.view is None:
                opened.view = target.view(opened.source)
            values = target.read(opened, window)
        if self.prepare is None:
            return values
        inner = slice(target.reach, -target.reach or None)
        return self.prepare(values)[inner, inner].astype(self.dtype, copy=False)

    @cached_property
    def _target(self) -> Target:
        prepare, (rows, cols) = self.prepare, self.spec.shape
        reach = prepare.reach if prepare else 0
        return Target(
            self.crs_wkt,
            self.spec.transform @ Affine.translation(-reach, -reach),
            (rows + 2 * reach, cols + 2 * reach),
            reach,
            self.resampling,
            np.dtype(prepare.dtype) if prepare else self.dtype,
            _same_nan(prepare.fill if prepare else self.fill_value),
            _same_nan(self.nodata_of.get(self.url, self.nodata)),
        )

    def close(self) -> None:
        """Nothing of its own: open files are those of `handles`."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a file is opened for."""

    crs_wkt: str
    transform: Affine
    shape: tuple[int, int]
    reach: int
    """Pixels of `shape` beyond the grid on each side."""
    resampling: Resampling
    dtype: np.dtype[Any]
    fill: float
    nodata: float

    def __eq__(self, other: object) -> bool:
        # As tuples, where one NaN equals itself: from Python 3.13 a dataclass compares values.
        return isinstance(other, Target) and _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash((self.transform, self.shape, self.resampling))  # a WKT takes long

    def view(self, source: Any) -> Picks | WarpedVRT:
        """Find the source's pixels for those of the target where axes are shared, else warp."""
        if not source.crs:
            raise RasterioIOError("the file states no coordinate reference system")
        if source.crs == rasterio.CRS.from_wkt(self.crs_wkt):
            found = picks((source.transform, source.shape), (self.transform, self.shape))
            if found and (self.resampling == Resampling.nearest or found.is_identity):
                return found
        return WarpedVRT(
            source,
            crs=self.crs_wkt,
            transform=self.transform,
            height=self.shape[0],
            width=self.shape[1],
            resampling=self.resampling,
            src_nodata=self.missing(source),
            nodata=self.fill,
            dtype=self.dtype.name,
            tolerance=TOLERANCE,
            **self._scales(source),
        )

    def _scales(self, source: Any) -> dict[str, str]:
        """Target pixels per source pixel, in the middle of the target.

        GDAL sizes the kernels of bilinear and cubic by them, and would take each window's own.
        """
        rows, cols = self.shape
        across = [(cols / 2, rows / 2), (cols / 2 + 1, rows / 2), (cols / 2, rows / 2 + 1)]
        x, y = zip(*(self.transform @ at for at in across), strict=True)
        found = transform(rasterio.CRS.from_wkt(self.crs_wkt), source.crs, x, y)
        col, row = ~source.transform @ tuple(map(np.asarray, found))
        steps = np.hypot(col[1:] - col[0], row[1:] - row[0])
        if not (np.isfinite(steps) & (steps > 0)).all():
            return {}
        return {"XSCALE": repr(float(1 / steps[0])), "YSCALE": repr(float(1 / steps[1]))}

    def read(self, opened: Opened, window: Window) -> NDArray[Any]:
        """Read a window of the grid and `reach` around it, missing pixels as `fill`."""
        # The target is larger than the grid by the reach on each side: the corner stays.
        row, col = int(window.row_off), int(window.col_off)
        height, width = int(window.height) + 2 * self.reach, int(window.width) + 2 * self.reach
        if not isinstance(opened.view, Picks):
            place = (row, row + height), (col, col + width)
            warped: NDArray[Any] = opened.view.read(1, window=place, out_dtype=self.dtype)
            return warped
        data = opened.view.read(
            opened.source, (row, height), (col, width), dtype=self.dtype, fill=self.fill
        )
        missing = self.missing(opened.source)
        if not (np.isnan(missing) or missing == self.fill):
            data[data == missing] = self.fill
        return data

    def missing(self, source: Any) -> float:
        """Value of missing pixels: the file's word, else what was said beforehand."""
        return float(source.nodata if source.nodata is not None else self.nodata)


_fields = attrgetter(*(each.name for each in fields(Target)))


def _same_nan(value: float) -> float:
    """One NaN for all: as a key, NaN equals only itself."""
    return np.nan if np.isnan(value) else float(value)


def _may_pass(error: BaseException, url: str, attempt: int) -> bool:
    told = f"{error} {error.__cause__ or ''}"
    if not handles.gdal_path(url).startswith("/vsi"):
        return False
    # What is no raster may be a header that broke off, or a page of text, which stays one.
    if NO_RASTER in told:
        return attempt == 0
    return bool(TRANSIENT.search(told) or BROKEN_OFF.search(told))


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return _without_token(reason)[:200].rstrip(".")


def _without_token(text: str) -> str:
    """A signed link carries a token, which does not belong into a log."""
    return re.sub(r"\?[^\s'\"]*", "", text)
