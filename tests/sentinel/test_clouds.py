"""Clouds grown and measured, against slow loops and SciPy."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation

from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel import clouds, s2
from deepforest_xr.testing import no_compute

MASKS = arrays(np.bool_, (2, 5, 11), elements=st.sampled_from([False, False, False, True]))
CLASSES = arrays(np.uint8, (2, 5, 11), elements=st.integers(0, 11))


def distances(masked):
    """Distance of each pixel of (y, x) to the nearest masked one, by looking at all."""
    rows, columns = np.nonzero(masked)
    y, x = np.indices(masked.shape)
    squares = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
    return np.sqrt(squares.min(axis=-1, initial=10**6))


def scenes(values, **chunks):
    found = xr.DataArray(values, dims=("time", "y", "x"), attrs={"long_name": "scene classes"})
    return found.chunk(chunks) if chunks else found


@given(MASKS, st.integers(0, 14))
def test_a_disk_reaches_as_far_as_its_radius(masked, pixels):
    grown = clouds.dilate_array(masked, pixels)
    assert grown.dtype == bool
    for before, after in zip(masked, grown, strict=True):
        np.testing.assert_array_equal(after, distances(before) <= pixels)


@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 10])
def test_the_disk_is_scipys(pixels):
    masked = np.random.default_rng(0).random((60, 70)) < 0.003
    y, x = np.ogrid[-pixels : pixels + 1, -pixels : pixels + 1]
    expected = binary_dilation(masked, structure=y**2 + x**2 <= pixels**2)
    np.testing.assert_array_equal(clouds.dilate_array(masked, pixels), expected)


@given(MASKS, st.integers(0, 14))
def test_the_distance_to_the_nearest_cloud(masked, reach):
    found = clouds.cloud_distance_array(masked, reach)
    assert found.dtype == np.float32
    for before, after in zip(masked, found, strict=True):
        expected = np.minimum(distances(before), reach).astype("float32")
        np.testing.assert_array_equal(after, expected)


@given(CLASSES)
def test_without_dilation_it_is_is_clear(scl):
    found = clouds.clear_mask(scenes(scl))
    xr.testing.assert_identical(found, s2.is_clear(scenes(scl)))


@given(CLASSES, st.integers(0, 6), st.sampled_from([s2.SCL_MASKED, (8, 9), (0, 3, 4), ()]))
def test_clouds_grow_and_the_swath_edge_does_not(scl, dilation, masked):
    found = clouds.clear_mask_array(scl, masked=masked, dilation=dilation)
    clouded = np.isin(scl, [c for c in masked if c in (3, 8, 9, 10)])
    for date in range(2):
        near = distances(clouded[date]) <= dilation
        expected = ~np.isin(scl[date], masked) & ~near
        np.testing.assert_array_equal(found[date], expected)


def test_a_cloud_beside_the_edge_of_the_swath():
    scl = np.uint8([[0, 4, 4, 4, 9, 4, 4], [0, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 1, 1]]
    np.testing.assert_array_equal(clouds.clear_mask_array(scl, dilation=1), np.bool_(expected))


@pytest.mark.parametrize("chunks", [{"y": 5, "x": 7}, {"y": 3, "x": -1}, {"y": 1, "x": 4}])
@pytest.mark.parametrize("pixels", [0, 1, 4, 30])
def test_chunk_borders_do_not_show(chunks, pixels):
    scl = np.random.default_rng(0).choice([4, 8, 0], (2, 13, 17), p=[0.96, 0.02, 0.02])
    whole = scenes(scl.astype("uint8"))
    lazy = scenes(scl.astype("uint8"), time=1, **chunks)
    steps = {
        "dilate": lambda values: clouds.dilate(values == 8, pixels),
        "distance": lambda values: clouds.cloud_distance(values == 8, pixels),
        "clear": lambda values: clouds.clear_mask(values, dilation=pixels),
    }
    for step in steps.values():
        with no_compute():
            found = step(lazy)
        assert found.chunks == lazy.chunks
        expected = step(whole)
        assert found.dtype == expected.dtype
        xr.testing.assert_identical(found.compute(), expected)


def test_a_disk_of_one_pixel():
    masked = scenes(np.zeros((1, 5, 7), bool))
    masked[0, 2, 3] = True
    expected = np.zeros((5, 7), bool)
    expected[2, 2:5] = expected[1:4, 3] = True
    np.testing.assert_array_equal(clouds.dilate(masked, 1)[0], expected)


@pytest.mark.parametrize(
    "step",
    [
        lambda masked: clouds.dilate(masked, -1),
        lambda masked: clouds.cloud_distance(masked, -1),
        lambda masked: clouds.clear_mask(masked, dilation=-1),
        lambda masked: clouds.dilate_array(masked.to_numpy(), -1),
        lambda masked: clouds.cloud_distance_array(masked.to_numpy(), -1),
        lambda masked: clouds.clear_mask_array(masked.to_numpy(), dilation=-1),
    ],
)
def test_a_negative_radius_is_refused(step):
    with pytest.raises(ConfigError, match="=-1 is negative"):
        step(scenes(np.zeros((1, 2, 3), bool)))


def test_the_input_stays_as_it_was():
    masked = np.eye(5, 7, dtype=bool)
    before = masked.copy()
    clouds.dilate_array(masked, 2)
    clouds.cloud_distance_array(masked, 2)
    np.testing.assert_array_equal(masked, before)


def test_any_leading_dims():
    masked = da.zeros((2, 3, 5, 7), chunks=(1, 1, 3, 3), dtype=bool)
    found = clouds.cloud_distance(xr.DataArray(masked, dims=("a", "b", "y", "x")), 2)
    assert found.shape == (2, 3, 5, 7)
    assert (found == 2).all()
