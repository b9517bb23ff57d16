"""Which scenes and labels a demo takes: simulated ones, or those of one place on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepforest_xr.catalogs import asset_for, read_items, search
from deepforest_xr.engines.extent import asset_extent
from deepforest_xr.errors import ConfigError, LabelError, NoItemsError
from deepforest_xr.grid import Bounds, Grid, transform_bounds
from deepforest_xr.legend import Legend
from deepforest_xr.sentinel import s2

if TYPE_CHECKING:
    import pystac

    from deepforest_xr.demo.settings import DemoSettings

log = logging.getLogger(__name__)

YEAR_DAYS = 366


@dataclass(frozen=True, slots=True)
class Area:
    """The scenes and labels of one place."""

    items: list[pystac.Item]
    """Of one site and period."""

    grid: Grid
    """Target grid."""

    labels: Path
    """Label raster."""

    legend: Legend | None
    """Of its codes, None where `collection` says it."""

    collection: int | None
    """MapBiomas collection, None where `legend` says it."""

    truth: Path | None
    """Clean truth of a simulation."""


def simulated_area(folder: Path, settings: DemoSettings) -> Area:
    """Simulate scenes, unless they are there already."""
    from deepforest_xr.testing import open_scene, simulate_scene

    if (folder / "items.json").exists():
        scene = open_scene(folder)
    else:
        scene = simulate_scene(folder, shape=(settings.size, settings.size), seed=settings.seed)
    items = search(scene.items, datetime=settings.datetime)
    return Area(list(items), scene.grid, scene.labels, None, 8, scene.truth)


def area_on_disk(settings: DemoSettings) -> Area:
    """Take the scenes of one site and period, and the label raster that belongs to it."""
    source = Path(settings.items or "")
    everything = list(read_items(source))
    for site in _sites(everything, settings):
        items = [i for i in everything if site is None or i.properties.get("site") == site]
        items = _in_period(items, settings.datetime)
        if not items and settings.site is not None:
            raise NoItemsError(f"no scene in {settings.datetime} at site {site!r}.")
        optical = [i for i in items if (i.collection_id or "").startswith("sentinel-2")]
        if not optical:
            continue
        grid = _native_grid(optical[0])
        labels = _find_labels(source, site, settings, grid)
        if labels is None:
            continue
        if site is not None:
            log.info("site %s, labels %s", site, labels.name)
        legend = None if settings.collection is not None else _find_legend(labels, settings)
        return Area(items, grid, labels, legend, settings.collection, None)
    raise LabelError(
        f"no site of {str(source)!r} has Sentinel-2 scenes and a label raster "
        "(labels/<site>.tif beside the items): name one with labels."
    )


def _sites(items: list[pystac.Item], settings: DemoSettings) -> list[str | None]:
    names = sorted({str(i.properties["site"]) for i in items if "site" in i.properties})
    if settings.site is None:
        return list(names) or [None]
    if settings.site not in names:
        raise ConfigError(f"site={settings.site!r} is not among {names or 'the items'}.")
    return [settings.site]


def _in_period(items: list[pystac.Item], datetime: str | None) -> list[pystac.Item]:
    """Items of the period asked for, by default the last twelve whole months they cover."""
    from deepforest_xr.catalogs.search import interval

    times = [pd.Timestamp(str(i.datetime)) for i in items]
    if datetime is not None:
        start, end = interval(datetime)
    elif max(times) - min(times) > pd.Timedelta(days=YEAR_DAYS):
        # A month that has only begun would make its mean out of a few days.
        last = (max(times) + pd.Timedelta(days=4)).tz_localize(None).to_period("M") - 1
        end = last.end_time.tz_localize("UTC")
        start = (last - 11).start_time.tz_localize("UTC")
    else:
        return items
    return [
        item
        for item, time in zip(items, times, strict=True)
        if (start is None or time >= start) and (end is None or time <= end)
    ]


def _native_grid(item: pystac.Item) -> Grid:
    """The 10 m grid of a scene's own first band, or 10 m over the extent of a coarser one."""
    asset = next((a for a in (asset_for(item, b) for b in s2.BANDS) if a is not None), None)
    if asset is None:
        raise NoItemsError(f"scene {item.id!r} has none of the bands {', '.join(s2.BANDS)}.")
    bounds, crs = asset_extent(item, asset)
    return Grid.from_bounds(bounds, crs=crs, resolution=10)


def _find_labels(source: Path, site: str | None, settings: DemoSettings, grid: Grid) -> Path | None:
    if settings.labels is not None:
        return Path(settings.labels)
    folder = (source if source.is_dir() else source.parent) / "labels"
    if site is not None and (folder / f"{site}.tif").exists():
        return folder / f"{site}.tif"
    return next((f for f in sorted(folder.glob("*.tif")) if _covers(f, grid.bounds, grid)), None)


def _covers(raster: Path, bounds: Bounds, grid: Grid) -> bool:
    import rasterio

    with rasterio.open(raster) as source:
        left, bottom, right, top = transform_bounds(source.bounds, source.crs.to_wkt(), grid.crs)
    return left < bounds[2] and right > bounds[0] and bottom < bounds[3] and top > bounds[1]


def _find_legend(labels: Path, settings: DemoSettings) -> Legend:
    path = Path(settings.legend) if settings.legend else labels.with_name("legend.csv")
    if not path.exists():
        raise ConfigError(
            f"the codes of {labels.name} are unknown: give legend= (CSV with code, name, color) "
            "or collection= (MapBiomas)."
        )
    return Legend.from_csv(path, raster=labels.name)
