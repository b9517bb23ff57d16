"""Quick-look pictures: a map with its legend.

A large map is thinned by taking every n-th pixel, so only a
picture's worth of pixels stays in memory.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA, UNLABELLED, LandCoverClass, Legend
from deepforest_xr.maps import canvas
from deepforest_xr.maps.canvas import DPI, relative, write_text
from deepforest_xr.maps.stac import is_simulated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_PIXELS = 760
MAX_WIDTH_INCHES = 16.0
METRES_PER_DEGREE = 111_320.0
# What is not classified or not labelled is drawn in this grey.
BLANK = (235, 235, 235)
# A colour stretch leaves out the darkest and brightest two in a hundred.
STRETCH_PERCENT = (2, 98)
LEGEND_INCHES = 3.6
HEADER_INCHES, FOOTER_INCHES, GAP_INCHES = 0.75, 0.6, 0.25
LINE_INCHES = 0.24


@dataclass(frozen=True, slots=True)
class _Panel:
    """One image of the row."""

    name: str
    """Written above it."""

    pixels: np.ndarray
    """uint8, dims (y, x, channel)."""


def write_picture(
    dataset: xr.Dataset,
    path: str | Path,
    *,
    title: str | None = None,
    reference: xr.DataArray | None = None,
    rgb: xr.DataArray | np.ndarray | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw a map with legend, class shares and scale bar as a PNG of at most 1600 pixels.

    Parameters
    ----------
    dataset : Dataset with ``lulc`` (y, x) uint8, CF flags and ``spatial_ref``
        The map; 0 (no data) is drawn grey.
    path : str or Path
        PNG to write.
    title : str, optional
        Default: the name of the legend.
    reference : DataArray[uint8], dims (y, x), optional
        Labels with the codes of the map, drawn beside it; 255 (unlabelled) is grey.
    rgb : array (3, y, x) or (y, x, 3), optional
        Reflectance of red, green, blue, drawn beside the map; stretched, NaN is grey.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The picture, stamped "SIMULATED" when the map's attributes say so.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ConfigError
        If `reference` or `rgb` has another shape than the map.
    WriteError
        If the file exists or cannot be written.
    """
    canvas.require_matplotlib()
    path = Path(path)
    lulc = dataset["lulc"].transpose("y", "x")
    legend, grid = Legend.from_attrs(lulc.attrs), Grid.of(dataset)
    step = max(1, math.ceil(max(lulc.shape) / PANEL_PIXELS))
    with staged(path, overwrite=overwrite) as partial:
        codes = np.asarray(lulc[::step, ::step])
        panels = [_Panel("Map", _paint(codes, legend))]
        seen = codes
        if reference is not None:
            labels = _thinned_labels(reference, lulc.shape, step)
            panels.append(_Panel("Reference", _paint(labels, legend)))
            seen = np.concatenate([codes.ravel(), labels.ravel()])
        if rgb is not None:
            panels.insert(0, _Panel("Red, green, blue", _stretch(rgb, lulc.shape, step)))
        entries = _legend_entries(codes, seen, legend)
        heading = title or f"Land cover, legend {legend.name}"
        figure = _compose(panels, entries, heading, stamp=is_simulated(dataset.attrs))
        _scale_bar(figure, figure.axes[0], grid, step)
        figure.savefig(partial, format="png", dpi=DPI)
    return path


def _paint(codes: np.ndarray, legend: Legend) -> np.ndarray:
    table = np.full((256, 3), BLANK, dtype="uint8")
    for code, color in legend.rgb().items():
        table[code] = color
    painted: np.ndarray = table[codes]
    return painted


def _thinned_labels(reference: xr.DataArray, shape: tuple[int, ...], step: int) -> np.ndarray:
    labels = reference.transpose("y", "x")
    if labels.shape != shape:
        raise ConfigError(f"reference has shape {labels.shape}, the map {shape}: use one grid.")
    thin = np.asarray(labels[::step, ::step])
    return np.where((thin == UNLABELLED) | (thin < 0), NODATA, thin).astype("uint8")


def _stretch(rgb: Any, shape: tuple[int, ...], step: int) -> np.ndarray:
    """Reflectance to bytes, each channel between its own percentiles."""
    array = rgb.data if isinstance(rgb, xr.DataArray) else rgb
    if array.shape == (3, *shape):
        thin = np.moveaxis(np.asarray(array[:, ::step, ::step], dtype="float64"), 0, -1)
    elif array.shape == (*shape, 3):
        thin = np.asarray(array[::step, ::step], dtype="float64")
    else:
        raise ConfigError(
            f"rgb has shape {array.shape}, expected {(3, *shape)} or {(*shape, 3)}, "
            "the map's pixels and three bands."
        )
    valid = np.isfinite(thin).all(axis=-1)
    out = np.full(thin.shape, BLANK, dtype="uint8")
    if valid.any():
        low, high = np.percentile(thin[valid], STRETCH_PERCENT, axis=0)
        scaled = (thin[valid] - low) / np.maximum(high - low, 1e-12)
        out[valid] = np.round(255 * np.clip(scaled, 0, 1)).astype("uint8")
    return out


def _legend_entries(
    codes: np.ndarray, seen: np.ndarray, legend: Legend
) -> list[tuple[LandCoverClass, str]]:
    """Classes that occur, most of the map first, with their share of it."""
    counts = np.bincount(codes.ravel(), minlength=256)
    classified = counts.sum() - counts[NODATA]
    present = [c for c in legend.classes if (seen == c.code).any()]
    present.sort(key=lambda c: -counts[c.code])
    return [(c, _share(int(counts[c.code]), int(classified))) for c in present]


def _share(count: int, total: int) -> str:
    if count == 0:
        return "not in map"
    percent = 100 * count / total
    return f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"


def _compose(
    panels: list[_Panel], entries: Sequence[tuple[LandCoverClass, str]], title: str, *, stamp: bool
) -> Figure:
    """Place title, panels in a row and the legend to their right, in inches."""
    rows, cols = panels[0].pixels.shape[:2]
    room = MAX_WIDTH_INCHES - LEGEND_INCHES - GAP_INCHES * (len(panels) + 1)
    largest = min(PANEL_PIXELS / DPI, room / len(panels))
    width = min(largest, PANEL_PIXELS / DPI * cols / rows)
    height = width * rows / cols
    body = max(height, LINE_INCHES * (len(entries) + 3), 2.0)
    total_width = len(panels) * (max(width, 1.5) + GAP_INCHES) + GAP_INCHES + LEGEND_INCHES
    wrapped = textwrap.wrap(title, max(20, int(total_width * 8.5))) or [""]
    header = HEADER_INCHES + 0.25 * (len(wrapped) - 1)
    total_height = header + body + FOOTER_INCHES
    figure = canvas.new_figure(total_width, total_height)
    top = FOOTER_INCHES + body
    for number, panel in enumerate(panels):
        left = GAP_INCHES + number * (max(width, 1.5) + GAP_INCHES)
        box = (left, top - height, width, height)
        _draw_panel(figure, panel, relative(box, total_width, total_height), stamp=stamp)
    write_text(figure, GAP_INCHES, total_height - 0.12, "\n".join(wrapped), size=13, weight="bold")
    left = total_width - LEGEND_INCHES
    box = (left, top - body, LEGEND_INCHES, body)
    _draw_legend(figure, entries, relative(box, total_width, total_height), body, stamp=stamp)
    return figure


def _draw_panel(
    figure: Figure, panel: _Panel, box: tuple[float, float, float, float], *, stamp: bool
) -> None:
    axes = figure.add_axes(box)
    axes.imshow(panel.pixels, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(panel.name, fontsize=10, loc="left", pad=4)
    if stamp:
        _, _, width, height = box
        inches = figure.get_size_inches()
        side = min(width * inches[0], height * inches[1])
        axes.text(
            0.5,
            0.5,
            "SIMULATED",
            transform=axes.transAxes,
            size=max(6.0, side * 9),
            rotation=30,
            ha="center",
            va="center",
            color="white",
            alpha=0.55,
            weight="bold",
            clip_on=True,
        )


def _draw_legend(
    figure: Figure,
    entries: Sequence[tuple[LandCoverClass, str]],
    box: tuple[float, float, float, float],
    inches: float,
    *,
    stamp: bool,
) -> None:
    from matplotlib.patches import Rectangle

    axes = figure.add_axes(box)
    axes.set_axis_off()
    axes.set_xlim(0, LEGEND_INCHES)
    axes.set_ylim(inches, 0)
    lines = [(color, c.name, share) for c, share in entries for color in (c.color,)]
    lines.append((f"#{bytes(BLANK).hex()}", "No data", ""))
    axes.text(LEGEND_INCHES - 0.15, 0.1, "share of map", size=8, ha="right", va="center")
    for number, (color, name, share) in enumerate(lines, start=1):
        y = 0.1 + number * LINE_INCHES
        axes.add_patch(
            Rectangle((0, y - 0.08), 0.25, 0.16, facecolor=color, edgecolor="0.4", lw=0.5)
        )
        short = textwrap.shorten(name.replace("_", " "), 34, placeholder="…")
        axes.text(0.33, y, short, size=8.5, va="center", parse_math=False)
        axes.text(LEGEND_INCHES - 0.15, y, share, size=8.5, ha="right", va="center")
    if stamp:
        y = 0.1 + (len(lines) + 1) * LINE_INCHES
        axes.text(0, y, "SIMULATED data", size=9, weight="bold", color="#b00020", va="center")


def _scale_bar(figure: Figure, axes: Axes, grid: Grid, step: int) -> None:
    """Draw a bar of a round length, at most half the panel, below its lower left corner."""
    pixel = _metres_per_pixel(grid) * step
    columns = axes.get_xlim()[1] - axes.get_xlim()[0]
    length = _round_down(columns * pixel / 2)
    left, bottom, width, _ = axes.get_position().bounds
    inches = figure.get_size_inches()
    end = left + width * length / pixel / columns
    y = bottom - 0.14 / inches[1]
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D([left, end], [y, y], color="black", lw=3, solid_capstyle="butt"))
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    figure.text(left, y - 0.09 / inches[1], label, size=9, va="top")


def _metres_per_pixel(grid: Grid) -> float:
    """Width of a pixel on the ground, in the middle of the grid."""
    if grid.crs.is_geographic:
        _, south, _, north = grid.bbox_lonlat
        return grid.resolution[0] * METRES_PER_DEGREE * math.cos(math.radians((south + north) / 2))
    return float(grid.resolution[0] * grid.crs.axis_info[0].unit_conversion_factor)


def _round_down(length: float) -> float:
    """Largest of 1, 2, 5 times a power of ten that is not above `length`."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(n * power for n in (1, 2, 5) if n * power <= length)
