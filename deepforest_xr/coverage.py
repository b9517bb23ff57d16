"""What was seen, month by month, before anything long starts.

From metadata alone: the share of a grid that a scene's footprint covers, times the share its
catalog calls free of clouds. With ``read=True`` the scene classification itself is counted,
which is exact and costs one band of eleven.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepforest_xr.atomic import staged
from deepforest_xr.catalogs import asset_for
from deepforest_xr.cube.metadata import sensor
from deepforest_xr.engines import Layer, Source, stack
from deepforest_xr.engines.extent import flat, moment, overlapping
from deepforest_xr.errors import ConfigError, MissingAssetError, MissingExtraError
from deepforest_xr.sentinel import s2
from deepforest_xr.sentinel.prepare import ClearMask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pystac
    from numpy.typing import NDArray
    from shapely import Polygon

    from deepforest_xr.grid import Grid

    Numbers = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)

COLUMNS = (
    "s2_scenes",
    "s2_observations",
    "s2_clear",
    "s1_scenes",
    "s1_ascending",
    "s1_descending",
    "s1_observations",
)
COUNTS = ("scenes", "ascending", "descending")

EDGE_POINTS = 21
"""Points along each edge of a grid, whose edges are curves in degrees."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Scenes and observations over a grid in each month."""

    table: pd.DataFrame
    """One row a month (``2018-06``), gaps included. Columns: ``s2_scenes``;
    ``s2_observations``, how often a pixel is covered on average; ``s2_clear``, how often it
    is seen free of clouds (NaN where a scene states no cloud cover); ``s1_scenes``;
    ``s1_ascending`` and ``s1_descending`` of them; ``s1_observations``. When read, also
    ``s2_unseen``, the share of pixels never clear in the month."""

    grid: Grid
    """What was covered."""

    is_read: bool
    """Whether ``s2_clear`` was counted in the scene classification, or estimated."""

    @property
    def empty_s2(self) -> list[str]:
        """Months without a Sentinel-2 scene, or, where it is known, without a clear pixel."""
        nothing = (self.table["s2_scenes"] == 0) | (self.table["s2_clear"] == 0)
        return [str(month) for month in self.table.index[nothing]]

    @property
    def empty_s1(self) -> list[str]:
        """Months without a Sentinel-1 scene."""
        return [str(month) for month in self.table.index[self.table["s1_scenes"] == 0]]

    def to_markdown(self) -> str:
        """Table with one row a month, numbers to one digit."""
        names = list(self.table.columns)
        lines = [f"| month | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
        for month, row in self.table.iterrows():
            cells = [_cell(name, float(row[name])) for name in names]
            lines.append(f"| {month} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        how = "counted in SCL" if self.is_read else "estimated from metadata"
        lines = [f"{self.grid.describe()}; clear observations {how}", self.to_markdown()]
        if self.empty_s2:
            lines.append(f"without Sentinel-2: {', '.join(self.empty_s2)}")
        if self.empty_s1:
            lines.append(f"without Sentinel-1: {', '.join(self.empty_s1)}")
        return "\n".join(lines)

    def write_picture(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Draw observations of both sensors by month as PNG.

        Parameters
        ----------
        path : path
            Ends in ``.png``.
        overwrite : bool
            Replace what is there.

        Returns
        -------
        Path
            Where it stands.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        path = Path(path)
        if path.suffix != ".png":
            raise ConfigError(f"{str(path)!r} does not end in .png, the one format drawn.")
        with staged(path, overwrite=overwrite) as part:
            _draw(self).savefig(part, format="png", dpi=100)
        return path


def coverage(
    items: Iterable[pystac.Item],
    grid: Grid,
    *,
    months: Sequence[int] | None = None,
    read: bool = False,
    scl_masked: Sequence[int] = s2.SCL_MASKED,
    scl_dilation: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Coverage:
    """Count scenes and clear observations of each month over a grid.

    Nothing is read unless asked; months without an observation are logged as warnings.

    Parameters
    ----------
    items : iterable of pystac.Item
        Sentinel-2 L2A and Sentinel-1.
    grid : Grid
        Area that counts.
    months : sequence of int, optional
        Calendar months, 1 to 12, that must not be empty, such as those of a dataset; the
        table then runs over whole years. By default all from the first to the last month
        of the items.
    read : bool
        Count clear pixels in the scene classification, with `scl_masked` and
        `scl_dilation` as in `open_cube`.
    progress : callable (done, total), optional
        Called after each month that was read.

    Returns
    -------
    Coverage
        One row a month.

    Raises
    ------
    NoItemsError
        If there are no items.
    MissingAssetError
        If `read` and a scene has no SCL.
    ConfigError
        If `months` are not 1 to 12.
    """
    if months is not None and not set(months) <= set(range(1, 13)):
        raise ConfigError(f"months={months!r} are not calendar months, 1 to 12.")
    given = [item for item in items if sensor(item)]
    here = overlapping(given, grid)
    seen = sorted(moment(item)[:7] for item in here or given)
    ends = seen[0], seen[-1]
    if months is not None:
        ends = f"{seen[0][:4]}-{min(months):02}", f"{seen[-1][:4]}-{max(months):02}"
    names = _months(min(ends[0], seen[0]), max(ends[1], seen[-1]))
    numbers = _from_metadata(here, names, _footprint(grid))
    if read:
        optical = [item for item in here if sensor(item) == "sentinel-2"]
        mask = ClearMask(tuple(scl_masked), scl_dilation)
        numbers |= _count_clear(names, optical, grid, mask, progress)
    table = pd.DataFrame(numbers, index=pd.Index(names, name="month"))
    found = Coverage(table, grid, read)
    for name, empty in (("Sentinel-2", found.empty_s2), ("Sentinel-1", found.empty_s1)):
        wanted = [m for m in empty if months is None or int(m[5:7]) in set(months)]
        if wanted:
            log.warning("%s: nothing seen in %s", name, ", ".join(wanted))
    return found


def _from_metadata(items: Sequence[pystac.Item], names: list[str], area: Polygon) -> Numbers:
    """Count what the items say of each month."""
    numbers: Numbers = {
        name: np.zeros(len(names), dtype="int64" if name.endswith(COUNTS) else "float64")
        for name in COLUMNS
    }
    for item in items:
        share, at = _share(item, area), names.index(moment(item)[:7])
        if share == 0:
            continue  # boxes meet, footprints do not
        name = "s2" if sensor(item) == "sentinel-2" else "s1"
        numbers[f"{name}_scenes"][at] += 1
        numbers[f"{name}_observations"][at] += share
        if name == "s2":
            cover = item.properties.get("eo:cloud_cover")
            clear = np.nan if cover is None else 1 - float(cover) / 100
            numbers["s2_clear"][at] += share * clear
        elif (orbit := item.properties.get("sat:orbit_state")) in {"ascending", "descending"}:
            numbers[f"s1_{orbit}"][at] += 1
    return numbers


def _months(first: str, last: str) -> list[str]:
    """All months from one to another, ``2018-11`` and ``2019-02`` giving four."""
    ends = [12 * int(m[:4]) + int(m[5:7]) - 1 for m in (first, last)]
    return [f"{n // 12}-{n % 12 + 1:02}" for n in range(ends[0], ends[1] + 1)]


def _count_clear(
    names: list[str],
    optical: Sequence[pystac.Item],
    grid: Grid,
    mask: ClearMask,
    progress: Callable[[int, int], None] | None,
) -> Numbers:
    """Count how often a pixel is clear in each month, and how many never are."""
    import dask

    lacking = [item.id for item in optical if asset_for(item, "SCL") is None]
    if lacking:
        raise MissingAssetError(
            f"{len(lacking)} of {len(optical)} Sentinel-2 scenes lack SCL, first {lacking[0]!r}: "
            "take coverage from metadata (read=False), or leave those scenes out."
        )
    layer = Layer(bands=["SCL"], dtype="uint8", fill=0, nodata=0, prepare=mask)
    clear, unseen = np.zeros(len(names)), np.ones(len(names))
    for at, month in enumerate(names):
        scenes = [item for item in optical if moment(item)[:7] == month]
        if scenes:
            count = stack(Source(scenes, grid), layer).data[:, 0].sum(axis=0, dtype="int64")
            clear[at], unseen[at] = dask.compute(count.mean(), (count == 0).mean())
        if progress is not None:
            progress(at + 1, len(names))
    return {"s2_clear": clear, "s2_unseen": unseen}


def _share(item: pystac.Item, area: Polygon) -> float:
    """Share of an area that an item's footprint covers."""
    import shapely
    from shapely.affinity import translate
    from shapely.geometry import box, shape

    if item.geometry:
        footprint = shapely.make_valid(shape(item.geometry))
    elif item.bbox:
        footprint = box(*flat(item.bbox))
    else:
        return 1.0
    covered = footprint.intersection(area).area
    if area.bounds[2] > 180:  # an area across the antimeridian goes on beyond it
        covered += translate(footprint, 360).intersection(area).area
    return float(covered / area.area)


def _footprint(grid: Grid) -> Polygon:
    """Outline of a grid in degrees, its edges as the curves they are."""
    from pyproj import Transformer
    from shapely import Polygon

    left, bottom, right, top = grid.bounds
    along = np.linspace(0, 1, EDGE_POINTS)[:-1]
    x = left + (right - left) * np.concatenate([along, along * 0 + 1, 1 - along, along * 0])
    y = bottom + (top - bottom) * np.concatenate([along * 0, along, along * 0 + 1, 1 - along])
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(x, y)
    if np.ptp(longitude) > 180:
        longitude = np.where(longitude < 0, longitude + 360, longitude)
    return Polygon(np.column_stack([longitude, latitude]))


def _cell(name: str, value: float) -> str:
    if np.isnan(value):
        return "unknown"
    if name == "s2_unseen":
        return f"{value:.1%}"
    return f"{value:.0f}" if name.endswith(COUNTS) else f"{value:.1f}"


def _draw(found: Coverage) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'a picture of coverage needs matplotlib: pip install "deepforest-xr[viz]"'
        ) from error
    table = found.table
    figure = Figure(figsize=(max(6.0, 1.6 + 0.42 * len(table)), 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    optical, radar = figure.subplots(2, 1, sharex=True)
    place = np.arange(len(table))
    optical.bar(place, table["s2_observations"], color="#d5dbe3", label="covered")
    how = "clear, counted in SCL" if found.is_read else "clear, by the catalog's cloud cover"
    optical.bar(place, table["s2_clear"], color="#2f7d4f", width=0.55, label=how)
    radar.bar(place, table["s1_observations"], color="#5f6fa3", label="covered")
    for axes, empty, name in (
        (optical, found.empty_s2, "Sentinel-2"),
        (radar, found.empty_s1, "Sentinel-1"),
    ):
        for month in empty:
            at = list(table.index).index(month)
            axes.axvspan(at - 0.5, at + 0.5, color="#f6d6d2")
        axes.set_title(name, loc="left")
        axes.set_ylabel("observations of a pixel")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    optical.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    radar.set_xticks(place, table.index, rotation=90)
    radar.set_xlabel("months without an observation are red")
    return figure
