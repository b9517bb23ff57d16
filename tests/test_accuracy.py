import json
import math
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_recall_fscore_support,
)

from deepforest_xr.accuracy import Scores, area_adjusted, assess, confusion
from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend, amazon13

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


@pytest.fixture
def make():
    def make(codes, *, legend=None, left=717729.8352, chunks=None, **attrs):
        codes = np.asarray(codes, dtype="uint8")
        grid = Grid.from_bounds(
            (left, 0, left + 10 * codes.shape[1], 10 * codes.shape[0]), crs="EPSG:32721"
        )
        legend = legend or amazon13()
        array = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), name="lulc")
        array = array.assign_attrs({**legend.attrs(), **attrs})
        return array.chunk(chunks) if chunks else array

    return make


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


@settings(deadline=None)
@given(mapped_codes, reference_codes)
def test_scores_are_those_of_scikit_learn(mapped, reference):
    kept = (mapped != 0) & (reference != 255)
    predicted, true = mapped[kept], reference[kept]
    counts = confusion(mapped, reference, CODES)
    scores = Scores.from_confusion(counts, CODES)
    if not kept.any():
        assert math.isnan(scores.overall_accuracy)
        assert math.isnan(scores.mean_iou)
        return
    present = sorted(set(predicted.tolist()) | set(true.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, _, support = precision_recall_fscore_support(
            true, predicted, labels=CODES, zero_division=np.nan
        )
        macro = f1_score(true, predicted, labels=present, average="macro")
        iou = jaccard_score(true, predicted, labels=present, average="macro")
        np.testing.assert_array_equal(confusion_matrix(true, predicted, labels=CODES).T, counts)
    np.testing.assert_allclose(scores.users_accuracy, precision)
    np.testing.assert_allclose(scores.producers_accuracy, recall)
    np.testing.assert_array_equal(scores.support, support)
    assert scores.overall_accuracy == pytest.approx(accuracy_score(true, predicted))
    assert scores.macro_f1 == pytest.approx(macro)
    assert scores.mean_iou == pytest.approx(iou)
    assert scores.majority_baseline == pytest.approx(max(support) / support.sum())


def test_a_class_on_neither_side_is_undefined_and_left_out_of_means():
    scores = Scores.from_confusion(np.array([[4, 1, 0], [0, 5, 0], [0, 0, 0]]), CODES)
    assert np.isnan([scores.users_accuracy[2], scores.f1[2], scores.iou[2]]).all()
    assert scores.mean_iou == pytest.approx((4 / 5 + 5 / 6) / 2)


def test_the_baseline_class_may_come_from_the_training_part():
    counts = np.array([[4, 1, 0], [0, 5, 0], [0, 0, 0]])
    assert Scores.from_confusion(counts, CODES).majority_baseline == pytest.approx(0.6)
    given_class = Scores.from_confusion(counts, CODES, baseline_class=3)
    assert (given_class.majority_class, given_class.majority_baseline) == (3, 0.4)
    with pytest.raises(ConfigError, match="99"):
        Scores.from_confusion(counts, CODES, baseline_class=99)
    with pytest.raises(ConfigError, match="2 codes"):
        Scores.from_confusion(counts, CODES[:2])


@pytest.mark.parametrize("chunks", [None, {"y": 1, "x": 2}])
def test_assess_counts_inside_the_mask_only(make, chunks):
    lulc = make([[1, 1, 2], [0, 13, 2]], chunks=chunks)
    labels = make([[1, 2, 2], [5, 255, 1]], chunks=chunks)
    report = assess(lulc, labels)
    assert (report.scores.pixels, report.scores.overall_accuracy) == (4, 0.5)
    mask = xr.DataArray([[True, False, True], [True, True, False]], dims=("y", "x"))
    masked = assess(lulc, labels, mask=mask, majority_class=2)
    assert (masked.scores.pixels, masked.scores.overall_accuracy) == (2, 1.0)
    assert masked.scores.majority_class == 2
    flipped = assess(lulc, labels.transpose("x", "y"), mask=mask.transpose("x", "y"))
    np.testing.assert_array_equal(flipped.confusion, masked.confusion)


def test_assess_takes_datasets_and_tells_that_they_are_simulated(make):
    lulc = make([[1, 1, 2], [0, 13, 2]])
    dataset = lulc.to_dataset().assign(confidence=lulc).assign_attrs(simulated="true")
    report = assess(dataset, lulc.to_dataset(name="label"))
    assert report.simulated
    assert "Simulated" in report.to_markdown()
    assert json.loads(report.to_json())["simulated"] is True
    assert not assess(lulc, lulc).simulated
    assert "Simulated" not in assess(lulc, lulc).to_markdown()


def test_sides_that_do_not_fit_are_named(make):
    lulc = make([[1, 1, 2], [0, 13, 2]])
    with pytest.raises(GridError, match=r"the map is on .*the reference on"):
        assess(lulc, make([[1, 1, 2], [0, 13, 2]], left=717739.8352))
    other = Legend(
        "other", (LandCoverClass(1, "Water", "#0000ff"), LandCoverClass(2, "Land", "#aa8800"))
    )
    with pytest.raises(LabelError, match="'amazon13' and the reference's 'other' differ"):
        assess(lulc, make([[1, 1, 2], [1, 1, 2]], legend=other))
    with pytest.raises(GridError, match="mask"):
        assess(lulc, lulc, mask=xr.DataArray(np.ones((3, 2), bool), dims=("y", "x")))
    with pytest.raises(GridError, match="mask"):
        assess(lulc, lulc, mask=(lulc > 0).assign_coords(x=lulc.x + 10))
    with pytest.raises(DtypeError, match="mask"):
        assess(lulc, lulc, mask=lulc)
    with pytest.raises(LabelError, match="no `lulc`"):
        assess(xr.Dataset({"a": lulc, "b": lulc}), lulc)


def test_nothing_to_compare_is_one_line(make):
    lulc, labels = make([[0, 1, 2]]), make([[1, 255, 255]])
    with pytest.raises(LabelError, match="nothing to compare") as caught:
        assess(lulc, labels)
    assert "\n" not in str(caught.value)
    with pytest.raises(LabelError, match="inside the mask"):
        assess(lulc, lulc, mask=xr.zeros_like(lulc, dtype=bool))


def test_undefined_is_a_dash_for_people_and_null_for_programs(make):
    report = assess(make([[1, 1, 2]]), make([[1, 1, 1]]))
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("| 2 ")]
    assert rows == ["| 2 | Savanna Formation | 0.0 % | – | 0.0 % | 0.0 % | 0 |"]  # noqa: RUF001
    content = json.loads(report.to_json())
    assert content["classes"]["2"]["producers_accuracy"] is None
    assert content["classes"]["1"]["producers_accuracy"] == pytest.approx(2 / 3)
    assert np.sum(content["confusion_map_by_reference"]) == 3


def test_errors_of_our_own_pass_through_dask(make):
    with dask.config.set(scheduler="threads"), pytest.raises(LabelError, match=r"codes \[99\]"):
        assess(make([[1, 1, 99]], chunks={"x": 2}), make([[1, 1, 1]]))


# Olofsson et al. 2014, section 5: change in a study area, sample of 640 pixels of 30 m.
OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
OLOFSSON_PIXELS = [200_000, 150_000, 3_200_000, 6_450_000]


def test_area_adjusted_gives_the_published_example():
    estimate = area_adjusted(OLOFSSON, OLOFSSON_PIXELS)
    assert estimate.overall_accuracy == pytest.approx(0.95, abs=0.005)
    assert estimate.overall_accuracy_ci95 == pytest.approx(0.02, abs=0.005)
    np.testing.assert_allclose(estimate.users_accuracy, [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(estimate.users_accuracy_ci95, [0.07, 0.10, 0.04, 0.02], atol=0.005)
    np.testing.assert_allclose(estimate.producers_accuracy, [0.75, 0.85, 0.93, 0.96], atol=0.005)
    hectares = 0.09
    assert estimate.area[0] * hectares == pytest.approx(21_158, abs=1)
    assert estimate.area_ci95[0] * hectares == pytest.approx(6_158, abs=2)
    assert estimate.area.sum() == pytest.approx(sum(OLOFSSON_PIXELS))


def test_producers_intervals_are_equation_7_written_out():
    estimate = area_adjusted(OLOFSSON, OLOFSSON_PIXELS)
    n, area = OLOFSSON, OLOFSSON_PIXELS
    units = n.sum(axis=1)
    for j in range(4):
        users, producers = n[j, j] / units[j], estimate.producers_accuracy[j]
        first = area[j] ** 2 * (1 - producers) ** 2 * users * (1 - users) / (units[j] - 1)
        second = 0.0
        for i in range(4):
            if i != j:
                share = n[i, j] / units[i]
                second += area[i] ** 2 * share * (1 - share) / (units[i] - 1)
        variance = (first + producers**2 * second) / estimate.area[j] ** 2
        assert estimate.producers_accuracy_ci95[j] == pytest.approx(1.959964 * variance**0.5)


def test_area_intervals_hold_the_truth_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    truth = np.array([[0.9, 0.06, 0.04], [0.1, 0.8, 0.1], [0.05, 0.1, 0.85]])
    mapped = np.array([500.0, 300.0, 200.0])
    held, held_producers = np.zeros(3), np.zeros(3)
    producers = mapped * np.diagonal(truth) / (mapped @ truth)
    for _ in range(600):
        counts = np.stack([rng.multinomial(500, row) for row in truth])
        estimate = area_adjusted(counts, mapped)
        held += np.abs(estimate.area - mapped @ truth) <= estimate.area_ci95
        error = np.abs(estimate.producers_accuracy - producers)
        held_producers += error <= estimate.producers_accuracy_ci95
    for share in (*held / 600, *held_producers / 600):
        assert 0.925 < share < 0.975


def test_strata_that_cannot_be_used_are_refused():
    with pytest.raises(ConfigError, match="expected one row"):
        area_adjusted(OLOFSSON, OLOFSSON_PIXELS[:2])
    with pytest.raises(ConfigError, match="0 or more"):
        area_adjusted(OLOFSSON, [1, 1, 1, -1])
    empty = OLOFSSON.copy()
    empty[2] = 0
    with pytest.raises(ConfigError, match=r"positions \[2\]"):
        area_adjusted(empty, OLOFSSON_PIXELS)
    single = area_adjusted(np.array([[1, 0], [3, 9]]), [10, 20])
    assert math.isnan(single.overall_accuracy_ci95)
    assert single.overall_accuracy == pytest.approx((10 + 20 * 0.75) / 30)
