"""A store in memory whose clock the test turns, and which fails when it is told to."""

from datetime import UTC, datetime, timedelta

from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from deepforest_xr.basin.store import Objects

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


class Clocked:
    """An obstore store; what is put carries the time of `seconds`."""

    def __init__(self):
        self.inner = MemoryStore()
        self.seconds = 0.0
        self.times = {}
        self.calls = []
        self.faults = []

    def _called(self, name, key):
        self.calls.append((name, key))
        if self.faults and (error := self.faults.pop(0)) is not None:
            raise error

    def put(self, key, content, **options):
        self._called("put", key)
        result = self.inner.put(key, content, **options)
        self.times[key] = EPOCH + timedelta(seconds=self.seconds)
        return result

    def get(self, key):
        self._called("get", key)
        return self.inner.get(key)

    def head(self, key):
        self._called("head", key)
        return {**self.inner.head(key), "last_modified": self.times[key]}

    def list(self, prefix, offset=None):
        self._called("list", prefix)
        for chunk in self.inner.list(prefix, offset=offset, chunk_size=3):
            yield [{**one, "last_modified": self.times[one["path"]]} for one in chunk]

    def delete(self, key):
        self._called("delete", key)
        self.inner.delete(key)


def unavailable():
    return GenericError("Server returned non-2xx status code: 503 Service Unavailable: Slow Down")


def memory(store=None, **options):
    """Objects over such a store; waiting passes the time at once."""
    store = store or Clocked()

    def pause(seconds):
        store.seconds += seconds

    options = {"pause": pause, "clock": lambda: store.seconds} | options
    return Objects(store, "memory://", None, **options)
