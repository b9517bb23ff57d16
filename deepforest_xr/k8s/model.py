"""The model of a pod: installed, verified, and linked where plans name it."""

from __future__ import annotations

from pathlib import Path

from deepforest_xr.errors import ChecksumError, WriteError
from deepforest_xr.models import install, load


def fetch_model(source: str, link: str | Path, *, sha256: str | None = None) -> Path:
    """Install a checkpoint and make a link to it.

    Parameters
    ----------
    source : str
        Folder of a checkpoint, as for `install`: on disk, behind http(s), in an object store.
    link : path
        Link to make, in place of an earlier one. Plans name the model by it, so that a new
        place of the model makes no new run.
    sha256 : str, optional
        What the checksum of the weights must be.

    Returns
    -------
    Path
        The installed folder.

    Raises
    ------
    ModelError
        If there is no whole checkpoint at `source`.
    ChecksumError
        If its weights are others than `sha256` says; no link is made then.
    WriteError
        If the link cannot be made.
    """
    folder = install(source)
    found = load(folder).sha256
    if sha256 is not None and found != sha256:
        raise ChecksumError(
            f"the weights of the model at {source} have SHA-256 {found}, expected {sha256}: "
            "put that model there, or set model_sha256 to the one that is meant and plan again."
        )
    link = Path(link)
    new = link.with_name(f".{link.name}.new")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        new.symlink_to(folder)
        new.replace(link)
    except OSError as error:
        raise WriteError(f"{link} cannot be made: {error.strerror}.") from error
    return folder
