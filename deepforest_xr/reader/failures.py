"""What could not be read, where the user asked to go on without it.

A cube is lazy: files fail long after its attributes were made. The list in its attributes is
therefore one that grows; readers in this process add to it, readers on a Dask worker tell
their scheduler, and `read_failures` collects both.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger(__name__)

ATTRIBUTE = "read_failures"
TOPIC = "deepforest-xr-read-failures"


class Failures(list[str]):
    """Lines ``link: reason`` in the order they occurred, each file once; writes as a JSON list."""

    def __init__(self, lines: list[str] | None = None, name: str | None = None) -> None:
        super().__init__(lines or [])
        self.name = name or uuid.uuid4().hex
        self._known = dict.fromkeys(self, object())
        _KNOWN[self.name] = self

    def add(self, line: str) -> None:
        """Keep a line that is not there yet."""
        first = object()
        if self._known.setdefault(line, first) is first:  # at once, without a lock to fork
            self.append(line)

    def __deepcopy__(self, memo: dict[int, Any]) -> Failures:
        return self  # a copied cube reads the same files

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (list(self), self.name)


_KNOWN: WeakValueDictionary[str, Failures] = WeakValueDictionary()


def _restore(lines: list[str], name: str) -> Failures:
    known = _KNOWN.get(name)
    return Failures(lines, name) if known is None else known


def report(name: str, line: str) -> None:
    """Add a line to the list called `name`, wherever the process that has it runs."""
    log.warning("%s; its pixels are missing", line)
    if (failures := _KNOWN.get(name)) is not None:
        failures.add(line)
        return
    from distributed import get_worker

    try:
        get_worker().log_event(TOPIC, {"name": name, "line": line})
    except ValueError:  # no worker: another scheduler's process, which has its log only
        log.debug("no list %s in this process", name)


def read_failures(cube: xr.Dataset) -> list[str]:
    """Files that could not be read so far, for a cube opened with ``on_error="nodata"``.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`, or a map made of it.

    Returns
    -------
    list of str
        ``link: reason``, without tokens; empty where all was read or errors stop the run.
        Also those of a Dask cluster's workers, if its client is the current one; those of
        Dask's ``scheduler="processes"`` stand in the log alone.
    """
    failures = cube.attrs.get(ATTRIBUTE)
    if not isinstance(failures, Failures):
        return list(failures or [])
    from distributed import default_client

    try:
        events = default_client().get_events(TOPIC)
    except ValueError:  # no client
        return list(failures)
    for _, event in events or ():
        if event["name"] == failures.name:
            failures.add(event["line"])
    return list(failures)
