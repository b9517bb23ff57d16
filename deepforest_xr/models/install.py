"""The installed model: a checkpoint in the user's data folder, the default of `classify`.

A checkpoint is copied or downloaded beside those that are there, verified, and only then
named as the default in a small file. So a map that is being computed with the former
default goes on with it, and a download that breaks off changes nothing.

The data folder is ``$DEEPFOREST_XR_HOME``, else ``$XDG_DATA_HOME/deepforest-xr``, else
``~/.local/share/deepforest-xr``. What was installed stays there until the user deletes it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

from deepforest_xr.addresses import one_line, open_store
from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError, ModelError
from deepforest_xr.models.checkpoint import (
    CARD_FILE,
    FILES,
    ITEM_FILE,
    WEIGHTS_FILE,
    load,
    parse_card,
)
from deepforest_xr.models.mlm import item_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[int, int], None]

HOME_VARIABLE = "DEEPFOREST_XR_HOME"
POINTER = "default-model"
PIECE = 1 << 20  # bytes read at a time
# Seconds to connect, seconds between bytes.
TIMEOUT = (10.0, 60.0)
STORES = ("s3://", "s3a://", "gs://", "az://", "abfs://", "abfss://")
PATIENCE_SECONDS = 30.0  # with a store that does not answer


def install(source: str | Path, *, progress: Progress | None = None) -> Path:
    """Make a checkpoint the default of `classify`.

    Parameters
    ----------
    source : path or URL
        Folder of a checkpoint: on disk, behind http(s), or in an object store (``s3://``,
        ``gs://``, ``az://``, with credentials from the environment); ``.../model.json`` names
        it too.
    progress : callable, optional
        Called with bytes of the weights done and in all (0 if unknown).

    Returns
    -------
    Path
        The installed copy.

    Raises
    ------
    ModelError, ChecksumError
        If the source cannot be read, or is not a whole checkpoint of a network known here.
    WriteError
        If the data folder cannot be written.
    """
    origin = _origin(source)
    card = b"".join(origin.pieces(CARD_FILE))
    parse_card(card.decode("utf-8", errors="replace"), origin.name(CARD_FILE))
    # Named after its content, so another checkpoint never takes this one's place.
    folder = _writable_home() / "models" / hashlib.sha256(card).hexdigest()[:16]
    if not _is_whole(folder):
        with staged(folder, overwrite=True, parts=FILES) as partial:
            partial.mkdir()
            (partial / CARD_FILE).write_bytes(card)
            with (partial / WEIGHTS_FILE).open("wb") as stream:
                for piece in origin.pieces(WEIGHTS_FILE, progress):
                    stream.write(piece)
            _complete(partial, origin)
    with staged(pointer(), overwrite=True) as partial:
        partial.write_text(folder.name + "\n", encoding="utf-8")
    return folder


def installed() -> Path | None:
    """Folder of the installed checkpoint, None where none was installed.

    Raises
    ------
    ModelError
        If the one that was installed is gone.
    """
    try:
        name = pointer().read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelError(f"{pointer()} cannot be read: {error.strerror}.") from error
    folder = home() / "models" / name
    if not (folder / CARD_FILE).is_file():
        raise ModelError(
            f"the installed model is gone: {pointer()} names {folder}. Install one again "
            "(`deepforest-xr model install PATH|URL`), or delete that file."
        )
    return folder


def pointer() -> Path:
    """File that names the default; without it there is none."""
    return home() / POINTER


def home() -> Path:
    """Folder of what this library keeps for the user; it need not exist."""
    own = os.environ.get(HOME_VARIABLE)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    # os.path.expanduser, unlike Path's, leaves a "~" that it cannot resolve.
    return Path(os.path.expanduser(own or f"{data}/deepforest-xr"))  # noqa: PTH111


def _writable_home() -> Path:
    if str(home()).startswith("~"):
        raise ConfigError(
            f"this user has no home folder: set {HOME_VARIABLE} to the folder to install into."
        )
    return home()


def _is_whole(folder: Path) -> bool:
    try:
        load(folder)
    except ModelError:
        return False
    return True


def _complete(partial: Path, origin: _Origin) -> None:
    """Load the copy, build its network and add its item; errors name where it came from."""
    try:
        checkpoint = load(partial)
        checkpoint.build()
    except ModelError as error:
        raise type(error)(str(error).replace(str(partial), origin.name())) from error
    files = {name: (partial / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
    (partial / ITEM_FILE).write_bytes(item_json(checkpoint, files))


class _Origin(Protocol):
    """Where a checkpoint comes from."""

    def name(self, file: str = "") -> str:
        """Name the folder, or a file in it, for messages."""

    def pieces(self, file: str, progress: Progress | None = None) -> Iterator[bytes]:
        """Read a file piece by piece."""


def _origin(source: str | Path) -> _Origin:
    if str(source).startswith(("http://", "https://")):
        return _Web(str(source))
    if str(source).startswith(STORES):
        return _Store(str(source).removesuffix(f"/{CARD_FILE}").rstrip("/"))
    path = Path(source).expanduser()
    return _Disk(path.parent if path.name == CARD_FILE else path)


@dataclass(frozen=True)
class _Disk:
    """A checkpoint's folder on disk."""

    folder: Path

    def name(self, file: str = "") -> str:
        return str(self.folder / file)

    def pieces(self, file: str, progress: Progress | None = None) -> Iterator[bytes]:
        try:
            with (self.folder / file).open("rb") as stream:
                total = os.fstat(stream.fileno()).st_size
                yield from _counted(iter(lambda: stream.read(PIECE), b""), total, progress)
        except OSError as error:
            raise ModelError(
                f"{self.folder} is not a checkpoint: {file}: {error.strerror}; expected a folder "
                f"with {CARD_FILE} and {WEIGHTS_FILE}, or the address of one (https://, s3://)."
            ) from error


@dataclass(frozen=True)
class _Web:
    """A checkpoint's folder behind http(s); a query, such as a signature, goes with each file."""

    url: str

    def name(self, file: str = "") -> str:
        """Leave out what a signed address carries, and passwords."""
        parts = urlsplit(self._address(file))
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=host, query="")).rstrip("/")

    def pieces(self, file: str, progress: Progress | None = None) -> Iterator[bytes]:
        import requests

        # Without compression, so that the length announced is that of the file.
        plain = {"Accept-Encoding": "identity"}
        try:
            with requests.get(
                self._address(file), stream=True, timeout=TIMEOUT, headers=plain
            ) as answer:
                if not answer.ok:
                    raise ModelError(
                        f"{self.name(file)} answered {answer.status_code} {answer.reason}: give "
                        f"the address of a folder that holds {CARD_FILE} and {WEIGHTS_FILE}."
                    )
                total = int(answer.headers.get("Content-Length", 0))
                yield from _counted(answer.iter_content(PIECE), total, progress)
        except requests.RequestException as error:
            late = isinstance(error, requests.Timeout)
            raise ModelError(
                f"{self.name(file)} could not be downloaded: "
                f"{'no answer in time' if late else 'no connection, or it broke off'} "
                f"({type(error).__name__}). Check the address and the network and try again; "
                "nothing was changed."
            ) from error

    def _address(self, file: str) -> str:
        parts = urlsplit(self.url)
        folder = parts.path.removesuffix(f"/{CARD_FILE}").rstrip("/")
        return urlunsplit(parts._replace(path=f"{folder}/{file}", fragment=""))


@dataclass(frozen=True)
class _Store:
    """A checkpoint's folder in an object store."""

    url: str

    def name(self, file: str = "") -> str:
        return f"{self.url}/{file}".rstrip("/")

    def pieces(self, file: str, progress: Progress | None = None) -> Iterator[bytes]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        store = open_store(self.url, "model", patience=PATIENCE_SECONDS)
        try:
            answer = store.get(file)
            pieces = (bytes(piece) for piece in answer.stream(min_chunk_size=PIECE))
            yield from _counted(pieces, int(answer.meta["size"]), progress)
        except FileNotFoundError as error:
            raise ModelError(
                f"{self.name(file)} is not there: give the address of a folder that holds "
                f"{CARD_FILE} and {WEIGHTS_FILE}."
            ) from error
        except (PermissionError, PermissionDeniedError, UnauthenticatedError) as error:
            raise ModelError(
                f"{self.name(file)} may not be read: set the credentials of the store in the "
                "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)."
            ) from error
        except (BaseError, OSError) as error:
            raise ModelError(
                f"{self.name(file)} could not be downloaded: {one_line(error)}. Check the "
                "address, the credentials and the network and try again; nothing was changed."
            ) from error


def _counted(pieces: Iterator[bytes], total: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        if progress is not None:
            progress(done, total)
