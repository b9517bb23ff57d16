"""Bayesian smoothing, against plain Python, by hand, and itself in other chunks."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import deepforest_xr as dfx
from deepforest_xr.errors import ConfigError, DtypeError, LabelError
from deepforest_xr.postprocess.bayes import logits_of, posterior
from deepforest_xr.testing import no_compute

from .conftest import CODES, map_of, percent_of

SHAPE = (4, 6)


def slow_pixel(percent, y, x, *, window, smoothness, fraction):
    """Probabilities of one pixel: the formula of sits, class by class, in Python's numbers."""
    reach, posteriors = window // 2, []
    for band in range(len(percent)):
        logits = {}
        for v in range(max(y - reach, 0), min(y + reach + 1, percent.shape[1])):
            for u in range(max(x - reach, 0), min(x + reach + 1, percent.shape[2])):
                values = [max(float(p), 0.25) for p in percent[:, v, u]]
                if percent[:, v, u].any():
                    logits[v, u] = math.log(values[band] / (sum(values) - values[band]))
        highest = sorted(logits.values(), reverse=True)[: math.ceil(fraction * len(logits))]
        m = statistics.fmean(highest)
        s = statistics.variance(highest) if len(highest) > 1 else 0.0
        w = 0.0 if s < 1e-4 else s / (s + smoothness)
        mean = w * logits[y, x] + (1 - w) * m
        posteriors.append(1 / (1 + math.exp(-mean)))
    return np.array(posteriors) / sum(posteriors)


@settings(max_examples=20, deadline=None)
@given(
    weights=arrays(np.uint8, (4, *SHAPE), elements=st.integers(0, 50)),
    window=st.sampled_from([1, 3, 5, 9]),
    smoothness=st.sampled_from([0.5, 20.0]),
    fraction=st.sampled_from([0.3, 0.5, 1.0]),
    chunks=st.sampled_from([None, (4, 6), (2, 5), (1, 4)]),
)
def test_an_independent_computation_agrees(weights, window, smoothness, fraction, chunks):
    total = weights.sum(0, dtype="float64")
    percent = np.rint(100 * weights / np.maximum(total, 1)).astype("uint8")
    result = map_of(percent=percent, chunks=chunks)
    found = dfx.postprocess.bayesian_smoothing(
        result, window=window, smoothness=smoothness, neighbourhood_fraction=fraction
    )
    assert found.lulc.chunks == result.lulc.chunks
    for y, x in np.ndindex(SHAPE):
        got = found.probability.to_numpy()[:, y, x]
        if not percent[:, y, x].any():
            assert not got.any()
            assert int(found.lulc[y, x]) == int(found.confidence[y, x]) == 0
            continue
        share = slow_pixel(percent, y, x, window=window, smoothness=smoothness, fraction=fraction)
        np.testing.assert_allclose(got, 100 * share, atol=0.5 + 1e-6)
        best = np.isclose(share, share.max(), rtol=1e-9)
        assert int(found.lulc[y, x]) in np.array(CODES)[best]
        assert int(found.confidence[y, x]) == got.max()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    chunks=st.sampled_from([(5, 7), (1, 19), (13, 2), ((1, 16), (20, 3))]),
)
def test_the_map_does_not_depend_on_the_chunks_by_a_single_bit(seed, chunks):
    percent, _ = percent_of((17, 23), seed=seed)
    whole = dfx.postprocess.bayesian_smoothing(map_of(percent=percent), window=5)
    parts = dfx.postprocess.bayesian_smoothing(map_of(percent=percent, chunks=chunks), window=5)
    for name in ("lulc", "confidence", "probability"):
        np.testing.assert_array_equal(parts[name], whole[name])


def test_by_hand():
    logits = np.array([[2.0, 0.0, -1.0]])
    # Window of all three, fraction 0.5: the two highest, 2 and 0: m = 1, s = 2.
    found = posterior(logits, window=5, smoothness=2.0, fraction=0.5)
    np.testing.assert_allclose(found, [[1.5, 0.5, 0.0]])
    # One neighbour in two: of -1 and 0 the higher, alone: no variance, so its value.
    np.testing.assert_allclose(
        posterior(logits, window=3, smoothness=2.0, fraction=0.5), [[2.0, 0.5, 0.0]]
    )


def test_a_pixel_without_any_probability_has_no_class_and_no_voice():
    percent = np.random.default_rng(2).integers(1, 30, (4, 12, 12)).astype("uint8")
    percent[:, 4, 4] = 0
    silent = map_of(np.full((12, 12), CODES[0], "uint8"), percent=percent)
    absent = silent.copy(deep=True)
    absent["lulc"][4, 4] = 0
    found, expected = (dfx.postprocess.bayesian_smoothing(m, window=5) for m in (silent, absent))
    assert found["lulc"][4, 4] == 0
    for name in ("lulc", "confidence", "probability"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_no_percent_is_a_quarter_of_one():
    percent = np.array([100, 0, 0, 0], "uint8").reshape(4, 1, 1)
    expected = np.log([100 / 0.75, 0.25 / 100.5, 0.25 / 100.5, 0.25 / 100.5])
    np.testing.assert_allclose(logits_of(percent).ravel(), expected)


def test_a_lonely_pixel_follows_its_neighbours_and_a_patch_stays():
    percent = np.zeros((4, 15, 17), "uint8")
    percent[0], percent[1] = 80, 20
    percent[:2, 7, 3] = [40, 60]
    percent[:, 4:11, 9:16] = np.array([5, 95, 0, 0])[:, None, None]
    found = dfx.postprocess.bayesian_smoothing(map_of(percent=percent), window=7).lulc.to_numpy()
    assert found[7, 3] == CODES[0]
    assert (found[6:9, 11:14] == CODES[1]).all()
    assert found[0, 0] == CODES[0]


def test_noise_goes_and_the_truth_comes():
    percent, truth = percent_of((60, 70), patches=8.0)
    result = map_of(percent=percent)
    there = result.lulc.to_numpy() > 0
    found = dfx.postprocess.bayesian_smoothing(result)
    before, after = ((r.lulc.to_numpy() == truth)[there].mean() for r in (result, found))
    assert before < 0.75
    assert after > 0.9


def test_the_map_stays_a_lazy_map():
    percent, _ = percent_of((21, 33))
    result = map_of(percent=percent, chunks=(8, 10))
    with no_compute():
        found = dfx.postprocess.bayesian_smoothing(result)
    assert found.attrs["postprocess"] == (
        "bayesian_smoothing(window=9, smoothness=20, neighbourhood_fraction=0.5)"
    )
    assert found.probability.attrs == result.probability.attrs
    assert list(found["class"].to_numpy()) == list(result["class"].to_numpy())
    assert found.probability.sizes == result.probability.sizes
    np.testing.assert_allclose(
        found.probability.sum("class").where(found.lulc > 0, 100), 100, atol=2
    )


def test_entropy_and_margin_of_the_former_probabilities_are_left_out():
    percent, _ = percent_of((21, 33))
    result = map_of(percent=percent)
    result = result.assign(entropy=result["confidence"], margin=result["confidence"])
    found = dfx.postprocess.bayesian_smoothing(result)
    assert set(found.data_vars) == {"lulc", "confidence", "probability"}
    on_classes = dfx.postprocess.majority(result)
    assert {"entropy", "margin"} <= set(on_classes.data_vars)


def test_what_it_cannot_do_is_one_line():
    percent, _ = percent_of((5, 7))
    result = map_of(percent=percent)
    smooth = dfx.postprocess.bayesian_smoothing
    with pytest.raises(ConfigError, match="probability=True"):
        smooth(result.drop_vars("probability"))
    with pytest.raises(ConfigError, match="window=4"):
        smooth(result, window=4)
    with pytest.raises(ConfigError, match="smoothness=0"):
        smooth(result, smoothness=0)
    for fraction in (0, 1.1, np.nan):
        with pytest.raises(ConfigError, match="neighbourhood_fraction="):
            smooth(result, neighbourhood_fraction=fraction)
    with pytest.raises(DtypeError, match="float32"):
        smooth(result.assign(probability=result.probability.astype("float32")))
    with pytest.raises(LabelError, match="3 classes"):
        smooth(result.isel({"class": slice(3)}))
    with pytest.raises(ConfigError, match="would undo majority"):
        smooth(dfx.postprocess.majority(result))
