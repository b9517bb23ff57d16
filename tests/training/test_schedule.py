"""The learning rate rises, falls to almost nothing, and is what the optimiser used."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.training.schedule import rate_share


@given(st.integers(1, 400), st.floats(0, 0.99))
def test_a_rise_to_the_full_rate_then_a_fall_that_ends_near_nothing(total, warmup):
    shares = np.array([rate_share(s, total=total, warmup=warmup) for s in range(total)])
    rising = round(warmup * total)
    assert ((shares > 0) & (shares <= 1)).all()
    assert (np.diff(shares[:rising]) > 0).all()
    assert (np.diff(shares[rising:]) < 0).all()
    assert shares.max() == pytest.approx(1)
    assert rate_share(total, total=total, warmup=warmup) == pytest.approx(
        0 if rising < total else 1
    )


def test_half_a_cosine_is_half_way_down_in_the_middle():
    assert rate_share(50, total=100, warmup=0) == pytest.approx(0.5)
    assert rate_share(60, total=100, warmup=0.2) == pytest.approx(0.5)
    assert rate_share(99, total=100, warmup=0.2) < 0.001
