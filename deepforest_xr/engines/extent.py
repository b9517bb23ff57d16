"""When and where an item is: moments, boxes, and which items meet a grid."""

from __future__ import annotations

import math
from datetime import UTC
from typing import TYPE_CHECKING, Any

from affine import Affine

from deepforest_xr.catalogs import asset_for
from deepforest_xr.errors import CatalogError, NoItemsError
from deepforest_xr.grid import transform_bounds

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
    box = grid.bbox_lonlat
    kept: dict[tuple[str | None, str], pystac.Item] = {}
    for item in items:
        if item.bbox is None or meet(flat(item.bbox), box):
            kept.setdefault((item.collection_id, item.id), item)  # once, however often listed
    return sorted(kept.values(), key=lambda i: (moment(i), i.id))


def reaching(items: Sequence[pystac.Item], bands: Sequence[str], grid: Grid) -> list[pystac.Item]:
    """Items of which an asset's raster meets the grid; boxes in degrees are larger than rasters."""
    return [
        item
        for item in items
        if any(
            box_on(item, asset, grid) is not None
            for asset in (asset_for(item, band) for band in bands)
            if asset is not None
        )
    ]


def box_on(item: pystac.Item, asset: pystac.Asset, grid: Grid) -> Bounds | None:
    """Box of an asset in the grid's CRS, None where it has no area in common with the grid.

    Where the box cannot be told there, as across the antimeridian, it is the grid's own.
    """
    bounds, crs = asset_extent(item, asset)
    box = transform_bounds(bounds, crs, grid.crs)
    if not all(map(math.isfinite, box)) or box[0] > box[2]:
        return grid.bounds
    left, bottom, right, top = grid.bounds
    # A raster that only touches the grid, as one on the same lattice does, has no pixel there.
    shares = box[0] < right and box[2] > left and box[1] < top and box[3] > bottom
    return box if shares else None


def meet(one: Bounds, other: Bounds) -> bool:
    """Tell whether two boxes meet; one whose west lies east of its east is anywhere along x."""
    (w, s, e, n), (west, south, east, north) = one, other
    across = w > e or west > east
    return (across or (w <= east and e >= west)) and s <= north and n >= south


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
        x, y = zip(
            *(transform @ at for at in ((0, 0), (cols, 0), (0, rows), (cols, rows))), strict=True
        )
        return (min(x), min(y), max(x), max(y)), code
    if code and fields.get("proj:bbox"):
        return flat(fields["proj:bbox"]), code
    if item.bbox is None:
        raise CatalogError(f"scene {item.id!r} has neither proj:bbox nor bbox.")
    return flat(item.bbox), "EPSG:4326"


def flat(bbox: Sequence[float]) -> Bounds:
    """West, south, east, north of a box that may have heights between them."""
    half = len(bbox) // 2
    return bbox[0], bbox[1], bbox[half], bbox[half + 1]
