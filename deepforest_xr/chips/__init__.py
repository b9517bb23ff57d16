"""Training chips: cut from a cube and its labels, kept as sharded Zarr, split by blocks."""

from deepforest_xr.chips.read import Chips, open_chips
from deepforest_xr.chips.split import SPLITS, assign_splits
from deepforest_xr.chips.write import ChipSpec, write_chips

__all__ = ["SPLITS", "ChipSpec", "Chips", "assign_splits", "open_chips", "write_chips"]
