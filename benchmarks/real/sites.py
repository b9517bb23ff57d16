"""Sites on disk: folders with items.json and labels/<site>.tif, as ../shared/data lays them out."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from deepforest_xr.catalogs import asset_for
from deepforest_xr.cube import DATASETS, open_cube
from deepforest_xr.demo.area import area_on_disk
from deepforest_xr.demo.settings import DemoSettings
from deepforest_xr.labels import align_labels
from deepforest_xr.legend import UNLABELLED, Legend
from deepforest_xr.maps import write_zarr
from deepforest_xr.sentinel import s2

SEASONAL = "S2x6"
"""Dataset of six medians of two months, beside the library's own ones."""

SEASON_MONTHS = 2

log = logging.getLogger(__name__)

SERIES_DATES = 12
"""Sentinel-2 dates from which a site is a series rather than a single picture."""


@dataclass(frozen=True)
class Site:
    """One place: a cube and labels on one grid, in memory."""

    group: str
    name: str
    labels_file: Path
    is_series: bool
    cube: xr.Dataset
    """``s2`` with every band that all scenes have; ``s1``, where there is radar."""

    labels: xr.DataArray
    legend: Legend
    """Of all sites of the group."""

    seasons: xr.DataArray | None = None
    """Medians of two months each as bands (``B04_1`` is January and February); of series."""

    @property
    def bands(self):
        return tuple(str(b) for b in self.cube["band"].to_numpy())

    @property
    def has_radar(self):
        return "s1" in self.cube

    @property
    def classes(self):
        """Codes that occur."""
        return tuple(int(c) for c in np.unique(self.labels) if c != UNLABELLED)

    def names(self):
        return dict(zip(self.legend.codes, self.legend.names, strict=True))


def find(data):
    """Items file, site and label raster of every labelled site below a folder."""
    found = []
    for items in sorted(Path(data).glob("*/items.json")):
        features = json.loads(items.read_text(encoding="utf-8"))["features"]
        optical = {
            f["properties"].get("site")
            for f in features
            if f["collection"].startswith("sentinel-2")
        }
        for name in sorted(n for n in optical if n is not None):
            labels = items.parent / "labels" / f"{name}.tif"
            if labels.exists():
                found.append((items, name, labels))
    return found


def open_sites(data, work, *, only=None):
    """Labelled sites below a folder, all or those of the names; cubes are kept in `work`."""
    found = [f for f in find(data) if only is None or f[1] in only]
    legends = {}
    for items, _, labels in found:
        one = Legend.from_csv(labels.with_name("legend.csv"), raster=labels.name)
        known = legends.setdefault(items.parent.name, {})
        known.update({c.code: c for c in one.classes if c.code not in known})
    sites = []
    for items, name, labels in found:
        group = items.parent.name
        classes = tuple(sorted(legends[group].values(), key=lambda c: c.code))
        sites.append(_open(items, name, labels, Legend(group, classes), Path(work)))
        log.info("%s %s: %s", group, name, sites[-1].cube.sizes)
    return sites


def _open(items, name, labels, legend, work):
    area = area_on_disk(DemoSettings(items=str(items), site=name))
    optical = [i for i in area.items if (i.collection_id or "").startswith("sentinel-2")]
    radar = [i for i in area.items if (i.collection_id or "").startswith("sentinel-1")]
    is_series = len(optical) >= SERIES_DATES
    bands = [b for b in s2.BANDS if all(asset_for(i, b) is not None for i in optical)]
    months = DATASETS["S1TsS2_12"] if is_series else sorted({i.datetime.month for i in radar})
    kept = work / "cubes" / f"{items.parent.name}-{name}"
    cube = _kept(
        kept.with_suffix(".zarr"),
        lambda: open_cube(area.items, grid=area.grid, months=months if radar else (), bands=bands),
    )
    seasons = None
    if is_series:
        path = kept.with_name(f"{kept.name}-seasons.zarr")
        seasons = _kept(path, lambda: _seasons(optical, area.grid, bands, cube))["s2"]
    if "s1" in cube and not is_series:
        cube = _one_picture(cube)
    codes = align_labels(labels, like=cube, legend=legend).load()
    return Site(items.parent.name, name, labels, is_series, cube, codes, legend, seasons)


def _kept(path, make):
    """A cube in memory, from disk if it was made before."""
    if not path.exists():
        write_zarr(make(), path)
    with xr.open_zarr(path) as stored:
        return stored.load()


def _seasons(optical, grid, bands, cube):
    """Medians of two months each; where none was clear, the median of the year."""
    year, layers = cube["s2"].load(), []
    for first in range(1, 12, SEASON_MONTHS):
        span = range(first, first + SEASON_MONTHS)
        scenes = [i for i in optical if i.datetime.month in span]
        layer = open_cube(scenes, grid=grid, bands=bands)["s2"].load() if scenes else year
        layers.append(layer.fillna(year).assign_coords(band=[f"{b}_{first}" for b in bands]))
    # The bands of the year go first: assigning would align the new ones to them.
    empty = cube.drop_dims(["band", "month", "polarization"], errors="ignore")
    return empty.assign(s2=xr.concat(layers, "band"))


def _one_picture(cube):
    """A tile's radar as one picture, called month 1 so that tiles of other months join."""
    power = (10 ** (cube["s1"] / 10)).mean("month", skipna=True)
    s1 = (10 * np.log10(power)).expand_dims(month=[1]).astype("float32")
    s1.attrs = cube["s1"].attrs
    kept = cube.drop_dims("month")
    return kept.assign(s1=s1.transpose("month", "polarization", "y", "x"))


def select(site, experiment):
    """Cube of the bands and dataset of an experiment."""
    bands = list(experiment.bands)
    if experiment.has_radar:
        return site.cube.sel(band=bands)
    cube = site.cube.drop_dims(["month", "polarization"], errors="ignore")
    if experiment.dataset != SEASONAL:
        return cube.sel(band=bands)
    names = [n for n in site.seasons["band"].to_numpy() if n.split("_")[0] in bands]
    return cube.drop_dims("band").assign(s2=site.seasons.sel(band=names))
