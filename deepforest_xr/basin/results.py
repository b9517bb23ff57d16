"""Where the results of a finished basin go: a folder or address, one object a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepforest_xr.basin.store import open_objects

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from deepforest_xr.basin.store import Objects

FOLDER = "finish"
SHA2_256 = "1220"
"""Prefix of a multihash: the function is SHA-256, the digest has 32 bytes."""


@dataclass(frozen=True, slots=True)
class Results:
    """Files below one address."""

    objects: Objects
    """The store."""

    prefix: str
    """What its keys begin with: ``finish/``, or nothing."""

    @property
    def url(self) -> str:
        """Address of the folder of results."""
        return f"{self.objects.url.rstrip('/')}/{self.prefix}".rstrip("/")

    def put(self, name: str, content: bytes) -> None:
        """Put a file, whole or not at all."""
        self.objects.put(self.prefix + name, content)

    def put_json(self, name: str, value: Any) -> None:
        """Put JSON."""
        self.put(name, to_json(value))

    def get(self, name: str) -> bytes | None:
        """Give a file's content; None if there is none."""
        return self.objects.get(self.prefix + name)

    def get_json(self, name: str) -> Any:
        """Give a JSON file's value; None if there is none."""
        content = self.get(name)
        return None if content is None else json.loads(content)

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of every file, by name."""
        start = len(self.prefix)
        return {one.key[start:]: one.size for one in self.objects.listing(self.prefix + below)}

    def delete(self, names: Iterable[str]) -> None:
        """Remove files."""
        self.objects.delete(self.prefix + name for name in names)


def open_results(objects: Objects, out: str | Path | None) -> Results:
    """Open the place of results.

    Parameters
    ----------
    objects : Objects
        Of the basin.
    out : path or URL, optional
        Default: ``finish/`` below the basin.
    """
    if out is None:
        return Results(objects, f"{FOLDER}/")
    return Results(open_objects(out, make=True), "")


def to_json(value: Any) -> bytes:
    """Give JSON as it is put; equal values give equal bytes."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def multihash(content: bytes) -> str:
    """Give the checksum that the STAC file extension asks for."""
    return SHA2_256 + hashlib.sha256(content).hexdigest()
