"""A cube and a checkpoint to a lazy land-cover map, and what the map will cost.

The cube is cut into blocks; each block is read with a halo of its neighbours' pixels, run
through the network in one piece and trimmed. Blocks and halos are multiples of the
network's stride of 32 and count from the cube's corner, so a pixel meets the same
convolution grid whatever the blocks are, and a block at the edge of the data ends where
the data end: the map is that of one pass over the whole cube. Pixels are reflected only
to fill up the last 32. No statistic is taken from the scene: the normalisation is the
checkpoint's.

`plan` cuts, `block` classifies one block, `predict` runs the network and halves what does
not fit into memory, `mapping` puts the map together, `pricing` says what it
will take.
"""

from deepforest_xr.classify.explanation import Choice, Explanation, Probe
from deepforest_xr.classify.mapping import classify
from deepforest_xr.classify.plan import MODEL_VARIABLE
from deepforest_xr.classify.pricing import explain
from deepforest_xr.models.network import STRIDE

__all__ = ["MODEL_VARIABLE", "STRIDE", "Choice", "Explanation", "Probe", "classify", "explain"]
