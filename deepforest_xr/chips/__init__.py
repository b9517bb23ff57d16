"""Training chips: cut from a cube and its labels, kept as sharded Zarr, split by blocks."""

from deepforest_xr.chips.read import Chips, open_chips
from deepforest_xr.chips.sample import balanced_weights
from deepforest_xr.chips.spec import ChipSpec
from deepforest_xr.chips.split import SPLITS, assign_splits
from deepforest_xr.chips.write import write_chips

__all__ = [
    "SPLITS",
    "ChipSpec",
    "Chips",
    "assign_splits",
    "balanced_weights",
    "open_chips",
    "write_chips",
]
