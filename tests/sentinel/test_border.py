"""Border noise on simulated scene edges."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel.border import mask_border_noise, mask_border_noise_array, reach
from deepforest_xr.testing import no_compute

LAND = 0.05
"""-13 dB."""


def image(values):
    return xr.DataArray(values, dims=("time", "y", "x")[-values.ndim :], name="s1")


def speckled(mean, seed=0):
    rng = np.random.default_rng(seed)
    return (mean * rng.gamma(4.4, 1 / 4.4, np.shape(mean))).astype("float32")


def edge_of_swath(shape=(80, 150)):
    """Column at which each row's data begin: the swath lies askew on the grid."""
    return 40 + np.arange(shape[0]) // 5


def scene(noise_width, shape=(80, 150), seed=0):
    """Land right of a slanting edge, nothing left of it, and noise of -37 dB between."""
    right = np.arange(shape[1]) - edge_of_swath(shape)[:, None]
    mean = np.where(right < 0, 0, np.where(right < noise_width, 2e-4, LAND))
    return speckled(mean, seed), right


def slow_mask(plane, threshold, width, margin):
    """Breadth first from the no-data area, pixel by pixel, then the margin."""
    height, breadth = plane.shape
    missing = ~((plane > 0) & np.isfinite(plane))
    inside = set(np.ndindex(plane.shape))

    def around(pixel, by=1):
        steps = range(-by, by + 1)
        return [(pixel[0] + dy, pixel[1] + dx) for dy in steps for dx in steps]

    front = set()
    for centre in np.ndindex(height, breadth):
        core = [p for p in around(centre, 2) if p in inside]
        if all(missing[p] for p in core):
            front |= set(core)
    gone = set(front)
    for _ in range(width):
        front = {p for q in front for p in around(q) if p in inside and p not in gone}
        front = {p for p in front if plane[p] < threshold}
        gone |= front
    gone = {p for q in gone for p in around(q, margin) if p in inside}
    result = np.where(missing, np.nan, plane)
    for pixel in gone:
        result[pixel] = np.nan
    return result


@settings(deadline=None, max_examples=60)
@given(
    arrays(
        np.float32,
        (9, 23),
        elements=st.sampled_from([0.05, 2e-4, 2e-4, 2e-4]),
    ),
    arrays(np.bool_, (3, 5), elements=st.booleans()),
    st.integers(0, 4),
    st.integers(0, 2),
)
def test_the_mask_is_grown_as_a_slow_walk_grows_it(power, blocks, width, margin):
    holes = blocks.repeat(3, 0).repeat(5, 1)[:, :23]
    power = np.where(holes, np.float32(0), power)
    found = mask_border_noise(image(power), width=width, margin=margin)
    np.testing.assert_array_equal(found, slow_mask(power, 1e-3, width, margin))


@pytest.mark.parametrize("noise_width", [0, 4, 20])
def test_the_noise_goes_and_the_land_stays(noise_width):
    power, right = scene(noise_width)
    found = mask_border_noise(image(power)).to_numpy()
    assert np.isnan(found[right < noise_width]).all()
    # The edge is askew, so that the margin of 3 pixels reaches 4 columns at its steps.
    inner = right >= noise_width + 4
    np.testing.assert_array_equal(found[inner], power[inner])
    assert np.isnan(found[(right >= noise_width) & (right < noise_width + 3)]).all()


def test_scenes_after_2018_lose_the_margin_only_and_without_it_nothing():
    power, right = scene(noise_width=0)
    found = mask_border_noise(image(power), margin=0).to_numpy()
    np.testing.assert_array_equal(found, np.where(power > 0, power, np.nan))
    assert np.isnan(found[right < 0]).all()


def test_the_seam_of_an_average_over_dates_disappears():
    power, right = scene(noise_width=20)
    both = np.stack([power, speckled(np.full(power.shape, LAND), seed=1)])
    strip = (right >= 0) & (right < 20)
    seamed = np.where(both > 0, both, np.nan)
    cleaned = mask_border_noise(image(both)).to_numpy()
    assert np.nanmean(seamed[:, strip]) < 0.6 * LAND
    assert np.nanmean(cleaned[:, strip]) == pytest.approx(LAND, rel=0.03)


def test_a_dark_lake_inside_the_scene_is_untouched():
    power, _ = scene(noise_width=10)
    lake = np.zeros(power.shape, dtype=bool)
    lake[20:50, 100:140] = True
    power[lake] = speckled(np.full(lake.sum(), 3e-4), seed=2)
    power[25:29, 105:109] = 0  # thermal noise taken off: zeros, fewer than a core
    power[30:48:3, 110:130:2] = 0
    found = mask_border_noise(image(power)).to_numpy()
    np.testing.assert_array_equal(found[lake], np.where(power > 0, power, np.nan)[lake])


def test_nothing_is_eaten_where_nothing_is_missing():
    dark = speckled(np.full((30, 47), 2e-4))
    np.testing.assert_array_equal(mask_border_noise(image(dark)), dark)
    dark[3, 5] = dark[0, 0] = 0  # a corner, too
    found = mask_border_noise(image(dark)).to_numpy()
    np.testing.assert_array_equal(np.argwhere(np.isnan(found)), [[0, 0], [3, 5]])


def test_noise_is_looked_for_within_the_width_only():
    power = np.full((12, 60), 2e-4, dtype="float32")
    power[:, :10] = np.nan
    found = mask_border_noise(image(power), width=15, margin=2).to_numpy()
    assert np.isnan(found[:, : 10 + 15 + 2]).all()
    assert not np.isnan(found[:, 10 + 15 + 2 :]).any()


def test_noise_behind_land_is_not_reached():
    power = np.full((12, 60), LAND, dtype="float32")
    power[:, :10] = 0
    power[:, 20:30] = 2e-4
    found = mask_border_noise(image(power), margin=0).to_numpy()
    assert not np.isnan(found[:, 10:]).any()


def test_a_strip_of_no_data_narrower_than_a_core_counts_at_the_images_side():
    power = np.full((20, 31), LAND, dtype="float32")
    power[:, -3:] = 0
    power[:, -9:-3] = 2e-4
    found = mask_border_noise(image(power), margin=1).to_numpy()
    gone = np.broadcast_to(np.arange(31) >= 31 - 10, power.shape)
    np.testing.assert_array_equal(np.isnan(found), gone)


@pytest.mark.parametrize("chunks", [(1, 7, 11), (2, 80, 13), (1, 33, 150)])
def test_chunks_do_not_change_a_pixel(chunks):
    power = image(np.stack([scene(20)[0], scene(6, seed=1)[0]]))
    cut = power.chunk(dict(zip(power.dims, chunks, strict=True)))
    with no_compute():
        found = mask_border_noise(cut, width=9, margin=2)
    assert found.chunks == cut.chunks
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, mask_border_noise(power, width=9, margin=2))


def test_the_reach_is_just_enough():
    # Four columns of zeros are no core, unless the image seems to end beside them.
    power = np.full((9, 40), 2e-4, dtype="float32")
    power[:, 10:14] = 0
    halo = reach(width=6, margin=2)
    whole = mask_border_noise_array(power, width=6, margin=2)
    part = mask_border_noise_array(power[:, 10:], width=6, margin=2)
    np.testing.assert_array_equal(part[:, halo:], whole[:, 10 + halo :])
    assert np.isnan(part[:, halo - 1]).all()


def test_an_image_smaller_than_the_reach_is_masked_lazily_too():
    power = image(scene(6)[0][:20, 30:53])
    cut = power.chunk(y=7, x=9)
    with no_compute():
        found = mask_border_noise(cut)
    assert found.chunks == cut.chunks
    np.testing.assert_array_equal(found, mask_border_noise(power))


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.bool_, (12, 12), elements=st.booleans()),
    st.integers(0, 6),
    st.integers(0, 2),
    st.integers(0, 2**31),
)
def test_a_window_read_with_its_halo_gives_the_same_pixels(blocks, width, margin, seed):
    rng = np.random.default_rng(seed)
    power = rng.choice(np.float32([LAND, 2e-4, 2e-4, 2e-4]), (48, 48))
    power[blocks.repeat(4, 0).repeat(4, 1) & (rng.random(()) < 0.8)] = 0
    halo = reach(width=width, margin=margin)
    settings_ = {"width": width, "margin": margin}
    whole = mask_border_noise_array(power, **settings_)[halo:-halo, halo:-halo]
    for y, x in ((0, 0), (5, 3)):
        part = mask_border_noise_array(
            power[y : y + 2 * halo + 7, x : x + 2 * halo + 9], **settings_
        )
        core = part[halo:-halo, halo:-halo]
        np.testing.assert_array_equal(core, whole[y : y + core.shape[0], x : x + core.shape[1]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: mask_border_noise(p, threshold=-30), "threshold=-30"),
        (lambda p: mask_border_noise_array(p.to_numpy(), threshold=0), "threshold=0"),
        (lambda p: mask_border_noise(p, width=-1), "width=-1"),
        (lambda p: mask_border_noise(p, margin=-2), "margin=-2"),
        (lambda p: mask_border_noise(p.rename(y="lat")), "needs 'y'"),
        (lambda p: mask_border_noise(p.assign_attrs(units="dB")), "decibels"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, said):
    with pytest.raises(ConfigError, match=said) as error:
        call(image(np.full((9, 14), 0.1, "float32")))
    assert "\n" not in str(error.value)
