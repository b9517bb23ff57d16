"""Shares, presence and determinism of the simulated land cover."""

import numpy as np
import pytest

from deepforest_xr.errors import ConfigError
from deepforest_xr.legend import amazon13
from deepforest_xr.testing import landscape
from deepforest_xr.testing.landscape import SHARES, build
from deepforest_xr.testing.tiles import canvas

# Classes above 5 % keep the paper's share to half a percent point.
BIG = [code for code, share in SHARES.items() if share > 5]


def shares(codes):
    return 100 * np.bincount(codes.ravel(), minlength=14) / codes.size


def test_big_classes_have_the_papers_shares():
    found = shares(landscape((1024, 1024), seed=3))
    for code in BIG:
        assert found[code] == pytest.approx(SHARES[code], abs=0.5), code


def test_rare_classes_are_a_few_dozen_pixels_at_least():
    count = np.bincount(landscape((768, 500), seed=1).ravel(), minlength=14)
    assert count[1:].min() >= 48


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (96, 128), (160, 64)])
@pytest.mark.parametrize("seed", [0, 3, 8, 25])
def test_every_class_lies_inside_the_covered_part(shape, seed):
    on = canvas(shape)
    truth = build(on.shape, seed=seed).codes[on.inner]
    assert truth.shape == shape
    assert sorted(np.unique(truth)) == amazon13().codes


def test_same_seed_same_landscape_other_seed_another():
    once, again = landscape((70, 90), seed=5), landscape((70, 90), seed=5)
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.uint8
    assert (once != landscape((70, 90), seed=6)).mean() > 0.3


def test_only_farmland_has_parcels():
    land = build((128, 160), seed=0)
    farmed = np.isin(land.codes, (3, 7, 8, 9))
    np.testing.assert_array_equal(land.parcels > 0, farmed)


def test_too_small_is_said():
    with pytest.raises(ConfigError, match="64 x 64"):
        landscape((63, 200), seed=0)
