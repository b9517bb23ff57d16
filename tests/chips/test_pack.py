"""Values as integers: within half a step, missing stays missing, what does not fit is said."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.chips.pack import PACKINGS

ANY = st.floats(-700, 700, width=32) | st.sampled_from([math.nan, math.inf, -math.inf])
HELD = {"s2": (1e-4, 6.5535), "s1": (-327.67, 327.67)}


@pytest.mark.parametrize("name", ["s2", "s1"])
@given(values=arrays(np.float32, (2, 3, 5), elements=ANY))
def test_values_come_back_within_half_a_step_of_what_can_be_held(name, values):
    packing, (low, high) = PACKINGS[name], HELD[name]
    packed, is_clipped = packing.pack(values)
    assert packed.dtype == packing.dtype
    back = packing.unpack(packed)
    assert back.dtype == "float32"
    half = 0.5 / packing.steps
    for value, read, moved in zip(values.flat, back.flat, is_clipped.flat, strict=True):
        if not math.isfinite(value):
            assert math.isnan(read)
            assert not moved
        else:
            expected = min(max(float(value), low), high)
            assert abs(read - expected) <= half * 1.001 + 1e-4 * abs(expected) / 700
            assert bool(moved) == (abs(read - value) > half * 1.05) or abs(value - expected) < half


@pytest.mark.parametrize("name", ["s2", "s1"])
def test_every_integer_is_one_value(name):
    packing = PACKINGS[name]
    kind = np.iinfo(packing.dtype)
    every = np.arange(kind.min, kind.max + 1).astype(packing.dtype)
    values = packing.unpack(every)
    assert np.isnan(values).sum() == 1
    packed, is_clipped = packing.pack(values)
    np.testing.assert_array_equal(packed, every)
    assert not is_clipped.any()


def test_dark_water_becomes_the_lowest_step_and_is_counted():
    packed, is_clipped = PACKINGS["s2"].pack(np.array([-0.02, 0.0, 4e-5, 6e-5, 1.2], "float32"))
    assert packed.tolist() == [1, 1, 1, 1, 12_000]
    assert is_clipped.tolist() == [True, True, True, False, False]
