"""A command is run again while it is interrupted, and every other end of it is passed on."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from deepforest_xr.errors import ConfigError
from deepforest_xr.k8s import retry

# Appends a line to a file, then ends with the code that stands at that line's number.
CODES = """
import sys
path, *codes = sys.argv[1:]
with open(path, "a+") as file:
    file.write("x\\n")
    file.seek(0)
    sys.exit(int(codes[len(file.readlines()) - 1]))
"""


@pytest.mark.parametrize(
    ("codes", "attempts", "end", "runs"),
    [
        ([0], 5, 0, 1),
        ([75, 75, 0, 3], 5, 0, 3),
        ([75, 42, 0], 5, 42, 2),
        ([1, 0], 5, 1, 1),
        ([75, 75, 75, 0], 3, 75, 3),
        ([75, 0], 1, 75, 1),
    ],
)
def test_how_often_it_runs_and_how_it_ends(tmp_path, codes, attempts, end, runs):
    path = tmp_path / "runs"
    command = [sys.executable, "-c", CODES, path, *map(str, codes)]
    assert retry(command, attempts=attempts, on=75, first_pause_s=0) == end
    assert len(path.read_text().splitlines()) == runs


def test_a_command_that_a_signal_ended_has_the_code_that_a_shell_gives():
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert retry(command, attempts=2, on=75) == 137


def test_handlers_are_as_they_were(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    retry([sys.executable, "-c", ""], attempts=1, on=75)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_cannot_be_started_is_named():
    with pytest.raises(ConfigError, match="no-such-program cannot be started"):
        retry(["no-such-program"], attempts=3, on=75)
    with pytest.raises(ConfigError, match="attempts=0"):
        retry(["true"], attempts=0, on=75)
    with pytest.raises(ConfigError, match="a command after --"):
        retry([], attempts=1, on=75)


OUTER = """
import sys
from deepforest_xr.k8s import retry
sys.exit(retry(sys.argv[1:], attempts=3, on=75, first_pause_s=float({pause!r})))
"""
INNER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
signal.pause()
"""


def test_a_signal_goes_on_to_the_command_and_no_other_attempt_is_made():
    command = [sys.executable, "-c", OUTER.format(pause=0), sys.executable, "-c", INNER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, rest) == (75, "")


def test_a_signal_ends_the_wait_between_attempts(tmp_path):
    # The command tells its parent to stop and ends as interrupted: the wait would be an hour.
    code = "import os, signal, sys; os.kill(os.getppid(), signal.SIGTERM); sys.exit(75)"
    command = [sys.executable, "-c", OUTER.format(pause=3600), sys.executable, "-c", code]
    done = subprocess.run(command, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode in (75, 143)
