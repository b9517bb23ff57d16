"""Items and a grid to a lazy cube."""

from deepforest_xr.cube.opening import DATASETS, open_cube
from deepforest_xr.cube.optical import COMPOSITES

__all__ = ["COMPOSITES", "DATASETS", "open_cube"]
