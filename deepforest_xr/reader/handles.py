"""Open files, leased to one thread at a time and kept for the next read.

Opening a cloud-optimised GeoTIFF costs more than decoding a block of it (three requests over
HTTP), so an opened file waits here for its next window. Their number is bounded, a file whose
token has expired is opened again with a new one, and a local file that has changed is, too.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rasterio

from deepforest_xr.catalogs import link

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from deepforest_xr.catalogs import Link

log = logging.getLogger(__name__)

GDAL_ENV: dict[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the folder over HTTP
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # a COG's whole header in one request
    "GDAL_HTTP_MAX_RETRY": "3",  # 429, 502, 503, 504, each wait twice the last
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",  # a connection this long below LIMIT bytes a second is dead
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_NUM_THREADS": "1",  # dask has the threads
    "GDAL_CACHEMAX": 256 << 20,  # bytes of decoded blocks, for all files of the process
    "CPL_VSIL_CURL_CACHE_SIZE": "67108864",  # bytes of downloaded ranges, for all files
}

LOCAL_ENV = {"GDAL_CACHEMAX": GDAL_ENV["GDAL_CACHEMAX"]}

MAX_WAITING = 256
"""Files kept open for a next read, beside those being read (one a thread)."""

MARGIN = 120.0
"""Seconds before its end at which a token is not used any more."""

clock: Callable[[], float] = time.time
"""Seconds since 1970, as tokens count."""


@dataclass(slots=True)
class Opened:
    """An open file and what was derived from it."""

    source: Any
    """rasterio dataset."""

    expires: float | None
    """End of its token in seconds since 1970, None where it has none."""

    state: Hashable
    """Size and time of a local file when it was opened."""

    purpose: Hashable = None
    """What `view` is for."""

    view: Any = None
    """What the reader keeps with it, such as a warped view; closed first where it can be."""

    def is_usable(self, state: Hashable) -> bool:
        """Whether the token lasts and the file is still the one opened."""
        return state == self.state and (self.expires is None or clock() < self.expires - MARGIN)

    def close(self) -> None:
        """Close view and file."""
        if self.is_bound:
            self.view.close()
        self.source.close()

    @property
    def is_bound(self) -> bool:
        """Whether its view is a file of its own, which cost as much to make."""
        return hasattr(self.view, "close")


class Handles:
    """Files waiting for their next read, the longest unused closed first.

    A GDAL dataset must not be read by two threads at once: one that is leased is not here.
    """

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self.forget()

    def forget(self) -> None:
        """Start anew without closing: a forked child must not read its parent's files."""
        self._lock = threading.Lock()  # another thread may have held the parent's
        self._empty()

    def _empty(self) -> None:
        self._waiting: OrderedDict[Hashable, list[Opened]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def lease(self, url: str, purpose: Hashable, *, fresh: bool = False) -> Iterator[Opened]:
        """Have a file for oneself; after an error it is closed instead of kept.

        Parameters
        ----------
        url : str
            Unsigned link or path.
        purpose : hashable
            A view of another purpose is not handed on; its file is, unless the view is bound to
            it: tiles side by side read one file on grids of their own.
        fresh : bool
            Ask the server again whatever GDAL remembers: it keeps failures for good.
        """
        state = _state(url)
        opened = None if fresh else self._take((url, purpose), state) or self._take(url, state)
        if opened is None:
            opened = _open(url, state, fresh=fresh)
        if opened.purpose != purpose:
            opened.purpose, opened.view = purpose, None
        try:
            # GDAL asks for these at each request; files on disk need but the cache's limit.
            with rasterio.Env(**(GDAL_ENV if state is None else LOCAL_ENV)):
                yield opened
        except BaseException:
            opened.close()
            raise
        self._give((url, purpose) if opened.is_bound else url, opened)

    def clear(self) -> None:
        """Close all files that wait."""
        with self._lock:
            waiting = [opened for files in self._waiting.values() for opened in files]
            self._empty()
        for opened in waiting:
            opened.close()

    def _take(self, key: Hashable, state: Hashable) -> Opened | None:
        while True:
            with self._lock:
                opened = self._pop(key) if key in self._waiting else None
            if opened is None or opened.is_usable(state):
                return opened
            opened.close()

    def _give(self, key: Hashable, opened: Opened) -> None:
        surplus = []
        with self._lock:
            self._waiting.setdefault(key, []).append(opened)
            self._waiting.move_to_end(key)
            self._count += 1
            while self._count > self._limit:
                surplus.append(self._pop(next(iter(self._waiting))))
        for each in surplus:
            each.close()

    def _pop(self, key: Hashable) -> Opened:
        files = self._waiting[key]
        opened = files.pop()
        if not files:
            del self._waiting[key]
        self._count -= 1
        return opened


def _open(url: str, state: Hashable, *, fresh: bool) -> Opened:
    signed: Link = link(url)
    path = gdal_path(signed.href)
    options = {"CPL_VSIL_CURL_NON_CACHED": path} if fresh else {}
    # Options of one host hold for its own files only, whatever the environment says of others.
    with rasterio.Env(**GDAL_ENV, **options, **signed.options):
        return Opened(rasterio.open(path, sharing=False), signed.expires, state)


def gdal_path(href: str) -> str:
    """Spell a link as GDAL's virtual file systems do; paths stay as they are."""
    scheme, separator, rest = href.partition("://")
    if not separator:
        return href
    if scheme in {"http", "https"}:
        return f"/vsicurl/{href}"
    prefix = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "file": ""}.get(scheme)
    return href if prefix is None else prefix + rest


def _state(url: str) -> Hashable:
    if "://" in url and not url.startswith("file://"):
        return None
    try:
        found = os.stat(url.removeprefix("file://"))  # noqa: PTH116 - once a read: no Path made
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


HANDLES = Handles()
"""Of this process."""


os.register_at_fork(after_in_child=HANDLES.forget)
atexit.register(HANDLES.clear)
