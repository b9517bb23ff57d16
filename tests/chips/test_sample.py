"""Balanced sampling shows every class as often as any other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.chips import balanced_weights
from deepforest_xr.errors import ChipError


def test_a_draw_of_class_then_pixel_lands_in_each_chip_so_often():
    histograms = np.array([[90, 0, 0], [8, 2, 0], [2, 2, 0], [0, 4, 0]])
    weights = balanced_weights(histograms)
    rng = np.random.default_rng(0)
    chips_of = [np.repeat(np.arange(4), histograms[:, c]) for c in (0, 1)]
    drawn = [rng.choice(chips_of[rng.integers(2)]) for _ in range(20_000)]
    np.testing.assert_allclose(weights, np.bincount(drawn) / 20_000, atol=0.015)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_weights_are_probabilities_and_pure_chips_of_two_classes_weigh_alike(chips, classes, seed):
    histograms = np.random.default_rng(seed).integers(0, 50, (chips, classes))
    histograms[0, 0] += 1
    weights = balanced_weights(histograms)
    assert weights.sum() == pytest.approx(1)
    assert ((weights > 0) == histograms.any(axis=1)).all()
    pure = np.diag(np.arange(1, classes + 1) ** 3)  # one chip a class, of very unequal size
    np.testing.assert_allclose(balanced_weights(pure), 1 / classes)


def test_without_a_label_there_is_nothing_to_balance():
    with pytest.raises(ChipError, match="no chip has a labelled pixel") as caught:
        balanced_weights(np.zeros((3, 2), dtype=int))
    assert "\n" not in str(caught.value)
