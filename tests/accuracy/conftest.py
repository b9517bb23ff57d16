"""A small labelled map; no two axes share a length."""

import numpy as np
import pytest
import xarray as xr

from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13


@pytest.fixture
def make():
    def make(codes, *, legend=None, left=717729.8352, chunks=None, **attrs):
        codes = np.asarray(codes, dtype="uint8")
        grid = Grid.from_bounds(
            (left, 0, left + 10 * codes.shape[1], 10 * codes.shape[0]), crs="EPSG:32721"
        )
        legend = legend or amazon13()
        array = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), name="lulc")
        array = array.assign_attrs({**legend.attrs(), **attrs})
        return array.chunk(chunks) if chunks else array

    return make
