"""The STAC APIs known by name, how their assets are called, and how their links are signed.

A new provider is one entry in `PROVIDERS`; new asset names go into `ASSET_NAMES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pystac


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A public STAC API."""

    name: str
    """What users call it."""

    url: str
    """Landing page of the API."""

    collections: tuple[str, ...]
    """Sentinel collections this library reads from it, Sentinel-2 first."""


PROVIDERS = {
    p.name: p
    for p in (
        Provider(
            name="planetary-computer",
            url="https://planetarycomputer.microsoft.com/api/stac/v1",
            collections=("sentinel-2-l2a", "sentinel-1-rtc"),
        ),
        # No terrain-corrected Sentinel-1 here: its sentinel-1-grd is in radar geometry.
        Provider(
            name="earth-search",
            url="https://earth-search.aws.element84.com/v1",
            collections=("sentinel-2-l2a",),
        ),
    )
}

# Our band name: the keys it goes by, Planetary Computer's (and ESA's) first, Earth Search's second.
ASSET_NAMES: dict[str, tuple[str, ...]] = {
    "B01": ("B01", "coastal"),
    "B02": ("B02", "blue"),
    "B03": ("B03", "green"),
    "B04": ("B04", "red"),
    "B05": ("B05", "rededge1"),
    "B06": ("B06", "rededge2"),
    "B07": ("B07", "rededge3"),
    "B08": ("B08", "nir"),
    "B8A": ("B8A", "nir08"),
    "B09": ("B09", "nir09"),
    "B11": ("B11", "swir16"),
    "B12": ("B12", "swir22"),
    "SCL": ("SCL", "scl"),
    "vv": ("vv", "VV"),
    "vh": ("vh", "VH"),
}


def asset_for(item: pystac.Item, band: str) -> pystac.Asset | None:
    """Find the asset that holds `band`, whatever the provider calls it."""
    for key in ASSET_NAMES.get(band, (band,)):
        if key in item.assets:
            return item.assets[key]
    return None


def sign(href: str) -> str:
    """Add a token where the host asks for one; called when a file is opened.

    Planetary Computer's tokens live about 45 minutes, a graph holds links for hours,
    so links are kept unsigned and signed at reading. Its package caches the tokens.
    """
    if urlsplit(href).netloc.endswith(".blob.core.windows.net"):
        import planetary_computer

        return str(planetary_computer.sign(href))
    return href
