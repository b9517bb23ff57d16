"""Whole or not at all: how every result reaches its final name.

A result grows in a hidden folder beside its target (``.<name>.partial-<random>``) and
is renamed when it is complete. Whatever goes wrong before that, the folder is removed,
the target is as it was, and the caller gets one line: what, where, what to do.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deepforest_xr.errors import DeepForestError, WriteError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ADVICE = {
    errno.ENOSPC: "free disk space, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free space, or write elsewhere",
    errno.EFBIG: "the file size limit is reached: raise it (`ulimit -f`), or write elsewhere",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "the file system is read-only: write elsewhere",
}
MESSAGE_LENGTH = 300
# Tasks still running when another one failed may add a file while the folder is removed.
REMOVAL_ATTEMPTS = 5
REMOVAL_PAUSE_SECONDS = 0.1


@contextmanager
def staged(
    path: str | Path, *, overwrite: bool = False, parts: Collection[str] = ()
) -> Iterator[Path]:
    """Give the place to write to; what stands there at the end takes the name `path`.

    Parameters
    ----------
    path : str or Path
        Final file or folder. Missing parent folders are made.
    overwrite : bool
        Replace a file, or a Zarr store, that stands at `path`; only after success.
    parts : names
        For a result that is a folder of these files and no Zarr store: then a folder that
        holds nothing else may be replaced, and an empty one is free.

    Yields
    ------
    Path
        Inside a hidden folder beside `path`; siblings of it may be used as scratch space.

    Raises
    ------
    WriteError
        If `path` exists and `overwrite` is false (at once), or if anything but a
        DeepForestError, which passes unchanged, is raised inside.
    """
    path = Path(path)
    _require_free(path, overwrite=overwrite, parts=parts)
    partial = _make_partial(path)
    try:
        yield partial / path.name
        _require_free(path, overwrite=overwrite, parts=parts)
        _move_into_place(partial, path)
    except DeepForestError:
        raise
    except Exception as error:
        raise WriteError(failure_message(path, error)) from error
    finally:
        _remove(partial)


def failure_message(path: Path, error: BaseException) -> str:
    """One line from any exception: what, where, what to do."""
    code = _errno(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError):
        reason = f"{type(error).__name__}: {reason}"
    if code is not None and os.strerror(code) not in reason:
        reason = f"{os.strerror(code)} ({reason})"
    if len(reason) > MESSAGE_LENGTH:
        reason = reason[: MESSAGE_LENGTH - 3] + "..."
    advice = ADVICE.get(code, "mend the cause") if code is not None else "mend the cause"
    return f"{path} was not written: {reason}; {advice} and write again. Nothing was changed."


def _errno(error: BaseException | None) -> int | None:
    """Error number of the first system error in the chain; GDAL and zarr wrap theirs."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _require_free(path: Path, *, overwrite: bool, parts: Collection[str]) -> None:
    if not path.name:
        raise WriteError(f"{str(path)!r} has no name of its own: give the file to write.")
    if not os.path.lexists(path) or (parts and path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise WriteError(f"{path} exists: choose another name, or pass overwrite=True.")
    obstacle = _obstacle(path, parts)
    if obstacle:
        raise WriteError(
            f"{path} {obstacle}, so overwrite=True does not remove it: choose another name."
        )


def _obstacle(path: Path, parts: Collection[str]) -> str | None:
    """Why what stands at `path` is not replaced even when asked; None where it may be."""
    if not parts:
        return "is a folder and not a Zarr store" if path.is_dir() and not _is_zarr(path) else None
    if not path.is_dir():
        return "is a file and no folder"
    foreign = sorted({file.name for file in path.iterdir()}.difference(parts))
    return f"holds {foreign[0]!r}, which is no part of such a result" if foreign else None


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _make_partial(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise WriteError(failure_message(path, error)) from error


def _move_into_place(partial: Path, path: Path) -> None:
    """Rename the finished result; a folder in the way steps aside first, and back on failure."""
    finished = partial / path.name
    if not path.is_dir() or path.is_symlink():
        # Also a link to a store: the link is replaced, what it points to stays.
        finished.replace(path)
        return
    replaced = partial / "replaced"
    path.rename(replaced)
    try:
        finished.rename(path)
    except BaseException:
        replaced.rename(path)
        raise


def _remove(partial: Path) -> None:
    for attempt in range(REMOVAL_ATTEMPTS):
        shutil.rmtree(partial, ignore_errors=True)
        if not partial.exists():
            return
        time.sleep(REMOVAL_PAUSE_SECONDS * (attempt + 1))
