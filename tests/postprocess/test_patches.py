"""Minimum mapping unit, against a flood fill in Python, and itself in other chunks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import deepforest_xr as dfx
from deepforest_xr.errors import ConfigError, GridError
from deepforest_xr.postprocess.patches import _dissolve
from deepforest_xr.testing import no_compute

from .conftest import map_of

HA = 0.01  # one pixel of 10 m
SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]
CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


def flood(lulc, start, steps):
    """All pixels of the patch of one pixel."""
    patch, edge = {start}, [start]
    while edge:
        y, x = edge.pop()
        for dy, dx in steps:
            at = (y + dy, x + dx)
            inside = 0 <= at[0] < lulc.shape[0] and 0 <= at[1] < lulc.shape[1]
            if inside and at not in patch and lulc[at] == lulc[start]:
                patch.add(at)
                edge.append(at)
    return frozenset(patch)


def slow_pass(lulc, pixels, connectivity):
    steps = SIDES + (CORNERS if connectivity == 8 else [])
    patch = {at: flood(lulc, at, steps) for at in np.ndindex(lulc.shape) if lulc[at]}
    result = lulc.copy()
    for members in set(patch.values()):
        if len(members) >= pixels:
            continue
        beside = [(y + dy, x + dx) for y, x in members for dy, dx in SIDES]
        votes = Counter(
            int(lulc[at])
            for at in beside
            if at in patch and at not in members and len(patch[at]) >= pixels
        )
        if votes:
            winner = min(votes, key=lambda code: (-votes[code], code))
            for at in members:
                result[at] = winner
    return result


@settings(max_examples=50, deadline=None)
@given(
    lulc=arrays(np.uint8, (9, 14), elements=st.sampled_from([0, 1, 1, 1, 3, 3, 3, 7])),
    pixels=st.sampled_from([1, 2, 3, 4, 6, 200]),
    connectivity=st.sampled_from([4, 8]),
    passes=st.sampled_from([1, 2]),
    chunks=st.sampled_from([None, (9, 14), (3, 4), (1, 5), (4, 2), ((1, 8), (3, 11))]),
)
def test_small_patches_take_the_class_that_borders_them_most(
    lulc, pixels, connectivity, passes, chunks
):
    result = map_of(lulc, chunks=chunks)
    found = dfx.postprocess.minimum_mapping_unit(
        result, pixels * HA, connectivity=connectivity, passes=passes
    )
    assert found.lulc.chunks == result.lulc.chunks
    expected = lulc
    for _ in range(passes):
        expected = slow_pass(expected, pixels, connectivity)
    np.testing.assert_array_equal(found.lulc, expected)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.sampled_from([0, 1, 3, 7]), st.integers(1, 7)), min_size=9),
    pixels=st.integers(2, 6),
    width=st.integers(1, 9),
    stands=st.booleans(),
)
def test_the_map_does_not_depend_on_the_chunks(runs, pixels, width, stands):
    # One row: patches are as long as they can be, and so is the way to those they ask.
    lulc = np.repeat(*np.array(runs).T).astype("uint8")[None]
    chunks = (width, 1) if stands else (1, width)
    lulc = lulc.T if stands else lulc
    whole = dfx.postprocess.minimum_mapping_unit(map_of(lulc), pixels * HA)
    parts = dfx.postprocess.minimum_mapping_unit(map_of(lulc, chunks=chunks), pixels * HA)
    np.testing.assert_array_equal(parts.lulc, whole.lulc)


def test_the_halo_is_just_long_enough():
    # One row; the patch of 1 begins in the first chunk, what it asks ends as far as it can.
    n = 5
    row = [7] * 20 + [1] * (n - 1) + [3] * n + [7] * 20
    lulc = np.array([row], "uint8")
    lulc[0, 20 - n : 20] = 0  # nobody on the left
    cut = 21  # the first chunk holds one pixel of the patch
    found = dfx.postprocess.minimum_mapping_unit(
        map_of(lulc, chunks=((1,), (cut, lulc.size - cut))), n * HA, passes=1
    )
    assert (found.lulc.to_numpy()[0, 20 : 20 + n - 1] == 3).all()
    window = lulc[None, :, : cut + 2 * n - 2]
    assert _dissolve(window, pixels=n, connectivity=4)[0, 0, 20] == 3
    shorter = window[:, :, :-1]
    assert _dissolve(shorter, pixels=n, connectivity=4)[0, 0, 20] == 1


def test_a_hand_made_map():
    lulc = np.array(
        [
            [1, 1, 1, 3, 3, 3],
            [1, 7, 1, 3, 3, 3],  # 7 lies in 1
            [1, 1, 7, 7, 3, 3],  # two pixels: 1 on two sides, 3 on two: the lower code
            [1, 1, 1, 3, 3, 3],
        ],
        "uint8",
    )
    found = dfx.postprocess.minimum_mapping_unit(map_of(lulc), 3 * HA).lulc.to_numpy()
    expected = lulc.copy()
    expected[1, 1] = expected[2, 2] = expected[2, 3] = 1
    # Sides of the pair: 1 above, left and below of the left one; 3 above, right, below.
    np.testing.assert_array_equal(found, expected)
    # With corners the three pixels of 7 are one patch, not below three pixels.
    joined = dfx.postprocess.minimum_mapping_unit(map_of(lulc), 3 * HA, connectivity=8)
    np.testing.assert_array_equal(joined.lulc, lulc)


def test_there_is_no_order():
    lulc = np.random.default_rng(3).choice(np.array([1, 3, 7], "uint8"), (23, 37))
    found = dfx.postprocess.minimum_mapping_unit(map_of(lulc), 5 * HA).lulc.to_numpy()
    for turn in (lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.T):
        again = dfx.postprocess.minimum_mapping_unit(map_of(turn(lulc)), 5 * HA).lulc.to_numpy()
        np.testing.assert_array_equal(again, turn(found))


def test_islands_in_no_data_and_small_ones_among_small_stay():
    lulc = np.zeros((5, 8), "uint8")
    lulc[1, 1] = 7
    lulc[3, 3:6] = [1, 3, 1]
    found = dfx.postprocess.minimum_mapping_unit(map_of(lulc), 50 * HA)
    np.testing.assert_array_equal(found.lulc, lulc)


def test_a_second_pass_reaches_what_had_nobody_to_ask():
    lulc = np.full((7, 9), 1, "uint8")
    lulc[2:5, 2:7] = 3
    lulc[3, 4] = 7
    once, twice = (
        dfx.postprocess.minimum_mapping_unit(map_of(lulc), 20 * HA, passes=n).lulc for n in (1, 2)
    )
    assert int(once[3, 4]) == 7
    assert (twice == 1).all()


def test_hectares_are_those_of_the_grid():
    lulc = np.full((6, 9), 1, "uint8")
    lulc[2:4, 2:4] = 3
    for resolution, hectares, stays in [(10, 0.04, True), (10, 0.041, False), (30, 0.36, True)]:
        result = map_of(lulc, resolution=resolution)
        found = dfx.postprocess.minimum_mapping_unit(result, hectares)
        assert (int(found.lulc[2, 2]) == 3) == stays
    assert found.attrs["postprocess"] == (
        "minimum_mapping_unit(hectares=0.36, connectivity=4, passes=2)"
    )


def test_it_is_lazy():
    with no_compute():
        found = dfx.postprocess.minimum_mapping_unit(
            map_of(np.full((20, 30), 1), chunks=(7, 9)), 4 * HA
        )
    assert found.lulc.chunks == ((7, 7, 6), (9, 9, 9, 3))


def test_what_it_cannot_do_is_one_line():
    result = map_of(np.full((2, 3), 1))
    for hectares in (-1, np.inf, np.nan):
        with pytest.raises(ConfigError, match="hectares="):
            dfx.postprocess.minimum_mapping_unit(result, hectares)
    with pytest.raises(ConfigError, match="connectivity=6"):
        dfx.postprocess.minimum_mapping_unit(result, 1, connectivity=6)
    with pytest.raises(ConfigError, match="passes=0"):
        dfx.postprocess.minimum_mapping_unit(result, 1, passes=0)
    with pytest.raises(GridError, match="degrees"):
        dfx.postprocess.minimum_mapping_unit(
            map_of(np.full((2, 3), 1), crs=4326, resolution=0.1), 1
        )
