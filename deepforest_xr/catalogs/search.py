"""One call for every catalog: which scenes, where, when."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepforest_xr.catalogs import api, unique
from deepforest_xr.catalogs.files import read_items
from deepforest_xr.catalogs.registry import CATALOGS
from deepforest_xr.errors import CatalogError, ConfigError, NoItemsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pystac

log = logging.getLogger(__name__)

Bbox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Question:
    """Where and when, checked."""

    bbox: Bbox | None
    """West, south, east, north in degrees."""

    geometry: dict[str, Any] | None
    """GeoJSON geometry in degrees."""

    datetime: str | None
    """RFC 3339 instant, interval with ``/``, or a year, month or day."""

    collections: tuple[str, ...] | None
    """Collection ids, None for all Sentinel collections of the source."""

    max_cloud_cover: float | None
    """Percent; Sentinel-2 scenes above it are left out."""

    def describe(self) -> str:
        """One line for messages."""
        where = (
            f"bbox {self.bbox}" if self.bbox else "the geometry" if self.geometry else "anywhere"
        )
        collections = ", ".join(self.collections or ("any Sentinel collection",))
        limit = self.max_cloud_cover
        clouds = "" if limit is None else f", cloud cover <= {limit:g} %"
        return f"{collections} in {where}, {self.datetime or 'any time'}{clouds}"


def search(
    source: str | Path,
    *,
    bbox: Bbox | None = None,
    geometry: dict[str, Any] | None = None,
    year: int | None = None,
    datetime: str | None = None,
    collections: Sequence[str] | None = None,
    max_cloud_cover: float | None = None,
    deduplicate: bool = True,
) -> pystac.ItemCollection:
    """Find Sentinel-1 and Sentinel-2 scenes.

    Parameters
    ----------
    source : str or path
        ``"planetary-computer"``, ``"earth-search"``, ``"copernicus"``, the URL of any STAC
        API, or items on disk (JSON, a folder, stac-geoparquet).
    bbox : (west, south, east, north), degrees
        Area; not together with `geometry`. A western edge east of the eastern one
        crosses the antimeridian.
    geometry : GeoJSON mapping, degrees
        Area; a Feature is taken by its geometry.
    year, datetime
        A whole year, or ``"2018-06"``, ``"2018-06-01/2018-08-31"``, ``"2018-06-01/.."``.
    collections : sequence of str, optional
        Default: the source's own ``sentinel-2-l2a`` and ``sentinel-1-rtc``; on disk every
        collection whose name starts with ``sentinel-``.
    max_cloud_cover : float, optional
        Percent; drops Sentinel-2 scenes above it, never Sentinel-1.
    deduplicate : bool
        Leave out scenes that were processed again, where the newer version is found too.

    Returns
    -------
    pystac.ItemCollection
        Ordered by collection, time and id, so that two equal searches are equal. Links
        are unsigned.

    Raises
    ------
    NoItemsError
        If nothing matches.
    CatalogError
        If the source does not answer or does not hold a collection asked for.
    ConfigError
        If arguments contradict each other.
    """
    import pystac

    question = _question(bbox, geometry, year, datetime, collections, max_cloud_cover)
    found = _ask(source, question, whole=deduplicate)
    if deduplicate:
        found = unique.deduplicate(found)
    kept = [item for item in found if _clear_enough(item, question.max_cloud_cover)]
    if not kept:
        raise NoItemsError(
            f"no scene for {question.describe()} in {str(source)!r}: check the area (west, south, "
            "east, north in degrees) and the dates, or raise max_cloud_cover."
        )
    kept.sort(key=lambda item: (item.collection_id or "", str(item.datetime), item.id))
    log.info("%d scenes from %s", len(kept), source)
    return pystac.ItemCollection(kept, clone_items=False)


def _ask(source: str | Path, question: Question, *, whole: bool) -> list[pystac.Item]:
    """Ask an API by name or URL, or read files.

    Where versions of scenes are compared, cloudy ones are needed too (`whole`): else an old
    version within the limit stands in for its newer one beyond it.
    """
    catalog = CATALOGS.get(str(source))
    url = str(source) if catalog is None else catalog.url
    if url is None or not url.startswith(("http://", "https://")):
        return [item for item in read_items(source) if _matches(item, question)]
    asked = question.collections
    if catalog is None or catalog.url is None:
        catalog = CATALOGS["any"]
    elif missing := set(asked or ()) - {*catalog.collections, *catalog.more}:
        raise CatalogError(
            f"{catalog.name} has no {', '.join(sorted(missing))}: this library reads "
            f"{', '.join((*catalog.collections, *catalog.more))} from it. "
            "Terrain-corrected radar (sentinel-1-rtc) is on planetary-computer."
        )
    return api.find(
        url,
        collections=asked or catalog.collections,
        bbox=question.bbox,
        geometry=question.geometry,
        datetime=_rfc3339(question.datetime),
        max_cloud_cover=None if whole else question.max_cloud_cover,
    )


def _question(
    bbox: Bbox | None,
    geometry: dict[str, Any] | None,
    year: int | None,
    datetime: str | None,
    collections: Sequence[str] | None,
    max_cloud_cover: float | None,
) -> Question:
    if bbox is not None and geometry is not None:
        raise ConfigError("bbox and geometry were both given: an area is one or the other.")
    if year is not None and datetime is not None:
        raise ConfigError("year and datetime were both given: a period is one or the other.")
    if bbox is not None:
        _check_bbox(bbox)
    if geometry is not None:
        geometry = _area(geometry)
    when = str(year) if year is not None else datetime
    if when is not None:
        interval(when)
    if isinstance(collections, str):
        collections = (collections,)
    names = None if collections is None else tuple(collections)
    return Question(bbox, geometry, when, names, max_cloud_cover)


def _area(geometry: dict[str, Any]) -> dict[str, Any]:
    """Take the geometry of a Feature; refuse what is no geometry, which would be anywhere."""
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        area = geometry["geometry"] if geometry["type"] == "Feature" else geometry
        empty = shape(area).is_empty
    except (AttributeError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise ConfigError(
            f"geometry is not a GeoJSON geometry or Feature in degrees: {type(error).__name__} "
            f"{' '.join(str(error).split())[:200]}."
        ) from error
    if empty:
        raise ConfigError("geometry is empty: give a GeoJSON geometry or Feature in degrees.")
    return dict(area)


def _check_bbox(bbox: Bbox) -> None:
    try:
        west, south, east, north = bbox
        inside = -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90
    except (TypeError, ValueError):
        inside = False
    if not inside or west == east:
        raise ConfigError(
            f"bbox={bbox!r} is not (west, south, east, north) in degrees; "
            "for bounds in metres use Grid.from_bounds(...).bbox_lonlat."
        )


def interval(text: str) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
    """Read ``2018``, ``2018-06``, a day, an instant, or two of them with ``/`` (UTC).

    Returns
    -------
    (start, end) : pair of Timestamp or None
        Both inclusive; None where the interval is open (``..``).
    """
    first, slash, last = text.partition("/")
    ends = (first, last if slash else first)
    try:
        spans = [None if e in {"", ".."} else _period(e) for e in ends]
    except ValueError as error:
        raise ConfigError(
            f"datetime={text!r} is not a date; expected 2018, 2018-06, 2018-06-01 or "
            "2018-06-01/2018-08-31."
        ) from error
    start = spans[0].start_time.tz_localize("UTC") if spans[0] is not None else None
    end = spans[1].end_time.tz_localize("UTC") if spans[1] is not None else None
    if start is not None and end is not None and start > end:
        raise ConfigError(f"datetime={text!r} ends before it starts.")
    return start, end


def _period(text: str) -> pd.Period:
    """Read a year, month, day or instant in UTC."""
    if text.lower() == "nat":
        raise ValueError(text)
    if re.search(r"T.*[+-]\d\d:\d\d$", text):
        # pd.Period would forget the offset.
        text = pd.Timestamp(text).tz_convert("UTC").tz_localize(None).isoformat()
    return pd.Period(text.removesuffix("Z"))


def _rfc3339(text: str | None) -> str | None:
    """Spell an interval out, so that every API reads it as the search on disk does."""
    if text is None:
        return None
    ends = ["" if e is None else e.floor("s").isoformat()[:19] + "Z" for e in interval(text)]
    return "/".join(end or ".." for end in ends)


def _matches(item: pystac.Item, question: Question) -> bool:
    name = item.collection_id or ""
    if question.collections is not None:
        if name not in question.collections:
            return False
    elif not name.startswith("sentinel-"):
        return False
    return _in_time(item, question.datetime) and _in_area(item, question)


def _in_time(item: pystac.Item, datetime: str | None) -> bool:
    if datetime is None:
        return True
    start, end = interval(datetime)
    moment = pd.Timestamp(item.datetime or item.properties["start_datetime"])
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment
    return (start is None or moment >= start) and (end is None or moment <= end)


def _in_area(item: pystac.Item, question: Question) -> bool:
    if question.bbox is None and question.geometry is None:
        return True
    import shapely
    from shapely.geometry import box, shape

    if question.geometry is not None:
        area = shape(question.geometry)
    else:
        west, south, east, north = question.bbox or (0, 0, 0, 0)
        spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        area = shapely.union_all([box(w, south, e, north) for w, e in spans])
    footprint = shape(item.geometry) if item.geometry else box(*(item.bbox or (0, 0, 0, 0)))
    return bool(footprint.intersects(area))


def _clear_enough(item: pystac.Item, limit: float | None) -> bool:
    cover = item.properties.get("eo:cloud_cover")
    return limit is None or cover is None or float(cover) <= limit
