"""What items say, for the checks and attributes both sensors share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from deepforest_xr.catalogs import asset_for
from deepforest_xr.engines.extent import moment
from deepforest_xr.errors import CatalogError, MissingAssetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pystac

SENSORS = {
    "sentinel-2-l2a": "sentinel-2",
    "sentinel-2-c1-l2a": "sentinel-2",
    "sentinel-1-rtc": "sentinel-1",
    "sentinel-1-grd": "sentinel-1",
}
"""Collections a cube is made of."""


def sensor(item: pystac.Item) -> str:
    """Sensor of an item, "" for other things; a Sentinel product of another level is refused."""
    name = item.collection_id or ""
    if name not in SENSORS and name.startswith("sentinel-"):
        raise CatalogError(
            f"scene {item.id!r} is of collection {name!r}; a cube is made of "
            f"{', '.join(SENSORS)}: leave it out."
        )
    return SENSORS.get(name, "")


def month(item: pystac.Item) -> int:
    """Calendar month of an item in UTC, 1 to 12."""
    return int(moment(item)[5:7])


def period(items: Sequence[pystac.Item]) -> str:
    """First and last day of items in order of time."""
    return f"{moment(items[0])[:10]}/{moment(items[-1])[:10]}"


def summary(values: Iterable[str]) -> str:
    """How often each value occurs, in one line."""
    return "; ".join(f"{n} x {value}" for value, n in sorted(Counter(values).items()))


def require_bands(items: Sequence[pystac.Item], bands: Sequence[str]) -> None:
    """Refuse scenes that lack a band.

    Raises
    ------
    MissingAssetError
        Naming the first of them.
    """
    lacking = [(i, [b for b in bands if asset_for(i, b) is None]) for i in items]
    lacking = [(i, missing) for i, missing in lacking if missing]
    if lacking:
        item, missing = lacking[0]
        raise MissingAssetError(
            f"{len(lacking)} of {len(items)} {sensor(item)} scenes lack a band; first "
            f"{item.id!r} lacks {', '.join(missing)} (it has {', '.join(sorted(item.assets))}). "
            "Leave those scenes out, or open the cube with other bands."
        )
