"""The median over time against xarray's own, on values in memory."""

import numpy as np
import xarray as xr

from benchmarks.measure import compare
from deepforest_xr.sentinel import composite

SHAPE = (36, 512, 512)


def run():
    rng = np.random.default_rng(0)
    values = rng.random(SHAPE, dtype="float32")
    values[rng.random(SHAPE) < 0.4] = np.nan
    stack = xr.DataArray(values, dims=("time", "y", "x"))
    np.testing.assert_allclose(composite.median(stack), stack.median("time"), rtol=1e-6)
    yield compare(
        "median composite",
        lambda: composite.median(stack),
        lambda: stack.median("time"),
        names=("`sentinel.composite.median`", '`DataArray.median("time")`'),
        note=f"{SHAPE[0]} dates x {SHAPE[1]} x {SHAPE[2]} float32, 40 % NaN, equal values",
    )
