"""The page a demo ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from deepforest_xr.accuracy import Report
    from deepforest_xr.chips import Chips
    from deepforest_xr.demo.area import Area
    from deepforest_xr.demo.settings import DemoSettings


def report_text(
    report: Report,
    truth: Report | None,
    cube: xr.Dataset,
    chips: Chips,
    settings: DemoSettings,
    area: Area,
) -> str:
    """Give the report of a demo as Markdown: scores first, then what they come from."""
    cell = chips.attrs["cell"]
    cells = "" if cell is None else f", labels dealt to them in squares of {cell} pixels"
    counts = [len(chips.indices(name)) for name in ("train", "validation", "test")]
    chips_line = (
        f"{counts[0]} training, {counts[1]} validation, {counts[2]} test, "
        f"of {chips.attrs['size']} pixels{cells}"
    )
    rows = [_score_row("the label raster", report)]
    if truth is not None:
        rows.append(_score_row("the simulation's clean truth", truth))
    kind = "**Simulated scenes**" if report.simulated else "Real scenes"
    facts: list[tuple[str, Any]] = [
        ("data", f"{kind}, {cube.attrs['dataset']}, {area.grid.describe()}"),
        ("Sentinel-2", f"{cube.attrs['s2_scenes']} scenes, {cube.attrs['s2_period']}"),
        ("offsets", cube.attrs["s2_offset"]),
        ("mask", cube.attrs["s2_mask"]),
        ("Sentinel-1", f"{cube.attrs.get('s1_scenes', 0)} scenes"),
        ("network", settings.model),
        ("chips", chips_line),
        ("labels", area.labels.name),
    ]
    lines = [
        "# deepforest_xr demo",
        "",
        "A small area and minutes of training prove that the path works, nothing more.",
        "",
        "| held-out blocks, against | overall accuracy | majority class | macro F1 | pixels |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *(f"- {name}: {value}" for name, value in facts),
        "",
        "![map](map.png)",
        "",
        "![confusion matrix](confusion.png)",
        "",
        "![training curve](curve.png)",
        "",
        (truth or report).to_markdown(),
        "",
    ]
    return "\n".join(lines)


def _score_row(name: str, report: Report) -> str:
    s = report.scores
    return (
        f"| {name} | {s.overall_accuracy:.1%} | {s.majority_baseline:.1%} | {s.macro_f1:.1%} "
        f"| {s.pixels:,} |"
    )
