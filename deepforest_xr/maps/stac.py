"""A STAC item that explains a map: where, when, which classes, which model, which files.

Fields of the extensions are written by name, in their current versions: projection 2.0,
classification 2.0, raster 2.0, file 2.1. Links to files are relative to the item, so that
a folder with a map and its item can be moved as one.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from affine import Affine
from pyproj import CRS, Transformer

from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError, GridError, ReadError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA, Legend
from deepforest_xr.maps.cog import PERCENT
from deepforest_xr.maps.sidecars import aux_path, style_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pystac

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
# Points along each side of the footprint: a straight line in a projection bends in degrees.
POINTS_PER_SIDE = 5
MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".zarr": "application/vnd.zarr; version=3",
    ".png": "image/png",
    ".json": "application/json",
    ".md": "text/markdown",
    ".qml": "application/xml",
    ".xml": "application/xml",
}
Moment = str | dt.datetime | None


@dataclass(frozen=True, slots=True)
class _Described:
    """What an item needs to know about a map."""

    grid: Grid
    """Place and pixels."""

    legend: Legend
    """Classes of `lulc`."""

    attrs: dict[str, Any]
    """Provenance; ``simulated`` is absent where the source does not tell."""


def write_stac_item(
    source: xr.Dataset | str | Path,
    path: str | Path,
    *,
    assets: Mapping[str, str | Path],
    datetime: Moment = None,
    start: Moment = None,
    end: Moment = None,
    item_id: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the STAC item of a map as JSON.

    Parameters
    ----------
    source : Dataset with ``lulc`` (y, x), or path of its Zarr store or COG
        Only coordinates and attributes are read, no pixel.
    path : str or Path
        JSON file to write.
    assets : mapping of key to path
        Files of the map, e.g. ``{"lulc": "map.tif", "confidence": ..., "preview": ...}``;
        each must exist. Rasters carry the classes, except under the key of a percent layer.
        Sidecars of a GeoTIFF follow it as ``<key>-style`` and ``<key>-names``.
    datetime, start, end : str (ISO 8601) or datetime
        One moment, or the period the scenes come from; UTC where no zone is given.
    item_id : str, optional
        Default: the stem of `path`.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The item, with hrefs relative to it.

    Raises
    ------
    ConfigError
        If there is neither a moment nor a period, or an asset does not exist.
    ReadError
        If `source` is a path that cannot be read.
    LabelError, GridError
        If the map has no classes or no grid.
    WriteError
        If the file exists or cannot be written.

    References
    ----------
    STAC 1.1; extensions classification 2.0.0, projection 2.0.0, raster 2.0.0, file 2.1.0.
    """
    path = Path(path)
    described = _describe(source)
    item = _item(described, item_id or path.stem, _period(datetime, start, end))
    for key, file in assets.items():
        for name, each in _with_sidecars(key, Path(file)).items():
            item.add_asset(name, _asset(name, each, path, described))
    with staged(path, overwrite=overwrite) as partial:
        text = json.dumps(item.to_dict(transform_hrefs=False), indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def classification_classes(legend: Legend) -> list[dict[str, Any]]:
    """Give ``classification:classes`` of the classification extension 2.0.0, 0 as no data."""
    nodata = {"value": NODATA, "name": "nodata", "title": "No data", "nodata": True}
    nodata["description"] = "Not classified: no valid observation."
    return [nodata, *legend.classification()]


def _item(described: _Described, item_id: str, period: tuple[dt.datetime, ...]) -> pystac.Item:
    import pystac

    moment = period[0] if len(period) == 1 else None
    item = pystac.Item(
        id=item_id,
        geometry=_footprint(described.grid),
        bbox=[round(v, 7) for v in described.grid.bbox_lonlat],
        datetime=moment,
        start_datetime=None if moment else period[0],
        end_datetime=None if moment else period[1],
        properties=_properties(described),
    )
    item.stac_extensions.extend(EXTENSIONS)
    return item


def _properties(described: _Described) -> dict[str, Any]:
    """Projection, and every provenance attribute as ``deepforest:<name>``."""
    grid = described.grid
    properties: dict[str, Any] = {
        "description": f"Land use and land cover, legend {described.legend.name}.",
        **_projection(grid),
    }
    if grid.crs.is_projected:
        properties["gsd"] = max(grid.resolution) * grid.crs.axis_info[0].unit_conversion_factor
    for key, value in described.attrs.items():
        if isinstance(value, str | int | float) and key != "Conventions":
            properties[f"deepforest:{key}"] = value
    if "simulated" in described.attrs:
        properties["deepforest:simulated"] = is_simulated(described.attrs)
    return properties


def is_simulated(attrs: Mapping[Any, Any]) -> bool:
    """Whether the attributes say that a map was made from simulated scenes."""
    return str(attrs.get("simulated", "")).lower() == "true"


def _projection(grid: Grid) -> dict[str, Any]:
    authority = grid.crs.to_authority()
    fields: dict[str, Any] = {"proj:code": ":".join(authority) if authority else None}
    if authority is None:
        fields["proj:wkt2"] = grid.crs.to_wkt()
    left, bottom, right, top = grid.bounds
    return fields | {
        "proj:shape": list(grid.shape),
        "proj:transform": [float(v) for v in tuple(grid.transform)[:6]],
        "proj:bbox": [left, bottom, right, top],
    }


def _footprint(grid: Grid) -> dict[str, Any]:
    """Outline in degrees, anticlockwise as RFC 7946 asks, sides with points in between."""
    left, bottom, right, top = grid.bounds
    corners = [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]
    steps = [n / POINTS_PER_SIDE for n in range(POINTS_PER_SIDE)]
    ring = [
        (x0 + (x1 - x0) * s, y0 + (y1 - y0) * s)
        for (x0, y0), (x1, y1) in pairwise(corners)
        for s in steps
    ]
    to_degrees = Transformer.from_crs(grid.crs, CRS.from_epsg(4326), always_xy=True)
    points = [[round(v, 7) for v in to_degrees.transform(x, y)] for x, y in ring]
    if not all(math.isfinite(v) for point in points for v in point):
        raise GridError(f"{grid.describe()} lies outside what its CRS covers: check its origin.")
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


def _with_sidecars(key: str, file: Path) -> dict[str, Path]:
    """Give a file and what stands beside it for GDAL and QGIS."""
    if file.suffix.lower() not in (".tif", ".tiff"):
        return {key: file}
    beside = {f"{key}-style": style_path(file), f"{key}-names": aux_path(file)}
    return {key: file} | {name: path for name, path in beside.items() if path.exists()}


def _asset(key: str, file: Path, item: Path, described: _Described) -> pystac.Asset:
    import pystac

    if not file.exists():
        raise ConfigError(f"assets[{key!r}]={file} does not exist: write it before its item.")
    href = Path(os.path.relpath(file, item.parent)).as_posix()
    suffix = file.suffix.lower().replace(".tiff", ".tif")
    is_raster = suffix in (".tif", ".zarr")
    extra: dict[str, Any] = {"file:size": _size(file)}
    if is_raster:
        extra |= {"raster:spatial_resolution": max(described.grid.resolution)}
    if is_raster and key in PERCENT:
        # In a Zarr store the layers have the no data of `lulc`.
        nodata = PERCENT[key] if suffix == ".tif" else NODATA
        extra |= {"data_type": "uint8", "nodata": nodata, "unit": "%"}
    elif is_raster:
        classes = classification_classes(described.legend)
        extra |= {"data_type": "uint8", "nodata": NODATA, "classification:classes": classes}
    roles = {".tif": "data", ".zarr": "data", ".png": "overview", ".qml": "style"}
    role = roles.get(suffix, "metadata")
    media_type = MEDIA_TYPES.get(suffix)
    return pystac.Asset(f"./{href}", key, None, media_type, [role], extra)


def _size(file: Path) -> int:
    if file.is_dir():
        return sum(f.stat().st_size for f in file.rglob("*") if f.is_file())
    return file.stat().st_size


def _describe(source: xr.Dataset | str | Path) -> _Described:
    if isinstance(source, xr.Dataset):
        return _describe_dataset(source)
    path = Path(source)
    try:
        if path.is_dir():
            with xr.open_zarr(path) as dataset:
                return _describe_dataset(dataset)
        return _describe_cog(path)
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ReadError(f"{path} is not a map's Zarr store or COG: {reason}.") from error


def _describe_dataset(dataset: xr.Dataset) -> _Described:
    if "lulc" not in dataset:
        raise ConfigError(f"no `lulc` in the dataset; it has {sorted(map(str, dataset))}.")
    attrs: dict[str, Any] = {"simulated": "false"} | {str(k): v for k, v in dataset.attrs.items()}
    return _Described(Grid.of(dataset), Legend.from_attrs(dataset["lulc"].attrs), attrs)


def _describe_cog(path: Path) -> _Described:
    import rasterio

    with rasterio.open(path) as file:
        tags = dict(file.tags())
        shape = (file.height, file.width)
        grid = Grid(CRS.from_user_input(file.crs), Affine(*file.transform[:6]), shape)
    flags = {key: tags.pop(key, "") for key in ("flag_values", "flag_meanings", "flag_colors")}
    if not flags["flag_values"]:
        raise ReadError(f"{path} has no tag flag_values: it was not written by write_cog.")
    values = [int(code) for code in flags["flag_values"].split()]
    attrs = {k: v for k, v in tags.items() if not k.startswith("class_") and k != "AREA_OR_POINT"}
    legend = Legend.from_attrs({**flags, "flag_values": values, "legend": tags.get("legend", "")})
    return _Described(grid, legend, attrs)


def _period(datetime: Moment, start: Moment, end: Moment) -> tuple[dt.datetime, ...]:
    if datetime is not None and start is None and end is None:
        return (_moment(datetime),)
    if datetime is None and start is not None and end is not None:
        first, last = _moment(start), _moment(end)
        if first <= last:
            return first, last
        raise ConfigError(f"start={start} is after end={end}: swap them.")
    raise ConfigError(
        f"got datetime={datetime}, start={start}, end={end}: an item has either a datetime, "
        "or a start and an end."
    )


def _moment(value: str | dt.datetime) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"{value!r} is not a moment in ISO 8601, e.g. '2018-07-01'.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
