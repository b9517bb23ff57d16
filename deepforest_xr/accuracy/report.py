"""The report of an assessment as text: Markdown for people, JSON for programs.

Undefined is a dash in Markdown and null in JSON. Nothing here writes a file:
`deepforest_xr.maps.write_report` does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.accuracy.scores import Scores, kappa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deepforest_xr.accuracy.estimate import AreaAdjusted
    from deepforest_xr.accuracy.reliability import Calibration, TemperatureScaling
    from deepforest_xr.legend import Legend

DASH = "–"  # noqa: RUF001  what stands for "undefined"
SIMULATED = "**Simulated data: these scores say nothing about a real landscape.**"
WEIGHTED = (
    "The reference is a sample drawn within the map's classes: every score is weighted by "
    "mapped area (Olofsson et al. 2014), with 95 % intervals."
)
WITHOUT_CHANCE = (
    "Kappa is given because it was asked for; it says little beyond overall accuracy (Pontius "
    "and Millones 2011)."
)


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A map against its reference."""

    confusion: np.ndarray
    """Pixels or sample units, int64, dims (map, reference)."""

    legend: Legend
    """Class of each row and column."""

    scores: Scores
    """Scores of `confusion`, or of its area-weighted shares where `area` is given."""

    simulated: bool = False
    """Whether map or reference come from simulated scenes."""

    area: AreaAdjusted | None = None
    """Estimates in hectares, where the reference is a stratified sample."""

    calibration: Calibration | None = None
    """How far the map's confidence can be believed."""

    temperature: TemperatureScaling | None = None
    """One temperature for the confidence, checked on pixels it was not fitted on."""

    def to_markdown(self, *, with_kappa: bool = False) -> str:
        """Give tables for people: summary, scores of each class, confusion, calibration.

        `with_kappa` adds Cohen's kappa, which is left out because it misleads: see
        `deepforest_xr.accuracy.kappa`.
        """
        lines = ["# Accuracy", ""]
        lines += [SIMULATED, ""] if self.simulated else []
        lines += [WEIGHTED, ""] if self.area is not None else []
        lines += [*_table(["score", "value"], self._summary(with_kappa=with_kappa)), ""]
        lines += [WITHOUT_CHANCE, ""] if with_kappa else []
        lines += [*self._class_table(), ""]
        if self.area is not None:
            lines += [*self._area_table(self.area), ""]
        unit = "Pixels" if self.area is None else "Sample units"
        lines += [f"{unit}; rows: map, columns: reference.", "", *self._confusion_table(), ""]
        return "\n".join([*lines, *self._calibration_lines()])

    def to_json(self, *, with_kappa: bool = False) -> str:
        """Give the same for programs; undefined scores are null."""
        s = self.scores
        whole = ("overall_accuracy", "majority_baseline", "macro_f1", "mean_iou")
        content = {
            "simulated": self.simulated,
            "legend": self.legend.to_dict(),
            "pixels": s.pixels,
            "majority_class": s.majority_class,
            **{name: _number(getattr(s, name)) for name in whole},
            "quantity_disagreement": _number(s.disagreement.quantity),
            "allocation_disagreement": _number(s.disagreement.allocation),
            "classes": self._classes(),
            "confusion_map_by_reference": self.confusion.tolist(),
            "area_adjusted": None if self.area is None else self._area(self.area),
            "calibration": _calibration(self.calibration),
            "temperature_scaling": _temperature(self.temperature),
        }
        if with_kappa:
            content["kappa"] = _number(self._kappa())
        return json.dumps(content, indent=2, allow_nan=False)

    def _kappa(self) -> float:
        return kappa(self.confusion if self.area is None else self.area.proportion)

    def _summary(self, *, with_kappa: bool) -> list[list[str]]:
        s, area = self.scores, self.area
        names = dict(zip(self.legend.codes, self.legend.names, strict=True))
        overall = _percent(s.overall_accuracy)
        if area is not None:
            overall = _interval(s.overall_accuracy, area.overall_accuracy_ci95, _percent)
        rows = [
            ["pixels compared" if area is None else "sample units", f"{s.pixels:,}"],
            ["overall accuracy", overall],
            ["majority baseline", f"{_percent(s.majority_baseline)} ({names[s.majority_class]})"],
            ["macro F1", _percent(s.macro_f1)],
            ["mean IoU", _percent(s.mean_iou)],
            ["quantity disagreement", _percent(s.disagreement.quantity)],
            ["allocation disagreement", _percent(s.disagreement.allocation)],
        ]
        if self.calibration is not None:
            error = _percent(self.calibration.expected_error)
            rows.append(["expected calibration error", error])
        return [*rows, ["kappa", _plain(self._kappa())]] if with_kappa else rows

    def _classes(self) -> dict[str, dict[str, Any]]:
        s = self.scores
        columns = {
            "users_accuracy": s.users_accuracy,
            "producers_accuracy": s.producers_accuracy,
            "f1": s.f1,
            "iou": s.iou,
            "quantity_disagreement": s.disagreement.class_quantity,
            "allocation_disagreement": s.disagreement.class_allocation,
        }
        return {
            str(c.code): {name: _number(values[i]) for name, values in columns.items()}
            | {"name": c.name, "support": int(s.support[i])}
            for i, c in enumerate(self.legend.classes)
        }

    def _area(self, area: AreaAdjusted) -> dict[str, Any]:
        columns = ("users_accuracy", "producers_accuracy", "area")
        classes = {
            str(c.code): {
                "mapped_hectares": _number(area.mapped_area[i]),
                **{
                    ("hectares" if name == "area" else name) + end: _number(
                        getattr(area, name + end)[i]
                    )
                    for name in columns
                    for end in ("", "_ci95")
                },
            }
            for i, c in enumerate(self.legend.classes)
        }
        return {
            "overall_accuracy": _number(area.overall_accuracy),
            "overall_accuracy_ci95": _number(area.overall_accuracy_ci95),
            "classes": classes,
            "proportion_map_by_reference": _numbers(area.proportion),
        }

    def _class_table(self) -> list[str]:
        s = self.scores
        header = [
            "code", "class", "user's acc.", "producer's acc.", "F1", "IoU",
            "quantity", "allocation", "reference",
        ]  # fmt: skip
        columns = (
            s.users_accuracy, s.producers_accuracy, s.f1, s.iou,
            s.disagreement.class_quantity, s.disagreement.class_allocation,
        )  # fmt: skip
        rows = [
            [str(c.code), c.name, *(_percent(column[i]) for column in columns), f"{s.support[i]:,}"]
            for i, c in enumerate(self.legend.classes)
        ]
        return _table(header, rows)

    def _area_table(self, area: AreaAdjusted) -> list[str]:
        header = ["class", "mapped, ha", "estimated, ha", "user's acc.", "producer's acc."]
        rows = [
            [
                name,
                _hectares(area.mapped_area[i]),
                _interval(area.area[i], area.area_ci95[i], _hectares),
                _interval(area.users_accuracy[i], area.users_accuracy_ci95[i], _percent),
                _interval(area.producers_accuracy[i], area.producers_accuracy_ci95[i], _percent),
            ]
            for i, name in enumerate(self.legend.names)
        ]
        return _table(header, rows)

    def _confusion_table(self) -> list[str]:
        """Only classes that occur on either side."""
        seen = np.flatnonzero(self.confusion.sum(axis=0) + self.confusion.sum(axis=1))
        names = self.legend.names
        rows = [[names[i], *(f"{self.confusion[i, j]:,}" for j in seen)] for i in seen]
        return _table(["map \\ reference", *(names[j] for j in seen)], rows)

    def _calibration_lines(self) -> list[str]:
        """Bins that hold pixels, and what a temperature would change."""
        if self.calibration is None:
            return []
        bins = self.calibration
        rows = [
            [
                f"{_percent(low)} to {_percent(high)}",
                *(_percent(x) for x in (bins.mean_confidence[i], bins.accuracy[i])),
                f"{bins.count[i]:,}",
            ]
            for i, (low, high) in enumerate(zip(bins.edges[:-1], bins.edges[1:], strict=True))
            if bins.count[i]
        ]
        header = ["confidence", "mean confidence", "accuracy", "pixels"]
        lines = ["## Calibration", "", *_table(header, rows), ""]
        if self.temperature is not None:
            t = self.temperature
            effect = (
                f"A temperature of {t.temperature:.2f} takes the expected calibration error of "
                f"{t.before.pixels:,} held-out pixels from {_percent(t.before.expected_error)} "
                f"to {_percent(t.after.expected_error)}."
            )
            lines += [effect, ""]
        return lines


def _calibration(bins: Calibration | None) -> dict[str, Any] | None:
    if bins is None:
        return None
    return {
        "expected_calibration_error": _number(bins.expected_error),
        "maximum_calibration_error": _number(bins.largest_error),
        "edges": _numbers(bins.edges),
        "pixels": bins.count.tolist(),
        "mean_confidence": _numbers(bins.mean_confidence),
        "accuracy": _numbers(bins.accuracy),
    }


def _temperature(scaling: TemperatureScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "temperature": _number(scaling.temperature),
        "before": _calibration(scaling.before),
        "after": _calibration(scaling.after),
    }


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in [header, *rows]]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]


def _percent(share: float) -> str:
    return DASH if math.isnan(share) else f"{100 * share:.1f} %"


def _hectares(area: float) -> str:
    return DASH if math.isnan(area) else f"{area:,.0f}" if area >= 100 else f"{area:.2f}"


def _plain(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.3f}"


def _interval(value: float, half_width: float, text: Callable[[float], str]) -> str:
    # Of what is not known, a width of 0 would claim to be.
    return f"{text(value)} ± {text(math.nan if math.isnan(value) else half_width)}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _numbers(values: np.ndarray) -> list[Any]:
    return [_numbers(v) if isinstance(v, np.ndarray) else _number(v) for v in values]
