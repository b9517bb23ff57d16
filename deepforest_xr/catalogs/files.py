"""Items on disk: JSON, a folder of JSON, stac-geoparquet; hrefs made absolute on reading."""

from __future__ import annotations

import json
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

    Returns
    -------
    Path
        Where it stands. Written beside it first, so that it is whole or not there.
    """
    path = Path(path)
    if path.suffix not in {".json", ".parquet"}:
        raise CatalogError(f"{str(path)!r}: items are written as .json or .parquet.")
    # transform_hrefs would fetch the root catalog of every link from its API.
    features = [item.to_dict(include_self_link=False, transform_hrefs=False) for item in items]
    with staged(path, overwrite=True) as part:
        if path.suffix == ".parquet":
            import rustac

            rustac.write_sync(str(part), features)
        else:
            collection = {"type": "FeatureCollection", "features": features}
            part.write_text(json.dumps(collection), encoding="utf-8")
    return path


def _features(file: Path) -> list[dict[str, Any]]:
    """Item documents of one file; a JSON file that is something else has none."""
    if file.suffix == ".parquet":
        import rustac

        try:
            features: list[dict[str, Any]] = rustac.read_sync(str(file))["features"]
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
