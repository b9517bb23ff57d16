"""Borders and disagreeing years, against loops over pixels."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.labels import border_ignore, temporal_agreement
from deepforest_xr.legend import UNLABELLED, Legend, amazon13
from deepforest_xr.testing import no_compute

CLASSES = st.sampled_from([1, 2, 7, UNLABELLED])


def labels_of(values, *, resolution=10.0, crs=32721, chunks=None):
    rows, cols = values.shape[-2:]
    step = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    bounds = (500_000, 9_000_000 - rows * step[1], 500_000 + cols * step[0], 9_000_000)
    if crs == 4326:
        bounds = (-54, -8 - rows * step[1], -54 + cols * step[0], -8)
    grid = Grid.from_bounds(bounds, crs=crs, resolution=resolution)
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    dims = ("year", "y", "x")[-values.ndim :]
    attrs = {**amazon13().attrs(), "unlabelled": 255}
    return xr.DataArray(data, dims=dims, coords=grid.coords(), name="labels", attrs=attrs)


def slow_border(values, metres, spacing):
    """A pixel near to one of another class, each compared with all."""
    result = values.copy()
    rows, cols = np.indices(values.shape)
    for y, x in np.ndindex(values.shape):
        distance = np.hypot((rows - y) * spacing[0], (cols - x) * spacing[1])
        other = (values != values[y, x]) & (values != UNLABELLED)
        if (other & (distance <= metres + 1e-6)).any():
            result[y, x] = UNLABELLED
    return result


@settings(max_examples=25, deadline=None)
@given(
    values=arrays(np.uint8, (7, 9), elements=CLASSES),
    metres=st.sampled_from([0, 9, 10, 14.2, 20, 22.37, 30, 500]),
    chunks=st.sampled_from([None, (7, 9), (3, 4), (1, 2)]),
    resolution=st.sampled_from([10.0, (10.0, 15.0)]),
)
def test_pixels_within_the_distance_of_another_class_are_unlabelled(
    values, metres, chunks, resolution
):
    labels = labels_of(values, chunks=chunks, resolution=resolution)
    found = border_ignore(labels, metres)
    spacing = (10, 10) if resolution == 10.0 else (15, 10)
    assert found.chunks == labels.chunks
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, slow_border(values, metres, spacing))


def test_a_straight_border_loses_a_strip_on_either_side():
    values = np.full((3, 12), 1, "uint8")
    values[:, 6:] = 2
    found = border_ignore(labels_of(values), 30)
    np.testing.assert_array_equal(found[1], [1, 1, 1, 255, 255, 255, 255, 255, 255, 2, 2, 2])
    # Unlabelled pixels between two classes are no class, and no shelter either.
    values[:, 5:7] = UNLABELLED
    found = border_ignore(labels_of(values), 30)
    np.testing.assert_array_equal(found[1], [1, 1, 1, 1, 255, 255, 255, 255, 2, 2, 2, 2])


def test_borders_are_found_lazily_and_labels_stay_labels():
    labels = labels_of(np.full((20, 30), 3, "uint8"), chunks=(7, 11))
    with no_compute():
        found = border_ignore(labels, 30)
    assert found.chunks == labels.chunks
    assert found.attrs["border_ignored_m"] == 30
    assert Legend.from_attrs(found.attrs) == amazon13()
    assert Grid.of(found) == Grid.of(labels)
    assert "border_ignored_m" not in labels.attrs
    np.testing.assert_array_equal(found, labels)


def test_feet_are_converted_to_metres():
    values = np.array([[1, 1, 1, 2]], "uint8")
    feet = labels_of(values, resolution=100.0, crs=2229)  # US survey feet: 30.48 m a pixel
    np.testing.assert_array_equal(border_ignore(feet, 31), [[1, 1, 255, 255]])
    np.testing.assert_array_equal(border_ignore(feet, 30), values)


def test_what_border_ignore_cannot_do_is_one_line():
    labels = labels_of(np.full((2, 3), 1, "uint8"))
    for metres in (-1, np.inf, np.nan):
        with pytest.raises(ConfigError, match="metres="):
            border_ignore(labels, metres)
    with pytest.raises(GridError, match="degrees"):
        border_ignore(labels_of(np.full((2, 3), 1, "uint8"), resolution=0.1, crs=4326), 30)
    with pytest.raises(DtypeError, match="int64"):
        border_ignore(labels.astype("int64"), 30)
    with pytest.raises(LabelError, match=r"\('x', 'y'\)"):
        border_ignore(labels.transpose("x", "y"), 30)


@settings(max_examples=25, deadline=None)
@given(
    values=arrays(np.uint8, (4, 2, 3), elements=CLASSES),
    chunks=st.sampled_from([None, (1, 2, 3), (3, 1, 2)]),
)
def test_the_most_frequent_class_wins_and_weighs_its_share_of_the_years(values, chunks):
    label, weight = temporal_agreement(labels_of(values, chunks=chunks))
    assert label.dims == weight.dims == ("y", "x")
    assert (label.dtype, weight.dtype) == (np.uint8, np.float32)
    for y, x in np.ndindex(2, 3):
        years = [int(v) for v in values[:, y, x]]
        counts = {c: years.count(c) for c in sorted(set(years)) if c != UNLABELLED}
        best = max(counts.values(), default=0)
        expected = next((c for c, n in counts.items() if n == best), UNLABELLED)
        assert int(label[y, x]) == expected
        assert float(weight[y, x]) == pytest.approx(best / 4)


def test_years_that_agree_are_certain_and_years_without_a_label_support_nothing():
    values = np.array([[[3, 3, 255]], [[3, 255, 255]]], "uint8")
    label, weight = temporal_agreement(labels_of(values))
    np.testing.assert_array_equal(label, [[3, 3, UNLABELLED]])
    np.testing.assert_array_equal(weight, [[1, 0.5, 0]])


def test_agreement_is_lazy_and_keeps_grid_and_legend():
    labels = labels_of(np.ones((3, 20, 30), "uint8"), chunks=(1, 7, 11))
    with no_compute():
        label, weight = temporal_agreement(labels)
    assert label.chunks == weight.chunks == labels.chunks[1:]
    assert Legend.from_attrs(label.attrs) == amazon13()
    assert Grid.of(label) == Grid.of(weight) == Grid.of(labels)
    assert (label == 1).all()
    assert (weight == 1).all()


def test_what_is_no_series_of_labels_is_one_line():
    labels = labels_of(np.ones((3, 2, 4), "uint8"))
    with pytest.raises(LabelError, match=r"expected \('year', 'y', 'x'\)"):
        temporal_agreement(labels.isel(year=0))
    with pytest.raises(LabelError, match="at least one year"):
        temporal_agreement(labels.isel(year=slice(0)))
    with pytest.raises(DtypeError, match="float32"):
        temporal_agreement(labels.astype("float32"))
