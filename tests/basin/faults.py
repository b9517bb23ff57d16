"""A folder that dies at a put, as its process would: before it, over it, or right after."""

import re

from deepforest_xr.basin import owner
from deepforest_xr.basin.store import Objects, open_objects

MOMENTS = ("before", "over", "after")


class DeadError(BaseException):
    """The process is gone: nothing catches this but the test."""


class Dying:
    """An obstore store over a folder; at its `last` put it dies, and does nothing from then on."""

    def __init__(self, folder, last, moment):
        self.objects = open_objects(folder)
        self.last, self.moment = last, moment
        self.puts = []
        self.is_dead = False

    def _alive(self):
        if self.is_dead:
            raise DeadError

    def put(self, key, content, **options):
        self._alive()
        self.puts.append(key)
        self.is_dead = len(self.puts) == self.last
        if self.is_dead and self.moment == "over":
            path = self.objects.folder / f"{key}#1"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[: len(content) // 2])
        if self.is_dead and self.moment != "after":
            raise DeadError
        result = self.objects.store.put(key, content, **options)
        self._alive()
        return result

    def __getattr__(self, name):
        self._alive()
        return getattr(self.objects.store, name)


def dying(monkeypatch, folder, last, moment):
    """Let the next run go on in a process that dies at its `last` put; the store to ask."""
    store = Dying(folder, last, moment)
    dead = Objects(store, str(folder), store.objects.folder)
    real = owner.this_owner()

    def doomed():
        # Of a process of this machine that has ended, as its claims will tell.
        return owner.Owner(f"dead{id(store)}", real.host, real.pid, real.machine, "1")

    monkeypatch.setattr("deepforest_xr.basin.card.open_objects", lambda url: dead)
    monkeypatch.setattr("deepforest_xr.basin.ledger.this_owner", doomed)
    return store


LEDGER = re.compile(r"(attempts/[^/]+/\d+(\.failed|\.released)?|done/[^/]+|plan|aoi)\.json")


def strays(names, plan):
    """Names of objects that are neither the map's, the plan's, nor the ledger's."""
    return [
        name
        for name in names
        if not LEDGER.fullmatch(name)
        and not name.startswith("items/")
        and not re.fullmatch(r"map\.zarr/(.*/)?(zarr\.json|c/[\d/]+)", name)
    ]
