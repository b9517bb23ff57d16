import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_recall_fscore_support,
)

from deepforest_xr.accuracy import Scores, confusion, disagreement, kappa
from deepforest_xr.errors import ConfigError

CODES = [3, 7, 12]
mapped_codes = arrays(np.uint8, (5, 7), elements=st.sampled_from([0, *CODES]))
reference_codes = arrays(np.uint8, (5, 7), elements=st.sampled_from([*CODES, 255]))


@settings(deadline=None)
@given(mapped_codes, reference_codes)
def test_scores_are_those_of_scikit_learn(mapped, reference):
    kept = (mapped != 0) & (reference != 255)
    predicted, true = mapped[kept], reference[kept]
    counts = confusion(mapped, reference, CODES)
    scores = Scores.from_confusion(counts, CODES)
    if not kept.any():
        assert math.isnan(scores.overall_accuracy)
        assert math.isnan(scores.mean_iou)
        return
    present = sorted(set(predicted.tolist()) | set(true.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, _, support = precision_recall_fscore_support(
            true, predicted, labels=CODES, zero_division=np.nan
        )
        macro = f1_score(true, predicted, labels=present, average="macro")
        iou = jaccard_score(true, predicted, labels=present, average="macro")
        np.testing.assert_array_equal(confusion_matrix(true, predicted, labels=CODES).T, counts)
    np.testing.assert_allclose(scores.users_accuracy, precision)
    np.testing.assert_allclose(scores.producers_accuracy, recall)
    np.testing.assert_array_equal(scores.support, support)
    assert scores.overall_accuracy == pytest.approx(accuracy_score(true, predicted))
    assert scores.macro_f1 == pytest.approx(macro)
    assert scores.mean_iou == pytest.approx(iou)
    assert scores.majority_baseline == pytest.approx(max(support) / support.sum())


def test_a_class_on_neither_side_is_undefined_and_left_out_of_means():
    scores = Scores.from_confusion(np.array([[4, 1, 0], [0, 5, 0], [0, 0, 0]]), CODES)
    assert np.isnan([scores.users_accuracy[2], scores.f1[2], scores.iou[2]]).all()
    assert scores.mean_iou == pytest.approx((4 / 5 + 5 / 6) / 2)


def test_the_baseline_class_may_come_from_the_training_part():
    counts = np.array([[4, 1, 0], [0, 5, 0], [0, 0, 0]])
    assert Scores.from_confusion(counts, CODES).majority_baseline == pytest.approx(0.6)
    given_class = Scores.from_confusion(counts, CODES, baseline_class=3)
    assert (given_class.majority_class, given_class.majority_baseline) == (3, 0.4)
    with pytest.raises(ConfigError, match="99"):
        Scores.from_confusion(counts, CODES, baseline_class=99)
    with pytest.raises(ConfigError, match="2 codes"):
        Scores.from_confusion(counts, CODES[:2])


counts_of_any_size = st.integers(1, 6).flatmap(
    lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 1000))
)


@given(counts_of_any_size)
def test_quantity_and_allocation_are_all_that_is_not_right(counts):
    if not counts.sum():
        assert math.isnan(disagreement(counts).quantity)
        return
    split = disagreement(counts)
    overall = Scores.from_confusion(counts, range(1, len(counts) + 1)).overall_accuracy
    assert split.quantity + split.allocation == pytest.approx(1 - overall)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diagonal(counts)
    np.testing.assert_allclose(
        split.class_quantity + split.class_allocation, wrong / counts.sum(), atol=1e-12
    )


def test_quantity_is_what_no_swap_mends_and_allocation_what_swaps_do():
    only_quantity = disagreement(np.array([[5, 3], [0, 2]]))
    assert (only_quantity.quantity, only_quantity.allocation) == pytest.approx((0.3, 0))
    only_places = disagreement(np.array([[4, 1, 0], [0, 2, 1], [1, 0, 1]]))
    assert (only_places.quantity, only_places.allocation) == pytest.approx((0, 0.3))
    np.testing.assert_allclose(only_places.class_allocation, 0.2)
    mixed = disagreement(np.array([[50, 10], [4, 36]]))
    assert (mixed.quantity, mixed.allocation) == pytest.approx((0.06, 0.08))
    np.testing.assert_allclose(mixed.class_quantity, [0.06, 0.06])


@given(counts_of_any_size)
def test_tiles_sum_to_the_whole(counts):
    half = counts // 3
    whole, parts = disagreement(counts), disagreement(half + (counts - half))
    np.testing.assert_array_equal(whole.class_quantity, parts.class_quantity)


@given(arrays(np.int64, (3, 3), elements=st.integers(1, 50)))
def test_kappa_is_that_of_scikit_learn(counts):
    rows, cols = np.indices(counts.shape)
    mapped, reference = (np.repeat(side.ravel(), counts.ravel()) for side in (rows, cols))
    assert kappa(counts) == pytest.approx(cohen_kappa_score(mapped, reference))


def test_kappa_of_one_class_is_undefined_and_a_matrix_is_square():
    assert math.isnan(kappa(np.array([[7]])))
    assert math.isnan(kappa(np.zeros((2, 2))))
    with pytest.raises(ConfigError, match="square"):
        kappa(np.ones((2, 3)))
    with pytest.raises(ConfigError, match="square"):
        disagreement(np.ones((2, 3)))


def test_shares_of_area_score_as_counts_do():
    counts = np.array([[50, 10], [4, 36]])
    whole, shares = (Scores.from_confusion(c, (1, 2)) for c in (counts, counts / counts.sum()))
    assert shares.overall_accuracy == pytest.approx(whole.overall_accuracy)
    assert shares.majority_baseline == pytest.approx(whole.majority_baseline)
    np.testing.assert_allclose(shares.iou, whole.iou)
