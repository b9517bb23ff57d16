"""Run a command again while it ends with one exit code, a limited number of times.

This is process 1 of a runner's pod: SIGTERM and SIGINT go on to the command, and what it then
ends with is the pod's own exit code.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
# What a shell adds to the number of the signal that ended a command.
BY_SIGNAL = 128

log = logging.getLogger(__name__)


def retry(
    command: Sequence[str], *, attempts: int, on: int, first_pause_s: float = FIRST_PAUSE_S
) -> int:
    """Run a command until it ends with another exit code than `on`.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    attempts : int
        Most times that it is started, at least 1.
    on : int
        Exit code after which it is started again: interrupted, not wrong.
    first_pause_s : float
        Seconds before the second attempt; doubled each time, up to five minutes.

    Returns
    -------
    int
        Exit code of the last attempt, 128 + n where signal n ended it. After SIGTERM or SIGINT
        no other attempt is made.

    Raises
    ------
    ConfigError
        If there is no such program, or no attempt.
    """
    if not command or attempts < 1:
        raise ConfigError(
            f"retry got {len(command)} words and attempts={attempts}: give a command after --, "
            "and at least one attempt."
        )
    pause_s = first_pause_s
    with _forwarding() as child:
        for attempt in range(1, attempts + 1):
            code = child.run(command)
            if code != on or child.stopping.is_set() or attempt == attempts:
                break
            log.warning("attempt %d of %d: exit code %d, again in %g s", attempt, attempts, code,
                        pause_s)  # fmt: skip
            # A signal ends the wait at once; its code is that of the interrupted command.
            if child.stopping.wait(pause_s):
                break
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return code


class _Child:
    """The command that runs now, if one does, and whether it was asked to stop."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> int:
        """Start the command and wait for its end."""
        try:
            self._process = subprocess.Popen(command)  # noqa: S603 - the manifest's own command
        except OSError as error:
            raise ConfigError(f"{command[0]} cannot be started: {error.strerror}.") from error
        if self.stopping.is_set():  # asked while it was being started
            self._process.terminate()
        code = self._process.wait()
        return code if code >= 0 else BY_SIGNAL - code

    def pass_on(self, number: int, _frame: Any) -> None:
        """Handle a signal."""
        self.stopping.set()
        if self._process is not None:
            self._process.send_signal(number)


@contextmanager
def _forwarding() -> Iterator[_Child]:
    child = _Child()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, child.pass_on) for number in numbers]
    try:
        yield child
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
