"""Where scenes come from: public STAC APIs by name or URL, and items on disk."""

from deepforest_xr.catalogs.files import read_items, write_items
from deepforest_xr.catalogs.providers import PROVIDERS, Provider, asset_for, sign
from deepforest_xr.catalogs.search import search

__all__ = ["PROVIDERS", "Provider", "asset_for", "read_items", "search", "sign", "write_items"]
