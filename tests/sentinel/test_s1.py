"""Sentinel-1 in power and decibels, against closed formulas and slow loops."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.catalogs import read_items
from deepforest_xr.sentinel.s1 import fill_empty_months, from_db, monthly_mean, to_db
from deepforest_xr.testing import no_compute

POWER = st.floats(2.0**-17, 50, width=32)
GAPPY = st.one_of(POWER, st.just(np.nan))
BORDER = st.one_of(POWER, st.sampled_from([np.nan, 0.0, -32768.0]))


def series(power, dates):
    return xr.DataArray(
        power, dims=("time", "y", "x"), coords={"time": pd.to_datetime(list(dates))}
    )


def test_decibels_of_known_powers():
    power = xr.DataArray(np.array([1, 10, 0.1, 2], "float32"), dims="x")
    np.testing.assert_allclose(to_db(power), [0, 10, -10, 3.0103], rtol=1e-5)


@given(arrays(np.float32, (2, 3), elements=st.floats(-40, 20, width=32)))
def test_decibels_come_back(decibel):
    db = xr.DataArray(decibel, dims=("y", "x"))
    np.testing.assert_allclose(to_db(from_db(db)), db, atol=1e-4)


@given(arrays(np.float32, (2, 3), elements=BORDER))
def test_missing_exactly_where_power_is_not_positive(power):
    found = to_db(xr.DataArray(power, dims=("y", "x")))
    np.testing.assert_array_equal(np.isnan(found), ~(power > 0))
    assert found.dtype == np.float32


def test_the_mean_is_of_power_not_of_decibels():
    both = series(np.array([[[1.0, 1, 1]] * 2, [[0.01, 1, 4]] * 2], "float32"), ["2018-06-03"] * 2)
    mean, _ = monthly_mean(both, months=(6,))
    # 10 log10((1 + 0.01) / 2) = -2.967; the mean of 0 and -20 dB would be -10.
    np.testing.assert_allclose(to_db(mean)[0, 0], [-2.9671, 0, 3.9794], atol=1e-3)


def test_the_mean_of_decibels_of_single_look_speckle_is_two_and_a_half_lower():
    rng = np.random.default_rng(0)
    power = series(rng.exponential(0.1, (600, 20, 30)).astype("float32"), ["2018-06-03"] * 600)
    mean, _ = monthly_mean(power, months=(6,))
    gap = float((to_db(mean)[0] - to_db(power).mean("time")).mean())
    # Euler's constant in decibels: the mean of log of an exponential variable.
    assert gap == pytest.approx(10 * np.log10(np.e) * np.euler_gamma, abs=0.05)


@given(
    arrays(np.float32, (7, 2, 3), elements=BORDER),
    st.lists(st.integers(1, 12), min_size=7, max_size=7),
    st.lists(st.integers(1, 12), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_each_month_is_the_mean_of_its_valid_acquisitions(power, months_of, months):
    dates = [f"{2017 + i % 2}-{m:02d}-1{i}" for i, m in enumerate(months_of)]
    mean, count = monthly_mean(series(power, dates), months=months)
    assert mean.dims == count.dims == ("month", "y", "x")
    assert count.dtype == np.uint16
    for position, month in enumerate(months):
        for y, x in np.ndindex(2, 3):
            values = [
                float(power[t, y, x])
                for t in range(7)
                if months_of[t] == month and power[t, y, x] > 0
            ]
            assert count[position, y, x] == len(values)
            expected = sum(values) / len(values) if values else np.nan
            np.testing.assert_allclose(mean[position, y, x], expected, rtol=1e-6)


def test_a_month_is_told_by_its_date_not_by_its_place():
    dates = ["2018-07-31T23:59:59", "2018-06-01T00:00:00", "2018-08-01T00:00:00"]
    power = series(np.arange(1, 4, dtype="float32")[:, None, None] * np.ones((1, 2, 5)), dates)
    mean, _ = monthly_mean(power.astype("float32"), months=(6, 7, 8))
    np.testing.assert_array_equal(mean[:, 0, 0], [2, 1, 3])
    np.testing.assert_array_equal(mean["month"], [6, 7, 8])


def slow_fill(values, months):
    seen = np.isfinite(values)
    if not seen.any():
        return np.full(len(values), np.nan)
    return np.interp(months, np.asarray(months)[seen], values[seen])


@given(arrays(np.float32, (6, 2, 3), elements=GAPPY))
def test_empty_months_are_filled_as_numpy_interpolates(power):
    months = np.arange(5, 11)
    data = xr.DataArray(power, dims=("month", "y", "x"), coords={"month": months})
    filled = fill_empty_months(data)
    assert filled.dims == data.dims
    assert filled.dtype == np.float32
    for y, x in np.ndindex(2, 3):
        expected = slow_fill(power[:, y, x].astype(float), months)
        np.testing.assert_allclose(filled[:, y, x], expected, rtol=1e-4)


def test_months_that_do_not_follow_each_other_are_weighted_by_their_distance():
    months = [1, 6, 7]
    power = xr.DataArray(
        np.array([1, np.nan, 7], "float32")[:, None, None] * np.ones((1, 2, 5), "float32"),
        dims=("month", "y", "x"),
        coords={"month": months},
    )
    np.testing.assert_allclose(fill_empty_months(power)[1], 6)


@given(arrays(np.float32, (4, 2, 3), elements=GAPPY))
def test_observed_months_stay_as_they_are_and_never_seen_pixels_stay_missing(power):
    filled = fill_empty_months(xr.DataArray(power, dims=("month", "y", "x"))).to_numpy()
    np.testing.assert_array_equal(filled[np.isfinite(power)], power[np.isfinite(power)])
    np.testing.assert_array_equal(np.isnan(filled).any(0), np.isnan(power).all(0))


def test_lazy_in_lazy_out():
    dates = pd.date_range("2018-06-01", periods=4, freq="20D")
    power = series(da.ones((4, 20, 30), chunks=(4, 7, 11), dtype="float32"), dates)
    with no_compute():
        mean, count = monthly_mean(power, months=(6, 7, 8))
        filled = to_db(fill_empty_months(mean))
    assert filled.chunks[1:] == count.chunks[1:] == ((7, 7, 6), (11, 11, 8))
    np.testing.assert_allclose(filled, 0)


def test_a_real_month_is_the_mean_of_its_files(shared_data):
    items = [
        i
        for i in read_items(shared_data / "real" / "gfmap_series" / "items.json")
        if i.collection_id == "sentinel-1-grd"
    ]
    values = np.stack([rasterio.open(i.assets["vh"].href).read(1) for i in items])
    mean, count = monthly_mean(
        series(values, [i.datetime.replace(tzinfo=None) for i in items]), months=(4,)
    )
    np.testing.assert_allclose(mean[0], values.astype(float).mean(0), rtol=1e-6)
    assert set(np.unique(count)) == {len(items)}
