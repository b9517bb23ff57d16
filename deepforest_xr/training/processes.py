"""Several processes on one machine that share each batch, one for each device.

Each process is a fresh interpreter that is told what to train, as torchrun's are. Lightning's
own launchers would not do: "ddp" runs the user's command line again (in pytest, all tests; in a
notebook, nothing), "ddp_spawn" and forkserver import the user's ``__main__`` again, which trains
again where the script has no guard, and "ddp_fork" copies the locks of zarr's and OpenMP's
threads, which then wait for ever, and cannot follow a use of CUDA.

The processes find each other through a file, and gloo and NCCL talk over the loopback
interface: no port can be reached from outside. They end when the process that began them does.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import DeepForestError
from deepforest_xr.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepforest_xr.training.fit import Fit

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from deepforest_xr.training.processes import main; main(*sys.argv[2:])"
)
"""What a process runs: the same search path as here, nothing of the user's script."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def fit_in_processes(
    chips: Sequence[str], model: str, s2_branch: str | None, job: Fit, *, threads: int
) -> None:
    """Run `fit` in ``job.settings.devices`` processes; what one raises is raised here.

    Parameters
    ----------
    chips : sequence of str
        Paths for `open_chips`.
    model, s2_branch
        As `train` takes them.
    job : Fit
        How.
    threads : int
        Of torch, for all processes together.

    Raises
    ------
    DeepForestError
        What a process raised, or that it was ended by a signal.
    """
    count = job.settings.devices
    request = {
        "chips": list(chips),
        "model": model,
        "s2_branch": s2_branch,
        "settings": job.settings.to_dict(),
        "out": str(job.out),
        "mean": job.mean.tolist(),
        "std": job.std.tolist(),
        "is_continued": job.is_continued,
        "progress": job.progress,
        "threads": max(threads // count, 1),
    }
    with tempfile.TemporaryDirectory(prefix="deepforest-xr-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(count):
                processes.append(_start(folder, rank))  # noqa: PERF401 - those begun are ended
            failed = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        if failed is not None:
            _raise(folder, processes, failed)


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": LOOPBACK,
        "NCCL_SOCKET_IFNAME": LOOPBACK,
    }
    arguments = [json.dumps(sys.path), str(folder), str(rank)]
    return subprocess.Popen(  # noqa: S603 - this interpreter, our own code
        [sys.executable, "-c", BOOT, *arguments], stdin=subprocess.PIPE, env=environment
    )


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all to end well, or for the first that does not: its rank."""
    ended: queue.Queue[int] = queue.Queue()

    def watch(rank: int) -> None:
        processes[rank].wait()
        ended.put(rank)

    for rank in range(len(processes)):
        threading.Thread(target=watch, args=(rank,), daemon=True).start()
    for _ in processes:
        rank = ended.get()
        if processes[rank].returncode:
            return rank
    return None


def _raise(folder: Path, processes: list[subprocess.Popen[bytes]], failed: int) -> None:
    """Raise what went wrong first: a process that loses its partner fails after it."""
    found = []
    for rank in range(len(processes)):
        file = folder / f"error-{rank}.json"
        if file.exists():
            found.append((rank, json.loads(file.read_text(encoding="utf-8"))))
    for _, error in found:
        if error["kind"] == "KeyboardInterrupt":
            raise KeyboardInterrupt
        kind = getattr(sys.modules[DeepForestError.__module__], error["kind"], None)
        if kind is not None:
            raise kind(error["message"])
    code = processes[failed].returncode
    which = f"process {failed + 1} of {len(processes)}"
    if found and code > 0:
        rank, error = found[0]
        raise RuntimeError(
            f"process {rank + 1} of {len(processes)} failed: {error['kind']}: {error['message']}"
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    raise DeepForestError(
        f"{which} was ended {how}, perhaps for lack of memory: take a smaller batch; the same "
        "call continues the run."
    )


def main(folder: str, rank: str) -> None:
    """Be one of the processes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _fit(json.loads((Path(folder) / "request.json").read_text(encoding="utf-8")), folder, rank)
    except BaseException as error:
        kind = type(error).__name__
        if not isinstance(error, (DeepForestError, KeyboardInterrupt)):
            traceback.print_exc()
        message = " ".join(str(error).split())
        part = Path(folder) / f"part-{rank}"
        part.write_text(json.dumps({"kind": kind, "message": message}), encoding="utf-8")
        part.rename(Path(folder) / f"error-{rank}.json")
        # The partners may wait for this one in a collective operation: no farewell.
        os._exit(1)


def _end_with_parent() -> None:
    """Wait for the other end of stdin to close: nobody is left to train for."""
    # Not by sys.stdin: a thread that waits in its lock at the interpreter's end aborts it.
    while os.read(0, 1):
        pass
    os._exit(1)


def _fit(request: dict[str, Any], folder: str, rank: str) -> None:
    import torch
    from torch import distributed

    from deepforest_xr.chips import open_chips
    from deepforest_xr.training.fit import Fit, build_network, fit

    settings = TrainSettings(**request["settings"])
    if settings.device == "cuda":
        torch.cuda.set_device(int(rank))
    torch.set_num_threads(request["threads"])
    distributed.init_process_group(
        "nccl" if settings.device == "cuda" else "gloo",
        store=distributed.FileStore(  # type: ignore[attr-defined]
            str(Path(folder) / "meeting"), settings.devices
        ),
        rank=int(rank),
        world_size=settings.devices,
    )
    paths = request["chips"]
    store = open_chips(paths[0] if len(paths) == 1 else paths)
    network = build_network(store, request["model"], settings, request["s2_branch"])
    job = Fit(
        settings=settings,
        out=Path(request["out"]),
        mean=np.array(request["mean"]),
        std=np.array(request["std"]),
        is_continued=request["is_continued"],
        progress=request["progress"],
    )
    fit(network, store, job, rank=int(rank))
    distributed.destroy_process_group()
