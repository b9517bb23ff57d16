"""How much ground a pixel covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import Proj, Transformer
from pyproj.exceptions import ProjError

from deepforest_xr.errors import GridError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepforest_xr.grid import Grid

KNOTS = 17
"""Points along each side of a raster at which the areal scale is computed, linear between."""

TOLERANCE = 1e-6
"""A CRS whose areal scale is 1 but for this keeps areas."""


def is_equal_area(grid: Grid) -> bool:
    """Tell whether all pixels of a grid cover as much ground as they measure on the map.

    Raises
    ------
    GridError
        If the CRS does not tell.
    """
    if grid.crs.is_geographic:
        return False
    return bool((np.abs(_scale(grid) - 1) < TOLERANCE).all())


def pixel_areas(grid: Grid, *, constant: bool = False) -> NDArray[np.float64]:
    """Give the ground that pixels cover, on the ellipsoid of the CRS.

    Parameters
    ----------
    grid : Grid
        Of a part of a map some kilometres high.
    constant : bool
        Whether the CRS is known to keep areas.

    Returns
    -------
    ndarray[float64], shape (1, 1), (rows, 1) or (rows, cols)
        Square metres.

    Raises
    ------
    GridError
        If the CRS does not tell.

    References
    ----------
    Snyder (1987), Map Projections: A Working Manual, equation 3-12, for degrees.
    """
    if grid.crs.is_geographic:
        return _of_degrees(grid)
    unit = grid.crs.axis_info[0].unit_conversion_factor
    width, height = grid.resolution
    area = np.full((1, 1), width * height * unit**2)
    if constant:
        return area
    rows, cols = grid.shape
    down, across = _weights(rows), _weights(cols)
    found: NDArray[np.float64] = area / (down @ _scale(grid) @ across.T)
    return found


def _of_degrees(grid: Grid) -> NDArray[np.float64]:
    """Pixels between two parallels: the zone between them, by the share of longitude."""
    radian = grid.crs.axis_info[0].unit_conversion_factor
    ellipsoid = grid.crs.get_geod()
    if ellipsoid is None:
        raise GridError(f"{grid.crs.name} names no ellipsoid: areas cannot be told.")
    edges = (grid.transform.f + grid.transform.e * np.arange(grid.shape[0] + 1)) * radian
    sine, e = np.sin(edges), np.sqrt(ellipsoid.es)
    q = 2 * sine
    if e > 0:
        q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
    zone = ellipsoid.a**2 / 2 * (q[:-1] - q[1:])
    areas: NDArray[np.float64] = (zone * grid.transform.a * radian)[:, None]
    return areas


def _scale(grid: Grid) -> NDArray[np.float64]:
    """Areal scale at knots of a grid, dims (y, x)."""
    rows, cols = grid.shape
    col, row = np.meshgrid(np.linspace(0, cols, KNOTS), np.linspace(0, rows, KNOTS))
    places: Any = (col, row)  # Affine takes arrays, its types do not say so
    x, y = grid.transform @ places
    geographic = grid.crs.geodetic_crs
    try:
        lon, lat = Transformer.from_crs(grid.crs, geographic, always_xy=True).transform(x, y)
        scale = np.asarray(Proj(grid.crs).get_factors(lon, lat, errcheck=True).areal_scale)
    except ProjError as error:
        raise GridError(
            f"{grid.crs.name} does not tell how large its pixels are on the ground "
            f"({' '.join(str(error).split())}): plan the basin in another CRS, or leave areas out."
        ) from error
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise GridError(f"{grid.describe()} reaches beyond where its CRS tells areas.")
    return scale


def _weights(pixels: int) -> NDArray[np.float64]:
    """Shares of the knots in the value at each pixel's centre, dims (pixel, knot)."""
    place = (np.arange(pixels) + 0.5) / pixels * (KNOTS - 1)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(KNOTS)))
    return weights
