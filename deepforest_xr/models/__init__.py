"""Networks: build one by name, keep it in a checkpoint, load, install or export it.

Importing this loads no torch, so that listing networks stays cheap.
"""

from typing import TYPE_CHECKING, Any

from deepforest_xr.models.channels import S2_BANDS, channel_names
from deepforest_xr.models.checkpoint import Checkpoint, load
from deepforest_xr.models.export import OnnxFile, export_onnx
from deepforest_xr.models.install import install, installed
from deepforest_xr.models.keras import load_keras
from deepforest_xr.models.registry import ModelEntry, build, entry, names

if TYPE_CHECKING:
    from deepforest_xr.models.optimize import optimize_for_inference

__all__ = [
    "S2_BANDS",
    "Checkpoint",
    "ModelEntry",
    "OnnxFile",
    "build",
    "channel_names",
    "entry",
    "export_onnx",
    "install",
    "installed",
    "load",
    "load_keras",
    "names",
    "optimize_for_inference",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name == "optimize_for_inference":
        from deepforest_xr.models.optimize import optimize_for_inference

        return optimize_for_inference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
