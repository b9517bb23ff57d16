"""What befalls a runner: arranged before it starts, in its own process, and real when it comes."""

import dataclasses
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from benchmarks.basin.world import keep_journal, narrow, note
from deepforest_xr.basin import card, ledger, open_plan, run_basin
from deepforest_xr.basin import tile as tile_module
from deepforest_xr.basin.store import Objects, open_objects
from deepforest_xr.basin.tile import BLOCKS, Watch
from tests.basin.faults import DeadError, Dying
from tests.basin.memory import unavailable

NEVER = 10**9


def child(url, journal, doom=None):
    """A runner: a process of its own that makes all tiles it can get."""
    narrow()
    keep_journal(journal)
    if doom is not None:
        doom.arrange(journal)
    note(journal, "started")
    summary = run_basin(open_plan(url))
    sys.exit(0 if summary.is_complete else 75)


def die(journal):
    """Be gone, as by `kill -9`; only the first who comes here is."""
    try:
        os.close(os.open(f"{journal}.dead", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    note(journal, "killed")
    os.kill(os.getpid(), signal.SIGKILL)


class Killing(Dying):
    """Dies with its whole process, at the first put below a key."""

    def __init__(self, url, below, moment, journal):
        super().__init__(url, NEVER, moment)
        self.below, self.journal = below, journal

    def put(self, key, content, **options):
        is_it = key.startswith(self.below) and not os.path.exists(f"{self.journal}.dead")  # noqa: PTH110
        if is_it:
            self.last = len(self.puts) + 1
        try:
            return super().put(key, content, **options)
        except DeadError:
            die(self.journal)
            raise


@dataclass(frozen=True)
class AtPut:
    """Killed before, over or after putting an object."""

    below: str
    moment: str

    def arrange(self, journal):
        def doomed(url):
            store = Killing(url, self.below, self.moment, journal)
            return Objects(store, str(url), store.objects.folder)

        card.open_objects = doomed


@dataclass(frozen=True)
class AtStage:
    """Killed as a stage begins: "read", "map" or "write"; or with its first task in threads."""

    stage: str = ""
    task: str = ""

    def arrange(self, journal):
        doom = self

        class Deadly(Watch):
            @contextmanager
            def stage(self, name):
                if name == doom.stage:
                    die(journal)
                with super().stage(name):
                    yield

            @property
            def callbacks(self):
                first = super().callbacks

                def pretask(key, dsk, state):
                    if doom.task == ("classify" if BLOCKS in str(key) else "read"):
                        die(journal)
                    first[2](key, dsk, state)

                return (None, None, pretask, *first[3:])

        tile_module.Watch = Deadly


class Down:
    """A store that answers 503 for so many seconds from its first shard on."""

    def __init__(self, store, seconds):
        self.store, self.seconds, self.begun = store, seconds, None

    def put(self, key, content, **options):
        if key.startswith("map.zarr/") and self.begun is None:
            self.begun = time.monotonic()
        return self._asked("put", key, content, **options)

    def _asked(self, name, *args, **options):
        if self.begun is not None and time.monotonic() - self.begun < self.seconds:
            raise unavailable()
        return getattr(self.store, name)(*args, **options)

    def __getattr__(self, name):
        return lambda *args, **options: self._asked(name, *args, **options)


@dataclass(frozen=True)
class Unavailable:
    """Nothing but 503 for some seconds; `patience` is how long a runner asks again."""

    seconds: float
    patience: float

    def arrange(self, journal):  # noqa: ARG002
        def opened(url):
            objects = open_objects(url, patience=self.patience)
            return dataclasses.replace(objects, store=Down(objects.store, self.seconds))

        card.open_objects = opened


@dataclass(frozen=True)
class Skewed:
    """A clock that is wrong by so many hours."""

    hours: float

    def arrange(self, journal):  # noqa: ARG002
        real, hours = time.time, self.hours

        class Wrong(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(hours=hours)

        ledger.datetime = Wrong
        time.time = lambda: real() + 3600 * hours
