"""Tiles of a plan, one task each, until all are done or set aside.

A runner looks at the ledger and takes one free tile after another. It looks again when it has
none left to take, or when one was another's by then: the claim decides, not what was seen. Any
number of runners may do so at once: threads, processes that share nothing but the store, or
workers of a Dask cluster, whose scheduler sees one task a tile. Running again goes on with what
is left.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from deepforest_xr.addresses import one_line
from deepforest_xr.basin.ledger import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    Lease,
    Ledger,
    TileState,
)
from deepforest_xr.basin.plan import open_plan
from deepforest_xr.basin.store import may_pass
from deepforest_xr.basin.summary import Summary, told
from deepforest_xr.basin.tile import make_tile
from deepforest_xr.classify.workers import require_resources, share_cores
from deepforest_xr.errors import (
    ConfigError,
    DeepForestError,
    LostLeaseError,
    MissingExtraError,
    ModelError,
    StoreError,
)
from deepforest_xr.models import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deepforest_xr.basin.card import Plan
    from deepforest_xr.basin.tiling import Tile

log = logging.getLogger(__name__)

PAUSES_SECONDS = (2.0, 8.0, 30.0)
"""Before an attempt that met something that may pass is tried again."""

POLL_SECONDS = 0.5
BUSY_REST_SECONDS = 60.0
IDLE_REST_SECONDS = 10.0
"""Before the ledger is looked at again, with tiles on the way and without."""

IN_FLIGHT = 2
"""Tiles on the way for each worker of a cluster, so that none waits for its next."""

NOT_THE_TILES_FAULT = (StoreError, ModelError, MissingExtraError, ConfigError)
"""Errors that every tile would meet: they stop the run, and no attempt is counted."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker needs to make a tile; small, it travels."""

    url: str
    run_id: str
    tile: str
    model: str | None
    lease: float
    max_attempts: int
    resources: tuple[tuple[str, float], ...] = ()


def run_basin(
    plan: Plan,
    *,
    client: Any = None,
    workers: int = 1,
    shard: tuple[int, int] | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    lease: float = LEASE_SECONDS,
    model: str | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Map the tiles of a plan that are not done.

    Parameters
    ----------
    plan : Plan
        From `plan_basin` or `open_plan`.
    client : distributed.Client, optional
        Make tiles on its workers, one task each; for ``device="cuda"`` on those that declare
        ``GPU=1``. Scenes, store and model must be in their reach.
    workers : int
        Without a client: tiles at once, in threads of this process. Each uses all cores; two
        read ahead.
    shard : (i, n), optional
        Only every n-th tile, beginning with the i-th, from 0.
    max_attempts : int
        Attempts that may fail or be abandoned before a tile is set aside.
    lease : float
        Seconds after which this runner, if it is not heard of, has lost its tile; runners of
        one plan may have different ones.
    model : str, optional
        Folder of the checkpoint here, if it is not where it was when the basin was planned.
    stop : threading.Event, optional
        Once set, tiles in hand are given back and the run ends within a second; threads may
        work on for a while, but write nothing.
    progress : callable (done, total), optional
        Called with the tiles of this share that are known to be done, by whichever runner.

    Returns
    -------
    Summary
        What is done, what was set aside and why.

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    ModelError
        If the model is not the one that was planned with.
    StoreError
        If the store does not answer. No attempt is counted then.
    """
    tiles = _share(plan, shard)
    if workers < 1:
        raise ConfigError(f"workers={workers}; expected 1 or more.")
    _require_model(plan, model)
    ledger = Ledger(plan.open(), lease=lease, max_attempts=max_attempts)
    resources = (("GPU", 1.0),) if client is not None and plan.config.device == "cuda" else ()
    task = _Task(plan.url, plan.run_id, "", model, lease, max_attempts, resources)
    crew: _Crew = (
        _Threads(plan, ledger, task, workers) if client is None else _Cluster(client, task)
    )
    return _Runner(plan, tiles, ledger, crew, stop or threading.Event(), progress).run()


class _Runner:
    """The loop of one runner."""

    def __init__(
        self,
        plan: Plan,
        tiles: list[Tile],
        ledger: Ledger,
        crew: _Crew,
        stop: threading.Event,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.plan, self.ledger, self.crew, self.stop = plan, ledger, crew, stop
        self.progress = progress or (lambda _done, _total: None)
        self.order = [tile.id for tile in tiles]
        self.made = 0
        self.done: set[str] = set()
        self.flying: dict[Future[str], str] = {}
        self.states: dict[str, TileState] = {}
        self.free: deque[TileState] = deque()
        self.is_complete = False
        self.chance = random.Random(ledger.owner.id)  # noqa: S311

    def run(self) -> Summary:
        """Make tiles until none is left for this runner."""
        why = ""
        try:
            while not why:
                self._send()
                if not (self.flying or self.free or self._is_any("running")):
                    break
                why = self._rest()
            if why:
                self.crew.end()  # first give back what is in hand
                self._look()
            return self._summary(why)
        finally:
            self.crew.end()
            with _quietly():
                self.ledger.close(complete=self.is_complete)

    def _send(self) -> None:
        """Send free tiles on their way, as many as may be."""
        room = self.crew.width() - len(self.flying)
        if not self.free and (room > 0 or not self.flying):
            self._look()
        for _ in range(min(room, len(self.free))):  # none at all where room is negative
            state = self.free.popleft()
            self.flying[self.crew.submit(state)] = state.tile

    def _look(self) -> None:
        """Learn from the ledger how all tiles are, and which to take."""
        every = self.ledger.states(tile.id for tile in self.plan.tiles)
        self.is_complete = all(state.status == "done" for state in every.values())
        self.states = {tile: every[tile] for tile in self.order}
        self._tell(tile for tile in self.order if every[tile].status == "done")
        if not self.flying and not self._is_any("waiting", "stale"):
            running = [s for s in self.states.values() if s.status == "running"]
            self.states |= {s.tile: s for s in self.ledger.abandoned(running)}
        # Runners of one plan go on at different places, or they would all want the same tile.
        turn = self.chance.randrange(max(len(self.order), 1))
        flying = set(self.flying.values())
        free = [
            self.states[tile]
            for tile in (*self.order[turn:], *self.order[:turn])
            if self.states[tile].status in {"waiting", "stale"} and tile not in flying
        ]
        # Those that failed before come last.
        self.free = deque(sorted(free, key=lambda state: state.attempts))

    def _tell(self, done: Iterable[str]) -> None:
        """Report tiles that are known to be done."""
        self.done.update(done)
        self.progress(len(self.done), len(self.order))

    def _is_any(self, *statuses: str) -> bool:
        return any(state.status in statuses for state in self.states.values())

    def _rest(self) -> str:
        """Wait for a tile; why the run must stop, or "". Without tiles wait for other runners."""
        pause = min(self.ledger.lease / 4, BUSY_REST_SECONDS if self.flying else IDLE_REST_SECONDS)
        end = time.monotonic() + pause
        while True:
            if self.stop.is_set():
                return "it was asked to"
            if lost := self.crew.lost():
                return lost
            finished, _ = wait(self.flying, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            if not self.flying:
                self.stop.wait(min(POLL_SECONDS, pause))
            if why := self._take_in(finished):
                return why
            if finished or time.monotonic() > end:
                return ""

    def _take_in(self, finished: set[Future[str]]) -> str:
        """Count what has ended; why the run must stop, or ""."""
        for future in finished:
            tile = self.flying.pop(future)
            try:
                end = future.result()
                if end == "done":
                    self.made += 1
                    self._tell([tile])
                if end == "busy":
                    self.free.clear()  # others are at work here: look where
            except CancelledError:
                return "the scheduler dropped a tile"
            except Exception as error:
                if not self.crew.is_worker_lost(error):
                    raise
                log.warning("%s", one_line(error))
        return ""

    def _summary(self, why: str) -> Summary:
        states = self.states
        aside = [s for s in states.values() if s.status == "set aside"]
        return Summary(
            tiles=len(self.order),
            done=sum(s.status == "done" for s in states.values()),
            made=self.made,
            set_aside={s.tile: told(self.ledger.reasons(s), s) for s in aside},
            is_interrupted=bool(why),
            why=why,
        )


class _Crew(ABC):
    """Who makes tiles."""

    @abstractmethod
    def width(self) -> int:
        """How many tiles may be on the way."""

    @abstractmethod
    def submit(self, state: TileState) -> Future[str]:
        """Send a tile on its way; the future's result is how it ended."""

    def lost(self) -> str:
        """Why nothing more will come of what is on the way, or ""."""
        return ""

    def is_worker_lost(self, error: Exception) -> bool:
        """Tell the error of a worker that died; its claim will grow stale."""
        del error
        return False

    @abstractmethod
    def end(self) -> None:
        """Take no more tiles, give back those in hand."""


class _Threads(_Crew):
    """Threads of this process."""

    def __init__(self, plan: Plan, ledger: Ledger, task: _Task, workers: int) -> None:
        self.plan, self.ledger, self.task, self.workers = plan, ledger, task, workers
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="tile")
        self.hands: dict[str, Lease] = {}

    def width(self) -> int:
        return self.workers

    def submit(self, state: TileState) -> Future[str]:
        return self.pool.submit(_attempt, self.plan, self.ledger, state, self.task, self.hands)

    def end(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for lease in list(self.hands.values()):
            with _quietly():
                self.ledger.release(lease)


class _Cluster(_Crew):
    """Workers of a Dask cluster; each makes its own claims."""

    def __init__(self, client: Any, task: _Task) -> None:
        resources = dict(task.resources) or None
        self.client, self.task = client, task
        self.executor = client.get_executor(pure=False, retries=0, resources=resources)

    def width(self) -> int:
        try:
            return IN_FLIGHT * max(len(self.client.nthreads()), 1)
        except Exception as error:  # as many kinds as there are ways to lose a connection
            log.warning("the scheduler does not answer: %s", one_line(error))
            return 0

    def submit(self, state: TileState) -> Future[str]:
        future: Future[str] = self.executor.submit(
            _attempt_there, replace(self.task, tile=state.tile), state
        )
        return future

    def lost(self) -> str:
        status = self.client.status
        return "" if status == "running" else f"the client of the scheduler is {status}"

    def is_worker_lost(self, error: Exception) -> bool:
        from distributed.scheduler import KilledWorker

        return isinstance(error, KilledWorker)

    def end(self) -> None:
        try:
            self.executor.shutdown(wait=False)
        except Exception as error:
            log.debug("tasks could not be cancelled: %s", one_line(error))


def _attempt_there(task: _Task, state: TileState) -> str:
    """Make a tile on a worker of a cluster."""
    require_resources(dict(task.resources))
    share_cores()
    plan = _plan_there(task.url, task.run_id)
    ledger = Ledger(plan.open(), lease=task.lease, max_attempts=task.max_attempts)
    try:
        return _attempt(plan, ledger, state, task, {})
    finally:
        ledger.close()


@lru_cache(maxsize=4)
def _plan_there(url: str, run_id: str) -> Plan:
    plan = open_plan(url)
    if plan.run_id != run_id:
        raise ConfigError(
            f"a worker finds run {plan.run_id[:12]} at {url!r}, not {run_id[:12]}: does it see "
            "the same folder?"
        )
    return plan


def _attempt(
    plan: Plan, ledger: Ledger, state: TileState, task: _Task, hands: dict[str, Lease]
) -> str:
    """Claim a tile and make it: "done", "busy", "dropped" or "failed".

    Raises
    ------
    StoreError, ModelError, ConfigError, MissingExtraError
        What no other tile would escape; the tile is given back.
    """
    lease = ledger.claim(state)
    if lease is None:
        return "busy"
    tile = next(t for t in plan.tiles if t.id == lease.tile)
    hands[tile.id] = lease
    try:
        with ledger.beating(lease):
            _persistently(lambda: make_tile(plan, tile, ledger, lease, model=task.model), lease)
    except LostLeaseError:
        return "dropped"
    except NOT_THE_TILES_FAULT:
        if lease.lost.is_set():
            return "dropped"
        with _quietly():
            ledger.release(lease)
        raise
    except Exception as error:
        log.warning("tile %s: attempt %d: %s", tile.id, lease.number, one_line(error))
        ledger.fail(lease, error, transient=may_pass(error))
        return "failed"
    except BaseException:
        ledger.release(lease)  # as when Ctrl-C is pressed: no fault of the tile
        raise
    finally:
        hands.pop(tile.id, None)
    return "done"


def _persistently(make: Callable[[], Any], lease: Lease) -> None:
    """Try again what failed for reasons that may pass."""
    for pause in PAUSES_SECONDS:
        try:
            make()
        except (LostLeaseError, *NOT_THE_TILES_FAULT):
            raise
        except Exception as error:
            if not may_pass(error):
                raise
            log.info("tile %s: %s; again in %g s", lease.tile, one_line(error), pause)
            if lease.lost.wait(pause * random.uniform(0.5, 1.5)):  # noqa: S311
                raise LostLeaseError(f"tile {lease.tile} was given back.") from error
        else:
            return
    make()


def _share(plan: Plan, shard: tuple[int, int] | None) -> list[Tile]:
    number, count = shard or (0, 1)
    if not 0 <= number < count:
        raise ConfigError(f"shard={number}/{count}; expected i/n with i from 0 to n - 1.")
    return list(plan.tiles[number::count])


def _require_model(plan: Plan, model: str | None) -> None:
    """Refuse a model that is not the planned one, before a tile is claimed."""
    folder = model or plan.model.path
    identity = load(folder).identity
    if identity != plan.model.identity:
        raise ModelError(
            f"{folder} is the model {identity[:12]}, the basin was planned with "
            f"{plan.model.identity[:12]} ({plan.model.name}): give that one."
        )


class _quietly:  # noqa: N801  - reads as a statement
    """Pass over errors of the store while something else is being ended."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, DeepForestError):
            log.warning("%s", json.dumps(one_line(error)))
            return True
        return False
