"""Named polygons to sum up areas in: states, basins, protected areas."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepforest_xr.basin.vector import read_polygons
from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from shapely.geometry.base import BaseGeometry

WHOLE = "whole area"
"""Name of the zone that is the basin's own area."""


@dataclass(frozen=True, slots=True)
class PolygonLayer:
    """A file of polygons, and which property names them."""

    path: str | Path
    """GeoJSON or GeoPackage, of any CRS; of several layers ``file.gpkg|layername=states``."""

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
        If it cannot be read, a feature has no name, or there is no polygon.
    """
    import shapely

    grouped: dict[str, list[BaseGeometry]] = {}
    for name, geometry in read_polygons(layer.path, "polygons", layer.name_field):
        if not name:
            raise ConfigError(
                f"a feature of polygons={str(layer.path)!r} has no {layer.name_field!r}: name it, "
                "or give another property with --name-field."
            )
        grouped.setdefault(name, []).append(geometry)
    if not grouped:
        raise ConfigError(f"polygons={str(layer.path)!r} holds no polygon.")
    if WHOLE in grouped:
        raise ConfigError(
            f"a feature of polygons={str(layer.path)!r} has the name {WHOLE!r}: rename it."
        )
    return tuple(Zone(name, shapely.union_all(grouped[name])) for name in sorted(grouped))
