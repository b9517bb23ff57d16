"""Blocks of the landscape go whole to one split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.chips import SPLITS, assign_splits
from deepforest_xr.errors import ChipError, ConfigError

USUAL = (0.7, 0.15, 0.15)


def landscape(blocks, chips_a_block, classes, seed=0):
    """Block ids that do not start at 0, and labelled pixels of every chip."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(7 + 3 * np.arange(blocks), chips_a_block)
    return ids, rng.integers(1, 900, (len(ids), classes))


@given(
    st.integers(3, 40),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from([USUAL, (0.5, 0.25, 0.25), (0.1, 0.1, 0.8)]),
)
def test_blocks_stay_whole_and_no_split_is_empty(blocks, each, classes, seed, fractions):
    ids, histograms = landscape(blocks, each, classes, seed)
    split = assign_splits(ids, histograms, fractions=fractions, seed=seed)
    assert set(split.tolist()) == {0, 1, 2}
    for block in np.unique(ids):
        assert len(set(split[ids == block].tolist())) == 1


def test_shares_of_labelled_pixels_are_roughly_those_wanted():
    ids, histograms = landscape(60, 4, 3)
    split = assign_splits(ids, histograms, fractions=USUAL, seed=0)
    pixels = histograms.sum(axis=1)
    shares = [pixels[split == code].sum() / pixels.sum() for code in range(len(SPLITS))]
    np.testing.assert_allclose(shares, USUAL, atol=0.05)


def test_a_class_of_three_blocks_is_in_all_splits():
    ids, histograms = landscape(30, 2, 2)
    rare = np.zeros(len(ids), dtype=int)
    rare[np.isin(ids, np.unique(ids)[[4, 11, 25]])] = 50
    histograms = np.column_stack([histograms, rare])
    for seed in range(5):
        split = assign_splits(ids, histograms, fractions=USUAL, seed=seed)
        assert all(histograms[split == code, 2].sum() > 0 for code in range(3))


def test_the_seed_alone_decides():
    ids, histograms = landscape(30, 2, 3)
    histograms[:] = histograms[0]  # equal blocks: only chance tells them apart
    of = [assign_splits(ids, histograms, fractions=USUAL, seed=s).tolist() for s in (0, 0, 1)]
    assert of[0] == of[1]
    assert of[0] != of[2]


def test_fewer_than_three_blocks_cannot_be_split():
    ids, histograms = landscape(2, 5, 3)
    with pytest.raises(ChipError, match=r"^2 blocks of labelled chips cannot be split") as caught:
        assign_splits(ids, histograms, fractions=USUAL, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fractions", [(0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_are_three_positive_shares_of_one(fractions):
    ids, histograms = landscape(9, 1, 2)
    with pytest.raises(ConfigError, match="not three positive shares that sum to 1"):
        assign_splits(ids, histograms, fractions=fractions, seed=0)
