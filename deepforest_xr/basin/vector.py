"""Polygons of vector files, in degrees: areas to map, and layers to sum up areas in."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin.tiling import DENSE_DEGREES, projected
from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import parse_crs

if TYPE_CHECKING:
    from pyproj import CRS
    from shapely.geometry.base import BaseGeometry

LAYER = "|layername="
"""Between a file and the layer of it that is meant, as QGIS writes it."""

WGS84 = {4326, 4979}
METRES_PER_DEGREE = 111_320.0


def read_area(path: str | Path) -> BaseGeometry:
    """Read the polygons of a file, as one geometry in degrees.

    Parameters
    ----------
    path : path
        As for `read_polygons`.

    Raises
    ------
    ConfigError
        As `read_polygons`, or if there is no polygon in it.
    """
    import shapely

    area = shapely.union_all([polygon for _, polygon in read_polygons(path, "aoi")])
    if area.is_empty or area.area == 0:
        raise ConfigError(f"aoi={str(path)!r} holds no polygon: a basin is an area.")
    return area


def read_polygons(
    path: str | Path, what: str, field: str | None = None
) -> list[tuple[str, BaseGeometry]]:
    """Read the polygons of a vector file, those inside collections too.

    Parameters
    ----------
    path : path
        GeoJSON, GeoPackage, or what else GDAL reads, of any CRS. A file of several layers is
        followed by the one that is meant, as ``states.gpkg|layername=amazon``.
    what : str
        What the file is for; errors name it.
    field : str, optional
        A property to read.

    Returns
    -------
    list of (value, geometry)
        The property as text, "" where there is none; a Polygon or MultiPolygon in degrees,
        WGS 84. Points, lines and features without a place are left out.

    Raises
    ------
    ConfigError
        If there is no such file, layer or property, the file has several layers and none is
        named, it states no CRS, or its coordinates are no degrees though it says so.
    """
    import pyogrio
    import shapely

    named = f"{what}={str(path)!r}"
    file, _, layer = str(path).partition(LAYER)
    if not Path(file).is_file():
        raise ConfigError(f"{named} is no file: give a GeoJSON or GeoPackage file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are a little off their standard
            layer = _layer(pyogrio.list_layers(file), layer, named)
            info = pyogrio.read_info(file, layer=layer)
            columns = _columns(info, field, named)
            meta, _, places, read = pyogrio.raw.read(
                file, layer=layer, columns=columns, force_2d=True
            )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        why = " ".join(str(error).partition("; It might")[0].split())
        raise ConfigError(
            f"{named} is neither GeoJSON nor GeoPackage: {why.rstrip('.')}."
        ) from error
    crs = _crs(meta["crs"], named)
    values = read[0] if columns else [None] * len(places)
    # What crosses itself, or is not closed, is mended first: its lines are no part of an area.
    found = [
        (_text(value), polygon)
        for value, place in zip(values, places, strict=True)
        if place is not None and (drawn := shapely.from_wkb(place, on_invalid="fix")) is not None
        for part in _polygons_in(shapely.make_valid(drawn))
        for polygon in _polygons_in(shapely.make_valid(to_degrees(part, crs)))
    ]
    if found:
        _require_degrees(shapely.total_bounds([polygon for _, polygon in found]), named)
    return found


def to_degrees(geometry: BaseGeometry, crs: CRS) -> BaseGeometry:
    """Project a geometry, its edges curved as they are in degrees."""
    import shapely

    if crs.to_epsg() in WGS84:
        return geometry
    metres = crs.axis_info[0].unit_conversion_factor
    length = DENSE_DEGREES * (1.0 if crs.is_geographic else METRES_PER_DEGREE / metres)
    return projected(shapely.segmentize(geometry, length), crs, "EPSG:4326")


def _layer(layers: Any, wanted: str, named: str) -> str:
    """Choose the layer that is wanted, or the only one with places."""
    names = [str(name) for name, kind in layers if kind is not None]
    if wanted in names:
        return wanted
    if len(names) == 1 and not wanted:
        return names[0]
    if not names:
        raise ConfigError(f"{named} has no layer with geometries.")
    raise ConfigError(
        f"{named} has {f'no layer {wanted!r}' if wanted else 'several layers'}; there are "
        f"{', '.join(names)}: name one at the end, as {LAYER}{names[0]}"
    )


def _columns(info: dict[str, Any], field: str | None, named: str) -> list[str]:
    """Give the columns to read; a layer without features need not have the one that is asked."""
    fields = [str(name) for name in info["fields"]]
    if field is None or field in fields or info["features"] == 0:
        return [name for name in fields if name == field]
    raise ConfigError(
        f"{named} has no property {field!r}; it has {', '.join(fields) or 'none'}: give one with "
        "--name-field."
    )


def _crs(text: str | None, named: str) -> CRS:
    try:
        crs = None if text is None else parse_crs(text)
    except ConfigError:
        crs = None
    if crs is None or not (crs.is_geographic or crs.is_projected):
        raise ConfigError(f"{named} states no CRS: set it, for example with `ogr2ogr -a_srs`.")
    return crs


def _polygons_in(geometry: BaseGeometry) -> list[BaseGeometry]:
    """Give the polygons of a geometry, those inside collections too."""
    import shapely

    if geometry.geom_type == "GeometryCollection":
        return [p for part in shapely.get_parts(geometry) for p in _polygons_in(part)]
    return [geometry] if geometry.geom_type in {"Polygon", "MultiPolygon"} else []


def _text(value: Any) -> str:
    """A value as the file has it: integers beside missing ones come as floats."""
    if value is None or str(value) == "NaT":
        return ""
    if isinstance(value, float):  # numpy's float64 too
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    return "" if value is None else str(value).strip()


def _require_degrees(bounds: Any, named: str) -> None:
    west, south, east, north = bounds
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise ConfigError(
            f"{named} reaches from ({west:g}, {south:g}) to ({east:g}, {north:g}); GeoJSON is in "
            "degrees of longitude and latitude: reproject it."
        )
