"""Blocks that fade into one another: the sum of their shares is whole, and steps are gone."""

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import deepforest_xr as dfx
from deepforest_xr.classify.blend import blended, extended_sizes, pieces
from deepforest_xr.errors import ConfigError

from .test_classify import BANDS, checkpoint_of, differing

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def checkpoint(narrow):
    return checkpoint_of()


@given(st.integers(1, 40), st.data())
def test_the_weights_of_all_blocks_add_up_to_1(blend, data):
    sizes = data.draw(st.lists(st.integers(blend, 3 * blend), min_size=1, max_size=5))
    total = np.zeros(sum(sizes))
    starts = np.cumsum([0, *sizes])
    for k, size in enumerate(sizes):
        for piece in pieces(size, blend, is_first=k == 0, is_last=k == len(sizes) - 1):
            assert ((piece.weight >= 0) & (piece.weight <= 1)).all()
            total[starts[k] :][piece.target] += piece.weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_fade_is_a_squared_cosine_over_both_sides_of_the_border():
    sizes, blend = (7, 9), 4
    steps = (np.arange(2 * blend) + 0.5) / (2 * blend)
    falling = np.cos(steps * np.pi / 2) ** 2
    own, given_ = pieces(sizes[0], blend, is_first=True, is_last=False)
    np.testing.assert_allclose(own.weight, [1, 1, 1, *falling[:blend]], atol=1e-6)
    np.testing.assert_allclose(given_.weight, 1 - falling[:blend], atol=1e-6)
    own, given_ = pieces(sizes[1], blend, is_first=False, is_last=True)
    np.testing.assert_allclose(given_.weight, falling[blend:], atol=1e-6)


def test_blocks_of_one_field_give_the_field_back():
    """Extended blocks cut from one array are blended to that array."""
    blocks, blend = ((6, 5, 7), (8, 9)), 3
    field = np.random.default_rng(0).standard_normal((2, 18, 17)).astype("float32")
    field[:, 4, 7:10] = np.nan
    cuts = [
        [
            (max(end - n - blend, 0), min(end + blend, sum(sizes)))
            for n, end in zip(sizes, np.cumsum(sizes), strict=True)
        ]
        for sizes in blocks
    ]
    extended = np.concatenate(
        [np.concatenate([field[:, a:b, c:d] for c, d in cuts[1]], axis=2) for a, b in cuts[0]],
        axis=1,
    )
    chunks = ((2,), *(extended_sizes(sizes, blend) for sizes in blocks))
    result = blended(dask.array.from_array(extended, chunks=chunks), blocks, blend)
    assert result.chunks == ((2,), *blocks)
    np.testing.assert_allclose(result.compute(), field, atol=1e-6)


def test_blending_changes_nothing_where_the_halo_holds_the_field(checkpoint, synthetic_cube):
    cube = synthetic_cube((40, 1700), bands=BANDS)
    cube["s2"][1, 3:7, 570:580] = np.nan
    plain = dfx.classify(cube, checkpoint, block=576, probability=True).compute()
    faded = dfx.classify(cube, checkpoint, block=576, blend=64, probability=True).compute()
    assert differing(plain, faded) <= 1e-3
    for name in ("confidence", "probability"):
        assert abs(plain[name].astype(int) - faded[name]).max() <= 1
    assert set(plain.data_vars) == set(faded.data_vars)
    assert ((faded["lulc"] == 0) == np.isnan(cube["s2"]).any("band")).all()
    assert (plain.attrs["blend"], faded.attrs["blend"]) == (0, 64)


def test_a_short_halo_leaves_steps_that_blending_takes_away(checkpoint, synthetic_cube):
    """Steps in the error against one pass over the whole: more of them over borders of blocks?"""
    cube = synthetic_cube((64, 512), bands=BANDS)
    whole = dfx.classify(cube, checkpoint, block=512, probability=True).compute()
    steps = {}
    for blend in (0, 32):
        made = dfx.classify(
            cube, checkpoint, block=64, halo=32, blend=blend, probability=True
        ).compute()
        error = made["probability"].astype(int) - whole["probability"].astype(int)
        across = abs(error.diff("x")).to_numpy().mean(axis=(0, 1))
        is_border = np.arange(1, 512) % 64 == 0
        steps[blend] = across[is_border].mean() - across[~is_border].mean()
    assert steps[0] > 0.2
    assert steps[32] < 0.6 * steps[0]


def test_blended_maps_do_not_depend_on_chunks_or_scheduler(checkpoint, synthetic_cube):
    cube = synthetic_cube((200, 330), bands=BANDS)
    options = {"block": 64, "halo": 64, "blend": 32, "uncertainty": True}
    expected = dfx.classify(cube, checkpoint, **options).compute(scheduler="synchronous")
    chunked = dfx.classify(cube.chunk({"y": 70, "x": 90}), checkpoint, **options)
    xr.testing.assert_identical(chunked.compute(scheduler="threads"), expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"blend": 20, "halo": 64}, "blend=20 is not a multiple of 32"),
        ({"blend": 96, "halo": 64}, "blend=96 is more than the halo of 64"),
    ],
)
def test_a_blend_is_within_the_halo(checkpoint, synthetic_cube, options, match):
    with pytest.raises(ConfigError, match=match):
        dfx.classify(synthetic_cube((64, 96), bands=BANDS), checkpoint, **options)
