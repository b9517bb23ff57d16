"""Blocks of the landscape go whole to one split, with room between training and the rest."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.chips import SPLITS, ChipSpec, assign_splits
from deepforest_xr.chips.split import near_held_out, split_chips
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


@pytest.mark.parametrize("fractions", [(0.7, 0.0, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_are_shares_of_one(fractions):
    with pytest.raises(ConfigError, match="sum to 1; try"):
        ChipSpec(fractions=fractions)


def test_without_a_test_share_all_is_training_and_validation():
    histograms = np.random.default_rng(3).integers(0, 50, (40, 4))
    split = assign_splits(np.arange(40), histograms, fractions=(0.8, 0.2, 0.0), seed=0)
    assert set(split.tolist()) == {0, 1}
    assert histograms[split == 1].sum() / histograms.sum() == pytest.approx(0.2, abs=0.05)
    two = assign_splits(np.arange(2), histograms[:2], fractions=(0.8, 0.2, 0.0), seed=0)
    assert sorted(two.tolist()) == [0, 1]


def area(rows, cols, *, classes=3, seed=0, keep=1.0):
    """Places of the chips of an area, some missing, and their labelled pixels."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(rows * cols), cols)
    histograms = rng.integers(1, 900, (len(row), classes))
    kept = rng.random(len(row)) < keep
    kept[[0, -1]] = True
    return row[kept], col[kept], histograms[kept]


def nearest(row, col, ours, others):
    """Chips from each of ours to the next of the others along rows or columns."""
    down = np.abs(row[ours][:, None] - row[others][None])
    across = np.abs(col[ours][:, None] - col[others][None])
    return np.maximum(down, across).min(axis=1)


@given(
    st.integers(5, 14),
    st.integers(5, 17),
    st.integers(1, 2),
    st.integers(0, 5),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([1.0, 0.8]),
)
def test_no_training_chip_is_within_the_buffer_of_one_held_out(r, c, buffer, seed, block, keep):
    row, col, histograms = area(r, c, seed=seed, keep=keep)
    spec = ChipSpec(size=32, buffer=buffer, seed=seed, block=block)
    try:
        split = split_chips(row, col, histograms, spec=spec)
    except ChipError:
        assert min(r, c) < 9  # a small area with few blocks or a wide buffer
        return
    train, held = split.code == 0, (split.code == 1) | (split.code == 2)
    assert split.buffer == buffer
    assert {0, 1, 2} <= set(split.code.tolist())
    assert nearest(row, col, train, held).min() > buffer
    # And only those are left out that must be.
    left_out = split.code == 3
    assert not left_out.any() or nearest(row, col, left_out, held).max() <= buffer
    for name in np.unique(split.block):
        codes = set(split.code[split.block == name].tolist())
        assert codes <= {0, 3} or len(codes) == 1


@given(st.integers(2, 9), st.integers(2, 11), st.integers(1, 3), st.integers(0, 9))
def test_neighbours_of_held_out_chips_are_those_a_loop_finds(rows, cols, chips, seed):
    row, col, _ = area(rows, cols, seed=seed, keep=0.7)
    split = np.random.default_rng(seed).choice([0, 0, 0, 1, 2], len(row)).astype("uint8")
    split[0] = 2
    expected = nearest(row, col, slice(None), split > 0) <= chips
    np.testing.assert_array_equal(near_held_out(row, col, split, chips=chips), expected)


def test_a_scene_of_the_demo_keeps_a_third_for_training_and_every_class_everywhere():
    for seed in range(5):
        row, col, histograms = area(8, 8, seed=seed)
        split = split_chips(row, col, histograms, spec=ChipSpec(size=64, seed=seed))
        assert split.buffer == 1
        assert (split.code == 0).mean() >= 1 / 3
        for code in range(3):
            assert histograms[split.code == code].any(axis=0).all()


def test_splits_are_like_the_whole():
    row, col, histograms = area(40, 44, seed=3)
    histograms[:, 1] = np.where(col < 22, 3 * histograms[:, 1], 0)  # half the area lacks it
    split = split_chips(row, col, histograms, spec=ChipSpec(size=32))
    assert (split.side, split.buffer) == (4, 1)
    whole = histograms.sum(axis=0) / histograms.sum()
    for code in range(3):
        mine = histograms[split.code == code].sum(axis=0)
        np.testing.assert_allclose(mine / mine.sum(), whole, atol=0.05)
    assert (split.code == 0).mean() > 0.4
    assert [(split.code == code).mean() for code in (1, 2)] == pytest.approx([0.15, 0.15], abs=0.05)


def test_a_small_area_goes_without_a_buffer_and_says_so(caplog):
    row, col, histograms = area(5, 6)
    with caplog.at_level(logging.WARNING):
        split = split_chips(row, col, histograms, spec=ChipSpec(size=32))
    assert split.buffer == 0
    assert set(split.code.tolist()) == {0, 1, 2}
    assert "of 30 chips for training; take a larger area" in caplog.text
    plain = assign_splits(split.block, histograms, fractions=USUAL, seed=0)
    np.testing.assert_array_equal(split.code, plain)


def test_a_class_is_not_given_up_for_a_buffer(caplog):
    row, col, histograms = area(16, 16)
    rare = np.zeros(len(row), dtype=int)
    rare[np.isin(16 * row + col, [51, 52, 67])] = 40  # three chips where three blocks meet
    spec = ChipSpec(size=32, block=4)
    assert split_chips(row, col, histograms, spec=spec).buffer == 1
    split = split_chips(row, col, np.column_stack([histograms, rare]), spec=spec)
    assert split.buffer == 0
    assert all(rare[split.code == code].any() for code in range(3))
    assert "without one of its classes" in caplog.text


def test_a_buffer_that_takes_all_training_is_refused_where_it_was_asked_for():
    row, col, histograms = area(3, 3)
    with pytest.raises(ChipError, match="a buffer of 2 chips leaves no training chip") as caught:
        split_chips(row, col, histograms, spec=ChipSpec(size=32, buffer=2))
    assert "\n" not in str(caught.value)


def test_the_seed_alone_decides_with_a_buffer():
    row, col, histograms = area(20, 24)
    codes = [
        split_chips(row, col, histograms, spec=ChipSpec(size=32, seed=s)).code.tolist()
        for s in (0, 0, 1)
    ]
    assert codes[0] == codes[1] != codes[2]
