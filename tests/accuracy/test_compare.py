import json

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from deepforest_xr.accuracy import (
    area_adjusted,
    assess,
    assess_points,
    calibration,
    confusion,
    draw_points,
    mapped_area,
)
from deepforest_xr.errors import ConfigError, DtypeError, GridError, LabelError
from deepforest_xr.legend import LandCoverClass, Legend


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


def test_errors_of_our_own_pass_through_dask(make):
    with dask.config.set(scheduler="threads"), pytest.raises(LabelError, match=r"codes \[99\]"):
        assess(make([[1, 1, 99]], chunks={"x": 2}), make([[1, 1, 1]]))


@pytest.fixture
def confident(make):
    """A map of two classes whose stated probabilities are too sure: logits twice too large."""

    def build(chunks=None, *, shape=(96, 130)):
        rng = np.random.default_rng(3)
        logits = rng.normal(scale=1.5, size=(2, *shape))
        share = np.exp(logits) / np.exp(logits).sum(axis=0)
        truth = np.where(rng.random(shape) < share[0], 1, 2).astype("uint8")
        stated = share**2 / (share**2).sum(axis=0)
        percent = np.rint(100 * stated).astype("uint8")
        codes = (percent.argmax(axis=0) + 1).astype("uint8")
        codes[0], truth[1] = 0, 255
        classes = (LandCoverClass(1, "Water", "#0000ff"), LandCoverClass(2, "Land", "#aa8800"))
        legend = Legend("two", classes)
        lulc = make(codes, legend=legend)
        dataset = lulc.to_dataset().assign(
            confidence=(("y", "x"), percent.max(axis=0)),
            probability=(("class", "y", "x"), percent),
        )
        dataset = dataset.assign_coords({"class": [1, 2]})
        labels = make(truth, legend=legend)
        return (dataset.chunk(chunks), labels.chunk(chunks)) if chunks else (dataset, labels)

    return build


@pytest.mark.parametrize("chunks", [None, {"y": 31, "x": 50}])
def test_assess_says_how_far_the_confidence_can_be_believed(confident, chunks):
    lulc, labels = confident(chunks)
    report = assess(lulc, labels, calibration=True)
    # What is no data, or not labelled, is in no bin.
    assert report.calibration.pixels == report.scores.pixels == 94 * 130
    from_probability = calibration(lulc.probability[:, 1:], labels[1:])
    np.testing.assert_array_equal(from_probability.count, report.calibration.count)
    np.testing.assert_array_equal(from_probability.hits, report.calibration.hits)
    scaling = report.temperature
    assert scaling.temperature == pytest.approx(2, abs=0.15)
    assert scaling.after.expected_error < 0.35 * scaling.before.expected_error
    # About half the squares are checked on, the others were fitted on.
    assert 0.4 < scaling.before.pixels / report.scores.pixels < 0.6


def test_the_layers_of_a_map_may_stand_in_any_order(confident):
    lulc, labels = confident()
    turned = lulc.isel({"class": [1, 0]}).transpose("x", "y", "class")
    named = turned.assign_coords({"class": ["Land", "Water"]})  # as classify names them
    found = [assess(x, labels, calibration=True).temperature for x in (lulc, turned, named)]
    with pytest.raises(LabelError, match="name them by the legend's names or codes"):
        assess(named.assign_coords({"class": ["Land", "Sea"]}), labels, calibration=True)
    assert found[0].temperature == found[1].temperature == found[2].temperature


def test_the_mask_holds_for_calibration_too(confident):
    lulc, labels = confident()
    mask = xr.DataArray(np.arange(96) % 2 == 0, dims="y").expand_dims(x=130)
    report = assess(lulc, labels, mask=mask, calibration=True)
    assert report.calibration.pixels == report.scores.pixels == 47 * 130


def test_calibration_needs_a_confidence_and_a_temperature_probabilities(confident, make):
    lulc, labels = confident()
    with pytest.raises(ConfigError, match="confidence"):
        assess(lulc.lulc, labels, calibration=True)
    without = assess(lulc.drop_vars("probability"), labels, calibration=True)
    assert (without.calibration is not None, without.temperature) == (True, None)
    assert assess(lulc, labels).calibration is None


def test_a_labelled_sample_gives_area_weighted_scores(make):
    rng = np.random.default_rng(5)
    truth = rng.choice([1, 2, 13], p=[0.7, 0.25, 0.05], size=(90, 120)).astype("uint8")
    wrong = rng.random(truth.shape) < 0.2
    lulc = make(np.where(wrong, rng.choice([1, 2, 13], size=truth.shape), truth))
    legend = Legend.from_attrs(lulc.attrs)
    points = draw_points(lulc, {1: 300, 2: 300, 13: 300}, seed=2)
    rows = ((lulc.y[0].item() + 5 - points.y) // 10).astype(int)
    cols = ((points.x - lulc.x[0].item() + 5) // 10).astype(int)
    points["reference"] = truth[rows, cols]
    report = assess_points(points, mapped_area(lulc), legend)
    whole = assess(lulc, make(truth)).scores
    area = report.area
    assert abs(report.scores.overall_accuracy - whole.overall_accuracy) < 0.04
    assert report.scores.overall_accuracy == pytest.approx(area.overall_accuracy, rel=1e-12)
    i = legend.codes.index(13)
    hectares = (truth == 13).sum() / 100
    assert abs(area.area[i] - hectares) <= area.area_ci95[i] < hectares
    # The counts alone would call the rare class as large as the others.
    assert report.scores.producers_accuracy[i] == pytest.approx(area.producers_accuracy[i])
    raw = report.confusion[i, i] / report.confusion[:, i].sum()
    assert raw > report.scores.producers_accuracy[i] + 0.05
    assert (report.scores.pixels, report.scores.support.sum()) == (900, 900)


def test_a_mapped_class_without_a_point_is_named(make):
    lulc = make([[1, 1, 2], [0, 13, 2]])
    legend = Legend.from_attrs(lulc.attrs)
    points = draw_points(lulc, {1: 1, 13: 1}).assign(reference=[1, 1])
    with pytest.raises(ConfigError, match="Savanna Formation"):
        assess_points(points, mapped_area(lulc), legend)
    with pytest.raises(ConfigError, match="2 mapped areas"):
        assess_points(points, [1, 2], legend)
    with pytest.raises(LabelError, match="none of 2 points"):
        assess_points(points.assign(reference=pd.NA), mapped_area(lulc), legend)


def test_area_weights_are_those_of_the_estimator(make):
    lulc = make([[1, 1, 2], [2, 2, 2]])
    legend = Legend.from_attrs(lulc.attrs)
    points = draw_points(lulc, {1: 2, 2: 4}).assign(reference=[1, 1, 2, 2, 2, 2])
    report = assess_points(points, mapped_area(lulc), legend)
    counts = confusion(points.code.to_numpy(), points.reference.to_numpy(), legend.codes)
    expected = area_adjusted(counts, mapped_area(lulc))
    np.testing.assert_array_equal(report.area.proportion, expected.proportion)
