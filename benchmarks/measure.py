"""Timing two ways of doing the same thing in turns, so that a busy moment hits both."""

import os
import platform
import time
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Result:
    """One comparison."""

    what: str
    ours: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    note: str

    @property
    def ratio(self):
        """How many times as fast as the peer ours is."""
        return self.peer_seconds / self.ours_seconds


def compare(what, ours, peer, *, names, note, repeats=5):
    """Run both callables in turns; medians of their wall-clock times."""
    times = {"ours": [], "peer": []}
    for _ in range(repeats):
        for side, call in (("ours", ours), ("peer", peer)):
            begin = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - begin)
    return Result(what, *names, median(times["ours"]), median(times["peer"]), note)


def machine():
    """One line that says where the numbers come from."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"
