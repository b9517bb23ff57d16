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


def in_turns(calls, *, repeats):
    """Run named callables in turns, after one turn to warm up; lists of wall-clock seconds."""
    times = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return times


def compare(what, ours, peer, *, names, note, repeats=5):
    """Run both callables in turns; medians of their wall-clock times."""
    times = in_turns({"ours": ours, "peer": peer}, repeats=repeats)
    return Result(what, *names, median(times["ours"]), median(times["peer"]), note)


def machine():
    """One line that says where the numbers come from."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"
