import itertools
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from deepforest_xr.accuracy import Report, Scores, area_adjusted, calibrate
from deepforest_xr.errors import ConfigError, MissingExtraError, WriteError
from deepforest_xr.legend import LandCoverClass, Legend, amazon13
from deepforest_xr.maps import (
    charts,
    write_classes_picture,
    write_confusion_picture,
    write_reliability_picture,
    write_report_pictures,
)

from .conftest import visible_texts, words


def legend_of(classes):
    if classes <= 13:
        return Legend("some", amazon13().classes[:classes])
    return Legend(
        "many", tuple(LandCoverClass(i + 1, f"Class ${i}$", "#808080") for i in range(classes))
    )


def report_of(classes, *, sampled=False, largest=10**7, simulated=True):
    rng = np.random.default_rng(classes)
    counts = rng.integers(0, 5, (classes, classes)) + np.diag(rng.integers(10, 90, classes))
    legend = legend_of(classes)
    if sampled:
        area = area_adjusted(counts, rng.uniform(1, 1e5, classes))
        scores = Scores.from_confusion(area.proportion, legend.codes)
        scores = replace(scores, pixels=int(counts.sum()))
        return Report(counts, legend, scores, simulated=simulated, area=area)
    counts = counts * (largest // 100)
    scores = Scores.from_confusion(counts, legend.codes)
    return Report(counts, legend, scores, simulated=simulated)


def scaled(report, *, with_temperature=True):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 4)) * 6
    labels = np.where(rng.random(3000) < 0.5, logits.argmax(axis=1), rng.integers(0, 4, 3000))
    scaling = calibrate(logits, labels, held_out=np.arange(3000) % 2 == 0)
    report = replace(report, calibration=scaling.before)
    return replace(report, temperature=scaling) if with_temperature else report


def require_apart(figure, names, path):
    """No upright text touches another, none leaves the picture."""
    height, width = matplotlib.image.imread(path).shape[:2]
    # The hidden labels of an axis' far side have a box of one pixel.
    boxes = [(text, box) for text, box in visible_texts(figure) if box.width > 1]
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text!r} leaves the picture"
    # Tilted names have boxes far larger than their letters.
    upright = [(text, box) for text, box in boxes if text not in names]
    for (text, box), (other, box_other) in itertools.combinations(upright, 2):
        assert not box.overlaps(box_other), f"{text!r} touches {other!r}"


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("classes", [1, 3, 6, 13, 20])
def test_the_confusion_picture_has_no_text_over_text(drawn, tmp_path, classes, sampled):
    report = report_of(classes, sampled=sampled)
    path = write_confusion_picture(report, tmp_path / "a.png", title="A long $title_$ " * 20)
    require_apart(drawn[0], {charts._short(n) for n in report.legend.names}, path)
    assert "SIMULATED data" in words(drawn[0])


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("classes", [1, 4, 13, 25])
def test_the_bars_have_no_text_over_text(drawn, tmp_path, classes, sampled):
    report = report_of(classes, sampled=sampled)
    path = write_classes_picture(report, tmp_path / "a.png", title="A long $title_$ " * 20)
    require_apart(drawn[0], (), path)
    assert "SIMULATED data" in words(drawn[0])


@pytest.mark.parametrize("with_temperature", [False, True])
def test_the_diagram_has_no_text_over_text(drawn, tmp_path, with_temperature):
    report = scaled(report_of(3), with_temperature=with_temperature)
    path = write_reliability_picture(report, tmp_path / "a.png", title="A long title " * 9)
    require_apart(drawn[0], (), path)


def cell(figure, row, col):
    axes = figure.axes[0]
    return next(t.get_text() for t in axes.texts if t.get_position() == (col, row))


def test_a_cell_says_its_share_of_the_row_or_the_column_and_its_pixels(drawn, tmp_path):
    legend = legend_of(2)
    counts = np.array([[30, 10], [90, 12_345_678]])
    report = Report(counts, legend, Scores.from_confusion(counts, legend.codes))
    write_confusion_picture(report, tmp_path / "a.png")
    write_confusion_picture(report, tmp_path / "b.png", share_of="reference")
    assert cell(drawn[0], 0, 0) == "75 %\n30"
    assert cell(drawn[0], 1, 0) == "<1 %\n90"
    assert cell(drawn[0], 1, 1) == "100 %\n12.3M"
    assert cell(drawn[1], 0, 0) == "25 %\n30"
    assert cell(drawn[1], 0, 1) == "<1 %\n10"
    rows = drawn[0].axes[0].images[0].get_array()
    np.testing.assert_allclose(rows.sum(axis=1), 100)
    with pytest.raises(ConfigError, match="share_of='both'"):
        write_confusion_picture(report, tmp_path / "c.png", share_of="both")


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (999_999, "1,000k"),
        (5_351_000, "5.4M"),
        (10**11, "100G"),
    ],
)
def test_counts_are_short(pixels, text):
    assert charts._count(pixels) == text


def test_bars_are_the_scores_and_their_intervals_stay_within_0_and_100(drawn, tmp_path):
    report = report_of(4, sampled=True)
    write_classes_picture(report, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    lengths = [[bar.get_width() for bar in group] for group in axes.containers if len(group) == 4]
    np.testing.assert_allclose(lengths[0], 100 * report.scores.users_accuracy)
    np.testing.assert_allclose(lengths[1], 100 * report.scores.producers_accuracy)
    np.testing.assert_allclose(lengths[2], 100 * report.scores.f1)
    ends = np.concatenate([line.get_paths()[0].vertices[:, 0] for line in axes.collections])
    assert ends.min() >= 0
    assert ends.max() <= 100
    segments = axes.collections[0].get_segments()
    low = 100 * (report.area.users_accuracy - report.area.users_accuracy_ci95)
    np.testing.assert_allclose([s[0, 0] for s in segments], np.maximum(low, 0))
    write_classes_picture(report_of(4), tmp_path / "b.png")
    assert not drawn[1].axes[0].collections


def test_an_interval_that_reaches_below_0_is_drawn_from_0(drawn, tmp_path):
    counts, legend = np.array([[1, 3], [1, 20]]), legend_of(2)
    area = area_adjusted(counts, [1, 1])
    assert area.users_accuracy_ci95[0] > area.users_accuracy[0]
    scores = Scores.from_confusion(area.proportion, legend.codes)
    write_classes_picture(Report(counts, legend, scores, area=area), tmp_path / "a.png")
    (low, _), (high, _) = drawn[0].axes[0].collections[0].get_segments()[0]
    assert low == pytest.approx(0, abs=1e-9)
    assert high == pytest.approx(100 * (area.users_accuracy[0] + area.users_accuracy_ci95[0]))


def test_a_class_that_is_only_in_the_map_has_a_dash(drawn, tmp_path):
    legend = legend_of(3)
    counts = np.array([[30, 0, 0], [5, 0, 0], [0, 0, 0]])
    report = Report(counts, legend, Scores.from_confusion(counts, legend.codes))
    write_classes_picture(report, tmp_path / "a.png")
    said = words(drawn[0])
    assert said.count("–") == 1  # noqa: RUF001
    assert legend.names[2] not in said


def test_the_diagram_shows_the_bins_before_and_after(drawn, tmp_path):
    report = scaled(report_of(3))
    write_reliability_picture(report, tmp_path / "a.png")
    upper, lower = drawn[0].axes
    for line, bins in zip(
        upper.lines[1:], (report.temperature.before, report.temperature.after), strict=True
    ):
        filled = bins.count > 0
        np.testing.assert_allclose(line.get_xdata(), 100 * bins.mean_confidence[filled])
        np.testing.assert_allclose(line.get_ydata(), 100 * bins.accuracy[filled])
    heights = lower.patches[0].get_data().values
    assert heights.sum() == pytest.approx(100)
    error = f"{100 * report.temperature.after.expected_error:.1f} %"
    assert any(word.endswith(f"error {error}") for word in words(drawn[0]))


def test_all_pictures_of_a_report(tmp_path):
    plain = write_report_pictures(report_of(3), tmp_path / "plain")
    assert [p.name for p in plain] == ["confusion.png", "classes.png"]
    full = write_report_pictures(scaled(report_of(3)), tmp_path / "full")
    assert [p.name for p in full] == ["confusion.png", "classes.png", "reliability.png"]
    with pytest.raises(WriteError, match="exists"):
        write_report_pictures(report_of(3), tmp_path / "plain")
    write_report_pictures(report_of(3), tmp_path / "plain", overwrite=True)


def test_what_cannot_be_drawn_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="calibration=True"):
        write_reliability_picture(report_of(3), tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for write in (write_confusion_picture, write_classes_picture, write_report_pictures):
        with pytest.raises(MissingExtraError, match=r'pip install "deepforest-xr\[viz\]"'):
            write(report_of(3), tmp_path / "a.png")
