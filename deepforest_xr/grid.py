"""Where: a coordinate reference system, a transform and a shape in one value.

A grid never snaps: the bounds given are the corner of its first pixel, whatever their
digits, because real scenes start at 717729.8352 as well as at 600000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from deepforest_xr.errors import ConfigError, GridError

if TYPE_CHECKING:
    from collections.abc import Mapping

Bounds = tuple[float, float, float, float]

# A grid's extent may miss a whole number of pixels by this much (float noise in metadata).
PIXEL_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Grid:
    """A north-up raster grid."""

    crs: CRS
    """Coordinate reference system."""

    transform: Affine
    """Pixel corner to CRS coordinates; no rotation, y descending."""

    shape: tuple[int, int]
    """Rows, columns."""

    def __post_init__(self) -> None:
        if self.transform.b or self.transform.d or self.transform.a <= 0 or self.transform.e >= 0:
            raise GridError(
                f"a grid is north-up, got transform {tuple(self.transform)[:6]}: rotated or "
                "flipped; reproject the raster first (gdalwarp does)."
            )
        if min(self.shape) < 1:
            raise GridError(f"a grid has at least one pixel, got shape {self.shape}.")

    @classmethod
    def from_bounds(
        cls, bounds: Bounds, *, crs: Any, resolution: float | tuple[float, float] = 10
    ) -> Self:
        """Cover `bounds` with pixels of `resolution`, starting at the upper left corner.

        Parameters
        ----------
        bounds : (left, bottom, right, top)
            In units of `crs`. A last fraction of a pixel is covered by a whole one.
        crs : anything pyproj reads
            ``"EPSG:32721"``, 32721, WKT, ``"ESRI:102033"``.
        resolution : float or (x, y)
            Pixel size in units of `crs`.

        Raises
        ------
        GridError
            If the bounds are empty or reversed, or the resolution is not positive.
        ConfigError
            If `crs` is unknown.
        """
        try:
            left, bottom, right, top = (float(edge) for edge in bounds)
        except (TypeError, ValueError) as error:
            raise GridError(
                f"bounds={bounds!r} are not four numbers: left, bottom, right, top."
            ) from error
        xres, yres = resolution if isinstance(resolution, tuple) else (resolution, resolution)
        if not (left < right and bottom < top):
            raise GridError(
                f"bounds={tuple(bounds)} are empty: expected left < right and bottom < top "
                "(left, bottom, right, top in units of the CRS)."
            )
        if not (xres > 0 and yres > 0):
            raise GridError(f"resolution={resolution} is not positive.")
        width = math.ceil((right - left) / xres - PIXEL_TOLERANCE)
        height = math.ceil((top - bottom) / yres - PIXEL_TOLERANCE)
        transform = Affine(float(xres), 0.0, left, 0.0, -float(yres), top)
        return cls(parse_crs(crs), transform, (max(height, 1), max(width, 1)))

    @classmethod
    def from_lonlat(cls, bbox: Bounds, *, crs: Any, resolution: float = 10) -> Self:
        """Cover a longitude/latitude box with pixels of `crs`, edges on whole pixels.

        Parameters
        ----------
        bbox : (west, south, east, north)
            Degrees, WGS 84.
        crs, resolution
            As in `from_bounds`.
        """
        left, bottom, right, top = transform_bounds(bbox, "EPSG:4326", crs)
        snapped = (
            math.floor(left / resolution) * resolution,
            math.floor(bottom / resolution) * resolution,
            math.ceil(right / resolution) * resolution,
            math.ceil(top / resolution) * resolution,
        )
        return cls.from_bounds(snapped, crs=crs, resolution=resolution)

    @classmethod
    def of(cls, data: xr.Dataset | xr.DataArray) -> Self:
        """Read the grid of an array that carries ``y``, ``x`` and CF ``spatial_ref``.

        Raises
        ------
        GridError
            If the CRS or a coordinate is missing, or the pixels are not evenly spaced.
        """
        if "spatial_ref" not in data.coords:
            raise GridError("no `spatial_ref` coordinate: set one with `data.rio.write_crs(...)`.")
        attrs = data.coords["spatial_ref"].attrs
        wkt = attrs.get("crs_wkt") or attrs.get("spatial_ref")
        if not wkt:
            raise GridError(
                "`spatial_ref` has no `crs_wkt`: set it with `data.rio.write_crs(...)`."
            )
        for name in ("y", "x"):
            if name not in data.coords:
                raise GridError(f"no `{name}` coordinate: a grid needs pixel-centre `y` and `x`.")
        declared = _geotransform(attrs)
        shape = (data.sizes["y"], data.sizes["x"])
        x0, xres = _first_and_step(data["x"], declared.a if declared else None)
        y0, yres = _first_and_step(data["y"], declared.e if declared else None)
        transform = Affine(xres, 0.0, x0 - xres / 2, 0.0, yres, y0 - yres / 2)
        # A subset keeps the whole's GeoTransform; use its exact digits only where they hold.
        if declared is not None and declared.almost_equals(transform, precision=1e-6):
            transform = declared
        return cls(CRS.from_wkt(wkt), transform, shape)

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixel size (x, y) in units of the CRS, both positive."""
        return self.transform.a, -self.transform.e

    @property
    def bounds(self) -> Bounds:
        """Left, bottom, right, top in units of the CRS."""
        left, top = self.transform.c, self.transform.f
        right, bottom = self.transform @ (self.shape[1], self.shape[0])
        return left, bottom, right, top

    @property
    def bbox_lonlat(self) -> Bounds:
        """West, south, east, north in degrees, WGS 84."""
        return transform_bounds(self.bounds, self.crs, "EPSG:4326")

    def coords(self) -> Mapping[str, xr.DataArray]:
        """Pixel-centre ``y`` (descending) and ``x``, and the CF grid mapping."""
        rows, cols = self.shape
        geographic = self.crs.is_geographic
        units = "degrees" if geographic else self.crs.axis_info[0].unit_name
        x = self.transform.c + self.transform.a * (np.arange(cols) + 0.5)
        y = self.transform.f + self.transform.e * (np.arange(rows) + 0.5)
        names = (
            ("longitude", "latitude")
            if geographic
            else (
                "projection_x_coordinate",
                "projection_y_coordinate",
            )
        )
        return {
            "y": xr.DataArray(y, dims="y", attrs={"standard_name": names[1], "units": units}),
            "x": xr.DataArray(x, dims="x", attrs={"standard_name": names[0], "units": units}),
            "spatial_ref": self.spatial_ref(),
        }

    def spatial_ref(self) -> xr.DataArray:
        """Give the CF grid mapping variable, with the transform as GDAL writes it."""
        attrs = dict(self.crs.to_cf())
        attrs["spatial_ref"] = attrs["crs_wkt"]
        attrs["GeoTransform"] = " ".join(repr(float(v)) for v in self.transform.to_gdal())
        return xr.DataArray(np.int32(0), attrs=attrs)

    def require_same(self, other: Grid, *, ours: str, theirs: str) -> None:
        """Raise GridError, naming both sides, unless the grids are the same."""
        same = (
            self.shape == other.shape
            and self.transform.almost_equals(other.transform, precision=1e-6)
            and self.crs == other.crs
        )
        if not same:
            raise GridError(
                f"{ours} is on {self.describe()}, {theirs} on {other.describe()}: "
                "bring both to one grid first."
            )

    def describe(self) -> str:
        """One line for messages and logs."""
        rows, cols = self.shape
        name = self.crs.to_string() if self.crs.to_authority() else self.crs.name
        return (
            f"{rows} x {cols} pixels of {self.resolution[0]:g} in {name} "
            f"from ({self.transform.c:g}, {self.transform.f:g})"
        )


def parse_crs(crs: Any) -> CRS:
    """Read a CRS, or say in one line that it is unknown."""
    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise ConfigError(
            f"crs={crs!r} is unknown; use an authority code such as 'EPSG:32721' or a WKT string."
        ) from error


@lru_cache(maxsize=4096)  # the bands of a scene share their box, a year of scenes a few
def transform_bounds(bounds: Bounds, source: Any, target: Any) -> Bounds:
    """Smallest box in `target` around `bounds` of `source`, edges densified."""
    transformer = Transformer.from_crs(parse_crs(source), parse_crs(target), always_xy=True)
    left, bottom, right, top = transformer.transform_bounds(*bounds, densify_pts=21)
    return left, bottom, right, top


def _geotransform(attrs: Mapping[Any, Any]) -> Affine | None:
    text = attrs.get("GeoTransform")
    return None if text is None else Affine.from_gdal(*(float(v) for v in str(text).split()))


def _first_and_step(coord: xr.DataArray, declared: float | None) -> tuple[float, float]:
    """First pixel centre and spacing; one lonely pixel takes the declared spacing."""
    values = coord.to_numpy().astype(float)
    if values.size == 1:
        if declared is None:
            raise GridError(f"one pixel along {coord.name!r} and no GeoTransform: size unknown.")
        return float(values[0]), declared
    step = (values[-1] - values[0]) / (values.size - 1)
    if not np.allclose(np.diff(values), step, rtol=0, atol=abs(step) * PIXEL_TOLERANCE):
        raise GridError(f"{coord.name!r} is not evenly spaced: a grid needs equal pixels.")
    return float(values[0]), float(step)
