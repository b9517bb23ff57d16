"""The catalogs known by name, and which of them an item or a link belongs to.

A new catalog is one file beside this one and one line in `CATALOGS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepforest_xr.catalogs.catalog import Catalog, Link
from deepforest_xr.catalogs.copernicus import Copernicus
from deepforest_xr.catalogs.earth_search import EarthSearch
from deepforest_xr.catalogs.planetary_computer import PlanetaryComputer
from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    import pystac

ANY = Catalog(name="any", collections=("sentinel-2-l2a", "sentinel-1-rtc"))
"""Rules for every API given by URL and for items on disk."""

CATALOGS: dict[str, Catalog] = {
    c.name: c for c in (PlanetaryComputer(), EarthSearch(), Copernicus(), ANY)
}
"""Asked in this order whose an item is; the last owns every item."""


def register(catalog: Catalog) -> None:
    """Make a catalog known, ahead of the rules for any.

    Parameters
    ----------
    catalog : Catalog
        With a name of its own.

    Raises
    ------
    ConfigError
        If its name is taken.
    """
    if catalog.name in CATALOGS:
        raise ConfigError(
            f"a catalog called {catalog.name!r} is registered; names are: {', '.join(CATALOGS)}."
        )
    last = CATALOGS.pop(ANY.name)
    CATALOGS.update({catalog.name: catalog, last.name: last})


def catalog_of(item: pystac.Item) -> Catalog:
    """Find the catalog whose ways an item follows, by what the item itself says."""
    return next((c for c in CATALOGS.values() if c.owns(item)), ANY)


def asset_for(item: pystac.Item, band: str) -> pystac.Asset | None:
    """Find the asset that holds `band`, whatever its catalog calls it; None if there is none."""
    return catalog_of(item).asset(item, band)


def quantity(item: pystac.Item) -> str:
    """Name what a Sentinel-1 scene measures: gamma0, or sigma0, not terrain-corrected.

    Raises
    ------
    CatalogError
        If it is uncalibrated, in decibels or no Sentinel-1 scene.
    """
    return catalog_of(item).quantity(item)


def link(href: str) -> Link:
    """Make a link GDAL can open; called when a file is opened.

    A graph holds links for hours, tokens live about 45 minutes: so links are kept
    unsigned and signed at reading.

    Parameters
    ----------
    href : str
        Unsigned link or path; where no catalog signs its host it stays as it is.
    """
    return next((c.sign(href) for c in CATALOGS.values() if c.signs(href)), Link(href))


def sign(href: str) -> str:
    """Add a token where the host asks for one; `link` also says until when it holds."""
    return link(href).href
