"""A store of chips that grows, strip by strip, and can be continued.

It grows in a hidden folder beside its target (``.<name>.unfinished``) and is renamed when it
is whole. Beside the growing store stand ``card.json`` (what is cut), for every whole strip
``entries-<row>.json`` (written last: without it the strip is cut again) and, while their
shard is not full, the strip's chips in ``pixels-<row>.npz``.
"""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.atomic import _require_free, failure_message, staged
from deepforest_xr.chips.cut import Entry
from deepforest_xr.errors import ChipError, DeepForestError, LabelError, WriteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deepforest_xr.chips.cut import Pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The folder of a store that grows."""

    folder: Path
    """Holds the store and what is needed to go on."""

    store: Path
    """The Zarr store."""

    @property
    def strips(self) -> int:
        """Number of whole strips."""
        row = 0
        while self._entries(row).exists():
            row += 1
        return row

    def begin(self, card: str) -> None:
        """Say what grows here; called when the empty store is made."""
        (self.folder / "card.json").write_text(card, encoding="utf-8")

    def commit(
        self, row: int, digest: str, entries: list[Entry], pending: list[Pixels], *, is_alone: bool
    ) -> None:
        """Record a whole strip.

        Parameters
        ----------
        row : int
            Of the strip.
        digest : str
            Of what was read.
        entries : list of Entry
            Of its chips.
        pending : list of dict
            Those of its chips that are in no shard yet.
        is_alone : bool
            Whether no earlier strip has such chips.
        """
        if pending:
            arrays: dict[str, Any] = {n: np.stack([c[n] for c in pending]) for n in pending[0]}
            np.savez(self._pixels(row), **arrays)
        part = self.folder / "entries.part"
        content = {"digest": digest, "entries": [asdict(entry) for entry in entries]}
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(self._entries(row))
        if is_alone:
            for old in range(row):
                self._pixels(old).unlink(missing_ok=True)

    def digest(self, row: int) -> str:
        """Give the digest of a whole strip."""
        return str(self._load(row)["digest"])

    def entries(self) -> list[Entry]:
        """Give the entries of all whole strips."""
        listed = [entry for row in range(self.strips) for entry in self._load(row)["entries"]]
        return [Entry(**{**e, "histogram": tuple(e["histogram"])}) for e in listed]

    def pending(self, count: int) -> list[Pixels]:
        """Give the last `count` chips, which are in no shard yet."""
        chips: list[Pixels] = []
        for row in range(self.strips):
            if count and self._pixels(row).exists():
                with np.load(self._pixels(row)) as kept:
                    arrays = dict(kept)
                chips += [{n: a[i] for n, a in arrays.items()} for i in range(len(arrays["s2"]))]
        return chips[len(chips) - count :]

    def discard(self) -> None:
        """Remove all but the lock."""
        for name in self.folder.glob("*"):
            if name.is_dir():
                shutil.rmtree(name, ignore_errors=True)
            elif name.name != "lock":
                name.unlink(missing_ok=True)

    def _load(self, row: int) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self._entries(row).read_text(encoding="utf-8"))
        return loaded

    def _entries(self, row: int) -> Path:
        return self.folder / f"entries-{row:06d}.json"

    def _pixels(self, row: int) -> Path:
        return self.folder / f"pixels-{row:06d}.npz"


@contextmanager
def unfinished(
    path: Path, *, card: str, digest: Callable[[int], str], overwrite: bool
) -> Iterator[Unfinished]:
    """Give the folder of a growing store; at the end it takes the name `path`.

    Parameters
    ----------
    path : Path
        The finished store.
    card : str
        Says what is cut; another card is another store.
    digest : callable(row)
        Reads a strip again: a store is continued only if its first and its last whole strip
        are still what they were.
    overwrite : bool
        Replace what stands at `path` once the store is whole, and begin anew where
        something else is unfinished.

    Yields
    ------
    Unfinished
        Empty, or with the strips that were whole when an earlier call ended.

    Raises
    ------
    WriteError
        If `path` is taken, another process writes there, something else is unfinished
        there, or writing fails; then whole strips are kept.
    """
    _require_free(path, overwrite=overwrite, parts=())
    folder = path.parent / f".{path.name}.unfinished"
    work = Unfinished(folder, folder / path.name)
    with _locked(folder, path):
        try:
            _claim(work, path, card, digest, overwrite=overwrite)
            yield work
            with staged(path, overwrite=overwrite) as part:
                work.store.rename(part)
        except (ChipError, LabelError):
            work.discard()  # the same call would end alike
            raise
        except DeepForestError:
            raise
        except Exception as error:
            raise WriteError(_message(path, error, work)) from error
        finally:
            if not work.strips or not work.store.exists():
                shutil.rmtree(folder, ignore_errors=True)


def _claim(
    work: Unfinished, path: Path, card: str, digest: Callable[[int], str], *, overwrite: bool
) -> None:
    """Continue what is unfinished if it is the same, else clear the folder or refuse."""
    noted = work.folder / "card.json"
    strips = work.strips
    if not noted.exists() or not strips:
        work.discard()
        return
    is_same = noted.read_text(encoding="utf-8") == card and all(
        work.digest(row) == digest(row) for row in sorted({0, strips - 1})
    )
    if is_same:
        log.info("%s: %d strips of chips are there, going on", path, strips)
    elif overwrite:
        work.discard()
    else:
        raise WriteError(
            f"{str(work.folder)!r} holds unfinished chips of another cube, other labels or another "
            "spec: call with those, delete the folder, or pass overwrite=True to begin anew."
        )


def _message(path: Path, error: Exception, work: Unfinished) -> str:
    kept = work.strips
    then = f" {kept} strips of chips are kept: the same call goes on." if kept else ""
    return failure_message(path, error) + then


@contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    """Keep other processes out; the system frees the lock of one that was killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise WriteError(failure_message(path, error)) from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            log.debug("no locks on this system: two writers are the user's to avoid")
        except BlockingIOError as error:
            raise WriteError(
                f"chips are being written to {path} by another process: wait, or choose another "
                "name."
            ) from error
        yield
