"""Networks: build one by name, keep it in a checkpoint, load it again.

Importing this loads no torch, so that listing networks stays cheap.
"""

from deepforest_xr.models.channels import S2_BANDS, channel_names
from deepforest_xr.models.checkpoint import Checkpoint, load
from deepforest_xr.models.registry import ModelEntry, build, entry, names

__all__ = [
    "S2_BANDS",
    "Checkpoint",
    "ModelEntry",
    "build",
    "channel_names",
    "entry",
    "load",
    "names",
]
