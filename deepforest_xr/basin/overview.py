"""The whole basin on one picture: classes, tiles, and how many hectares each class has."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.basin.polygons import WHOLE
from deepforest_xr.basin.pyramid import read_level
from deepforest_xr.maps import canvas
from deepforest_xr.maps.stac import is_simulated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from deepforest_xr.basin.areas import Areas
    from deepforest_xr.basin.collection import Catalogued
    from deepforest_xr.basin.pyramid import Level
    from deepforest_xr.basin.store import Objects
    from deepforest_xr.basin.verify import Verified
    from deepforest_xr.grid import Grid
    from deepforest_xr.legend import Legend

LONGEST_INCHES = 9.0
SHORTEST_INCHES = 3.0
LEGEND_INCHES = 3.9
GAP_INCHES, HEADER_INCHES, FOOTER_INCHES, LINE_INCHES = 0.25, 0.8, 0.55, 0.26
BLANK = "#f2f2f2"
METRES_PER_DEGREE = 111_320.0


def draw_overview(
    objects: Objects, level: Level, catalogued: Catalogued, verified: Verified, areas: Areas
) -> bytes:
    """Draw a coarse level of the map as PNG.

    Parameters
    ----------
    objects : Objects
        Of the basin.
    level : Level
        The coarsest.
    catalogued : Catalogued
        What is said of the map.
    verified : Verified
        Tiles, drawn faintly; those that are missing are hatched.
    areas : Areas
        For the legend.

    Returns
    -------
    bytes
        The PNG; equal maps give equal bytes.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    canvas.require_matplotlib()
    codes = read_level(objects, level, catalogued.plan.tiling.tile, "lulc")
    rows, cols = codes.shape
    scale = LONGEST_INCHES / max(rows, cols)
    width, height = max(cols * scale, SHORTEST_INCHES), max(rows * scale, SHORTEST_INCHES)
    entries = [row for row in areas.of(WHOLE) if row["pixels"]]
    body = max(height, LINE_INCHES * (len(entries) + 3))
    size = (width + LEGEND_INCHES + 3 * GAP_INCHES, HEADER_INCHES + body + FOOTER_INCHES)
    figure = canvas.new_figure(*size)
    box = (GAP_INCHES, FOOTER_INCHES + body - height, width, height)
    axes = figure.add_axes(canvas.relative(box, *size))
    legend = catalogued.described.legend
    _draw_map(axes, _paint(codes, legend), level.grid)
    _draw_tiles(axes, catalogued, verified)
    _draw_scale_bar(axes, level.grid)
    box = (width + 2 * GAP_INCHES, FOOTER_INCHES, LEGEND_INCHES, body)
    _draw_legend(figure.add_axes(canvas.relative(box, *size)), entries, legend, body)
    if is_simulated(catalogued.described.attrs):
        _stamp(axes, min(width, height))
    _write_header(figure, catalogued, verified)
    content = io.BytesIO()
    # Without the version of matplotlib, which would make equal pictures differ.
    figure.savefig(content, format="png", dpi=canvas.DPI, metadata={"Software": None})
    return content.getvalue()


def _paint(codes: NDArray[np.uint8], legend: Legend) -> NDArray[np.uint8]:
    blank = [int(BLANK[i : i + 2], 16) for i in (1, 3, 5)]
    table = np.full((256, 3), blank, dtype="uint8")
    for code, color in legend.rgb().items():
        table[code] = color
    return table[codes]


def _draw_map(axes: Axes, pixels: NDArray[np.uint8], grid: Grid) -> None:
    left, bottom, right, top = grid.bounds
    axes.imshow(pixels, extent=(left, right, bottom, top), interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.7")


def _draw_tiles(axes: Axes, catalogued: Catalogued, verified: Verified) -> None:
    from matplotlib.patches import Rectangle

    tiling = catalogued.plan.tiling
    for tile in tiling.tiles:
        left, bottom, right, top = tiling.grid_of(tile).bounds
        missing = tile.id in verified.missing
        axes.add_patch(
            Rectangle(
                (left, bottom),
                right - left,
                top - bottom,
                fill=False,
                edgecolor="0.45" if missing else "black",
                alpha=0.8 if missing else 0.25,
                linewidth=0.5,
                hatch="///" if missing else None,
            )
        )


def _draw_scale_bar(axes: Axes, grid: Grid) -> None:
    """Draw a bar of a round length below the map, at most a third of it."""
    left, _, right, _ = grid.bounds
    unit = grid.crs.axis_info[0].unit_conversion_factor
    if grid.crs.is_geographic:
        _, south, _, north = grid.bbox_lonlat
        unit = METRES_PER_DEGREE * math.cos(math.radians((south + north) / 2))
    longest = (right - left) * unit / 3
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(n * power for n in (1, 2, 5) if n * power <= longest)
    share = length / unit / (right - left)
    style: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    inch = 1 / (axes.get_position().height * axes.get_figure().get_size_inches()[1])  # type: ignore[union-attr]
    axes.plot([0, share], [-0.12 * inch] * 2, color="black", lw=3, solid_capstyle="butt", **style)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(share, -0.12 * inch, f"  {label}", size=9, va="center", **style)


def _draw_legend(
    axes: Axes, entries: Sequence[dict[str, Any]], legend: Legend, inches: float
) -> None:
    from matplotlib.patches import Rectangle

    axes.set_axis_off()
    axes.set(xlim=(0, LEGEND_INCHES), ylim=(inches, 0))
    colors = {c.code: c.color for c in legend.classes}
    header: dict[str, Any] = {"size": 8, "va": "center", "ha": "right", "color": "0.35"}
    axes.text(LEGEND_INCHES - 0.75, 0.1, "hectares", **header)
    axes.text(LEGEND_INCHES - 0.1, 0.1, "share", **header)
    for number, row in enumerate(sorted(entries, key=_largest_first), start=1):
        y, color = 0.1 + number * LINE_INCHES, colors.get(row["code"], BLANK)
        swatch = Rectangle((0, y - 0.085), 0.26, 0.17, facecolor=color, edgecolor="0.4", lw=0.5)
        axes.add_patch(swatch)
        name = row["class"] if len(row["class"]) <= 38 else f"{row['class'][:37]}…"
        axes.text(0.35, y, name, size=8.5, va="center", parse_math=False)
        right: dict[str, Any] = {"size": 8.5, "va": "center", "ha": "right"}
        axes.text(LEGEND_INCHES - 0.75, y, thousands(row["hectares"]), **right)
        axes.text(LEGEND_INCHES - 0.1, y, percent(row["percent_of_classified"]), **right)


def _largest_first(row: dict[str, Any]) -> tuple[bool, float]:
    return row["code"] == 0, -row["hectares"]


def _stamp(axes: Axes, inches: float) -> None:
    axes.text(
        0.5,
        0.5,
        "SIMULATED",
        transform=axes.transAxes,
        size=max(6.0, inches * 9),
        rotation=30,
        ha="center",
        va="center",
        color="white",
        alpha=0.55,
        weight="bold",
        clip_on=True,
    )


def _write_header(figure: Figure, catalogued: Catalogued, verified: Verified) -> None:
    _, height = figure.get_size_inches()
    plan, (first, last) = catalogued.plan, catalogued.period
    title = f"Land use and land cover, {first[:10]} to {last[:10]}"
    canvas.write_text(figure, GAP_INCHES, height - 0.15, title, size=13, weight="bold")
    missing = f", {len(verified.missing)} missing (hatched)" if verified.missing else ""
    facts = (
        f"{plan.model.name}, {len(verified.tiles):,} tiles{missing}, "
        f"{catalogued.described.legend.name}, run {plan.run_id[:12]}"
    )
    canvas.write_text(figure, GAP_INCHES, height - 0.45, facts, size=9, weight="normal")


def thousands(hectares: float) -> str:
    """Write hectares with three digits at least, and no unit."""
    return f"{hectares:,.0f}" if hectares >= 100 else f"{hectares:#.3g}"


def percent(share: float | None) -> str:
    """Write a share in percent, or nothing."""
    if share is None or share == 0:
        return ""
    return f"{share:.1f} %" if share >= 0.1 else "< 0.1 %"
