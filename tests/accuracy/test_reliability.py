import math

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve

from deepforest_xr.accuracy import (
    apply_temperature,
    calibrate,
    calibration,
    confidence_calibration,
    temperature_scale,
)
from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError

shares = arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1))


def slow_ece(confidence, correct, bins):
    total = 0.0
    for b in range(bins):
        inside = [
            i for i, c in enumerate(confidence)
            if b / bins < c <= (b + 1) / bins or (b == 0 and c == 0)
        ]  # fmt: skip
        if inside:
            gap = np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


@given(shares, st.integers(0, 99))
def test_the_expected_error_is_the_slow_loops(confidence, seed):
    correct = np.random.default_rng(seed).random(confidence.size) < confidence
    found = confidence_calibration(confidence, correct, bins=8)
    assert found.expected_error == pytest.approx(slow_ece(confidence, correct, 8), abs=1e-12)


@given(shares, st.integers(0, 99))
def test_the_diagram_is_scikit_learns(confidence, seed):
    correct = np.random.default_rng(seed).random(confidence.size) < 0.6
    found = confidence_calibration(confidence, correct, bins=10)
    share, mean = calibration_curve(correct, confidence, n_bins=10)
    filled = found.count > 0
    np.testing.assert_allclose(found.accuracy[filled], share)
    np.testing.assert_allclose(found.mean_confidence[filled], mean)
    assert np.isnan(found.accuracy[~filled]).all()
    assert found.largest_error == pytest.approx(np.abs(share - mean).max())


@given(shares, st.integers(0, 60))
def test_tiles_sum_to_the_whole(confidence, cut):
    correct = confidence > 0.4
    whole = confidence_calibration(confidence, correct)
    parts = confidence_calibration(confidence[:cut], correct[:cut]) + confidence_calibration(
        confidence[cut:], correct[cut:]
    )
    np.testing.assert_array_equal(parts.count, whole.count)
    np.testing.assert_array_equal(parts.hits, whole.hits)
    assert parts.expected_error == pytest.approx(whole.expected_error, abs=1e-12)


def test_blocks_give_what_memory_gives():
    rng = np.random.default_rng(0)
    percent = rng.integers(0, 101, (37, 53)).astype("uint8")
    correct = rng.random((37, 53)) < 0.7
    whole = confidence_calibration(percent, correct)
    lazy = confidence_calibration(
        da.from_array(percent, chunks=(10, 20)), da.from_array(correct, chunks=(37, 7))
    )
    np.testing.assert_array_equal(lazy.count, whole.count)
    np.testing.assert_allclose(lazy.confidence, whole.confidence)
    np.testing.assert_array_equal(lazy.hits, whole.hits)
    assert whole.confidence.sum() == pytest.approx(percent.sum() / 100)


@pytest.mark.parametrize("chunked", [False, True])
def test_probabilities_by_class(chunked):
    rng = np.random.default_rng(1)
    share = rng.dirichlet([1, 1, 1], size=(5, 7)).transpose(2, 0, 1)
    reference = rng.choice([3, 7, 12, 255], size=(5, 7)).astype("uint8")
    reference[0, 0] = reference[1, 1] = 3
    share[:, 0, 0] = np.nan
    share[:, 1, 1] = 0
    data = xr.DataArray(share, dims=("class", "y", "x"), coords={"class": [3, 7, 12]})
    found = calibration(data.chunk(y=2) if chunked else data, reference, bins=4)
    counted = reference != 255
    counted[0, 0] = counted[1, 1] = False
    top = np.array([3, 7, 12])[np.argmax(np.nan_to_num(share), axis=0)]
    assert found.pixels == counted.sum()
    assert found.hits.sum() == (top == reference)[counted].sum()
    assert found.confidence.sum() == pytest.approx(share.max(axis=0)[counted].sum())
    named = calibration(share, reference, codes=[3, 7, 12], bins=4)
    np.testing.assert_array_equal(named.count, found.count)


def test_a_calibrated_confidence_has_almost_no_error_and_a_boast_its_gap():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, 200_000)
    right = confidence_calibration(confidence, rng.random(200_000) < confidence)
    assert right.expected_error < 0.01
    boast = confidence_calibration(np.full(1000, 0.9), np.arange(1000) < 600)
    assert boast.expected_error == pytest.approx(0.3)
    assert math.isnan(confidence_calibration(np.array([np.nan]), np.array([True])).expected_error)
    assert math.isnan(confidence_calibration(np.array([np.nan]), np.array([True])).largest_error)


def simulated_logits(scale, *, samples=40_000, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, 5)) * 2
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (share.cumsum(axis=1) < rng.random((samples, 1))).sum(axis=1)
    return logits * scale, labels


@pytest.mark.parametrize("scale", [0.4, 1, 3])
def test_the_temperature_is_what_the_logits_were_multiplied_by(scale):
    logits, labels = simulated_logits(scale)
    assert temperature_scale(logits, labels) == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize(("logit", "right"), [(4.0, 0.7), (0.5, 0.9), (2.0, 0.88)])
def test_two_classes_have_a_closed_formula(logit, right):
    # All samples say sigmoid(logit); the likelihood is greatest where that is `right`.
    labels = (np.arange(1000) >= 1000 * right).astype(int)
    logits = np.tile([logit, 0.0], (1000, 1))
    expected = logit / math.log(right / (1 - right))
    assert temperature_scale(logits, labels) == pytest.approx(expected, rel=1e-4)


@given(
    arrays(np.float64, (9, 4), elements=st.floats(-50, 50)),
    st.floats(0.05, 50),
    arrays(np.float64, (9, 1), elements=st.floats(-1e3, 1e3)),
)
def test_a_temperature_changes_no_class_and_a_shift_of_logits_nothing(logits, t, shift):
    scaled = apply_temperature(logits, t)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    # The class of the highest logit keeps the highest probability (ties round together).
    chosen = np.take_along_axis(scaled, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(chosen, scaled.max(axis=1))
    np.testing.assert_allclose(apply_temperature(logits + shift, t), scaled, atol=1e-9)


def test_held_out_pixels_are_better_calibrated_and_not_fitted_on():
    logits, labels = simulated_logits(3, seed=4)
    held_out = np.arange(labels.size) % 2 == 1
    scaling = calibrate(logits, labels, held_out=held_out)
    assert scaling.before.expected_error > 0.1
    assert scaling.after.expected_error < 0.02
    assert scaling.before.pixels == scaling.after.pixels == held_out.sum()
    assert scaling.before.hits.sum() == scaling.after.hits.sum()
    spoiled = np.where(held_out, 0, labels)
    assert calibrate(logits, spoiled, held_out=held_out).temperature == scaling.temperature


def test_a_temperature_stays_finite_where_nothing_bounds_it():
    # Always right: the lower the better, until the loss is 0 in floating point.
    assert 0.01 <= temperature_scale(np.array([[1.0, 0.0]]), np.array([0])) < 0.05
    assert temperature_scale(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(100, rel=0.01)


def test_what_cannot_be_calibrated_is_one_line():
    half, right = np.full((2, 3), 0.5), np.ones((2, 3), bool)
    with pytest.raises(ConfigError, match="softmax"):
        confidence_calibration(half * 14, right)
    with pytest.raises(DtypeError, match="expected bool"):
        confidence_calibration(half, half)
    with pytest.raises(GridError, match=r"\(2, 3\).*\(3, 2\)"):
        confidence_calibration(half, right.T)
    with pytest.raises(ConfigError, match="bins=0"):
        confidence_calibration(half, right, bins=0)
    with pytest.raises(ConfigError, match="one code a layer"):
        calibration(np.ones((3, 2, 3)), np.ones((2, 3), int), codes=[1, 2])
    with pytest.raises(GridError, match="the reference"):
        calibration(np.ones((2, 2, 3)), np.ones((3, 2), int), codes=[1, 2])
    with pytest.raises(ConfigError, match="15 and 3 bins"):
        confidence_calibration(half, right) + confidence_calibration(half, right, bins=3)
    with pytest.raises(GridError, match=r"expected \(sample, class\)"):
        temperature_scale(np.ones((3, 2)), np.ones(2, int))
    with pytest.raises(LabelError, match="positions from 0 to 1"):
        temperature_scale(np.ones((3, 2)), np.array([0, 1, 2]))
    with pytest.raises(LabelError, match="no labelled sample"):
        calibrate(np.ones((3, 2)), np.zeros(3, int), held_out=np.ones(3, bool))
    with pytest.raises(ConfigError, match="NaN"):
        temperature_scale(np.full((3, 2), np.nan), np.zeros(3, int))
    with pytest.raises(ConfigError, match="temperature=0"):
        apply_temperature(np.ones((3, 2)), 0)


def test_a_weight_of_three_is_a_sample_seen_three_times():
    rng = np.random.default_rng(4)
    logits = 4 * rng.normal(size=(300, 5))
    labels = (logits + rng.normal(0, 4, logits.shape)).argmax(axis=1)
    weights = rng.integers(0, 4, 300)
    repeated = temperature_scale(logits.repeat(weights, axis=0), labels.repeat(weights))
    assert temperature_scale(logits, labels, 0.5 * weights) == pytest.approx(repeated, rel=1e-5)
    assert temperature_scale(logits, labels) != pytest.approx(repeated, rel=1e-3)
    with pytest.raises(GridError, match="weights have shape"):
        temperature_scale(logits, labels, weights[1:])
    with pytest.raises(LabelError, match="not all 0"):
        temperature_scale(logits, labels, 0 * weights)
