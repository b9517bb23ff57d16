"""`no_compute` lets graphs be built and nothing be computed."""

import dask.array
import pytest

from deepforest_xr.testing import no_compute


def test_building_a_graph_is_allowed():
    with no_compute():
        doubled = dask.array.ones((2, 3)) * 2
    assert doubled.sum().compute() == 12


def test_computing_is_refused():
    with no_compute(), pytest.raises(AssertionError, match="must stay lazy"):
        dask.array.ones((2, 3)).compute()
