"""Label rasters on the cube's grid, and what can be known about where labels are wrong."""

from deepforest_xr.labels.align import align_labels
from deepforest_xr.labels.noise import border_ignore, temporal_agreement

__all__ = ["align_labels", "border_ignore", "temporal_agreement"]
