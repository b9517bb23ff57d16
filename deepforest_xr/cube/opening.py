"""Items and a grid to a lazy cube: the checks, then Sentinel-2 and Sentinel-1 side by side."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import xarray as xr

from deepforest_xr.cube.metadata import sensor
from deepforest_xr.cube.optical import COMPOSITES, Optical, open_s2
from deepforest_xr.cube.radar import Radar, open_s1, radar_items
from deepforest_xr.engines import ENGINES, Source
from deepforest_xr.engines.extent import overlapping, reaching
from deepforest_xr.errors import ConfigError, NoItemsError
from deepforest_xr.reader import ATTRIBUTE, Failures
from deepforest_xr.sentinel import s2, speckle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import pystac

    from deepforest_xr.grid import Bounds, Grid

DATASETS: dict[str, tuple[int, ...]] = {
    "S2": (),
    "S1TsS2_12": tuple(range(1, 13)),
    "S1TsS2_7": tuple(range(6, 13)),
}
"""Datasets of the paper: the months of Sentinel-1 that stand beside the Sentinel-2 median."""

CHUNK = 1024
"""Side of a chunk in pixels: as large as the tiles of public scenes, which are decoded whole."""

MAX_DILATION = 100

RESAMPLING = ("nearest", "bilinear", "cubic", "average")


def open_cube(
    items: Iterable[pystac.Item],
    *,
    grid: Grid,
    dataset: str | None = None,
    months: Sequence[int] | None = None,
    bands: Sequence[str] = s2.BANDS,
    scl_masked: Sequence[int] = s2.SCL_MASKED,
    scl_dilation: int = 0,
    composite: str = "median",
    orbit: str | None = None,
    speckle_filter: str | None = None,
    looks: float = speckle.GRD_LOOKS,
    mask_border_noise: bool = False,
    resampling: str = "nearest",
    chunk: int | None = None,
    engine: str = "stackstac",
    on_error: str = "raise",
) -> xr.Dataset:
    """Build the lazy cube of a dataset on a grid; nothing is read.

    Parameters
    ----------
    items : iterable of pystac.Item
        Sentinel-2 L2A, and Sentinel-1 in linear power (RTC gamma0) for datasets with
        months; in any mix of UTM zones.
    grid : Grid
        Target grid in any CRS.
    dataset : {"S2", "S1TsS2_12", "S1TsS2_7"}, optional
        Sentinel-2 alone (the default), or with the Sentinel-1 months of the paper.
    months : sequence of int, optional
        Other months, 1 to 12 in ascending order, instead of `dataset`.
    bands : sequence of str
        Sentinel-2 bands.
    scl_masked : sequence of int
        Scene classes left out of the composite. Where no scene has an SCL asset nothing
        is masked, which is logged and stands in ``attrs["s2_mask"]``.
    scl_dilation : int
        Pixels by which clouds and shadows (SCL 3, 8, 9, 10 where masked) are grown.
    composite : {"median", "medoid", "geomad", "best-pixel"}
        From many clear dates to one spectrum: the median of each band; the date nearest to
        all others; the geometric median, with its scatter in ``s2_emad``, ``s2_smad`` and
        ``s2_bcmad (y, x)``; the date farthest from clouds. All but the median hold all
        bands of a chunk at once.
    orbit : {"ascending", "descending"}, optional
        Sentinel-1 passes to take; both by default.
    speckle_filter : {"lee", "refined_lee", "quegan"}, optional
        Filter each scene in linear power, windows of 7 pixels; Quegan's uses all dates.
    looks : float
        Equivalent number of looks for the first two; `sentinel.speckle.equivalent_looks`
        estimates it.
    mask_border_noise : bool
        Take away low values along the edge of the swath, for scenes before March 2018.
        Zero and negative power is missing in any case.
    resampling : {"nearest", "bilinear", "cubic", "average"}
        Onto pixels that are not the scene's own. The default keeps measured values.
    chunk : int, optional
        Side of a chunk in pixels; 1024, or 512 for composites of whole spectra. A task holds
        one chunk of all dates: 2 bytes a pixel and date, and as many bands as the composite
        needs at once.
    engine : {"stackstac", "odc-stac"}
        Who lays out the graph; the pixels are the same.
    on_error : {"raise", "nodata"}
        What becomes of a file that cannot be read after retries: an error, or missing pixels
        and a line in ``attrs["read_failures"]`` and the log; see `read_failures`.

    Returns
    -------
    Dataset
        ``s2 (band, y, x)`` float32 reflectance, median over the clear dates;
        ``s2_count (y, x)`` uint16 clear observations of the first band;
        with months ``s1 (month, polarization, y, x)`` float32 dB, mean in power, empty
        months filled from their neighbours; ``s1_count (month, y, x)`` uint16, 0 where
        filled. Missing is NaN. Overlapping tiles of one overpass count as observations
        each. ``attrs`` say what was decided.

    Raises
    ------
    NoItemsError
        If no scene of a sensor overlaps the grid (in the months wanted).
    MissingAssetError
        If a scene lacks a band.
    UnknownOffsetError
        If a Sentinel-2 scene's offset cannot be decided.
    CatalogError
        If Sentinel-1 is not in map geometry and linear power.
    ConfigError
        If an argument is out of its range.
    """
    months = _months(dataset, months)
    side = (CHUNK if composite == "median" else CHUNK // 2) if chunk is None else chunk
    bands = (bands,) if isinstance(bands, str) else bands
    optical_how = Optical(tuple(bands), tuple(scl_masked), scl_dilation, composite, resampling)
    radar_how = Radar(months, orbit, speckle_filter, looks, mask_border_noise, resampling)
    _check_choices(optical_how, radar_how, chunk=side, engine=engine, on_error=on_error)
    here = overlapping(list(items), grid)
    optical = reaching([i for i in here if sensor(i) == "sentinel-2"], optical_how.bands, grid)
    if not optical:
        raise NoItemsError(
            f"no Sentinel-2 scene over {grid.describe()} (box {_rounded(grid.bbox_lonlat)} in "
            f"degrees): {len(here)} items overlap it. Search that area."
        )
    failures = Failures() if on_error == "nodata" else None
    of = partial(
        Source,
        grid=grid,
        chunk=side,
        engine=engine,
        failures=None if failures is None else failures.name,
    )
    cube = open_s2(of(optical), optical_how)
    radar: list[pystac.Item] = []
    if months:
        radar = radar_items(here, months, orbit, grid)
        cube = xr.merge(
            [cube, open_s1(of(radar), radar_how)],
            combine_attrs="no_conflicts",
            compat="identical",
            join="exact",
        )
    cube = cube.assign_coords(grid.coords())
    cube.attrs["dataset"] = _dataset_name(months)
    cube.attrs["resampling"] = resampling
    if any(i.properties.get("deepforest:simulated") for i in [*optical, *radar]):
        cube.attrs["simulated"] = "true"
    if failures is not None:
        cube.attrs[ATTRIBUTE] = failures
    return cube


def _months(dataset: str | None, months: Sequence[int] | None) -> tuple[int, ...]:
    if dataset is not None and months is not None:
        raise ConfigError("dataset and months were both given: a dataset fixes its months.")
    if months is None:
        if (dataset or "S2") not in DATASETS:
            raise ConfigError(f"dataset={dataset!r} is unknown; known: {', '.join(DATASETS)}.")
        return DATASETS[dataset or "S2"]
    try:
        wanted = tuple(int(m) for m in months)
    except (TypeError, ValueError):
        wanted = (0,)
    if list(wanted) != sorted(set(wanted)) or not set(wanted) <= set(range(1, 13)):
        raise ConfigError(f"months={months!r} are not ascending calendar months 1 to 12.")
    return wanted


def _check_choices(
    optical: Optical, radar: Radar, *, chunk: int, engine: str, on_error: str
) -> None:
    _one_of("composite", optical.composite, COMPOSITES)
    _one_of("speckle_filter", radar.speckle, {None, *speckle.FILTERS})
    _one_of("orbit", radar.orbit, {None, "ascending", "descending"})
    _one_of("resampling", optical.resampling, RESAMPLING)
    _one_of("engine", engine, ENGINES)
    _one_of("on_error", on_error, ("raise", "nodata"))
    if chunk < 1:
        raise ConfigError(f"chunk={chunk} is not a positive number of pixels; try 1024.")
    bands = optical.bands
    if not bands or len(set(bands)) < len(bands) or "SCL" in bands:
        raise ConfigError(
            f"bands={list(bands)}; expected reflectance bands, each once, such as the ten of "
            "sentinel.s2.BANDS."
        )
    if not set(optical.masked) <= set(range(12)):
        raise ConfigError(f"scl_masked={list(optical.masked)}; scene classes are 0 to 11.")
    if optical.dilation not in range(MAX_DILATION + 1):
        raise ConfigError(
            f"scl_dilation={optical.dilation}; expected 0 to {MAX_DILATION} pixels (10 m each)."
        )
    if not (radar.looks > 0 and math.isfinite(radar.looks)):
        raise ConfigError(f"looks={radar.looks} must be positive; Sentinel-1 GRD has 4.4.")


def _one_of(name: str, value: str | None, known: Collection[str | None]) -> None:
    if value not in known:
        names = ", ".join(sorted(repr(k) for k in known if k is not None))
        raise ConfigError(
            f"{name}={value!r}; expected one of {names}{' or None' if None in known else ''}."
        )


def _dataset_name(months: tuple[int, ...]) -> str:
    names = {months: name for name, months in DATASETS.items()}
    return names.get(months, f"S1TsS2 months {', '.join(map(str, months))}")


def _rounded(bounds: Bounds) -> tuple[float, ...]:
    return tuple(round(v, 4) for v in bounds)
