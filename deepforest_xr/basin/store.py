"""Small objects under one address: a folder, S3, or whatever else obstore opens.

What the ledger stands on is here: an object appears whole or not at all, `create` succeeds for
one caller only, and `modified` is told by the store's clock, never by ours. A store that
answers with 503 for a while is asked again until `patience` is used up.
"""

from __future__ import annotations

import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deepforest_xr.addresses import LONGEST_PAUSE_SECONDS, one_line, open_store
from deepforest_xr.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
LISTINGS = 16
"""Requests for one listing at once."""

STAGING = re.compile(r"#\d+$")
"""How obstore calls a file of a folder that is still being written: ``name#1``."""

PASSING = re.compile(
    r"\b(429|5\d\d)\b|too many requests|slow ?down|time[d]? ?out|timeout|temporar|unavailable"
    r"|connection|reset by peer|broken pipe|could not resolve|dns error|error sending request",
    re.IGNORECASE,
)
"""What an error says that may pass by itself."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells it."""

    key: str
    """Path below the store's address."""

    modified: datetime
    """By the store's clock."""

    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects below one address."""

    store: Any
    """An obstore store; anything with its methods put, get, head, list and delete."""

    url: str
    """Address, for messages and for other processes."""

    folder: Path | None = None
    """Where the address is a folder of this machine."""

    patience: float = PATIENCE_SECONDS
    """Seconds for which errors that may pass are met with another try."""

    is_ordered: bool = False
    """Whether listings come by key and may begin at any: S3 and Google's storage do."""

    pause: Callable[[float], None] = field(default=time.sleep, repr=False)
    """Waits between tries."""

    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    """Measures patience; nothing else is decided by it."""

    def create(self, key: str, content: bytes) -> bool:
        """Put an object that is not there yet; of many callers one succeeds.

        Returns
        -------
        bool
            False if another's is there already.

        Raises
        ------
        StoreError
            If the store refuses, or does not answer within `patience`.
        """
        from obstore.exceptions import AlreadyExistsError

        def put() -> bool:
            try:
                self.store.put(key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # A try whose answer was lost may have been ours.
                return self._get(key) == content
            return True

        return self._patiently(put, f"create {key}")

    def put(self, key: str, content: bytes) -> None:
        """Put an object, whatever is there; one request, so that it is whole or not there."""
        self._patiently(
            lambda: self.store.put(key, content, use_multipart=False) and None, f"write {key}"
        )

    def get(self, key: str) -> bytes | None:
        """Give an object's content; None if there is none."""
        return self._patiently(lambda: self._get(key), f"read {key}")

    def modified(self, key: str) -> datetime | None:
        """Tell when an object was put last, by the store's clock; None if there is none."""

        def head() -> datetime | None:
            try:
                found: datetime = self.store.head(key)["last_modified"]
            except FileNotFoundError:
                return None
            return found

        return self._patiently(head, f"look up {key}")

    def listing(self, prefix: str, cuts: Sequence[str] = ()) -> list[Listed]:
        """List all objects below a prefix that ends with a slash.

        Parameters
        ----------
        prefix : str
            Of the keys.
        cuts : sequence of str
            Ascending keys. Where listings are ordered, what lies between them is asked for at
            once: an object store tells a thousand keys an answer, and the next with another.

        Raises
        ------
        StoreError
            If the store refuses, or does not answer within `patience`.
        """
        if not (cuts and self.is_ordered):
            return self._patiently(lambda: list(self._listed(prefix)), f"list {prefix}")

        def between(ends: tuple[str | None, str | None]) -> list[Listed]:
            return self._patiently(lambda: list(self._listed(prefix, *ends)), f"list {prefix}")

        with ThreadPoolExecutor(LISTINGS, thread_name_prefix="listing") as pool:
            parts = pool.map(between, pairwise((None, *cuts, None)))
            return [one for part in parts for one in part]

    def _listed(
        self, prefix: str, after: str | None = None, last: str | None = None
    ) -> Iterator[Listed]:
        """List from behind one key to another, both or neither given to an ordered store."""
        options = {} if after is None else {"offset": after}
        for chunk in self.store.list(prefix.rstrip("/") or None, **options):
            for one in chunk:
                if last is not None and one["path"] > last:
                    return
                yield Listed(str(one["path"]), one["last_modified"], int(one["size"]))

    def names(self, prefix: str) -> list[str]:
        """List the keys below a prefix, sorted."""
        return sorted(one.key for one in self.listing(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no fault."""
        for key in keys:

            def remove(key: str = key) -> None:
                try:
                    self.store.delete(key)
                except FileNotFoundError:
                    return

            self._patiently(remove, f"remove {key}")

    def staging(self, prefixes: Iterable[str]) -> Iterator[Path]:
        """Give files below prefixes that a process was writing, or died over; folders only.

        Object stores keep nothing of what was not put whole.
        """
        for prefix in prefixes if self.folder is not None else ():
            assert self.folder is not None  # noqa: S101  - for the type checker
            place = self.folder / prefix
            around, name = (place, "") if prefix.endswith("/") else (place.parent, place.name)
            for path in around.rglob("*#*") if around.is_dir() else ():
                if STAGING.search(path.name) and path.name.startswith(name):
                    yield path

    def _get(self, key: str) -> bytes | None:
        try:
            return bytes(self.store.get(key).bytes())
        except FileNotFoundError:
            return None

    def _patiently(self, call: Callable[[], T], what: str) -> T:
        start, wait = self.clock(), 0.2
        while True:
            try:
                return call()
            except Exception as error:
                spent = self.clock() - start
                if not may_pass(error) or spent + wait > self.patience:
                    raise StoreError(self._message(error, what, spent)) from error
            self.pause(wait * random.uniform(0.5, 1.0))  # noqa: S311  - jitter
            wait = min(2 * wait, LONGEST_PAUSE_SECONDS)

    def _message(self, error: Exception, what: str, spent: float) -> str:
        tries = f" for {spent:.0f} s" if spent > 1 else ""
        return f"{self.url}: cannot {what}{tries}: {one_line(error)}; mend it, then run again."


def open_objects(
    out: str | Path, *, make: bool = False, patience: float = PATIENCE_SECONDS
) -> Objects:
    """Open a folder or an address.

    Parameters
    ----------
    out : str or Path
        A folder, or an address as for `open_store`.
    make : bool
        Make a folder that is not there.
    patience : float
        Seconds, see `Objects`.

    Raises
    ------
    ConfigError
        If the address cannot be opened, or is a folder that is not there.
    """
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore

    address = os.fspath(out)
    if address.startswith("file://"):
        address = address.removeprefix("file://")
    if "://" not in address:
        folder = Path(address).resolve()
        if not make and not folder.is_dir():
            raise ConfigError(f"{address!r} is no folder: plan a basin there first.")
        try:
            # A folder that lost its last object goes too, as in an object store.
            store: Any = LocalStore(prefix=folder, mkdir=make, automatic_cleanup=True)
        except (OSError, BaseError) as error:
            raise StoreError(f"{address!r} cannot be made a folder: {one_line(error)}.") from error
        return Objects(store, str(folder), folder, patience)
    store = open_store(address, "out", patience=patience)
    return Objects(store, address, None, patience, is_ordered=_is_ordered(address))


def _is_ordered(address: str) -> bool:
    """Tell whether a store lists by key; the directory buckets of S3 Express do not."""
    scheme, _, rest = address.partition("://")
    return scheme in {"s3", "s3a", "gs"} and not rest.split("/")[0].endswith("--x-s3")


def may_pass(error: BaseException) -> bool:
    """Tell an error that another try may not meet: a timeout, 429, 5xx, a lost connection."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return PASSING.search(one_line(error)) is not None
