"""Named polygons to sum up areas in: states, basins, protected areas."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin.tiling import polygons_in
from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

WHOLE = "whole area"
"""Name of the zone that is the basin's own area."""

DEGREES = ("CRS84", "EPSG::4326", "EPSG:4326")
"""What an old GeoJSON file may name as its CRS."""


@dataclass(frozen=True, slots=True)
class PolygonLayer:
    """A GeoJSON file, and which property names its polygons."""

    path: str | Path
    """A FeatureCollection in degrees, WGS 84."""

    name_field: str = "name"
    """The property; features of one name are one zone."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A named area."""

    name: str
    """As the layer has it."""

    geometry: BaseGeometry
    """Polygons in degrees."""

    @property
    def checksum(self) -> str:
        """Of the geometry."""
        return hashlib.sha256(self.geometry.wkb).hexdigest()


def read_zones(layer: PolygonLayer) -> tuple[Zone, ...]:
    """Read the polygons of a layer.

    Parameters
    ----------
    layer : PolygonLayer
        The file.

    Returns
    -------
    tuple of Zone
        By name; lines and points are left out.

    Raises
    ------
    ConfigError
        If it is no GeoJSON in degrees, a feature has no name, or there is no polygon.
    """
    import shapely

    path, parts = Path(layer.path), _parts(layer)
    grouped: dict[str, list[BaseGeometry]] = {}
    for name, geometry in parts:
        grouped.setdefault(name, []).append(shapely.make_valid(geometry))
    if not grouped:
        raise ConfigError(f"polygons={str(path)!r} holds no polygon.")
    if WHOLE in grouped:
        raise ConfigError(f"a feature of polygons={str(path)!r} has the name {WHOLE!r}: rename it.")
    zones = tuple(Zone(name, shapely.union_all(grouped[name])) for name in sorted(grouped))
    west, south, east, north = shapely.union_all([zone.geometry for zone in zones]).bounds
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise ConfigError(
            f"polygons={str(path)!r} reach from ({west:g}, {south:g}) to ({east:g}, {north:g}); "
            "GeoJSON is in degrees of longitude and latitude: reproject it."
        )
    return zones


def _parts(layer: PolygonLayer) -> list[tuple[str, BaseGeometry]]:
    """Names and geometries of the polygons of a file."""
    import shapely
    from shapely.geometry import shape

    path = Path(layer.path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        features = found["features"] if found["type"] == "FeatureCollection" else [found]
        shapes = [(f["properties"] or {}, shape(f["geometry"])) for f in features if f["geometry"]]
    except OSError as error:
        raise ConfigError(f"polygons={str(path)!r} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise ConfigError(
            f"polygons={str(path)!r} is not GeoJSON with features: {' '.join(str(error).split())}."
        ) from error
    crs = str((found.get("crs") or {}).get("properties", {}).get("name", DEGREES[0]))
    if not crs.endswith(DEGREES):
        raise ConfigError(f"polygons={str(path)!r} are in {crs}: reproject them to EPSG:4326.")
    return [(_name(p, layer), polygon) for p, found in shapes for polygon in polygons_in(found)]


def _name(properties: dict[str, Any], layer: PolygonLayer) -> str:
    value = properties.get(layer.name_field)
    if value is None or str(value).strip() == "":
        raise ConfigError(
            f"a feature of polygons={str(layer.path)!r} has no {layer.name_field!r}; it has "
            f"{', '.join(map(str, properties)) or 'no properties'}: give one with --name-field."
        )
    return str(value).strip()
