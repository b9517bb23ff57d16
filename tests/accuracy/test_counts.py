import math

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepforest_xr.accuracy import confusion
from deepforest_xr.errors import DtypeError, GridError, LabelError

CODES = [3, 7, 12]
mapped_codes = arrays(np.uint8, (5, 7), elements=st.sampled_from([0, *CODES]))
reference_codes = arrays(np.uint8, (5, 7), elements=st.sampled_from([*CODES, 255]))


def slow_confusion(mapped, reference):
    counts = np.zeros((3, 3), dtype="int64")
    for row in range(mapped.shape[0]):
        for col in range(mapped.shape[1]):
            if mapped[row, col] != 0 and reference[row, col] != 255:
                i, j = CODES.index(mapped[row, col]), CODES.index(reference[row, col])
                counts[i, j] += 1
    return counts


@settings(deadline=None)
@given(mapped_codes, reference_codes)
def test_confusion_is_the_slow_loops(mapped, reference):
    counts = confusion(mapped, reference, CODES)
    np.testing.assert_array_equal(counts, slow_confusion(mapped, reference))
    assert counts.dtype == np.int64


@settings(deadline=None, max_examples=40)
@given(mapped_codes, reference_codes, st.integers(1, 5), st.integers(1, 7))
def test_confusions_of_blocks_add_up_to_the_whole(mapped, reference, rows, cols):
    whole = confusion(mapped, reference, CODES)
    parts = [
        confusion(mapped[i : i + rows, j : j + cols], reference[i : i + rows, j : j + cols], CODES)
        for i in range(0, 5, rows)
        for j in range(0, 7, cols)
    ]
    np.testing.assert_array_equal(sum(parts), whole)
    lazy = confusion(da.from_array(mapped, chunks=(rows, cols)), reference, CODES)
    np.testing.assert_array_equal(lazy, whole)
    both = confusion(
        da.from_array(mapped, chunks=(rows, 7)), da.from_array(reference, chunks=(5, cols)), CODES
    )
    np.testing.assert_array_equal(both, whole)


def test_rows_are_the_map_and_columns_the_reference():
    counts = confusion(np.array([[3, 3]]), np.array([[7, 12]]), CODES)
    assert counts.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_a_lazy_map_is_never_whole_in_memory():
    largest = []

    def block(block_info=None):
        shape = block_info[None]["chunk-shape"]
        largest.append(math.prod(shape))
        return np.full(shape, 7, dtype="uint8")

    lazy = da.map_blocks(
        block, chunks=((10,) * 8, (20,) * 6), dtype="uint8", meta=np.empty((0, 0), "uint8")
    )
    counts = confusion(lazy, lazy, CODES)
    assert counts[1, 1] == 80 * 120
    assert max(largest) == 200
    assert len(largest) == 48


def test_codes_outside_the_legend_are_named_only_where_they_count():
    assert confusion(np.array([0, 3]), np.array([99, 3]), CODES).sum() == 1
    with pytest.raises(LabelError, match=r"the reference holds codes \[99\]"):
        confusion(np.array([3, 3]), np.array([99, 3]), CODES)
    with pytest.raises(LabelError, match=r"the map holds codes \[-4, 700\]"):
        confusion(np.array([700, -4]), np.array([3, 3]), CODES)


def test_what_is_no_code_is_refused():
    with pytest.raises(DtypeError, match="float64 for the map"):
        confusion(np.ones((2, 3)), np.ones((2, 3), dtype="uint8"), CODES)
    with pytest.raises(GridError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion(np.ones((2, 3), dtype=int), np.ones((3, 2), dtype=int), CODES)
