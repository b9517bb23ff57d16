"""Microsoft Planetary Computer: ESA's names and numbers, links that need a token.

Its Sentinel-2 is never corrected for the offset and declares none: the baseline decides.
Its sentinel-1-rtc is the only terrain-corrected radar among the public catalogs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from deepforest_xr.catalogs.catalog import Catalog, Link

if TYPE_CHECKING:
    import pystac

    from deepforest_xr.sentinel import s2

STORAGE = ".blob.core.windows.net"
# Storage accounts of its Sentinel collections; other accounts are other people's.
ACCOUNTS = ("sentinel2l2a", "sentinel1euwest")


@dataclass(frozen=True, kw_only=True)
class PlanetaryComputer(Catalog):
    """https://planetarycomputer.microsoft.com."""

    name: str = "planetary-computer"
    url: str | None = "https://planetarycomputer.microsoft.com/api/stac/v1"
    collections: tuple[str, ...] = ("sentinel-2-l2a", "sentinel-1-rtc")
    more: tuple[str, ...] = ("sentinel-1-grd",)

    def owns(self, item: pystac.Item) -> bool:
        """By its storage accounts, or a preview it serves."""
        hosts = {urlsplit(a.href).netloc for a in item.assets.values()}
        return "planetarycomputer.microsoft.com" in hosts or any(
            host.endswith(STORAGE) and host.startswith(ACCOUNTS) for host in hosts
        )

    def offset(self, item: pystac.Item, band: str) -> s2.Offset:
        """Decide by the baseline: the numbers are ESA's own."""
        return self.agreed_offset(item, band)

    def signs(self, href: str) -> bool:
        """Azure Blob Storage."""
        return urlsplit(href).netloc.endswith(STORAGE)

    def sign(self, href: str) -> Link:
        """Add a token; its package caches the tokens, one for all files of a container.

        Raises
        ------
        OSError
            If the token service does not answer.

        References
        ----------
        https://planetarycomputer.microsoft.com/docs/concepts/sas/
        """
        import planetary_computer

        signed = str(planetary_computer.sign(href))
        return Link(signed, expires=_expiry(signed))


def _expiry(signed: str) -> float:
    """Read the end of a token (``se=2026-01-02T03:04:05Z``, UTC), 0 where it states none."""
    (end, *_) = parse_qs(urlsplit(signed).query).get("se", [""])
    try:
        moment = datetime.fromisoformat(end)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
