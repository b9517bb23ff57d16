"""Copernicus Data Space Ecosystem: ESA's own JPEG 2000 files in S3, for registered users.

Bands stand at several pixel sizes (``B02_10m``, ``B02_20m``); items follow STAC 1.1 with
raster extension v2 and say ``processing:version`` where others say
``s2:processing_baseline``. Files are ESA's, unchanged: baseline and declaration must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deepforest_xr.catalogs.catalog import Catalog, Link

if TYPE_CHECKING:
    import pystac

    from deepforest_xr.sentinel import s2

BUCKET = "s3://eodata/"
# Keys come from the user's environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
S3_OPTIONS = {
    "AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu",
    "AWS_VIRTUAL_HOSTING": "FALSE",
}


@dataclass(frozen=True, kw_only=True)
class Copernicus(Catalog):
    """https://dataspace.copernicus.eu."""

    name: str = "copernicus"
    url: str | None = "https://stac.dataspace.copernicus.eu/v1"
    collections: tuple[str, ...] = ("sentinel-2-l2a",)
    more: tuple[str, ...] = ("sentinel-1-grd",)

    def owns(self, item: pystac.Item) -> bool:
        """By its bucket or hosts, or by the storage its properties name, which copies keep."""
        links = [a.href for a in item.assets.values()]
        return (
            any(self.signs(link) for link in links)
            or any(urlsplit(link).netloc.endswith("dataspace.copernicus.eu") for link in links)
            or "cdse-s3" in (item.properties.get("storage:schemes") or {})
        )

    def offset(self, item: pystac.Item, band: str) -> s2.Offset:
        """Decide by the baseline, with which the declaration must agree."""
        return self.agreed_offset(item, band)

    def signs(self, href: str) -> bool:
        """Its bucket, however it is spelled."""
        return href[: len(BUCKET)].lower() == BUCKET

    def sign(self, href: str) -> Link:
        """Leave the link and say where the bucket is; keys come from the environment.

        References
        ----------
        https://documentation.dataspace.copernicus.eu/APIs/S3.html
        """
        return Link(href, options=dict(S3_OPTIONS))
