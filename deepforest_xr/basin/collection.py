"""The STAC collection of a map, and what its items have in common.

    stac/collection.json     extent, classes, software, model, and the results as assets
    stac/items/<id>.json     one a GeoTIFF
    stac/model/item.json     the model's own item (MLM), copied from its checkpoint

Links are relative, so that the folder of results can be moved as one.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin import template
from deepforest_xr.basin.results import multihash
from deepforest_xr.errors import ConfigError
from deepforest_xr.legend import NODATA
from deepforest_xr.maps.stac import EXTENSIONS, MEDIA_TYPES, classification_classes, is_simulated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deepforest_xr.basin.card import Plan
    from deepforest_xr.basin.pixels import Described
    from deepforest_xr.basin.results import Results
    from deepforest_xr.basin.verify import Verified

COLLECTION = "stac/collection.json"
MODEL_ITEM = "stac/model/item.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
VERSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"
OTHER_TYPES = {".csv": "text/csv", ".html": "text/html", ".vrt": "application/xml"}


@dataclass(frozen=True, slots=True)
class Catalogued:
    """What collection and items say alike."""

    plan: Plan
    """The basin."""

    described: Described
    """What the map says of itself."""

    period: tuple[str, str]
    """First and last moment of the scenes, ISO 8601."""

    software: Mapping[str, str]
    """Versions that made the tiles, by package."""

    model: Mapping[str, Any] | None
    """The model's item; None where its folder is not in reach."""

    license: str
    """SPDX expression, or ``other``."""

    @property
    def id(self) -> str:
        """Of the collection."""
        return f"land-cover-{self.plan.run_id[:12]}"


def catalogue(
    plan: Plan, described: Described, verified: Verified, license_name: str
) -> Catalogued:
    """Gather what collection and items say alike.

    Parameters
    ----------
    plan : Plan
        The basin.
    described : Described
        What the map says of itself.
    verified : Verified
        Its tiles.
    license_name : str
        SPDX expression, or ``other``.
    """
    software: dict[str, set[str]] = {}
    for record in verified.records.values():
        for name, version in record["versions"].items():
            software.setdefault(name, set()).add(version)
    return Catalogued(
        plan,
        described,
        _period(plan, described),
        {name: ", ".join(sorted(found)) for name, found in sorted(software.items())},
        _model_item(plan),
        license_name,
    )


def finish_item(
    path: Path, catalogued: Catalogued, properties: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete an item of `write_stac_item` with checksums, software, links.

    Parameters
    ----------
    path : Path
        The item; its files are where it says.
    catalogued : Catalogued
        What items have in common.
    properties : mapping
        More properties.
    """
    item: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    item["stac_extensions"] += [PROCESSING, VERSION]
    item["properties"] |= {**_processing(catalogued), **properties}
    for asset in item["assets"].values():
        asset["file:checksum"] = multihash((path.parent / asset["href"]).read_bytes())
    item["collection"] = catalogued.id
    up = {"href": "../collection.json", "type": "application/json"}
    item["links"] = [{"rel": rel, **up} for rel in ("root", "parent", "collection")]
    item["links"] += _model_links(catalogued, "../model/item.json")
    return item


def write_collection(
    results: Results,
    catalogued: Catalogued,
    items: Sequence[Mapping[str, Any]],
    files: Mapping[str, str],
) -> list[str]:
    """Write the collection, and the model's item beside it.

    Parameters
    ----------
    results : Results
        Where they go.
    catalogued : Catalogued
        What is said.
    items : sequence of STAC items
        As they were put.
    files : mapping of name to title
        Other results to link to as assets.

    Returns
    -------
    list of str
        Names of what was written.
    """
    written = [COLLECTION]
    if catalogued.model is not None:
        results.put_json(MODEL_ITEM, catalogued.model)
        written.append(MODEL_ITEM)
    results.put_json(COLLECTION, _collection(results, catalogued, items, files))
    return written


def _collection(
    results: Results,
    catalogued: Catalogued,
    items: Sequence[Mapping[str, Any]],
    files: Mapping[str, str],
) -> dict[str, Any]:
    plan, legend = catalogued.plan, catalogued.described.legend
    classes = classification_classes(legend)
    simulated = is_simulated(catalogued.described.attrs)
    grid, authority = plan.tiling.grid, plan.tiling.grid.crs.to_authority()
    summaries: dict[str, Any] = {"classification:classes": classes}
    if grid.crs.is_projected:
        unit = grid.crs.axis_info[0].unit_conversion_factor
        summaries["gsd"] = [max(grid.resolution) * unit]
    if authority:
        summaries["proj:code"] = [":".join(authority)]
    up = {"href": "./collection.json", "type": "application/json"}
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [*EXTENSIONS, PROCESSING, VERSION],
        "id": catalogued.id,
        "title": f"Land use and land cover, {_years(catalogued.period)}",
        "description": (
            f"Land use and land cover, legend {legend.name}, mapped with {plan.model.name} at "
            f"{grid.describe()}.{' Made from simulated scenes.' if simulated else ''}"
        ),
        "keywords": ["land cover", "land use", "Sentinel-1", "Sentinel-2"],
        "license": catalogued.license,
        "extent": {
            "spatial": {"bbox": [_bbox(plan, items)]},
            "temporal": {"interval": [list(catalogued.period)]},
        },
        "summaries": summaries,
        "item_assets": _item_assets(classes) if items else {},
        "version": _processing(catalogued)["version"],
        "deepforest:run_id": plan.run_id,
        "deepforest:model_sha256": plan.model.sha256,
        "links": [
            {"rel": "root", **up},
            *_model_links(catalogued, "./model/item.json"),
            *(
                {"rel": "item", "href": f"./items/{i['id']}.json", "type": "application/geo+json"}
                for i in items
            ),
        ],
        "assets": {"map": _map_asset(results, catalogued, classes), **_assets(results, files)},
    }


def _processing(catalogued: Catalogued) -> dict[str, Any]:
    plan = catalogued.plan
    return {
        "version": plan.run_id[:12],
        "processing:lineage": (
            f"Scenes of Sentinel-1 and Sentinel-2 classified with {plan.model.name} "
            f"(sha256 {plan.model.sha256}) in run {plan.run_id}."
        ),
        "processing:software": dict(catalogued.software),
    }


def _item_assets(classes: list[dict[str, Any]]) -> dict[str, Any]:
    common = {
        "type": MEDIA_TYPES[".tif"],
        "roles": ["data"],
        "data_type": "uint8",
        "nodata": NODATA,
    }
    return {
        "lulc": {"title": "Classes", **common, "classification:classes": classes},
        "confidence": {"title": "Confidence", **common, "unit": "%"},
    }


def _map_asset(
    results: Results, catalogued: Catalogued, classes: list[dict[str, Any]]
) -> dict[str, Any]:
    plan = catalogued.plan
    is_below = results.objects.url == plan.url and results.prefix
    processing = _processing(catalogued)
    del processing["version"]
    return {
        "href": f"../../{template.STORE}" if is_below else f"{plan.url}/{template.STORE}",
        "title": "The whole map, and overviews of it",
        "type": MEDIA_TYPES[".zarr"],
        "roles": ["data"],
        "data_type": "uint8",
        "nodata": NODATA,
        "raster:spatial_resolution": max(plan.tiling.grid.resolution),
        "classification:classes": classes,
        **processing,
    }


def _assets(results: Results, files: Mapping[str, str]) -> dict[str, Any]:
    """Describe files that are put already."""
    assets: dict[str, Any] = {}
    for name, title in files.items():
        content, suffix = results.get(name) or b"", Path(name).suffix
        assets[name] = {
            "href": f"../{name}",
            "title": title,
            "type": (MEDIA_TYPES | OTHER_TYPES)[suffix],
            "roles": ["overview" if suffix in {".png", ".html"} else "metadata"],
            "file:size": len(content),
            "file:checksum": multihash(content),
        }
    return assets


def _bbox(plan: Plan, items: Sequence[Mapping[str, Any]]) -> list[float]:
    """Around all items, or all tiles where there is none, in degrees."""
    boxes = [item["bbox"] for item in items]
    boxes = boxes or [plan.tiling.outline(tile).bounds for tile in plan.tiles]
    west, south, east, north = zip(*boxes, strict=True)
    return [round(float(v), 7) for v in (min(west), min(south), max(east), max(north))]


def _model_links(catalogued: Catalogued, href: str) -> list[dict[str, str]]:
    if catalogued.model is None:
        return []
    title = f"Model {catalogued.plan.model.name}"
    kind = "application/geo+json"
    return [{"rel": "derived_from", "href": href, "type": kind, "title": title}]


def _model_item(plan: Plan) -> dict[str, Any] | None:
    """Read the model's item, its files named by where the checkpoint is."""
    folder = Path(plan.model.path)
    try:
        item: dict[str, Any] = json.loads((folder / "item.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for asset in item.get("assets", {}).values():
        if "://" not in asset["href"]:
            asset["href"] = str(folder / asset["href"])
    return item


def _period(plan: Plan, described: Described) -> tuple[str, str]:
    """First and last moment: what was asked for, where it was not two days what was found."""
    year = plan.config.year
    asked = f"{year}-01-01/{year}-12-31" if year is not None else plan.config.datetime
    for text in (asked, described.attrs.get("s2_period")):
        try:
            first, last = (dt.date.fromisoformat(day[:10]) for day in str(text).split("/"))
        except ValueError:
            continue
        return f"{first}T00:00:00Z", f"{last}T23:59:59Z"
    raise ConfigError(
        f"datetime={plan.config.datetime!r} is not a period of two days, and the map states none."
    )


def _years(period: tuple[str, str]) -> str:
    first, last = (moment[:4] for moment in period)
    return first if first == last else f"{first} to {last}"
