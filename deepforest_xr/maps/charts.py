"""Pictures of an accuracy report: confusion matrix, scores of each class, reliability."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError
from deepforest_xr.maps import canvas
from deepforest_xr.maps.canvas import DPI, relative, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepforest_xr.accuracy import Calibration, Report

# Up to so many classes a cell has room for text, and for a large cell.
MOST_WITH_TEXT, MOST_LARGE = 20, 6
# Okabe and Ito's colours, safe for colour blindness.
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
STAMP_COLOR = "#b00020"
NAME_LENGTH = 34


def write_report_pictures(
    report: Report, folder: str | Path, *, overwrite: bool = False
) -> list[Path]:
    """Draw all that a report holds: ``confusion.png``, ``classes.png``, ``reliability.png``.

    Parameters
    ----------
    report : Report
        The last picture needs its ``calibration``, and is left out without.
    folder : str or Path
        Made if absent.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    WriteError
        If a file exists or cannot be written.
    """
    folder = Path(folder)
    written = [
        write_confusion_picture(report, folder / "confusion.png", overwrite=overwrite),
        write_classes_picture(report, folder / "classes.png", overwrite=overwrite),
    ]
    if report.calibration is not None:
        path = folder / "reliability.png"
        written.append(write_reliability_picture(report, path, overwrite=overwrite))
    return written


def write_confusion_picture(
    report: Report,
    path: str | Path,
    *,
    share_of: Literal["map", "reference"] = "map",
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw the confusion matrix of a report as a PNG.

    Parameters
    ----------
    report : Report
        From `deepforest_xr.accuracy.assess`; classes that occur nowhere are left out.
    path : str or Path
        PNG to write.
    share_of : str
        ``"map"``: each row is 100 %, the diagonal is user's accuracy; ``"reference"``: each
        column is, and the diagonal is producer's accuracy (of a stratified sample the
        sample's own, not the map's).
    title : str, optional
        Default: the overall accuracy and its baseline.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The picture: rows are map classes, columns reference classes; a cell holds its
        percent and below it the pixels.

    Raises
    ------
    ConfigError
        If `share_of` is unknown.
    MissingExtraError
        If matplotlib is not installed.
    WriteError
        If the file exists or cannot be written.
    """
    if share_of not in ("map", "reference"):
        raise ConfigError(f'share_of={share_of!r} is unknown; use "map" or "reference".')
    canvas.require_matplotlib()
    seen = _seen(report)
    counts = report.confusion[np.ix_(seen, seen)]
    total = counts.sum(axis=1 if share_of == "map" else 0, keepdims=True)
    percent = np.divide(100 * counts, total, out=np.zeros(counts.shape), where=total > 0)
    labels = {
        "map": ("Reference", "Map (each row 100 %)"),
        "reference": ("Reference (each column 100 %)", "Map"),
    }
    names = [_short(report.legend.names[i]) for i in seen]
    with staged(path, overwrite=overwrite) as partial:
        figure, axes = _square(len(names), title or _heading(report), stamp=report.simulated)
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labelsize=8)
        axes.set_xlabel(labels[share_of][0])
        axes.set_ylabel(labels[share_of][1])
        if len(names) <= MOST_WITH_TEXT:
            _write_cells(axes, counts, percent)
        figure.savefig(partial, format="png", dpi=DPI)
    return Path(path)


def _seen(report: Report) -> np.ndarray:
    """Positions of the classes that occur on either side."""
    return np.flatnonzero(report.confusion.sum(axis=0) + report.confusion.sum(axis=1))


def _short(name: str) -> str:
    return textwrap.shorten(name.replace("_", " "), NAME_LENGTH, placeholder="…").replace(
        "$", r"\$"
    )


def _heading(report: Report) -> str:
    scores, area = report.scores, report.area
    width = "" if area is None else f" ± {100 * area.overall_accuracy_ci95:.1f} %"
    unit = "pixels" if area is None else "sample units"
    return (
        f"Overall accuracy {100 * scores.overall_accuracy:.1f} %{width} "
        f"(baseline {100 * scores.majority_baseline:.1f} %), {scores.pixels:,} {unit}"
    )


def _square(classes: int, title: str, *, stamp: bool) -> tuple[Figure, Axes]:
    """Axes of one cell a class and class, with room for the names, in inches."""
    left, bottom, largest = 3.0, 2.4, 1.0 if classes <= MOST_LARGE else 0.62
    side = classes * max(0.3, min(largest, 9.0 / classes))
    width = left + max(side, 4.0) + 0.4
    height = bottom + side + _header(title, width)
    figure = canvas.new_figure(width, height)
    axes = figure.add_axes(relative((left, bottom, side, side), width, height))
    _finish(figure, title, stamp=stamp)
    return figure, axes


def _lines(title: str, width: float) -> list[str]:
    return textwrap.wrap(title, int((width - 0.5) * 9)) or [""]


def _header(title: str, width: float) -> float:
    """Height of the title and the room below it, in inches."""
    return 0.5 + 0.2 * len(_lines(title, width))


def _finish(figure: Figure, title: str, *, stamp: bool) -> None:
    """Write the title on top and, where it is due, the stamp at the foot."""
    width, height = figure.get_size_inches()
    text = "\n".join(_lines(title, width))
    write_text(figure, 0.25, height - 0.12, text, size=11, weight="bold")
    if stamp:
        text = "SIMULATED data"
        figure.text(0.25 / width, 0.15 / height, text, color=STAMP_COLOR, weight="bold")


def _write_cells(axes: Axes, counts: np.ndarray, percent: np.ndarray) -> None:
    size = 8 if len(counts) <= MOST_LARGE else 7
    for row, col in zip(*np.nonzero(counts), strict=True):
        value = percent[row, col]
        share = f"{value:.0f} %" if value >= 0.5 else "<1 %"
        text = f"{share}\n{_count(int(counts[row, col]))}"
        color = "white" if value > 55 else "black"
        axes.text(col, row, text, ha="center", va="center", size=size, color=color)


def _count(pixels: int) -> str:
    """At most six characters."""
    for unit, name, least in ((10**9, "G", 1), (10**6, "M", 1), (10**3, "k", 10)):
        if pixels >= least * unit:
            value = pixels / unit
            return f"{value:,.1f}{name}" if value < 99.95 else f"{value:,.0f}{name}"
    return f"{pixels:,}"


def write_classes_picture(
    report: Report, path: str | Path, *, title: str | None = None, overwrite: bool = False
) -> Path:
    """Draw user's accuracy, producer's accuracy and F1 of each class as a PNG.

    Parameters
    ----------
    report : Report
        Classes that occur nowhere are left out; 95 % intervals are drawn where the report
        is of a stratified sample.
    path : str or Path
        PNG to write.
    title : str, optional
        Default: the overall accuracy and its baseline.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    WriteError
        If the file exists or cannot be written.
    """
    canvas.require_matplotlib()
    heading = title or _heading(report)
    seen, scores, area = _seen(report), report.scores, report.area
    widths: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if area is not None:
        widths = (area.users_accuracy_ci95, area.producers_accuracy_ci95)
    bars = (
        ("User's accuracy", BLUE, scores.users_accuracy, widths[0]),
        ("Producer's accuracy", ORANGE, scores.producers_accuracy, widths[1]),
        ("F1", GREEN, scores.f1, None),
    )
    with staged(path, overwrite=overwrite) as partial:
        left, bottom, body = 3.0, 1.0, 0.62 * len(seen) + 0.2
        width, height = 10.0, bottom + body + 0.25 + _header(heading, 10.0)
        figure = canvas.new_figure(width, height)
        axes = figure.add_axes(relative((left, bottom, width - left - 0.5, body), width, height))
        for number, (name, color, values, half_widths) in enumerate(bars):
            _draw_bars(axes, number, 100 * values[seen], color=color, name=name)
            if half_widths is not None:
                _draw_intervals(axes, number, 100 * values[seen], 100 * half_widths[seen])
        _class_axis(axes, [_short(report.legend.names[i]) for i in seen])
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9,
            borderaxespad=0.2,
        )  # fmt: skip
        _finish(figure, heading, stamp=report.simulated)
        figure.savefig(partial, format="png", dpi=DPI)
    return Path(path)


# Three bars of a class lie this far from each other, of 1 a class.
BAR = 0.26


def _draw_bars(axes: Axes, number: int, values: np.ndarray, *, color: str, name: str) -> None:
    place = np.arange(values.size) + (number - 1) * BAR
    axes.barh(place, np.nan_to_num(values), height=BAR * 0.9, color=color, label=name)
    for y, value in zip(place, values, strict=True):
        # Inside the bar's foot, where no interval reaches; a bar of 0 has its number beside it.
        text, inside = ("–", False) if np.isnan(value) else (f"{value:.0f}", value >= 8)  # noqa: RUF001
        color_of_text = "white" if inside and color == BLUE else "black"
        axes.text(0.8, y, text, size=7, va="center", color=color_of_text)


def _draw_intervals(axes: Axes, number: int, values: np.ndarray, half_widths: np.ndarray) -> None:
    known = ~np.isnan(values) & ~np.isnan(half_widths)
    place = np.flatnonzero(known) + (number - 1) * BAR
    low = np.minimum(half_widths, values)[known]
    high = np.minimum(half_widths, 100 - values)[known]
    axes.errorbar(
        values[known], place, xerr=[low, high], fmt="none", ecolor="black", elinewidth=1, capsize=2
    )


def _class_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("percent", fontsize=9)
    axes.grid(axis="x", color="0.85", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write_reliability_picture(
    report: Report, path: str | Path, *, title: str | None = None, overwrite: bool = False
) -> Path:
    """Draw the reliability diagram of a report as a PNG, with the share of pixels below it.

    Parameters
    ----------
    report : Report
        With ``calibration``; with ``temperature`` a line before and one after it, both of
        the held-out pixels.
    path : str or Path
        PNG to write.
    title : str, optional
        Default: the expected calibration error.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The picture: a calibrated map lies on the diagonal, below it it boasts.

    Raises
    ------
    ConfigError
        If the report has no calibration.
    MissingExtraError
        If matplotlib is not installed.
    WriteError
        If the file exists or cannot be written.
    """
    if report.calibration is None:
        raise ConfigError("the report has no calibration: assess(..., calibration=True) makes it.")
    canvas.require_matplotlib()
    error = report.calibration.expected_error
    heading = title or f"Expected calibration error {100 * error:.1f} %"
    lines = [("all pixels", BLUE, report.calibration)]
    if report.temperature is not None:
        t = report.temperature
        lines = [
            ("held-out pixels", BLUE, t.before),
            (f"with temperature {t.temperature:.2f}", RED, t.after),
        ]
    with staged(path, overwrite=overwrite) as partial:
        width, height = 6.6, 7.3 + _header(heading, 6.6)
        figure = canvas.new_figure(width, height)
        upper = figure.add_axes(relative((0.9, 2.6, 5.2, 4.7), width, height))
        lower = figure.add_axes(relative((0.9, 0.95, 5.2, 1.3), width, height))
        upper.plot([0, 100], [0, 100], color="0.5", lw=1, ls="--", label="calibrated")
        for number, (name, color, bins) in enumerate(lines):
            label = f"{name}: error {100 * bins.expected_error:.1f} %"
            _draw_reliability(upper, lower, bins, color=color, label=label, second=number > 0)
        most = max((bins.count / max(bins.pixels, 1)).max() for _, _, bins in lines)
        _reliability_axes(upper, lower, top=10 * max(1, math.ceil(10 * most)))
        _finish(figure, heading, stamp=report.simulated)
        figure.savefig(partial, format="png", dpi=DPI)
    return Path(path)


def _draw_reliability(
    upper: Axes, lower: Axes, bins: Calibration, *, color: str, label: str, second: bool
) -> None:
    filled = bins.count > 0
    sure, right = 100 * bins.mean_confidence[filled], 100 * bins.accuracy[filled]
    upper.plot(sure, right, color=color, lw=1.5, marker="o", ms=4, label=label)
    edges = 100 * bins.edges
    share = 100 * bins.count / max(bins.pixels, 1)
    if second:
        lower.stairs(share, edges, color=color, lw=1.5)
    else:
        lower.stairs(share, edges, color=color, fill=True, alpha=0.5)


def _reliability_axes(upper: Axes, lower: Axes, *, top: int) -> None:
    upper.set_ylabel("right, percent", fontsize=9)
    lower.set_ylabel("pixels, percent", fontsize=9)
    lower.set_xlabel("confidence, percent", fontsize=9)
    upper.set_ylim(0, 100)
    lower.set_ylim(0, top)
    lower.set_yticks([0, top / 2, top])
    for axes in (upper, lower):
        axes.set_xlim(0, 100)
        axes.tick_params(labelsize=8)
        axes.grid(color="0.9", lw=0.6)
        axes.set_axisbelow(True)
    upper.legend(loc="upper left", fontsize=8.5, frameon=True)
