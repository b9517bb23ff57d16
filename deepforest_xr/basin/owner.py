"""Who holds a claim: a process of a machine, and whether it is known to be gone."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Owner:
    """A runner."""

    id: str
    """Its own, drawn when it starts."""

    host: str
    """Name of the machine, to be read."""

    pid: int
    """Of the process."""

    machine: str = ""
    """Boot and process namespace of the machine, "" where it cannot be told."""

    started: str = ""
    """When the process started, in ticks of that machine: process ids are given again."""

    def card(self) -> dict[str, Any]:
        """Give what is written into a claim."""
        return asdict(self)


def this_owner() -> Owner:
    """Make an owner of this process."""
    pid = os.getpid()
    return Owner(uuid.uuid4().hex, socket.gethostname(), pid, _machine(), _start_of(pid) or "")


def is_gone(card: dict[str, Any]) -> bool:
    """Tell whether a claim's owner was a process of this machine that is no more.

    Its claim need not grow stale first. Of another machine, or another container, nothing can
    be told: then False.
    """
    machine, pid = card.get("machine"), card.get("pid")
    if not machine or machine != _machine() or not isinstance(pid, int):
        return False
    return _start_of(pid) != card.get("started")


@lru_cache(maxsize=1)
def _machine() -> str:
    """Name this boot of this machine and this container; a host's name is not enough."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    rest = fields.rpartition(")")[2].split()
    return None if rest[0] in "ZX" else rest[19]
