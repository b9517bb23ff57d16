"""Who does which tile, and what became of it: small objects that are put once.

    attempts/<tile>/<n>.json            claim n of a tile: whose, its lease, and how many attempts
                                        that runner grants; its age is its heartbeat
    attempts/<tile>/<n>.failed.json     claim n ended in an error
    attempts/<tile>/<n>.released.json   claim n was given back, and does not count
    done/<tile>.json                    the tile is finished; written last

A claim is made with a conditional put, so that of all runners one has it. It is live until it
fails, is released, or has not been refreshed for the seconds of its own lease; then whoever
makes claim n + 1 has the tile, and the owner of claim n drops it when it sees that. Ages are
differences of two times that the store itself has put down: no clock of a runner is asked.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deepforest_xr.addresses import one_line
from deepforest_xr.basin.owner import Owner, is_gone, this_owner
from deepforest_xr.errors import ConfigError, LostLeaseError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import timedelta

    from deepforest_xr.basin.store import Objects

log = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
MAX_ATTEMPTS = 3
BEATS_PER_LEASE = 4
STAGING_SECONDS = 60.0
"""A file that has been written for longer has lost its writer: the ledger's are tiny."""

TILES_A_LISTING = 900
"""Tiles whose objects are asked for at once: S3 tells a thousand keys an answer."""

STATUSES = ("done", "running", "waiting", "stale", "set aside")
CLAIM = re.compile(r"attempts/([^/]+)/(\d+)(\.failed|\.released)?\.json")
DONE = re.compile(r"done/([^/]+)\.json")


@dataclass(frozen=True, slots=True)
class TileState:
    """What the ledger says of a tile."""

    tile: str
    """Its id."""

    status: str
    """One of `STATUSES`; "stale" is claimed by a runner that has not been heard of."""

    attempts: int = 0
    """Claims that failed or were abandoned."""

    last: int = 0
    """Number of the last claim, 0 if there was none."""

    failed: tuple[int, ...] = ()
    """Claims that ended in an error, of which a reason can be read."""

    modified: datetime | None = None
    """When it was finished or last heard of, by the store's clock."""


@dataclass(slots=True)
class Lease:
    """A claim that this runner has made."""

    tile: str
    """Id of the tile."""

    number: int
    """Of the claim."""

    content: bytes
    """Of its object."""

    lost: threading.Event = field(default_factory=threading.Event)
    """Set when another has the tile, or it was given back."""

    @property
    def stem(self) -> str:
        """Key of the claim without its ending."""
        return f"attempts/{self.tile}/{self.number}"


class Ledger:
    """The ledger of a basin, as one runner sees it.

    Without `max_attempts` a tile is set aside after as many attempts as that runner grants whose
    claim was put last: who only looks then tells what the runner tells. The card of a claim is
    read once a beat of `lease` is missing, without `lease` always.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        owner: Owner | None = None,
        lease: float | None = None,
        max_attempts: int | None = None,
    ) -> None:
        if (lease is not None and lease <= 0) or (max_attempts is not None and max_attempts < 1):
            raise ConfigError(
                f"lease={lease}, max_attempts={max_attempts}: expected a positive number of "
                "seconds, and one attempt or more."
            )
        self.objects = objects
        self.owner = owner or this_owner()
        self.lease = LEASE_SECONDS if lease is None else lease
        self.max_attempts = max_attempts
        self._patience = 0.0 if lease is None else lease / BEATS_PER_LEASE
        self._leases: dict[str, float] = {}

    def now(self) -> datetime:
        """Ask the store what time it is: put an object and read when that was."""
        self.objects.put(self._clock, json.dumps(self.owner.card()).encode())
        found = self.objects.modified(self._clock)
        if found is None:
            raise StoreError(
                f"{self.objects.url}: {self._clock} was written and is not there; another process "
                "removes objects of this basin."
            )
        return found

    def states(self, tiles: Iterable[str]) -> dict[str, TileState]:
        """Tell the state of every tile, from one listing of claims and one of what is done.

        Without `max_attempts` a claim is read beside them.
        """
        # Claims first: a tile finished in between is then done, and not free again.
        tiles = list(tiles)
        cuts = sorted(tiles)[TILES_A_LISTING::TILES_A_LISTING]
        claims: dict[str, dict[int, dict[str, datetime]]] = defaultdict(lambda: defaultdict(dict))
        for one in self.objects.listing("attempts/", [f"attempts/{tile}" for tile in cuts]):
            if found := CLAIM.fullmatch(one.key):
                claims[found[1]][int(found[2])][found[3] or ""] = one.modified
        limit = self.max_attempts or self._granted(claims)
        now = self.now()
        done = {
            found[1]: one.modified
            for one in self.objects.listing("done/", [f"done/{tile}" for tile in cuts])
            if (found := DONE.fullmatch(one.key))
        }
        return {
            tile: self._state(tile, claims.get(tile, {}), done.get(tile), now, limit)
            for tile in tiles
        }

    def claim(self, state: TileState) -> Lease | None:
        """Take a tile that is free.

        Parameters
        ----------
        state : TileState
            As `states` told it; it may have changed since.

        Returns
        -------
        Lease or None
            None if it is done, in another's hands, set aside, or was taken a moment ago.
        """
        if state.status not in {"waiting", "stale"}:
            return None
        if state.status == "stale" and not self._is_abandoned(state):
            return None
        if self.objects.modified(f"done/{state.tile}.json") is not None:
            return None  # finished late, by a runner that was given up
        card = {
            "owner": self.owner.card(),
            "started": datetime.now(UTC).isoformat(),
            "lease": self.lease,
            "max_attempts": self._limit,
        }
        lease = Lease(state.tile, state.last + 1, json.dumps(card).encode())
        if not self.objects.create(f"{lease.stem}.json", lease.content):
            return None
        return lease

    def beat(self, lease: Lease) -> bool:
        """Say that a tile is being worked on; False if another has it now."""
        if not self.holds(lease):
            return False
        self.objects.put(f"{lease.stem}.json", lease.content)
        return True

    def holds(self, lease: Lease) -> bool:
        """Tell whether a tile is still this runner's."""
        if not lease.lost.is_set():
            successor = f"attempts/{lease.tile}/{lease.number + 1}.json"
            if self.objects.modified(successor) is not None:
                log.warning("tile %s: another runner took it over", lease.tile)
                lease.lost.set()
        return not lease.lost.is_set()

    def require(self, lease: Lease) -> None:
        """Raise LostLeaseError unless the tile is still this runner's."""
        if not self.holds(lease):
            raise LostLeaseError(f"tile {lease.tile} is another runner's now: it is dropped.")

    def release(self, lease: Lease) -> None:
        """Give a tile back unfinished; the attempt does not count."""
        if self.holds(lease):
            lease.lost.set()
            self.objects.create(f"{lease.stem}.released.json", b"{}")

    def fail(self, lease: Lease, error: BaseException, *, transient: bool) -> None:
        """Record why an attempt ended."""
        if self.holds(lease):
            lease.lost.set()
            card = {
                "error": type(error).__name__,
                "reason": one_line(error),
                "transient": transient,
                "owner": self.owner.card(),
            }
            self.objects.create(f"{lease.stem}.failed.json", json.dumps(card).encode())

    def finish(self, lease: Lease, record: dict[str, Any]) -> bool:
        """Record that a tile is done; False if it was before."""
        content = json.dumps(record | {"attempt": lease.number}, indent=1).encode()
        return self.objects.create(f"done/{lease.tile}.json", content)

    def record(self, tile: str) -> dict[str, Any] | None:
        """Read what is known of a finished tile."""
        content = self.objects.get(f"done/{tile}.json")
        return None if content is None else dict(json.loads(content))

    def reasons(self, state: TileState) -> list[dict[str, Any]]:
        """Read why attempts at a tile failed; one request each."""
        keys = [f"attempts/{state.tile}/{n}.failed.json" for n in state.failed]
        return [json.loads(content) for key in keys if (content := self.objects.get(key))]

    @contextmanager
    def beating(self, lease: Lease) -> Iterator[None]:
        """Refresh a claim from a thread of its own while the block runs."""
        ended = threading.Event()

        def beats() -> None:
            while not ended.wait(self.lease / BEATS_PER_LEASE):
                try:
                    if not self.beat(lease):
                        return
                except StoreError as error:
                    log.warning("tile %s: no heartbeat: %s", lease.tile, error)

        thread = threading.Thread(target=beats, name=f"heartbeat {lease.tile}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def close(self, *, complete: bool = False) -> None:
        """Remove this runner's clock; of a complete basin also what dead runners left behind."""
        if complete:
            self._remove_remains()
        self.objects.delete([self._clock])

    def _remove_remains(self) -> None:
        """Remove clocks and half-written files of runners that died; those of others stay."""
        now = self.now()
        for one in self.objects.listing("clock/"):
            content = self.objects.get(one.key)
            is_old = (now - one.modified).total_seconds() > self.lease
            if is_old or (content and is_gone(json.loads(content))):
                self.objects.delete([one.key])
        for path in self.objects.staging(("map.zarr/", "attempts/", "done/", "clock/")):
            with suppress(FileNotFoundError):
                if now.timestamp() - path.stat().st_mtime > STAGING_SECONDS:
                    path.unlink()

    def _granted(self, claims: Mapping[str, Mapping[int, Mapping[str, datetime]]]) -> int:
        """Attempts that the runner grants whose claim was put last; a claim may not tell."""
        puts = [
            (ends[""], tile, number)
            for tile, numbers in claims.items()
            for number, ends in numbers.items()
            if "" in ends
        ]
        if not puts:
            return self._limit
        _, tile, number = max(puts)
        content = self.objects.get(f"attempts/{tile}/{number}.json")
        return int(json.loads(content or b"{}").get("max_attempts", self._limit))

    @property
    def _limit(self) -> int:
        return self.max_attempts or MAX_ATTEMPTS

    @property
    def _clock(self) -> str:
        return f"clock/{self.owner.id}.json"

    def _state(
        self,
        tile: str,
        claims: dict[int, dict[str, datetime]],
        done: datetime | None,
        now: datetime,
        limit: int,
    ) -> TileState:
        last = max(claims, default=0)
        released = {n for n, ends in claims.items() if ".released" in ends}
        failed = tuple(sorted(n for n, ends in claims.items() if ".failed" in ends))
        heard = claims[last].get("") if last else None
        live, status = False, "waiting"
        if heard is not None and last not in released and last not in failed:
            live = done is not None or not self._is_silent(tile, last, now - heard)
            status = "stale"
        used = len(claims.keys() - released) - live
        if done is not None:
            status = "done"
        elif live:
            status = "running"
        elif used >= limit:
            status = "set aside"
        return TileState(tile, status, used, last, failed, done or heard)

    def abandoned(self, states: Iterable[TileState]) -> Iterator[TileState]:
        """Give running tiles whose runner is known to be gone from this machine, as stale."""
        for state in states:
            content = self.objects.get(f"attempts/{state.tile}/{state.last}.json")
            if content and is_gone(json.loads(content).get("owner", {})):
                used = state.attempts + 1
                status = "set aside" if used >= self._limit else "stale"
                yield TileState(state.tile, status, used, state.last, state.failed, None)

    def _is_abandoned(self, state: TileState) -> bool:
        """Look at a stale claim again: its runner may have been heard of since the listing."""
        if state.modified is None:
            return True  # known to be gone, whatever its age
        heard = self.objects.modified(f"attempts/{state.tile}/{state.last}.json")
        return heard is not None and self._is_silent(state.tile, state.last, self.now() - heard)

    def _is_silent(self, tile: str, number: int, age: timedelta) -> bool:
        """Tell whether a claim of that age has outlived its own lease."""
        seconds = age.total_seconds()
        if seconds <= self._patience:
            return False
        key = f"attempts/{tile}/{number}.json"
        if key not in self._leases:
            card = json.loads(self.objects.get(key) or b"{}")
            self._leases[key] = float(card.get("lease", self.lease))
        return seconds > self._leases[key]
