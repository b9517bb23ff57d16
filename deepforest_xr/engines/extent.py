"""When and where an item is: moments, boxes, and which items meet a grid."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from affine import Affine

from deepforest_xr.errors import CatalogError, NoItemsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pystac

    from deepforest_xr.grid import Bounds, Grid


def moment(item: pystac.Item) -> str:
    """Time of an item in UTC, as text that sorts; interval items by their start.

    Raises
    ------
    CatalogError
        If it has none.
    """
    when = item.datetime or item.common_metadata.start_datetime
    if when is None:
        raise CatalogError(f"scene {item.id!r} has no datetime.")
    utc = when.astimezone(UTC) if when.tzinfo else when
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def overlapping(items: Sequence[pystac.Item], grid: Grid) -> list[pystac.Item]:
    """Items whose box meets the grid's, by time and id: two equal lists give equal cubes.

    Raises
    ------
    NoItemsError
        If there are no items at all.
    """
    if not items:
        raise NoItemsError("the list of items is empty: search again with other dates or area.")
    west, south, east, north = grid.bbox_lonlat
    kept = []
    for item in items:
        w, s, e, n = flat(item.bbox) if item.bbox else (-180.0, -90.0, 180.0, 90.0)
        # A box whose west lies east of its east crosses the antimeridian: keep it.
        across = w > e or west > east
        if (across or (w <= east and e >= west)) and s <= north and n >= south:
            kept.append(item)
    return sorted(kept, key=lambda i: (moment(i), i.id))


def asset_extent(item: pystac.Item, asset: pystac.Asset) -> tuple[Bounds, Any]:
    """Box of an asset and the CRS it is in, from the best of its metadata.

    Raises
    ------
    CatalogError
        If neither asset nor item has a box.
    """
    fields = {**item.properties, **asset.extra_fields}
    code = fields.get("proj:code") or fields.get("proj:epsg") or fields.get("proj:wkt2")
    if isinstance(code, int):
        code = f"EPSG:{code}"
    if code and fields.get("proj:transform") and fields.get("proj:shape"):
        transform = Affine(*fields["proj:transform"][:6])
        rows, cols = fields["proj:shape"]
        right, bottom = transform @ (cols, rows)
        return (transform.c, bottom, right, transform.f), code
    if code and fields.get("proj:bbox"):
        left, bottom, right, top = fields["proj:bbox"]
        return (left, bottom, right, top), code
    if item.bbox is None:
        raise CatalogError(f"scene {item.id!r} has neither proj:bbox nor bbox.")
    return flat(item.bbox), "EPSG:4326"


def flat(bbox: Sequence[float]) -> Bounds:
    """West, south, east, north of a box that may have heights between them."""
    half = len(bbox) // 2
    return bbox[0], bbox[1], bbox[half], bbox[half + 1]
