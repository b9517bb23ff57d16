"""What a run ran on: one entry in ``environment.json`` for the start and each continuation."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from deepforest_xr.atomic import staged

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("deepforest-xr", "torch", "lightning", "numpy", "zarr")


def describe_environment(device: str, devices: int) -> dict[str, Any]:
    """Python, packages, machine and time, as plain values.

    Parameters
    ----------
    device : str
        cpu or cuda.
    devices : int
        Processes of the run.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "device": device,
        "device_name": name or platform.machine(),
        "devices": devices,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def append_environment(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry to the list in a file; what is no list of entries is replaced.

    Raises
    ------
    WriteError
        If the file cannot be written; it is then as it was.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = []
    entries = entries if isinstance(entries, list) else []
    with staged(path, overwrite=True) as part:
        part.write_text(json.dumps([*entries, entry], indent=2), encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
