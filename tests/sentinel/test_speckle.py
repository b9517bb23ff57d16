"""Speckle filters against slow loops, theory and simulated speckle."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import uniform_filter

from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel.speckle import (
    FILTERS,
    equivalent_looks,
    lee,
    lee_array,
    quegan,
    quegan_array,
    refined_lee,
    refined_lee_array,
)
from deepforest_xr.testing import no_compute

POWER = st.floats(2.0**-17, 50, width=32)
GAPPY = st.one_of(POWER, st.sampled_from([np.nan, np.inf, 0.0, -32768.0]))
BY_NAME = {"lee": lee, "refined_lee": refined_lee, "quegan": quegan}
MISSING = (np.nan, 0.0, -0.5, -32768.0, np.inf)


def image(values):
    dims = ("time", "polarization", "y", "x")[-values.ndim :] if values.ndim != 3 else None
    return xr.DataArray(values, dims=dims or ("time", "y", "x"), name="s1")


def speckled(mean, looks, seed=0):
    rng = np.random.default_rng(seed)
    return (mean * rng.gamma(looks, 1 / looks, np.shape(mean))).astype("float32")


def with_holes(shape, seed=0, share=0.15):
    """Speckle over a ramp and a step, with scattered and clustered missing pixels."""
    rng = np.random.default_rng(seed)
    mean = 0.05 + 0.01 * np.arange(shape[-1]) + 0.3 * (np.arange(shape[-2]) > 4)[:, None]
    power = speckled(np.broadcast_to(mean, shape), 4.4, seed)
    holes = rng.random(shape) < share
    holes[..., :3, -4:] = True
    holes[..., -2:, 5:9] = True
    power[holes] = rng.choice(MISSING, holes.sum())
    return power


def looks_of(values):
    values = np.asarray(values, dtype="float64")
    return values.mean() ** 2 / values.var()


def valid_pixels(plane, y, x, offsets):
    """Pixels at the offsets that are inside the image and valid, in double precision."""
    found = []
    for dy, dx in offsets:
        r, c = y + dy, x + dx
        if 0 <= r < plane.shape[0] and 0 <= c < plane.shape[1]:
            value = float(plane[r, c])
            if 0 < value < np.inf:
                found.append(value)
    return found


def square(half, at=(0, 0)):
    steps = range(-half, half + 1)
    return [(at[0] + dy, at[1] + dx) for dy in steps for dx in steps]


def slow_lee(plane, window, looks):
    result = np.full(plane.shape, np.nan)
    for y, x in np.ndindex(plane.shape):
        if not 0 < plane[y, x] < np.inf:
            continue
        around = valid_pixels(plane, y, x, square(window // 2))
        mean = sum(around) / len(around)
        variance = sum((a - mean) ** 2 for a in around) / len(around)
        ci2 = variance / mean**2
        weight = max(0.0, 1 - (1 / looks) / ci2) if ci2 > 0 else 0.0
        result[y, x] = mean + weight * (float(plane[y, x]) - mean)
    return result


def slow_half_window(plane, y, x):
    """Offsets of Lee's directed window: compass names instead of masks."""
    at = {"n": (-2, 0), "s": (2, 0), "w": (0, -2), "e": (0, 2)}
    at |= {"nw": (-2, -2), "ne": (-2, 2), "sw": (2, -2), "se": (2, 2)}
    centre = np.mean(valid_pixels(plane, y, x, square(1)))
    step = {}
    for name, place in at.items():
        found = valid_pixels(plane, y, x, square(1, place))
        step[name] = np.mean(found) - centre if found else None
    opposite = [("w", "e"), ("sw", "ne"), ("n", "s"), ("nw", "se")]
    ring = ["n", "ne", "e", "se", "s", "sw", "w", "nw"]

    def side(name):
        i = ring.index(name)
        return sum(step[ring[(i + k) % 8]] or 0.0 for k in (-1, 0, 1))

    one, other = max(opposite, key=lambda pair: abs(side(pair[0]) - side(pair[1])))

    def distance(name):
        return np.inf if step[name] is None else abs(step[name])

    towards = at[other if distance(other) < distance(one) else one]
    return [(dy, dx) for dy, dx in square(3) if dy * towards[0] + dx * towards[1] >= 0]


def slow_refined_lee(plane, looks):
    result = np.full(plane.shape, np.nan)
    cu2 = 1 / looks
    for y, x in np.ndindex(plane.shape):
        if not 0 < plane[y, x] < np.inf:
            continue
        half = valid_pixels(plane, y, x, slow_half_window(plane, y, x))
        mean = sum(half) / len(half)
        variance = sum((a - mean) ** 2 for a in half) / len(half)
        signal = (variance - mean**2 * cu2) / (1 + cu2)
        weight = signal / variance if signal > 0 else 0.0
        result[y, x] = mean + weight * (float(plane[y, x]) - mean)
    return result


def slow_quegan(series, window):
    result = np.full(series.shape, np.nan)
    for y, x in np.ndindex(series.shape[1:]):
        dates = [t for t in range(len(series)) if 0 < series[t, y, x] < np.inf]
        mean = {t: np.mean(valid_pixels(series[t], y, x, square(window // 2))) for t in dates}
        ratios = [float(series[t, y, x]) / mean[t] for t in dates]
        for t in dates:
            result[t, y, x] = mean[t] / len(dates) * sum(ratios)
    return result


@pytest.mark.parametrize("shape", [(9, 23), (23, 9), (2, 5), (1, 14)])
@pytest.mark.parametrize("window", [3, 5, 7])
def test_lee_is_the_formula_pixel_by_pixel(shape, window):
    power = with_holes(shape, seed=window)
    found = lee(image(power), window=window, looks=4.4)
    np.testing.assert_allclose(found, slow_lee(power, window, 4.4), rtol=1e-5)


@pytest.mark.parametrize("shape", [(9, 23), (23, 9), (2, 5), (1, 14)])
@pytest.mark.parametrize("looks", [1, 4.4, 50])
def test_refined_lee_is_the_formula_pixel_by_pixel(shape, looks):
    power = with_holes(shape, seed=int(looks))
    found = refined_lee(image(power), looks=looks)
    np.testing.assert_allclose(found, slow_refined_lee(power, looks), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 9, 23), (4, 23, 9), (1, 2, 5)])
@pytest.mark.parametrize("window", [3, 7])
def test_quegan_is_the_formula_pixel_by_pixel(shape, window):
    power = with_holes(shape, seed=window)
    found = quegan(image(power), window=window)
    np.testing.assert_allclose(found, slow_quegan(power, window), rtol=1e-5)


@pytest.mark.parametrize("angle", range(0, 360, 45))
def test_refined_lee_looks_to_the_pixels_own_side_of_an_edge(angle):
    # Three pixels from a sharp edge, all eight ways round, nothing of the far side comes in.
    down, right = np.mgrid[-8:9, -8:9]
    turn = np.deg2rad(angle)
    away = right * np.cos(turn) + down * np.sin(turn)
    power = np.where(away >= -1e-9, 1.0, 4.0).astype("float32")
    assert refined_lee_array(power)[8, 8] == pytest.approx(1, rel=1e-6)
    assert lee_array(power, window=7)[8, 8] > 1.05


@pytest.mark.parametrize(
    ("name", "bias"), [("lee", 0.005), ("refined_lee", 0.005), ("quegan", 0.005)]
)
def test_the_mean_of_a_homogeneous_area_is_kept(name, bias):
    power = speckled(np.full((2, 600, 700), 0.08), 4.4)
    found = FILTERS[name].kernel(power)
    kept = found.mean(dtype="float64") / power.mean(dtype="float64")
    assert kept == pytest.approx(1, abs=bias)


@pytest.mark.parametrize("looks", [1, 4.4, 12])
def test_lee_smooths_a_homogeneous_area_as_far_as_its_weights_allow(looks):
    # Expectation by independent windows: the distribution of the weight, which depends on
    # the pixel itself, has no closed form. Looks times 49 is the plain average's limit.
    rng = np.random.default_rng(5)
    windows = rng.gamma(looks, 1 / looks, (60_000, 49))
    mean, variance = windows.mean(1), windows.var(1)
    weight = np.maximum(0, 1 - mean**2 / looks / variance)
    expected = looks_of(mean + weight * (windows[:, 24] - mean))
    found = looks_of(lee_array(speckled(np.ones((600, 700)), looks), looks=looks)[4:-4, 4:-4])
    assert found == pytest.approx(expected, rel=0.05)
    assert 15 * looks < found < 49 * looks


def test_lee_told_of_one_look_is_the_plain_average_where_speckle_is_weak():
    power = speckled(np.ones((60, 70)), 50)
    average = uniform_filter(power.astype("float64"), 7)
    np.testing.assert_allclose(lee_array(power, looks=1)[4:-4, 4:-4], average[4:-4, 4:-4], 1e-5)


def test_refined_lee_smooths_less_than_lee_and_more_than_nothing():
    power = speckled(np.ones((200, 300)), 4.4)
    refined = looks_of(refined_lee_array(power)[4:-4, 4:-4])
    assert 12 * 4.4 < refined < 28 * 4.4
    assert refined < looks_of(lee_array(power)[4:-4, 4:-4])


@pytest.mark.parametrize(("dates", "window"), [(2, 5), (5, 7), (12, 3)])
def test_quegan_reaches_the_looks_of_its_theory(dates, window):
    found = quegan_array(speckled(np.full((dates, 200, 300), 0.1), 4.4), window=window)
    pixels = window**2
    expected = 4.4 * dates * pixels / (dates + pixels - 1)
    assert looks_of(found[:, 5:-5, 5:-5]) == pytest.approx(expected, rel=0.1)


def test_quegan_leaves_a_single_date_as_it_is():
    power = with_holes((1, 9, 23))
    valid = (power > 0) & np.isfinite(power)
    np.testing.assert_allclose(quegan_array(power), np.where(valid, power, np.nan), rtol=1e-6)


def test_a_missing_date_counts_for_nothing():
    power = speckled(np.full((3, 9, 23), 0.1), 4.4)
    gone = power.copy()
    gone[1] = np.nan
    found = quegan_array(gone, window=5)
    np.testing.assert_array_equal(found[[0, 2]], quegan_array(power[[0, 2]], window=5))
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("tilt", [0, 0.6, 1.7])
def test_edges_stay_sharper_than_under_a_plain_average(tilt):
    down, right = np.mgrid[:200, :150]
    distance = (right - 20.5 - tilt * down / 2) / np.hypot(1, tilt / 2)
    truth = np.where(distance > 0, 10**0.6, 1.0)  # a step of 6 dB
    power = speckled(truth, 4.4)
    near = np.abs(distance) < 3
    near[:8] = near[-8:] = near[:, :8] = near[:, -8:] = False

    def error(filtered):
        return np.sqrt(np.mean(((filtered - truth) / truth)[near] ** 2))

    plain = error(uniform_filter(power.astype("float64"), 7))
    assert error(lee_array(power)) < 0.7 * plain
    assert error(refined_lee_array(power)) < 0.7 * plain
    assert error(refined_lee_array(power)) < error(lee_array(power))


def test_quegan_keeps_an_edge_that_lasts():
    truth = np.where(np.arange(50) < 25, 1.0, 10**0.6) * np.ones((12, 60, 1))
    power = speckled(truth, 4.4)
    plain = uniform_filter(power.astype("float64"), (0, 7, 7))
    near = np.s_[:, :, 22:28]
    wrong = [
        np.sqrt(np.mean(((f - truth) / truth)[near] ** 2)) for f in (quegan_array(power), plain)
    ]
    assert wrong[0] < 0.5 * wrong[1]


def test_a_bright_point_stays():
    power = speckled(np.full((21, 33), 0.1), 4.4)
    power[10, 16] = 50
    assert lee_array(power)[10, 16] > 0.98 * 50
    assert refined_lee_array(power)[10, 16] > 0.8 * 50
    assert uniform_filter(power, 7)[10, 16] < 0.03 * 50


@pytest.mark.parametrize("looks", [1, 4.4, 12])
def test_looks_of_a_homogeneous_area_are_found(looks):
    power = image(speckled(np.full((2, 200, 300), 0.05), looks))
    found = equivalent_looks(power)
    assert found.dims == ("time",)
    np.testing.assert_allclose(found, looks, rtol=0.06)
    np.testing.assert_allclose(equivalent_looks(power[0], window=15), looks, rtol=0.04)


def test_looks_of_small_windows_are_not_those_of_a_variance_divided_by_n():
    # 49 pixels: dividing by n would add 2 % to the 1.5 % of the skew.
    power = image(speckled(np.full((500, 600), 0.05), 12))
    assert float(equivalent_looks(power, window=7)) == pytest.approx(12 * 1.015, rel=0.012)


@pytest.mark.parametrize("looks", [1, 4.4, 12])
def test_looks_are_found_between_edges(looks):
    # Fields of 25 to 35 pixels, of any backscatter: more windows straddle than do not.
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(25, 36, 20), rng.integers(25, 36, 20)
    decibel = rng.normal(-10, 3, (20, 20)).repeat(rows, 0).repeat(columns, 1)[:300, :400]
    power = speckled(10 ** (decibel / 10), looks)
    assert float(equivalent_looks(image(power))) == pytest.approx(looks, rel=0.15)
    assert looks_of(power) < 0.75 * looks


def test_looks_come_from_wholly_valid_windows_only():
    power = speckled(np.full((2, 120, 90), 0.05), 4.4)
    power[:, :, 40:] = np.nan
    power[0, ::10, ::10] = 0  # no square of 11 x 11 without a hole
    coords = {"time": pd.to_datetime(["2018-06-01", "2018-06-13"]), "x": np.arange(90)}
    found = equivalent_looks(image(power).assign_coords(coords))
    assert np.isnan(found[0])
    assert float(found[1]) == pytest.approx(4.4, rel=0.1)
    assert set(found.coords) == {"time"}


def test_looks_found_are_a_float_that_the_filters_take():
    power = image(speckled(np.full((60, 70), 0.05), 4.4))
    assert lee(power, looks=float(equivalent_looks(power))).shape == (60, 70)


@pytest.mark.parametrize("chunks", [(2, 7, 11), (2, 1, 2), (2, 26, 5)])
@pytest.mark.parametrize("name", FILTERS)
def test_chunks_do_not_change_a_bit(name, chunks):
    power = image(with_holes((2, 26, 37)))
    whole = BY_NAME[name](power)
    with no_compute():
        cut = BY_NAME[name](power.chunk(dict(zip(power.dims, chunks, strict=True))))
    assert cut.dtype == whole.dtype == np.float32
    assert cut.chunks == power.chunk(dict(zip(power.dims, chunks, strict=True))).chunks
    np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("name", FILTERS)
def test_an_image_smaller_than_the_reach_is_filtered_lazily_too(name):
    power = image(with_holes((2, 1, 14)))
    with no_compute():
        cut = BY_NAME[name](power.chunk(x=2))
    np.testing.assert_array_equal(cut, BY_NAME[name](power))


@pytest.mark.parametrize("name", FILTERS)
def test_a_window_read_with_its_halo_gives_the_same_pixels(name):
    power = with_holes((2, 40, 50))
    halo = FILTERS[name].reach(7)
    part = FILTERS[name].kernel(power[:, 12 - halo : 25 + halo, 9 - halo : 30 + halo])
    whole = FILTERS[name].kernel(power)[:, 12:25, 9:30]
    np.testing.assert_array_equal(part[:, halo:-halo, halo:-halo], whole)


@pytest.mark.parametrize("name", FILTERS)
def test_dimensions_coordinates_and_attributes_stay(name):
    power = image(with_holes((2, 3, 9, 14)))
    power = power.assign_coords(polarization=["vv", "vh", "hh"]).assign_attrs(units="1")
    turned = power.transpose("x", "polarization", "time", "y")
    found = BY_NAME[name](turned)
    assert found.dims == turned.dims
    assert found.attrs == power.attrs
    assert found.name == "s1"
    expected = np.stack([FILTERS[name].kernel(power.to_numpy()[:, p]) for p in range(3)], 1)
    np.testing.assert_array_equal(found.transpose(*power.dims), expected)


@settings(deadline=None)
@given(arrays(np.float32, (2, 5, 8), elements=GAPPY), st.integers(-20, 20))
@pytest.mark.parametrize("name", FILTERS)
def test_missing_exactly_where_power_is_missing_and_scale_goes_through(name, power, doublings):
    found = FILTERS[name].kernel(power)
    np.testing.assert_array_equal(np.isnan(found), ~((power > 0) & np.isfinite(power)))
    # A power of two, which floats carry exactly: no tie between directions turns over.
    scaled = FILTERS[name].kernel(power * np.float32(2.0**doublings))
    np.testing.assert_array_equal(scaled, found * np.float32(2.0**doublings))


@pytest.mark.parametrize("name", FILTERS)
def test_any_scale_goes_through(name):
    power = with_holes((2, 9, 23))
    found = FILTERS[name].kernel(power)
    np.testing.assert_allclose(FILTERS[name].kernel(power * 3.7), found * 3.7, rtol=1e-5)


@settings(deadline=None)
@given(arrays(np.float32, (5, 8), elements=GAPPY), st.sampled_from([0.5, 4.4, 1e6]))
def test_lee_stays_between_the_extremes_of_its_window(power, looks):
    found = lee_array(power, window=3, looks=looks)
    for y, x in np.argwhere(np.isfinite(found)):
        around = valid_pixels(power, y, x, square(1))
        assert min(around) <= found[y, x] <= max(around)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: lee(p, window=4), "window=4"),
        (lambda p: lee(p, window=1), "window=1"),
        (lambda p: lee(p, looks=0), "looks=0"),
        (lambda p: lee_array(p.to_numpy(), looks=np.nan), "looks=nan"),
        (lambda p: refined_lee(p, looks=-1), "looks=-1"),
        (lambda p: refined_lee_array(p.to_numpy(), looks=0), "looks=0"),
        (lambda p: quegan(p, window=6), "window=6"),
        (lambda p: quegan_array(p.to_numpy(), window=6), "window=6"),
        (lambda p: equivalent_looks(p, window=2), "window=2"),
        (lambda p: lee(p.rename(x="lon")), "needs 'x'"),
        (lambda p: quegan(p[0]), "needs 'time'"),
        (lambda p: quegan(p.chunk(time=1)), r"chunk\(time=-1\)"),
        (lambda p: refined_lee(p.assign_attrs(units="dB").chunk()), "decibels"),
        (lambda p: equivalent_looks(10 * np.log10(p)), "decibels"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, said):
    power = image(np.full((2, 9, 14), 0.1, "float32"))
    with pytest.raises(ConfigError, match=said) as error:
        call(power)
    assert "\n" not in str(error.value)


def test_nodata_values_are_not_taken_for_decibels():
    power = image(np.full((2, 9, 14), 0.1, "float32"))
    power[:, :, 2:] = -32768
    assert int(lee(power).notnull().sum()) == 2 * 9 * 2
    assert int(lee(power.chunk()).notnull().sum()) == 2 * 9 * 2


def test_the_registry_says_what_a_reader_needs():
    assert {n: f.reach(9) for n, f in FILTERS.items()} == {"lee": 4, "refined_lee": 3, "quegan": 4}
    assert [n for n, f in FILTERS.items() if f.pools_dates] == ["quegan"]
    lazy = image(da.ones((2, 9, 14), chunks=(2, 4, 5)))
    with no_compute():
        assert all(f(lazy).chunks == lazy.chunks for f in BY_NAME.values())
