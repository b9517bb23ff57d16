"""One catalog: which assets hold a band, and what their numbers mean.

The base class has the rules that hold for any STAC catalog; an adapter beside it
(`planetary_computer`, `earth_search`, `copernicus`) overrides where its catalog differs.
Everything is decided from the item itself, so that a frozen search or a local copy is
understood without knowing where it came from. Nothing here opens a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepforest_xr.catalogs.metadata import baseline, declared, number, product
from deepforest_xr.errors import CatalogError, MissingAssetError, UnknownOffsetError
from deepforest_xr.sentinel import s1, s2

if TYPE_CHECKING:
    import pystac

COMMON_NAMES = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
    "SCL": "scl",
}
"""Our (and ESA's) name of a band: the name Earth Search and stactools give its asset."""

NATIVE_M = dict.fromkeys(COMMON_NAMES, 20) | {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B01", "B09"), 60),
}
"""Pixel size in metres a band was measured at; ``B02_20m`` is a resampled copy of ``B02_10m``."""

SCALE = 1 / s2.QUANTIFICATION
CLASSES = "SCL"
TOLERANCE = 1e-6  # of offsets and scales, which files write with four digits


@dataclass(frozen=True, slots=True)
class Link:
    """A link as GDAL opens it; made when a file is opened, for tokens live about 45 minutes."""

    href: str
    """With a token where the host asks for one."""

    expires: float | None = None
    """When the token ends, seconds since 1970 UTC; None where there is none, 0 where it does
    not say: then sign anew at every opening."""

    options: dict[str, str] = field(default_factory=dict)
    """GDAL configuration this host needs; never credentials."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """A STAC catalog and its ways; as it stands, the rules for any of them."""

    name: str
    """What users call it."""

    url: str | None = None
    """Landing page of its API, None for items on disk and APIs given by URL."""

    collections: tuple[str, ...]
    """Collections searched by default, Sentinel-2 first."""

    more: tuple[str, ...] = ()
    """Collections searched only when named."""

    def owns(self, item: pystac.Item) -> bool:  # noqa: ARG002
        """Tell whether an item is this catalog's, by its own properties and links."""
        return True

    def asset(self, item: pystac.Item, band: str) -> pystac.Asset | None:
        """Find the asset that holds a band at the pixel size it was measured at.

        Parameters
        ----------
        item : pystac.Item
            Any scene.
        band : str
            ``"B02"``, ``"SCL"``, ``"vv"`` ...

        Returns
        -------
        pystac.Asset or None
            None where the scene lacks it, or has it resampled only.
        """
        keys = [band]
        if band in COMMON_NAMES:
            keys += [COMMON_NAMES[band], f"{band}_{NATIVE_M[band]}m"]
        elif band in s1.POLARIZATIONS:
            keys += [band.upper()]
        return next((item.assets[key] for key in keys if key in item.assets), None)

    def offset(self, item: pystac.Item, band: str) -> s2.Offset:
        """Decide what to add to a band's digital numbers; never from the scene's date.

        The band's own declaration wins over the processing baseline: a copy may have had
        the offset removed. Classes (SCL) have none.

        Parameters
        ----------
        item : pystac.Item
            Sentinel-2 L2A.
        band : str
            ``"B02"``, ``"SCL"`` ...

        Raises
        ------
        UnknownOffsetError
            If neither an offset nor the baseline is stated, or it is none of ESA's.

        References
        ----------
        ESA, Sentinel-2 Products Specification Document, ``BOA_ADD_OFFSET``.
        """
        self._require_s2(item)
        if band == CLASSES:
            return s2.Offset(0, "classes carry no offset")
        stated = self.declared_offset(item, band)
        if stated is not None:
            return stated
        return s2.baseline_offset(baseline(item), scene=item.id)

    def scale(self, item: pystac.Item, band: str) -> float:
        """Factor from digital numbers to reflectance or power: 1e-4, 1 for radar and classes.

        Raises
        ------
        CatalogError
            If the band declares another.
        """
        expected = SCALE if product(item) == "S2 L2A" and band != CLASSES else 1.0
        stated = declared(self.asset(item, band)).get("scale", expected)
        value = number(stated)
        if value is None or not math.isclose(value, expected, rel_tol=TOLERANCE):
            raise CatalogError(
                f"scene {item.id!r} declares scale {stated!r} for {band}, expected {expected:g}: "
                "its numbers are not those of the product. Leave it out, or convert it."
            )
        return expected

    def nodata(self, item: pystac.Item, band: str) -> float:
        """Value of missing pixels: declared, else 0, -32768 for radar in power.

        Raises
        ------
        CatalogError
            If what is declared is no number.
        """
        stated = declared(self.asset(item, band)).get("nodata")
        if stated is None:
            return s1.NODATA if self.is_power(item) else float(s2.NODATA)
        value = number(stated)
        if value is None:
            raise CatalogError(
                f"scene {item.id!r} declares nodata {stated!r} for {band}, expected a number."
            )
        return value

    def level(self, item: pystac.Item) -> str:
        """What a scene's numbers are, in words."""
        kind = product(item)
        if kind == "S2 L2A":
            return "L2A surface reflectance"
        if kind == "S1 RTC":
            return "RTC gamma0, linear power, terrain-corrected"
        if kind == "S1 GRD" and self.is_power(item):
            return "GRD sigma0, linear power, not terrain-corrected"
        if kind == "S1 GRD":
            return "GRD, not terrain-corrected: digital numbers in radar geometry"
        return "not a Sentinel-1 or Sentinel-2 product"

    def is_power(self, item: pystac.Item) -> bool:
        """Tell whether radar is linear power: RTC is; a GRD only where it declares floats."""
        kind = product(item)
        radar = (declared(self.asset(item, band)) for band in s1.POLARIZATIONS)
        floats = any(str(d.get("data_type")) in {"float32", "float64"} for d in radar)
        return kind == "S1 RTC" or (kind == "S1 GRD" and floats)

    def quantity(self, item: pystac.Item) -> str:
        """Name what a Sentinel-1 scene measures; gamma0 and sigma0 do not mix.

        Returns
        -------
        str
            ``"gamma0"``, or ``"sigma0, not terrain-corrected"`` of a calibrated GRD.

        Raises
        ------
        CatalogError
            If it is uncalibrated, in decibels or no Sentinel-1 scene.
        MissingAssetError
            If it has neither polarization.
        """
        kind = product(item)
        if kind not in {"S1 RTC", "S1 GRD"}:
            raise CatalogError(
                f"scene {item.id!r} of {item.collection_id} is no Sentinel-1 RTC or GRD."
            )
        assets = [a for a in (self.asset(item, b) for b in s1.POLARIZATIONS) if a is not None]
        if not assets:
            raise MissingAssetError(
                f"scene {item.id!r} lacks {' and '.join(s1.POLARIZATIONS)} (it has "
                f"{', '.join(sorted(item.assets))}): leave it out."
            )
        if not self.is_power(item):
            raise CatalogError(
                f"scene {item.id!r} of {item.collection_id} holds uncalibrated amplitudes in "
                "radar geometry: use sentinel-1-rtc (Planetary Computer), or a calibrated "
                "float32 copy."
            )
        if any(str(declared(a).get("unit", "")).lower() == "db" for a in assets):
            raise CatalogError(
                f"scene {item.id!r} is in decibels, expected linear power: convert it "
                "(10 ** (dB / 10)), for means of decibels are not means of power."
            )
        return "gamma0" if kind == "S1 RTC" else "sigma0, not terrain-corrected"

    def signs(self, href: str) -> bool:  # noqa: ARG002
        """Tell whether a link leads to a host of this catalog that needs `sign`."""
        return False

    def sign(self, href: str) -> Link:
        """Make a link GDAL can open, with a token and options where its host needs them."""
        return Link(href)

    def declared_offset(self, item: pystac.Item, band: str) -> s2.Offset | None:
        """Offset a band declares, in digital numbers; None where it declares none.

        Raises
        ------
        UnknownOffsetError
            If it is neither 0 nor -0.1.
        """
        stated = declared(self.asset(item, band)).get("offset")
        if stated is None:
            return None
        value = number(stated)
        for known in (0, s2.BOA_ADD_OFFSET):
            if value is not None and abs(value - known * SCALE) < TOLERANCE:
                return s2.Offset(known, "raster:bands offset")
        raise UnknownOffsetError(
            f"scene {item.id!r} declares offset {stated!r} for {band}, expected 0 or "
            f"{s2.BOA_ADD_OFFSET * SCALE:g} (reflectance): mend the item, or leave the scene out."
        )

    def agreed_offset(self, item: pystac.Item, band: str) -> s2.Offset:
        """`offset` for catalogs that hand on ESA's numbers unchanged: baseline and word agree.

        Raises
        ------
        UnknownOffsetError
            If they contradict each other, or both are missing.
        """
        by_word, version = Catalog.offset(self, item, band), baseline(item)
        if band == CLASSES or version is None:
            return by_word
        by_baseline = s2.baseline_offset(version, scene=item.id)
        if by_word.value != by_baseline.value:
            raise UnknownOffsetError(
                f"scene {item.id!r} declares an offset of {by_word.value} for {band}, but baseline "
                f"{version} has {by_baseline.value}: mend the item, or leave the scene out."
            )
        return by_baseline

    def _require_s2(self, item: pystac.Item) -> None:
        if product(item) != "S2 L2A":
            raise UnknownOffsetError(
                f"scene {item.id!r} of {item.collection_id} is no Sentinel-2 L2A: only that "
                "has an offset. Leave it out."
            )
