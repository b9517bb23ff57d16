"""Majority, against a loop over pixels, SciPy, and itself in other chunks."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import deepforest_xr as dfx
from deepforest_xr.errors import ConfigError, DtypeError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import Legend
from deepforest_xr.testing import no_compute

from .conftest import CODES, LEGEND, map_of, percent_of

VALUES = st.sampled_from([0, *CODES])
CHUNKS = st.sampled_from([None, (7, 9), (3, 4), (1, 2), (5, 1), ((2, 5), (6, 3))])


def slow_majority(lulc, size):
    result, reach = lulc.copy(), size // 2
    for y, x in np.ndindex(lulc.shape):
        window = lulc[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        codes = [int(c) for c in window.ravel() if c]
        most = [c for c in sorted(set(codes)) if codes.count(c) == max(map(codes.count, codes))]
        if lulc[y, x] and lulc[y, x] not in most:
            result[y, x] = most[0]
    return result


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (7, 9), elements=VALUES), st.sampled_from([1, 3, 5, 11, 25]), CHUNKS)
def test_the_most_frequent_class_of_the_window_whatever_the_chunks(lulc, size, chunks):
    result = map_of(lulc, chunks=chunks)
    found = dfx.postprocess.majority(result, size=size)
    assert found.lulc.dtype == np.uint8
    assert found.lulc.chunks == result.lulc.chunks
    np.testing.assert_array_equal(found.lulc, slow_majority(lulc, size))


def test_scipy_agrees_where_the_winner_is_alone():
    from scipy.stats import mode

    lulc = np.random.default_rng(0).choice(np.array(CODES, "uint8"), (23, 31))
    windows = np.lib.stride_tricks.sliding_window_view(lulc, (5, 5)).reshape(19, 27, 25)
    winner, count = mode(windows, axis=-1)
    rivals = [(windows == c).sum(-1) == count for c in CODES]
    alone = np.sum(rivals, axis=0) == 1
    found = dfx.postprocess.majority(map_of(lulc), size=5).lulc.to_numpy()[2:-2, 2:-2]
    assert alone.mean() > 0.5
    np.testing.assert_array_equal(found[alone], winner[alone])


def test_a_pixel_keeps_its_class_among_equals_else_the_lowest_code_wins():
    lulc = np.array([[1, 1, 3, 3, 200]], "uint8")
    found = dfx.postprocess.majority(map_of(lulc), size=3).lulc.to_numpy()
    np.testing.assert_array_equal(found, [[1, 1, 3, 3, 200]])  # 200: one of each beside it
    lulc = np.array([[7, 7, 200, 3, 3]], "uint8")
    found = dfx.postprocess.majority(map_of(lulc), size=5).lulc.to_numpy()
    assert found[0, 2] == 3


def test_no_data_stays_and_has_no_voice():
    lulc = np.zeros((3, 5), "uint8")
    lulc[1, 2] = 7
    np.testing.assert_array_equal(dfx.postprocess.majority(map_of(lulc)).lulc, lulc)
    lulc[:, 3:] = 1
    found = dfx.postprocess.majority(map_of(lulc)).lulc.to_numpy()
    assert found[1, 2] == 1  # three against one; the five without data do not count
    assert (found[:, :2] == 0).all()


def test_the_map_stays_a_lazy_map():
    percent, _ = percent_of((21, 33))
    result = map_of(percent=percent, chunks=(8, 10))
    with no_compute():
        found = dfx.postprocess.majority(dfx.postprocess.majority(result), size=5)
    assert found.attrs == {"model": "m", "postprocess": "majority(size=3); majority(size=5)"}
    assert "postprocess" not in result.attrs
    assert Legend.from_attrs(found.lulc.attrs) == LEGEND
    assert found.confidence.attrs == {"units": "percent"}
    assert Grid.of(found) == Grid.of(result)
    assert {v.chunksizes["y"] for v in found.data_vars.values()} == {(8, 8, 5)}


def test_the_confidence_is_that_of_the_class_shown():
    percent, _ = percent_of((21, 33))
    for chunks in (None, (8, 10)):
        result = map_of(percent=percent, chunks=chunks)
        found = dfx.postprocess.majority(result).compute()
        changed = (found.lulc != result.lulc).to_numpy()
        assert changed.any()
        for y, x in np.argwhere(found.lulc.to_numpy() > 0):
            own = percent[CODES.index(int(found.lulc[y, x])), y, x]
            assert int(found.confidence[y, x]) == own
        np.testing.assert_array_equal(found.probability, percent)
        bare = dfx.postprocess.majority(result.drop_vars("probability")).compute()
        np.testing.assert_array_equal(bare.confidence, np.where(changed, 0, percent.max(0)))


def test_zarr_and_cog_take_it(tmp_path):
    percent, _ = percent_of((21, 33))
    found = dfx.postprocess.majority(map_of(percent=percent, chunks=(8, 10)))
    opened = xr.open_zarr(dfx.write_zarr(found, tmp_path / "map.zarr"))
    assert opened.attrs["postprocess"] == "majority(size=3)"
    np.testing.assert_array_equal(opened.lulc, found.lulc)
    dfx.write_cog(opened, tmp_path / "map.tif")
    assert (tmp_path / "map.tif").exists()


def test_what_majority_cannot_do_is_one_line():
    result = map_of(np.full((2, 3), 1))
    for size in (0, 2, -3):
        with pytest.raises(ConfigError, match=f"size={size} is not an odd"):
            dfx.postprocess.majority(result, size=size)
    with pytest.raises(LabelError, match="no variable `lulc`"):
        dfx.postprocess.majority(result.drop_vars("lulc"))
    with pytest.raises(LabelError, match=r"\('x', 'y'\)"):
        dfx.postprocess.majority(result.transpose("x", "y"))
    with pytest.raises(DtypeError, match="int64"):
        dfx.postprocess.majority(result.assign(lulc=result.lulc.astype("int64")))
    with pytest.raises(LabelError, match="flag_values"):
        dfx.postprocess.majority(result.drop_attrs())
