"""Starts servers as processes of their own, waits until they listen, and ends them all."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

READY_WITHIN = 60.0
ENDED_WITHIN = 15.0

POSTGRES_BIN = Path(os.environ.get("POSTGRES_BIN", "/usr/lib/postgresql/15/bin"))
SERVICES = Path(
    os.environ.get("DEEPFOREST_XR_SERVICES", Path(__file__).parents[2] / ".venv-services")
)


def missing():
    """Why no server can be started here, or None."""
    if not (SERVICES / "bin" / "uvicorn").exists():
        return f"no servers in {SERVICES}: `make test-services` installs them"
    if not (POSTGRES_BIN / "postgres").exists():
        return f"no PostgreSQL in {POSTGRES_BIN}: `make test-services` installs it"
    return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, *, port, log, env=None, stop=signal.SIGTERM, user=None):
    """A process group that listens on `port` while the block runs."""
    with Path(log).open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            user=user,
            group=user,
            cwd=None if user is None else "/",
        )
    try:
        wait_until_listening(process, port, log)
        yield process
    finally:
        end(process, stop)


def wait_until_listening(process, port, log):
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    tail = Path(log).read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args[0]} does not listen on port {port}:\n{tail}")


def end(process, stop):
    """Ask the whole group to end, then make it."""
    for sign in (stop, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDED_WITHIN)
    # A member that outlived its leader.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def postgres(logs):
    """A PostgreSQL of its own: data in a temporary folder, a free port; yields the port."""
    # Not in pytest's folder, which only its owner may enter: PostgreSQL refuses to run as root.
    home = Path(tempfile.mkdtemp(prefix="deepforest-xr-pg-"))
    user = None
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(home, owner.pw_uid, owner.pw_gid)
        user = "postgres"
    port = free_port()
    initdb = [POSTGRES_BIN / "initdb", "-D", home / "data", "-U", "postgres", "--auth=trust"]
    serve = [POSTGRES_BIN / "postgres", "-D", home / "data", "-k", home, "-h", "127.0.0.1"]
    # Nothing here outlives the tests.
    careless = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "timezone=UTC"]
    try:
        run([*initdb, "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"], cwd=home, user=user)
        command = [*serve, "-p", port, *careless]
        log = logs / "postgres.log"
        with running(command, port=port, log=log, stop=signal.SIGINT, user=user):
            yield port
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run(command, *, cwd=None, env=None, user=None):
    """Run to the end; its output stands in the error."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        user=user,
        group=user,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
