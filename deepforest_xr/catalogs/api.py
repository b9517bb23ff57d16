"""Asks a STAC API and collects its pages: all of them, or an error, never a shorter list.

A busy catalog (429, 5xx), a lost connection and a page that broke off are asked for again,
after a pause that doubles each time or that the catalog itself names (``Retry-After``).
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from deepforest_xr.catalogs.files import NOT_STAC
from deepforest_xr.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pystac
    from pystac_client import Client, ItemSearch
    from pystac_client.stac_api_io import StacApiIO

    from deepforest_xr.grid import Bounds as Bbox

T = TypeVar("T")

# Seconds to connect, seconds between bytes; public catalogs answer slowly at times.
TIMEOUT = (10.0, 60.0)
PAGE_SIZE = 250
BUSY = (429, 500, 502, 503, 504)
RETRIES = 5
# Seconds; pauses are 0, 2, 4, 8 and 16 times this.
BACKOFF = 0.5
# Seconds: no catalog makes a run sleep for longer at a time.
LONGEST_PAUSE = 120
# Empty pages with a next one occur where a catalog filters after cutting its pages.
IDLE_PAGES = 10


def find(
    url: str,
    *,
    collections: tuple[str, ...],
    bbox: Bbox | None,
    geometry: dict[str, Any] | None,
    datetime: str | None,
    max_cloud_cover: float | None = None,
) -> list[pystac.Item]:
    """Ask a STAC API, page by page.

    Parameters
    ----------
    url : str
        Landing page.
    collections : tuple of str
        Collection ids.
    bbox, geometry
        Area in degrees; one of them or none.
    datetime : str or None
        RFC 3339 interval.
    max_cloud_cover : float, optional
        Percent, asked of collections named ``sentinel-2*``. An API that cannot be asked
        (neither ``query`` nor ``filter``) gives scenes of any cover.

    Returns
    -------
    list of pystac.Item
        Each once, in the order of the answer.

    Raises
    ------
    CatalogError
        If it does not answer, or not as a STAC API does, or gives fewer than it states.
    """
    from pystac_client import Client

    try:
        connection = _connection()
        # Without a time-out of its own, `open` would take away the connection's.
        client = _whole(url, partial(Client.open, url, stac_io=connection, timeout=TIMEOUT))
        # Else pystac fetches the same page again, on its own, if its link ends with a slash.
        client.set_root(client)
        found: dict[tuple[str | None, str], pystac.Item] = {}
        for names, condition in _split(client, collections, max_cloud_cover):
            search = client.search(
                collections=list(names),
                bbox=bbox,
                intersects=geometry,
                datetime=datetime,
                limit=PAGE_SIZE,
                **condition,
            )
            found |= _collect(url, connection, search)
        return list(found.values())
    except _failures() as error:
        raise CatalogError(_explain(url, error)) from error


def _connection() -> StacApiIO:
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    # A number instead of a Retry would neither ask again after a status nor repeat a POST.
    retries = Retry(
        total=RETRIES,
        allowed_methods={"GET", "POST"},
        status_forcelist=BUSY,
        backoff_factor=BACKOFF,
        respect_retry_after_header=True,
        raise_on_status=False,  # the last answer says why
    )
    retries.retry_after_max = LONGEST_PAUSE  # an argument only in the newest urllib3
    return StacApiIO(timeout=TIMEOUT, max_retries=retries)


def _split(
    client: Client, collections: Sequence[str], max_cloud_cover: float | None
) -> Iterator[tuple[Sequence[str], dict[str, Any]]]:
    """Requests to make: a condition on clouds would drop Sentinel-1, which states none."""
    condition = {} if max_cloud_cover is None else _clear_enough(client, max_cloud_cover)
    optical = [name for name in collections if name.startswith("sentinel-2")]
    if not condition or not optical:
        yield collections, {}
        return
    yield optical, condition
    others = [name for name in collections if name not in optical]
    if others:
        yield others, {}


def _clear_enough(client: Client, limit: float) -> dict[str, Any]:
    if client.conforms_to("QUERY"):
        return {"query": {"eo:cloud_cover": {"lte": limit}}}
    if client.conforms_to("FILTER"):
        cover = {"property": "eo:cloud_cover"}
        clear = {"op": "<=", "args": [cover, limit]}
        unknown = {"op": "isNull", "args": [cover]}
        return {"filter": {"op": "or", "args": [clear, unknown]}, "filter_lang": "cql2-json"}
    return {}


def _collect(
    url: str, connection: StacApiIO, search: ItemSearch
) -> dict[tuple[str | None, str], pystac.Item]:
    """All items of a search; a catalog that changes between pages may send one twice."""
    import pystac

    found: dict[tuple[str | None, str], pystac.Item] = {}
    matched, idle = None, 0
    for page in _pages(url, connection, search):
        before = len(found)
        for feature in page["features"]:
            item = pystac.Item.from_dict(feature, root=search.client, preserve_dict=False)
            found.setdefault((item.collection_id, item.id), item)
        # The first page's number: the catalog as it was when asked.
        matched = _matched(page) if matched is None else matched
        idle = 0 if len(found) > before else idle + 1
        if idle > IDLE_PAGES:
            raise _endless(url, f"{idle} pages in a row brought nothing new")
    if matched is not None and len(found) < matched:
        raise CatalogError(
            f"{url} did not answer the search whole: it gave {len(found)} of the {matched} items "
            "that it states. Ask again, or for a shorter period or a smaller area."
        )
    return found


def _pages(url: str, connection: StacApiIO, search: ItemSearch) -> Iterator[dict[str, Any]]:
    """Follow the next links; the request itself is the first."""
    from pystac import Link

    parameters = search.get_parameters()
    link: dict[str, Any] | None = {
        "rel": "next",
        "href": search.url,
        "method": search.method,
        "body": parameters,
    }
    seen = set()
    while link:
        request = json.dumps([link.get(k) for k in ("href", "method", "body")], sort_keys=True)
        if request in seen:
            raise _endless(url, "its next page is one that it gave before")
        seen.add(request)
        read = partial(connection.read_json, Link.from_dict(link), parameters=parameters)
        page = _whole(url, read)
        if not isinstance(page, dict) or not isinstance(page.get("features"), list):
            raise CatalogError(
                f"{url} did not answer the search with a page of items: {json.dumps(page)[:100]}. "
                "Check the address, or search items on disk."
            )
        yield page
        link = next((k for k in page.get("links") or () if k.get("rel") == "next"), None)


def _matched(page: dict[str, Any]) -> int | None:
    """How many items the API states; before STAC API 1.0.0-rc.3 in ``context``."""
    stated = page.get("numberMatched", (page.get("context") or {}).get("matched"))
    return stated if isinstance(stated, int) else None


def _whole(url: str, ask: Callable[[], T]) -> T:
    """Ask again for a page that breaks off: urllib3 sees only its beginning."""
    from pystac_client.exceptions import APIError

    broken: Exception | None = None
    for times in range(RETRIES + 1):
        if times:
            time.sleep(BACKOFF * 2 ** (times - 1))
        try:
            return ask()
        except (APIError, ValueError) as error:
            if not _broke_off(error):
                raise
            broken = error
    raise CatalogError(
        f"{url} did not answer the search whole: its page broke off each of {RETRIES + 1} times "
        f"({_line(broken)}). Check the network, ask again later, or search items on disk."
    ) from broken


def _broke_off(error: Exception) -> bool:
    import requests
    from urllib3.exceptions import MaxRetryError

    if isinstance(error, json.JSONDecodeError):
        # Cut, unless it never was JSON.
        return error.doc.lstrip().startswith("{")
    # pystac-client keeps the message alone, Python the error itself.
    cause = error.__context__
    if isinstance(cause, requests.ConnectionError):
        # urllib3 has asked again for what failed before the body.
        return not any(isinstance(arg, MaxRetryError) for arg in cause.args)
    decoding = (requests.exceptions.ContentDecodingError, UnicodeDecodeError)
    return isinstance(cause, (requests.exceptions.ChunkedEncodingError, *decoding))


def _failures() -> tuple[type[Exception], ...]:
    import pystac
    import pystac_client
    import requests

    return (
        pystac_client.exceptions.APIError,
        pystac_client.errors.ClientTypeError,
        pystac.STACError,
        pystac.STACTypeError,
        requests.RequestException,
        NotImplementedError,
        OSError,
        *NOT_STAC,
    )


def _explain(url: str, error: Exception) -> str:
    """One line: who did not answer, what came instead, how often, what to do."""
    status = getattr(error, "status_code", None)
    silent = _silence(error)
    times = f"each of {RETRIES + 1} times"
    if status in BUSY:
        reason, advice = f"status {status} {times}, {_line(error)}", "It is busy or down: "
    elif silent:
        reason, advice = f"{silent}, {times}", "It is busy or down, or the network is: "
    else:
        state = f"status {status}, " if status else ""
        reason, advice = f"{state}{_line(error)}", "Check the address and the network, "
    remedy = "or search items on disk."
    if status in BUSY or silent:
        remedy = f"ask again later, {remedy}"
    return f"{url} did not answer the search: {reason}. {advice}{remedy}"


def _silence(error: Exception) -> str | None:
    """Which time-out of `TIMEOUT` ended the last attempt, if one did."""
    from urllib3.exceptions import ConnectTimeoutError, ReadTimeoutError

    args: tuple[Any, ...] = getattr(error.__context__, "args", ())
    cause = getattr(args[0], "reason", None) if args else None
    if isinstance(cause, ReadTimeoutError):
        return f"nothing came for {TIMEOUT[1]:g} s"
    # A refused connection is a ConnectTimeoutError before urllib3 2.
    if type(cause) is ConnectTimeoutError:
        return f"no connection within {TIMEOUT[0]:g} s"
    return None


def _endless(url: str, reason: str) -> CatalogError:
    return CatalogError(
        f"{url} did not answer the search with an end: {reason}. "
        "Report it to its keeper; ask for a shorter period, or search items on disk."
    )


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
