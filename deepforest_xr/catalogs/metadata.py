"""What a STAC item says of itself, in whichever spelling of the extensions.

Catalogs write the same facts differently: raster extension v1 (``raster:bands``) or v2
(``raster:offset`` at the asset or in ``bands``), ``s2:`` or ``eopf:`` properties, product
names with or without the baseline. Here they are read; `catalog` decides what they mean.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal

from deepforest_xr.errors import UnknownOffsetError

if TYPE_CHECKING:
    import pystac

Product = Literal["S2 L2A", "S1 RTC", "S1 GRD", ""]

PRODUCTS: dict[str, Product] = {
    "sentinel-2-l2a": "S2 L2A",
    "sentinel-2-c1-l2a": "S2 L2A",
    "sentinel-1-rtc": "S1 RTC",
    "sentinel-1-grd": "S1 GRD",
}
"""Products by collection id."""

FIELDS = ("offset", "scale", "nodata", "data_type", "unit")

# ESA's product name; Planetary Computer's ids leave the baseline (N0511) out.
S2_NAME = re.compile(
    r"(?P<platform>S2[A-Z])_MSIL2A_(?P<start>\d{8}T\d{6})_(?:N(?P<baseline>\d{4})_)?"
    r"R\d{3}_T(?P<tile>\d{2}[A-Z]{3})_(?P<made>\d{8}T\d{6})(?:\.SAFE)?"
)

# Sen2Cor run by a user names its products N9999, whether or not the input had the offset.
FIRST_PLACEHOLDER = 90.0


def product(item: pystac.Item) -> Product:
    """Tell which product an item is, "" for what is no Sentinel-1 or Sentinel-2 product.

    Parameters
    ----------
    item : pystac.Item
        Its collection decides; where that is another or none, ``s2:product_type`` and
        ``sar:product_type`` do. An RTC says "GRD" there and ``_rtc`` in its id.

    References
    ----------
    STAC extensions ``sentinel-2`` v1.0.0 and ``sar`` v1.0.0.
    """
    known = PRODUCTS.get(item.collection_id or "")
    if known is not None:
        return known
    properties = item.properties
    if "S2MSI2A" in {properties.get("s2:product_type"), properties.get("product:type")}:
        return "S2 L2A"
    radar = properties.get("sar:product_type")
    if radar == "RTC" or (radar == "GRD" and item.id.endswith("_rtc")):
        return "S1 RTC"
    return "S1 GRD" if radar == "GRD" else ""


def declared(asset: pystac.Asset | None) -> dict[str, Any]:
    """What is declared of an asset's pixels; a field nobody states is left out.

    Parameters
    ----------
    asset : pystac.Asset or None
        A single-band raster.

    Returns
    -------
    dict
        Any of ``offset``, ``scale``, ``nodata``, ``data_type``, ``unit``. A band's own
        word wins over its asset's.

    References
    ----------
    STAC raster extension v1.1.0 (``raster:bands``) and v2.0.0 (``raster:offset``, ``bands``).
    """
    if asset is None:
        return {}
    fields = asset.extra_fields
    old, new = _first(fields.get("raster:bands")), _first(fields.get("bands"))
    found = {}
    for name in FIELDS:
        stated = (
            old.get(name),
            new.get(f"raster:{name}"),
            new.get(name),
            fields.get(f"raster:{name}"),
            fields.get(name),
        )
        value = next((v for v in stated if not _absent(v, name)), None)
        if value is not None:
            found[name] = value
    return found


def baseline(item: pystac.Item) -> str | None:
    """Processing baseline of a Sentinel-2 scene as ``"05.11"``, None where not stated.

    Parameters
    ----------
    item : pystac.Item
        ``s2:processing_baseline`` or the product's name (``_N0511_``) must state it;
        ``processing:version`` alone is not enough, for it may be a copy's own.

    Raises
    ------
    UnknownOffsetError
        If two of them contradict each other.

    References
    ----------
    ESA, Sentinel-2 Products Specification Document, naming convention (``Nxxyy``).
    """
    stated = {
        "s2:processing_baseline": _version(item.properties.get("s2:processing_baseline")),
        "its product name": _named_baseline(item),
        "processing:version": _version(item.properties.get("processing:version")),
    }
    found = {source: value for source, value in stated.items() if value is not None}
    if set(found) <= {"processing:version"}:
        return None
    if len(set(found.values())) > 1:
        said = ", ".join(f"{source} says {value}" for source, value in found.items())
        raise UnknownOffsetError(
            f"scene {item.id!r} contradicts itself about its processing baseline: {said}. "
            "Mend the item, or leave the scene out."
        )
    return next(iter(found.values()))


def s2_names(item: pystac.Item) -> list[re.Match[str]]:
    """ESA's product names an item carries: its ``s2:product_uri``, then its id."""
    texts = (item.properties.get("s2:product_uri"), item.id)
    return [m for m in (S2_NAME.fullmatch(str(t)) for t in texts if t) if m]


def number(value: Any) -> float | None:
    """Read a number or its text (``"nan"`` is a nodata value of STAC); None for other things."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _named_baseline(item: pystac.Item) -> str | None:
    named = (m["baseline"] for m in s2_names(item))
    digits = next((d for d in named if d), None)
    return None if digits is None else _version(f"{digits[:2]}.{digits[2:]}")


def _version(value: Any) -> str | None:
    """Spell a baseline ``05.11``; None for what is none, ``"nan"`` and placeholders among it."""
    text = str(value)
    if not re.fullmatch(r"\d{1,2}(\.\d{1,2})?", text):
        return None
    found = float(text)
    return None if found >= FIRST_PLACEHOLDER else f"{found:05.2f}"


def _first(bands: Any) -> dict[str, Any]:
    """First of an asset's bands; every asset read here has one."""
    return dict(bands[0]) if isinstance(bands, list) and bands else {}


def _absent(value: Any, name: str) -> bool:
    # Tables write a missing number as NaN; only as nodata it is a value.
    return value is None or (isinstance(value, float) and math.isnan(value) and name != "nodata")
