"""Smoothing a map after the network, without a seam: lazy in, lazy out.

    smooth = dfx.postprocess.dense_crf(result, cube)            # needs the extra `crf`
    smooth = dfx.postprocess.bayesian_smoothing(result)
    smooth = dfx.postprocess.majority(result)
    smooth = dfx.postprocess.minimum_mapping_unit(smooth, 0.5)

Each takes the Dataset of `classify` and gives such a Dataset. Where a step looks a known
number of pixels around, blocks see that many pixels of their neighbours and the map does
not depend on the blocks. Pixels without data stay so and have no voice.
"""

from deepforest_xr.postprocess.bayes import bayesian_smoothing
from deepforest_xr.postprocess.crf import CrfSettings, dense_crf
from deepforest_xr.postprocess.majority import majority
from deepforest_xr.postprocess.patches import minimum_mapping_unit

__all__ = [
    "CrfSettings",
    "bayesian_smoothing",
    "dense_crf",
    "majority",
    "minimum_mapping_unit",
]
