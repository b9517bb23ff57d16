"""Reprocessed scenes: of several versions of one scene, the newest stays.

Catalogs keep a scene's earlier processing beside its later one (Earth Search's
``S2A_32TMT_20200305_0_L2A`` is baseline 02.14 and ``..._1_L2A`` is 05.00); a median over
both counts that day twice. Two halves of a tile, cut where one datastrip ends and the next
begins, are no versions of each other: both stay. What cannot be told stays, too.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

from deepforest_xr.catalogs.metadata import number, product, s2_names

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    import pystac

log = logging.getLogger(__name__)

OVERLAP = 0.9
"""Share of their union that two versions' footprints have in common, at least."""

DATATAKE = re.compile(r"G(?P<platform>S2[A-Z])_(?P<start>\d{8}T\d{6})_\d{6}_N(?P<baseline>[\d.]+)")
DATASTRIP = re.compile(r"_S(?P<sensing>\d{8}T\d{6})(?:_|$)")
EARTH_SEARCH_ID = re.compile(r"S2[A-Z]_T?(?P<tile>\d{1,2}[A-Z]{3})_\d{8}(?:T\d{6})?_(?:\d+_)?L2A")
TILE = re.compile(r"(?:MGRS-)?T?(?P<zone>\d{1,2})(?P<square>[A-Z]{3})")
S1_NAME = re.compile(
    r"(?P<scene>S1[A-Z]_\w\w_\w{4}_\w{4}_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6})"
    r"(?:_[0-9A-F]{4})?(?:_COG)?(?:_rtc)?(?:\.SAFE)?"
)
MADE = ("s2:generation_time", "processing:datetime", "s1:processing_datetime", "created")


def deduplicate(items: Iterable[pystac.Item]) -> list[pystac.Item]:
    """Leave out scenes that were processed again, if the newer version is among the items.

    Versions of one scene share datatake and tile, and either the sensing time of their
    datastrip or nine tenths of their footprints; of Sentinel-1, everything of the
    product's name but its last four digits. The newest processing baseline stays, of equal
    ones the one made last, then the last by id. Which stays does not depend on the order.

    Parameters
    ----------
    items : iterable of pystac.Item
        Of any collections.

    Returns
    -------
    list of pystac.Item
        The items that stay, in the order given.
    """
    everything = list(items)
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(everything):
        key = scene_key(item)
        if key is not None:
            places[key].append(place)
    gone: dict[int, int] = {}
    for same_key in places.values():
        # Of equal copies the first in the list stays.
        newest_first = sorted(
            same_key, key=lambda place: (_age(everything[place]), -place), reverse=True
        )
        for newer, older in combinations(newest_first, 2):
            if older not in gone and _is_version(everything[older], everything[newer]):
                gone[older] = newer
    if gone:
        old, new = min(gone.items())
        log.info(
            "%d of %d scenes left out, processed again since; first: %s for %s",
            len(gone),
            len(everything),
            everything[old].id,
            everything[new].id,
        )
    return [item for place, item in enumerate(everything) if place not in gone]


def scene_key(item: pystac.Item) -> Hashable | None:
    """What all versions of a scene share; None where the item does not say enough.

    Returns
    -------
    tuple or None
        Sentinel-2: platform, start of the datatake, tile. Sentinel-1: product and its
        name without the unique digits.
    """
    kind = product(item)
    if kind == "S2 L2A":
        datatake, tile = _datatake(item), _tile(item)
        return None if datatake is None or tile is None else (kind, *datatake, tile)
    texts = (item.properties.get("s1:product_identifier"), item.id)
    names = (S1_NAME.fullmatch(str(t)) for t in texts if t)
    name = next((m for m in names if m), None)
    return (kind, name["scene"]) if kind and name else None


def _datatake(item: pystac.Item) -> tuple[str, str] | None:
    """Platform and start of the datatake; Earth Search's ids have the datastrip's instead."""
    stated = _either(item, "datatake_id")
    found = DATATAKE.fullmatch(str(stated)) or next(iter(s2_names(item)), None)
    return (found["platform"], found["start"]) if found else None


def _tile(item: pystac.Item) -> str | None:
    """MGRS tile as ``32TMT``, from the first of the item's fields that states one."""
    properties = item.properties
    parts = [
        str(properties.get(f"mgrs:{name}", ""))
        for name in ("utm_zone", "latitude_band", "grid_square")
    ]
    named = EARTH_SEARCH_ID.fullmatch(item.id)
    texts = (
        properties.get("s2:mgrs_tile"),
        properties.get("grid:code"),
        "".join(parts),
        *(m["tile"] for m in s2_names(item)),
        named["tile"] if named else None,
    )
    found = next((m for m in (TILE.fullmatch(str(t)) for t in texts) if m), None)
    return f"{int(found['zone']):02d}{found['square']}" if found else None


def _is_version(one: pystac.Item, other: pystac.Item) -> bool:
    """Tell versions of one scene from pieces of one tile."""
    if product(one) != "S2 L2A":
        return True  # a Sentinel-1 name holds start and stop
    sensed = _sensing(one), _sensing(other)
    if None not in sensed and sensed[0] == sensed[1]:
        return True
    return _overlap(one, other) > OVERLAP


def _sensing(item: pystac.Item) -> str | None:
    found = DATASTRIP.search(str(_either(item, "datastrip_id") or ""))
    return found["sensing"] if found else None


def _overlap(one: pystac.Item, other: pystac.Item) -> float:
    """Intersection over union of two footprints, 0 where one has none."""
    from shapely.geometry import shape

    if not one.geometry or not other.geometry:
        return 0.0
    # Footprints across the pole or the antimeridian may cross themselves.
    a, b = shape(one.geometry).buffer(0), shape(other.geometry).buffer(0)
    union = a.union(b).area
    return float(a.intersection(b).area / union) if union else 0.0


def _age(item: pystac.Item) -> tuple[float, float, str, str]:
    """Order versions by: baseline, when made (seconds), id, collection; later is better."""
    return _baseline(item), _made(item), item.id, item.collection_id or ""


def _baseline(item: pystac.Item) -> float:
    """Baseline as a number for ordering, -1 where unstated; contradictions do not matter here."""
    properties = item.properties
    datatake = DATATAKE.fullmatch(str(_either(item, "datatake_id")))
    named = (f"{d[:2]}.{d[2:]}" for d in (m["baseline"] for m in s2_names(item)) if d)
    stated = (
        properties.get("s2:processing_baseline"),
        *named,
        properties.get("processing:version"),
        datatake["baseline"] if datatake else None,
    )
    values = [v for v in map(number, stated) if v is not None and v == v]
    return values[0] if values else -1.0


def _made(item: pystac.Item) -> float:
    """When this version was made, seconds since 1970; -inf where it does not say."""
    texts = [item.properties.get(name) for name in MADE] + [m["made"] for m in s2_names(item)]
    for text in texts:
        try:
            moment = datetime.fromisoformat(str(text))
        except ValueError:
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float("-inf")


def _either(item: pystac.Item, name: str) -> Any:
    """Property of the sentinel-2 extension, or of EOPF's, which Copernicus uses."""
    return item.properties.get(f"s2:{name}", item.properties.get(f"eopf:{name}"))
