"""What a network sees: channels in the paper's order, standardised, without NaN."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.models import channel_names
from deepforest_xr.models.inputs import Standardisation, stack_channels


def image(months, bands=3, shape=(5, 7), seed=0):
    rng = np.random.default_rng(seed)
    s2 = rng.random((bands, *shape), dtype="float32")
    s1 = rng.normal(-10, 3, (months, 2, *shape)).astype("float32") if months else None
    return s2, s1


def scaling(months, bands=3, *, two_branches=False, seed=1):
    rng = np.random.default_rng(seed)
    channels = 2 * months + bands
    mean = rng.normal(size=channels).astype("float32")
    std = rng.uniform(0.5, 2, channels).astype("float32")
    return Standardisation(mean, std, months, two_branches)


def test_channels_are_months_of_two_polarizations_then_bands():
    s2, s1 = image(4)
    names = channel_names((6, 7, 8, 9), ("B02", "B03", "B04"))
    stacked = stack_channels(s2, s1)
    assert names[:3] == ("vv_06", "vh_06", "vv_07")
    for position, name in enumerate(names):
        if name.startswith("B"):
            expected = s2[("B02", "B03", "B04").index(name)]
        else:
            polarization, month = name.split("_")
            expected = s1[int(month) - 6, ("vv", "vh").index(polarization)]
        np.testing.assert_array_equal(stacked[position], expected)


@given(st.integers(0, 4), st.integers(1, 5), st.booleans(), st.integers(0, 9))
def test_each_channel_is_standardised_by_its_own_statistics(months, bands, split, seed):
    split = split and months > 0
    s2, s1 = image(months, bands, seed=seed)
    s2[seed % bands, 1, 2] = np.nan
    frozen = scaling(months, bands, two_branches=split)
    result = frozen.apply(s2, s1)
    assert len(result) == 1 + split
    flat = result[0] if not split else np.concatenate([result[1].reshape(-1, 5, 7), result[0]])
    for channel, (mean, std) in enumerate(zip(frozen.mean, frozen.std, strict=True)):
        radar = channel < 2 * months
        raw = s1[channel // 2, channel % 2] if radar else s2[channel - 2 * months]
        for (row, col), value in np.ndenumerate(raw):
            expected = 0 if np.isnan(value) else (value - mean) / std
            assert flat[channel, row, col] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_two_branches_take_bands_and_months_apart():
    s2, s1 = image(4)
    optical, radar = scaling(4, two_branches=True).apply(s2, s1)
    assert optical.shape == (3, 5, 7)
    assert radar.shape == (4, 2, 5, 7)
    (stacked,) = scaling(4).apply(s2, s1)
    np.testing.assert_array_equal(radar[2, 1], stacked[2 * 2 + 1])
    np.testing.assert_array_equal(optical, stacked[8:])


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_what_is_missing_stands_at_the_mean(missing):
    s2, s1 = image(1)
    s1[0, 1, 3, 4] = missing  # log of a power of 0 is -inf
    (x,) = scaling(1).apply(s2, s1)
    assert x.dtype == np.float32
    assert x[1, 3, 4] == 0
    assert np.isfinite(x).all()


def test_the_image_itself_is_left_alone():
    s2, s1 = image(2)
    s2[0, 0, 0] = np.nan
    before = s2.copy(), s1.copy()
    scaling(2).apply(s2, s1)
    np.testing.assert_array_equal(s2, before[0])
    np.testing.assert_array_equal(s1, before[1])
