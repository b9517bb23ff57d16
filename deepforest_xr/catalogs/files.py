"""Items on disk: JSON, a folder of JSON, stac-geoparquet; hrefs made absolute on reading.

A table cannot hold all that JSON can: stac-geoparquet cuts times to milliseconds, makes
every polygon a multipolygon where items differ, and writes null where one item lacks what
another has. `_pack` puts what would be lost into one property, `_unpack` brings it back, so
that a frozen search is the live one.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deepforest_xr.atomic import staged
from deepforest_xr.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pystac


# What pystac raises on documents that only look like STAC, beside its own errors.
NOT_STAC = (AttributeError, KeyError, TypeError, ValueError)

EXACT = "deepforest:exact"
"""Property of a frozen item: what its table cannot hold, as JSON text."""

TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
TRUNCATION = timedelta(milliseconds=1)


def read_items(path: str | Path) -> pystac.ItemCollection:
    """Read items from a JSON file, a folder of them, or a stac-geoparquet file.

    Parameters
    ----------
    path : path
        An Item, an ItemCollection (or a bare list), a folder searched for such files
        at any depth, or ``*.parquet``. Relative asset links are resolved against the
        file they stand in.

    Raises
    ------
    CatalogError
        If nothing is there, or it is not STAC.
    """
    import pystac

    path = Path(path)
    if not path.exists():
        raise CatalogError(
            f"no items at {str(path)!r}: expected a STAC JSON file, a folder of them, a .parquet "
            "file, a STAC API's URL or a provider's name."
        )
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    items: list[pystac.Item] = []
    for file in files:
        try:
            items += [pystac.Item.from_dict(d) for d in _absolute(_features(file), file.parent)]
        except (*NOT_STAC, pystac.STACError, pystac.STACTypeError) as error:
            raise CatalogError(f"{str(file)!r} is not a STAC item: {_line(error)}.") from error
    if not items:
        raise CatalogError(f"no STAC item in {str(path)!r}.")
    return pystac.ItemCollection(items, clone_items=False)


def write_items(items: Iterable[pystac.Item], path: str | Path) -> Path:
    """Freeze items as an ItemCollection (``.json``) or stac-geoparquet (``.parquet``).

    Parameters
    ----------
    items : iterable of pystac.Item
        Of any collections.
    path : path
        ``*.json``, or ``*.parquet``, where a property has one type in all items.

    Returns
    -------
    Path
        Where it stands. Written beside it first, so that it is whole or not there.

    Raises
    ------
    CatalogError
        If the path ends otherwise.
    WriteError
        If it cannot be written, as when a property is a number here and a text there.

    References
    ----------
    stac-geoparquet 1.1.0, github.com/stac-utils/stac-geoparquet.
    """
    path = Path(path)
    if path.suffix not in {".json", ".parquet"}:
        raise CatalogError(f"{str(path)!r}: items are written as .json or .parquet.")
    # transform_hrefs would fetch the root catalog of every link from its API.
    features = [item.to_dict(include_self_link=False, transform_hrefs=False) for item in items]
    with staged(path, overwrite=True) as part:
        if path.suffix == ".parquet":
            _write_table(features, part)
        else:
            collection = {"type": "FeatureCollection", "features": features}
            part.write_text(json.dumps(collection), encoding="utf-8")
    return path


def _write_table(features: list[dict[str, Any]], path: Path) -> None:
    import rustac

    bare = [f["id"] for f in features if not f["assets"]]
    if bare and len(bare) < len(features):
        # rustac 0.9 writes null for them, and then cannot read its own file.
        raise ValueError(f"item {bare[0]!r} has no assets, others have: leave it out")
    try:
        rustac.write_sync(str(path), [_pack(f) for f in features])
    except rustac.RustacError as error:
        raise ValueError(f"{_line(error)} (a .json file holds any items)") from error


def _features(file: Path) -> list[dict[str, Any]]:
    """Item documents of one file; a JSON file that is something else has none."""
    if file.suffix == ".parquet":
        import rustac

        try:
            features = [_unpack(f) for f in rustac.read_sync(str(file))["features"]]
        except Exception as error:
            raise CatalogError(f"{str(file)!r} is not stac-geoparquet: {_line(error)}.") from error
        return features
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CatalogError(f"{str(file)!r} cannot be read as JSON: {_line(error)}.") from error
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        return []
    if content.get("type") == "FeatureCollection":
        return list(content["features"])
    return [content] if content.get("type") == "Feature" else []


def _pack(feature: dict[str, Any]) -> dict[str, Any]:
    """Add to an item what a table would lose: its times and its kind of geometry."""
    properties = feature["properties"]
    exact = {k: v for k, v in properties.items() if isinstance(v, str) and TIME.fullmatch(v)}
    kind = (feature.get("geometry") or {}).get("type")
    text = json.dumps({"times": exact, "geometry": kind})
    return {**feature, "properties": {**properties, EXACT: text}}


def _unpack(feature: dict[str, Any]) -> dict[str, Any]:
    """Undo what the table did to an item; a value changed in the table since stays changed."""
    properties = _without_nulls(feature["properties"])
    exact = json.loads(properties.pop(EXACT, "{}"))
    for name, time in exact.get("times", {}).items():
        if _is_cut(properties.get(name), time):
            properties[name] = time
    found = {**feature, "properties": properties, "assets": _without_nulls(feature["assets"])}
    if feature.get("bbox") is not None:
        found["bbox"] = list(feature["bbox"])
    shape = feature.get("geometry")
    if shape and exact.get("geometry") == "Polygon" and shape["type"] == "MultiPolygon":
        found["geometry"] = {"type": "Polygon", "coordinates": shape["coordinates"][0]}
    return found


def _is_cut(stored: Any, exact: str) -> bool:
    """Tell whether a stored time is the exact one cut to milliseconds."""
    try:
        difference = datetime.fromisoformat(exact) - datetime.fromisoformat(str(stored))
    except (TypeError, ValueError):  # not times, or one with a zone and one without
        return False
    return abs(difference) < TRUNCATION


def _without_nulls(value: Any) -> Any:
    """Drop the nulls a table writes where an item lacks a field."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def _absolute(features: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    for feature in features:
        for asset in feature["assets"].values():
            href = asset["href"]
            if not urlsplit(href).scheme and not href.startswith("/"):
                asset["href"] = str((folder / href).resolve())
        # Links of a local file lead to files that need not be there.
        yield {**feature, "links": []}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
