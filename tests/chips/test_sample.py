"""Balanced sampling shows every class as often as any other; streaming reads shard by shard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.chips import balanced_weights
from deepforest_xr.chips.sample import streamed_order
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


def shards_of(sizes):
    """Shard of each chip, of shards with so many chips."""
    return np.repeat(np.arange(len(sizes)) * 3 + 5, sizes)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 99))
def test_every_chip_comes_once_and_shards_stay_together(sizes, buffer, seed):
    shards = shards_of(sizes)
    order = streamed_order(shards, buffer=buffer, rng=np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(shards)))
    read, begin, open_shards = shards[order], 0, set()
    for place, shard in enumerate(read):
        open_shards.add(shard)
        if not np.isin(read[place + 1 :], list(open_shards)).any():
            # What is read alternately is whole by now, and the buffer held it.
            assert place + 1 - begin == np.isin(shards, list(open_shards)).sum()
            assert place + 1 - begin <= buffer or len(open_shards) == 1
            begin, open_shards = place + 1, set()


def test_a_store_that_the_buffer_holds_is_shuffled_as_a_whole():
    shards = shards_of([4, 7, 2])
    order = streamed_order(shards, buffer=13, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(order, np.random.default_rng(3).permutation(13))
    less = streamed_order(shards, buffer=12, rng=np.random.default_rng(3))
    assert len(set(shards[less[:2]]) | set(shards[less[-2:]])) > 1
    assert order.tolist() != less.tolist()


def test_shards_and_chips_within_the_buffer_come_in_any_order():
    shards = shards_of([10] * 8)
    orders = [
        streamed_order(shards, buffer=20, rng=np.random.default_rng((0, epoch)))
        for epoch in range(400)
    ]
    first = np.bincount([order[0] for order in orders], minlength=80)
    assert ((first - 5) ** 2 / 5).sum() < 124.8  # chi-squared, 79 degrees, 0.1 %
    # Two shards are mixed: the second half of the first twenty is from both.
    mixed = [len(set(shards[order[10:20]])) for order in orders]
    assert np.mean(np.array(mixed) == 2) > 0.95
