"""Earth Search v1 of Element 84: public COGs on AWS, assets by common names.

Its ``sentinel-2-l2a`` has the offset removed from the pixels of most scenes *and still*
declares -0.1: its flag wins there. ``sentinel-2-c1-l2a`` leaves the pixels as they are
and declares what holds. Its radar is in radar geometry and uncalibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deepforest_xr.catalogs.catalog import Catalog
from deepforest_xr.sentinel import s2

if TYPE_CHECKING:
    import pystac

FLAG = "earthsearch:boa_offset_applied"
BUCKETS = ("sentinel-cogs", "e84-earth-search-sentinel-data", "sentinel-s1-l1c")


@dataclass(frozen=True, kw_only=True)
class EarthSearch(Catalog):
    """https://earth-search.aws.element84.com."""

    name: str = "earth-search"
    url: str | None = "https://earth-search.aws.element84.com/v1"
    collections: tuple[str, ...] = ("sentinel-2-l2a",)
    more: tuple[str, ...] = ("sentinel-2-c1-l2a", "sentinel-1-grd")

    def owns(self, item: pystac.Item) -> bool:
        """By its own properties, which copies keep, or its buckets."""
        hosts = {urlsplit(a.href).netloc.partition(".")[0] for a in item.assets.values()}
        return any(k.startswith("earthsearch:") for k in item.properties) or bool(
            hosts.intersection(BUCKETS)
        )

    def offset(self, item: pystac.Item, band: str) -> s2.Offset:
        """Decide as any catalog, but in ``sentinel-2-l2a`` its flag wins.

        References
        ----------
        Issues 66 and 71 of github.com/Element84/earth-search: the flag itself has been
        wrong in the live catalog; an item does not show that.
        """
        if item.properties.get(FLAG) is True and item.collection_id in {"sentinel-2-l2a", None}:
            return s2.Offset(0, FLAG)
        return super().offset(item, band)
