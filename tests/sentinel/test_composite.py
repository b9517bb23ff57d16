"""Composites against NumPy's nanmedian."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.sentinel.composite import count, median
from deepforest_xr.testing import no_compute

GAPPY = st.one_of(st.floats(-1, 2, width=32), st.just(np.nan))


def series(values):
    return xr.DataArray(values, dims=("time", "y", "x"))


@pytest.mark.filterwarnings("ignore:All-NaN slice")
@given(st.integers(1, 9).flatmap(lambda n: arrays(np.float32, (n, 2, 3), elements=GAPPY)))
def test_the_median_is_numpys_without_the_missing(values):
    found = median(series(values))
    assert found.dims == ("y", "x")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.nanmedian(values, axis=0), rtol=1e-6, atol=1e-9)


@given(arrays(np.float32, (5, 2, 3), elements=GAPPY), st.permutations(range(5)))
def test_the_order_of_dates_does_not_matter(values, order):
    np.testing.assert_array_equal(median(series(values)), median(series(values[list(order)])))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3], 2),
        ([1, 2, 3, 10], 2.5),
        ([np.nan, 4, np.nan], 4),
        ([np.nan, 4, 6, np.nan], 5),
        ([np.nan, np.nan], np.nan),
        ([-3, np.nan, 7, 5], 5),
    ],
)
def test_even_odd_and_missing(values, expected):
    found = median(series(np.array(values, "float32")[:, None, None]))
    np.testing.assert_array_equal(found, np.float32([[expected]]))


@given(arrays(np.float32, (5, 2, 3), elements=GAPPY))
def test_the_count_is_of_dates_with_a_value(values):
    found = count(series(values))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, (~np.isnan(values)).sum(0))


def test_lazy_in_lazy_out():
    values = series(da.random.default_rng(0).random((5, 20, 30), chunks=(5, 7, 11))).astype(
        "float32"
    )
    with no_compute():
        middle, seen = median(values), count(values)
    assert middle.chunks == seen.chunks == ((7, 7, 6), (11, 11, 8))
    np.testing.assert_array_equal(middle, np.median(values.to_numpy(), axis=0))
