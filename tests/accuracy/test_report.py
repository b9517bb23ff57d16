import json

import numpy as np
import pytest

from deepforest_xr.accuracy import (
    Report,
    Scores,
    area_adjusted,
    assess,
    calibrate,
    confidence_calibration,
    kappa,
)
from deepforest_xr.legend import LandCoverClass, Legend


def test_undefined_is_a_dash_for_people_and_null_for_programs(make):
    report = assess(make([[1, 1, 2]]), make([[1, 1, 1]]))
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("| 2 ")]
    assert rows == ["| 2 | Savanna Formation | 0.0 % | – | 0.0 % | 0.0 % | 33.3 % | 0.0 % | 0 |"]  # noqa: RUF001
    content = json.loads(report.to_json())
    assert content["classes"]["2"]["producers_accuracy"] is None
    assert content["classes"]["1"]["producers_accuracy"] == pytest.approx(2 / 3)
    assert np.sum(content["confusion_map_by_reference"]) == 3


CHANGE = Legend(
    "change",
    (
        LandCoverClass(1, "Deforestation", "#d62728"),
        LandCoverClass(2, "Forest gain", "#9467bd"),
        LandCoverClass(3, "Stable forest", "#2ca02c"),
        LandCoverClass(4, "Stable non-forest", "#bcbd22"),
    ),
)
OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
HECTARES = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09


@pytest.fixture
def full():
    """A report with everything a report can hold."""
    rng = np.random.default_rng(0)
    area = area_adjusted(OLOFSSON, HECTARES)
    logits = rng.normal(size=(400, 4)) * 4
    labels = rng.integers(0, 4, 400)
    scaling = calibrate(logits, labels, held_out=np.arange(400) < 200)
    scores = Scores.from_confusion(area.proportion, CHANGE.codes)
    return Report(
        OLOFSSON, CHANGE, scores, area=area, calibration=scaling.before, temperature=scaling
    )


def test_the_published_example_reads_as_published(full):
    text = full.to_markdown()
    row = next(line for line in text.splitlines() if line.startswith("| Deforestation | 18,000"))
    assert row == ("| Deforestation | 18,000 | 21,158 ± 6,158 | 88.0 % ± 7.4 % | 74.9 % ± 21.3 % |")
    assert "| overall accuracy | 94.7 % ± 1.8 % |" in text
    assert "weighted by mapped area" in text
    assert "Sample units; rows: map" in text


def test_json_holds_all_of_it(full):
    content = json.loads(full.to_json())
    first = content["area_adjusted"]["classes"]["1"]
    assert round(first["hectares"]) == 21_158
    assert round(first["hectares_ci95"]) == 6_158
    assert first["mapped_hectares"] == 18_000
    assert round(content["area_adjusted"]["overall_accuracy_ci95"], 2) == 0.02
    split = content["quantity_disagreement"] + content["allocation_disagreement"]
    assert split == pytest.approx(1 - content["overall_accuracy"])
    scaling, bins = content["temperature_scaling"], content["calibration"]
    assert scaling["before"] == bins
    assert scaling["after"]["expected_calibration_error"] < bins["expected_calibration_error"]
    assert sum(bins["pixels"]) == 200
    # Random labels of four classes: the lowest bins are empty, which is null and no 0.
    assert bins["accuracy"][0] is None
    assert len(bins["edges"]) == len(bins["pixels"]) + 1


def test_calibration_stands_in_the_text_with_error_before_and_after(full):
    text = full.to_markdown()
    t = full.temperature
    before, after = (f"{100 * c.expected_error:.1f} %" for c in (t.before, t.after))
    assert f"A temperature of {t.temperature:.2f} takes" in text
    assert f"from {before} to {after}." in text
    assert "0.0 % to 6.7 %" not in text


def test_kappa_is_left_out_unless_asked_for(full, make):
    plain = assess(make([[1, 1, 2], [2, 13, 2]]), make([[1, 2, 2], [2, 13, 1]]))
    for report, counts in ((plain, plain.confusion), (full, full.area.proportion)):
        assert "kappa" not in report.to_markdown().lower()
        assert "kappa" not in json.loads(report.to_json())
        text = report.to_markdown(with_kappa=True)
        assert f"| kappa | {kappa(counts):.3f} |" in text
        assert "because it was asked for" in text
        assert json.loads(report.to_json(with_kappa=True))["kappa"] == pytest.approx(kappa(counts))


def test_a_class_that_was_not_mapped_has_a_dash_and_no_width():
    counts = np.diag([0, 20, 20, 20])
    area = area_adjusted(counts, [0, *HECTARES[1:]])
    report = Report(counts, CHANGE, Scores.from_confusion(area.proportion, CHANGE.codes), area=area)
    row = next(r for r in report.to_markdown().splitlines() if "± –" in r)  # noqa: RUF001
    assert "– ± 0" not in row  # noqa: RUF001


def test_a_single_unit_in_a_class_has_a_dash_for_an_interval():
    counts = np.diag([1, 20, 20, 20])
    area = area_adjusted(counts, HECTARES)
    report = Report(counts, CHANGE, Scores.from_confusion(area.proportion, CHANGE.codes), area=area)
    assert "| 18,000 ± – |" in report.to_markdown()  # noqa: RUF001
    content = json.loads(report.to_json())
    assert content["area_adjusted"]["classes"]["1"]["users_accuracy_ci95"] is None
    assert content["calibration"] is None


def test_an_empty_calibration_is_null():
    bins = confidence_calibration(np.array([np.nan]), np.array([True]))
    scores = Scores.from_confusion(OLOFSSON, CHANGE.codes)
    content = json.loads(Report(OLOFSSON, CHANGE, scores, calibration=bins).to_json())
    assert content["calibration"]["expected_calibration_error"] is None
    assert content["area_adjusted"] is None
