"""Where scenes come from: public STAC APIs by name or URL, and items on disk."""

from deepforest_xr.catalogs.catalog import NATIVE_M, Catalog, Link
from deepforest_xr.catalogs.files import read_items, write_items
from deepforest_xr.catalogs.registry import (
    CATALOGS,
    asset_for,
    catalog_of,
    link,
    quantity,
    register,
    sign,
)
from deepforest_xr.catalogs.search import search
from deepforest_xr.catalogs.unique import deduplicate

__all__ = [
    "CATALOGS",
    "NATIVE_M",
    "Catalog",
    "Link",
    "asset_for",
    "catalog_of",
    "deduplicate",
    "link",
    "quantity",
    "read_items",
    "register",
    "search",
    "sign",
    "write_items",
]
