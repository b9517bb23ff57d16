"""Composites against NumPy, xarray, SciPy and slow loops."""

import tracemalloc

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.spatial.distance import braycurtis, cosine

from deepforest_xr.sentinel import composite, s2
from deepforest_xr.sentinel.composite import count, median, resampled_median
from deepforest_xr.testing import no_compute

GAPPY = st.one_of(st.floats(-1, 2, width=32), st.just(np.nan))
QUIET = pytest.mark.filterwarnings("ignore:All-NaN slice")


def series(values):
    return xr.DataArray(values, dims=("time", "y", "x"))


def spectra(dates=7, bands=3, y=5, x=11, seed=0):
    """Reflectances with gaps: a pixel never seen, one seen once, one twice, one in part."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(4, 0.05, (dates, bands, y, x)).astype("float32")
    values[np.broadcast_to(rng.random((dates, 1, y, x)) < 0.3, values.shape)] = np.nan
    values[:, :, 0, 0] = np.nan
    values[:, :, 0, 1:3] = np.nan
    values[2, :, 0, 1] = 0.25
    values[1, :, 0, 2], values[3, :, 0, 2] = 0.125, 0.5
    values[0, 1, 1, :] = np.nan  # a date that lacks one band does not count
    return values


def cube(values):
    return xr.DataArray(values, dims=("time", "band", "y", "x"), attrs={"units": "1"})


def pixels(values):
    """Each pixel's place and its spectra (date, band) with their dates."""
    for y, x in np.ndindex(values.shape[2:]):
        dates = np.flatnonzero(np.isfinite(values[:, :, y, x]).all(axis=1))
        yield (y, x), dates, values[dates, :, y, x].astype("float64")


def spread(points, centre):
    return np.linalg.norm(points - centre, axis=1).sum()


@QUIET
@given(st.integers(1, 9).flatmap(lambda n: arrays(np.float32, (n, 2, 3), elements=GAPPY)))
def test_the_median_is_numpys_without_the_missing(values):
    found = median(series(values))
    assert found.dims == ("y", "x")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.nanmedian(values, axis=0))


@QUIET
@pytest.mark.parametrize("dates", [1, 2, 3, 7, 13, 36, 63, 64, 65, 130])
@pytest.mark.parametrize("missing", [0.0, 0.4, 0.95])
def test_the_median_of_any_length(dates, missing):
    rng = np.random.default_rng(dates)
    values = rng.normal(size=(dates, 3, 5, 11)).astype("float32")
    values[rng.random(values.shape) < missing] = np.nan
    np.testing.assert_array_equal(composite.median_array(values), np.nanmedian(values, axis=0))


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
        ([np.inf, np.nan, 7, np.inf], np.inf),
        ([-np.inf, np.nan, 7, np.inf], 7),
        ([], np.nan),
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


def test_pixels_beyond_one_strip(monkeypatch):
    values = spectra(y=40, x=50)
    whole = composite.median_array(values), *composite.geomad_array(values)
    monkeypatch.setattr(composite, "STRIP_BYTES", 1)
    parts = composite.median_array(values), *composite.geomad_array(values)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kernel", ["median", "counts"])
def test_the_median_takes_a_strip_of_memory_not_a_copy(kernel):
    values = np.random.default_rng(0).random((36, 2, 300, 400), dtype="float32")
    dn = (values[:, 0] * 10_000).astype("uint16")
    shift = np.zeros(36, dtype="int32")
    tracemalloc.start()
    try:
        if kernel == "median":
            given_bytes, made = values.nbytes, [composite.median_array(values)]
        else:
            given_bytes, made = dn.nbytes, composite.median_of_counts(dn, None, shift)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    made_bytes = sum(array.nbytes for array in made)
    limit = 0.25 if kernel == "median" else 0.6  # 9 MB in: the strip weighs more
    assert peak - made_bytes < limit * (given_bytes + made_bytes)


DIGITAL = st.one_of(st.just(0), st.integers(1, 12_000), st.sampled_from([65_534, 65_535]))


@given(
    arrays(np.uint16, (6, 2, 5), elements=DIGITAL),
    st.none() | arrays(np.bool_, (6, 2, 5)),
    arrays(np.int32, 6, elements=st.sampled_from([0, -1000, 37])),
)
def test_the_median_of_counts_is_that_of_reflectance_to_the_last_bit(dn, clear, shift):
    reflectance = s2.to_reflectance(series(dn), offset=xr.DataArray(shift, dims="time"))
    if clear is not None:
        reflectance = reflectance.where(series(clear))
    found, seen = composite.median_of_counts(dn, clear, shift)
    assert (found.dtype, seen.dtype) == (np.float32, np.uint16)
    np.testing.assert_array_equal(found, median(reflectance))
    np.testing.assert_array_equal(seen, count(reflectance))


def test_counts_of_a_long_gappy_series():
    rng = np.random.default_rng(1)
    dn = rng.integers(1, 20_000, (70, 11, 13)).astype("uint16")
    clear = rng.random(dn.shape) < 0.1
    clear[5:60] &= False  # dates that nothing is seen on
    shift = np.where(np.arange(70) < 30, 0, -1000).astype("int32")
    reflectance = s2.to_reflectance(series(dn), offset=xr.DataArray(shift, dims="time"))
    reflectance = reflectance.where(series(clear))
    found, seen = composite.median_of_counts(dn, clear, shift)
    np.testing.assert_array_equal(found, median(reflectance))
    np.testing.assert_array_equal(seen, count(reflectance))


def dated(values, **chunks):
    days = [0, 3, 17, 31, 40, 45, 130, 131, 150]  # January to June, none in March and April
    times = pd.Timestamp("2021-01-05") + pd.to_timedelta(days, unit="D")
    found = xr.DataArray(
        values, dims=("time", "band", "y", "x"), coords={"time": times, "band": ["a", "b"]}
    )
    return found.chunk(chunks) if chunks else found


@QUIET
@pytest.mark.parametrize("freq", ["1MS", "QS", "10D", "YS"])
def test_periods_are_those_of_xarray(freq):
    values = dated(spectra(9, 2, 5, 7))
    expected = values.resample(time=freq).median()
    xr.testing.assert_identical(resampled_median(values, freq=freq), expected)
    lazy = values.chunk(time=-1, band=1, y=2, x=3)
    with no_compute():
        found = resampled_median(lazy, freq=freq)
    assert found.chunks[1:] == lazy.chunks[1:]
    xr.testing.assert_identical(found.compute(), expected)


def test_periods_need_times_in_order():
    with pytest.raises(ValueError, match="monotonic"):
        resampled_median(dated(spectra(9, 2, 5, 7)).isel(time=[1, 0, 2]))


@pytest.mark.parametrize("seed", range(3))
def test_the_medoid_is_the_date_with_the_least_sum_of_distances(seed):
    values = spectra(seed=seed)
    spectrum, index = composite.medoid_array(values)
    assert (spectrum.dtype, index.dtype) == (np.float32, np.int16)
    for (y, x), dates, points in pixels(values):
        if not len(dates):
            assert index[y, x] == -1
            assert np.isnan(spectrum[:, y, x]).all()
            continue
        sums = [spread(points, point) for point in points]
        assert index[y, x] == dates[int(np.argmin(sums))]
        np.testing.assert_array_equal(spectrum[:, y, x], values[index[y, x], :, y, x])


def test_the_earliest_of_equal_medoids():
    values = np.float32([np.nan, 0.5, 0.25, 0.25, 0.0])[:, None, None, None]
    assert composite.medoid_array(values)[1] == 2
    assert composite.medoid_array(values[[0, 4, 1]])[1] == 1  # of two dates both are equal
    # Zero lies between the two others: it is the medoid where seen, and only there.
    values = np.float32([[0, np.nan], [-1, -1], [1, 1]])[:, None, None]
    np.testing.assert_array_equal(composite.medoid_array(values)[1], [[0, 1]])


@given(arrays(np.float32, (5, 3, 2, 4), elements=GAPPY))
def test_the_medoid_is_an_observation(values):
    spectrum, index = composite.medoid_array(values)
    whole = np.isfinite(values).all(axis=1)
    np.testing.assert_array_equal(index >= 0, whole.any(axis=0))
    for (y, x), date in np.ndenumerate(index):
        if date >= 0:
            assert whole[date, y, x]
            np.testing.assert_array_equal(spectrum[:, y, x], values[date, :, y, x])


def test_the_best_pixel_is_farthest_from_clouds():
    values = spectra()
    distance = np.random.default_rng(1).integers(0, 4, (7, 5, 11)).astype("float32")
    distance[4, 2] = np.nan
    spectrum, index = composite.best_pixel_array(values, distance)
    for (y, x), dates, _ in pixels(values):
        known = [date for date in dates if not np.isnan(distance[date, y, x])]
        best = max(known, key=lambda date: (distance[date, y, x], -date), default=-1)
        assert index[y, x] == best
        expected = values[best, :, y, x] if best >= 0 else np.full(3, np.nan)
        np.testing.assert_array_equal(spectrum[:, y, x], expected)


def test_a_date_in_clouds_is_better_than_none():
    values, distance = np.full((2, 3, 1, 1), 0.5, "float32"), np.zeros((2, 1, 1), "float32")
    assert composite.best_pixel_array(values, distance)[1] == 0


@pytest.mark.parametrize("seed", range(2))
def test_the_geometric_median_has_the_least_sum_of_distances(seed):
    values = spectra(9, 3, 2, 5, seed=seed)
    centre = composite.geomad_array(values)[0].astype("float64")
    medoids = composite.medoid_array(values)[0]
    for (y, x), dates, points in pixels(values):
        if not len(dates):
            assert np.isnan(centre[:, y, x]).all()
            continue
        least = spread(points, centre[:, y, x])
        direct = minimize(
            lambda place, points=points: spread(points, place),
            points.mean(axis=0),
            method="Nelder-Mead",
            options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000},
        )
        assert least <= direct.fun + 1e-5
        if len(dates) > 2:
            np.testing.assert_allclose(centre[:, y, x], direct.x, atol=1e-4)
        rivals = points.mean(axis=0), np.median(points, axis=0), medoids[:, y, x]
        assert least <= min(spread(points, rival) for rival in rivals) + 1e-5


def test_scatter_is_around_the_geometric_median():
    values = spectra(9)
    centre, *mads = composite.geomad_array(values)
    for (y, x), dates, points in pixels(values):
        found = [mad[y, x] for mad in mads]
        middle = centre[:, y, x].astype("float64")
        if not len(dates):
            assert np.isnan(found).all()
            continue
        euclid = np.linalg.norm(points - middle, axis=1)
        spectral = [cosine(point, middle) for point in points]
        bray = [braycurtis(point, middle) for point in points]
        expected = [np.median(each) for each in (euclid, spectral, bray)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_geomedians_of_one_two_and_three():
    corners = np.float32([[0, 0], [1, 0], [0, 1]]) * np.float32(0.5)
    found = composite.geomad_array(corners[:1, :, None, None])[0]
    np.testing.assert_array_equal(found[:, 0, 0], corners[0])
    found = composite.geomad_array(corners[1:, :, None, None])[0]
    np.testing.assert_array_equal(found[:, 0, 0], [0.25, 0.25])
    alike = np.float32([[0.25, 0.25], [0.2505, 0.25]])
    found = composite.geomad_array(alike[:, :, None, None])[0]
    np.testing.assert_allclose(found[:, 0, 0], [0.25025, 0.25], rtol=1e-6)
    # Fermat's point of a right isosceles triangle lies on its axis at legs * (3 - sqrt 3) / 6.
    found = composite.geomad_array(corners[:, :, None, None])[0]
    np.testing.assert_allclose(found[:, 0, 0], 0.5 * (3 - np.sqrt(3)) / 6, atol=3e-5)


@pytest.mark.parametrize("majority", [0, 4])
def test_a_majority_of_equal_observations_is_the_geomedian(majority):
    values = np.random.default_rng(3).random((5, 4, 1, 1), dtype="float32")
    values[[majority, 1, 2]] = 0.3
    found, emad, smad, bcmad = composite.geomad_array(values)
    np.testing.assert_array_equal(found, np.float32(0.3) + 0 * found)
    np.testing.assert_allclose([emad, smad, bcmad], 0, atol=1e-12)


def test_the_iteration_leaves_an_observation_that_it_starts_on():
    # The mean is the first date, which is not the geometric median.
    ends = np.float32([[0.9, 0.0], [-0.3, 0.3], [-0.3, -0.3], [-0.3, 0.0]])
    points = np.concatenate([np.zeros((1, 2), "float32"), ends])
    found = composite.geomad_array(points[:, :, None, None])[0][:, 0, 0].astype("float64")
    direct = minimize(lambda place: spread(points, place), [-0.1, 0], method="Nelder-Mead")
    assert spread(points, found) <= direct.fun + 1e-6
    assert spread(points, found) < spread(points, points[0]) - 0.01


def test_black_has_no_spectral_angle():
    values = np.zeros((3, 2, 1, 1), "float32")
    centre, emad, smad, bcmad = composite.geomad_array(values)
    assert (centre == 0).all()
    assert emad == 0
    assert np.isnan([smad, bcmad]).all()


@settings(deadline=None, max_examples=20)  # iterations take their time
@given(st.sampled_from([0.25, 2.0, 1024.0]), st.permutations(range(9)), st.integers(0, 5))
def test_geomad_scales_with_its_values_and_knows_no_order(factor, order, seed):
    values = spectra(9, 3, 2, 4, seed=seed)
    one = composite.geomad_array(values, tolerance=1e-7, iterations=400)
    scaled = np.float32(factor) * values[list(order)]
    other = composite.geomad_array(scaled, tolerance=1e-7 * factor, iterations=400)
    for a, b, unit in zip(one, other, (factor, factor, 1, 1), strict=True):
        np.testing.assert_allclose(a * unit, b, rtol=1e-4, atol=1e-5 * unit)


def composites(values, distance):
    return {
        "median": median(values),
        "medoid": xr.merge(rename(composite.medoid(values))),
        "best": xr.merge(rename(composite.best_pixel(values, distance))),
        "geomad": composite.geomad(values),
    }


def rename(pair):
    return [array.rename(name) for array, name in zip(pair, ("spectrum", "index"), strict=True)]


@pytest.mark.parametrize("chunks", [{"y": 2, "x": 3}, {"y": 1, "x": 1, "band": 1}])
def test_lazy_in_lazy_out_and_chunks_do_not_matter(chunks):
    # Enough dates and bands for numpy.sum to add them in an order of its own.
    values = cube(spectra(dates=20, bands=9, y=4, x=7))
    distance = np.random.default_rng(1).random((20, 4, 7), dtype="float32")
    distance = xr.DataArray(distance, dims=("time", "y", "x"))
    lazy = values.chunk({"time": -1, **chunks})
    with no_compute():
        found = composites(lazy, distance.chunk(time=-1, y=chunks["y"], x=chunks["x"]))
    for name, expected in composites(values, distance).items():
        assert found[name].chunksizes["y"] == lazy.chunksizes["y"]
        assert found[name].chunksizes["x"] == lazy.chunksizes["x"]
        xr.testing.assert_identical(found[name].compute(), expected)


def test_dims_keep_their_order_and_only_reflectance_its_units():
    values = cube(spectra()).transpose("time", "y", "band", "x")
    found = composite.geomad(values)
    assert found["geomedian"].dims == ("y", "band", "x")
    assert found["geomedian"].attrs == {"units": "1"}
    assert found["smad"].dims == ("y", "x")
    assert found["smad"].attrs == {}
    spectrum, index = composite.medoid(values)
    assert (spectrum.dims, index.dims) == (("y", "band", "x"), ("y", "x"))


def test_the_median_keeps_chunks():
    values = series(da.random.default_rng(0).random((5, 20, 30), chunks=(5, 7, 11)))
    values = values.astype("float32")
    with no_compute():
        middle, seen = median(values), count(values)
    assert middle.chunks == seen.chunks == ((7, 7, 6), (11, 11, 8))
    np.testing.assert_array_equal(middle, np.median(values.to_numpy(), axis=0))
