"""Items and a grid to a lazy cube.

stackstac lays out the graph; it stands behind `_stack`, the only function that knows it.
Every item is reduced to what stackstac needs, on the target grid's own CRS, so that it
never interprets metadata that catalogs disagree about (``proj:epsg`` that pystac renames,
offsets it would apply, item boxes it would take for asset boxes).
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from affine import Affine

from deepforest_xr.catalogs import asset_for
from deepforest_xr.errors import (
    CatalogError,
    ConfigError,
    MissingAssetError,
    NoItemsError,
)
from deepforest_xr.grid import Grid, transform_bounds
from deepforest_xr.sentinel import composite, s1, s2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pystac

    from deepforest_xr.grid import Bounds

log = logging.getLogger(__name__)

DATASETS: dict[str, tuple[int, ...]] = {
    "S2": (),
    "S1TsS2_12": tuple(range(1, 13)),
    "S1TsS2_7": tuple(range(6, 13)),
}
"""Datasets of the paper: the months of Sentinel-1 that stand beside the Sentinel-2 median."""

RESAMPLING = ("nearest", "bilinear", "cubic", "average")


@dataclass(frozen=True, slots=True)
class Source:
    """What a cube reads: bands of one sensor's items onto a grid."""

    items: list[pystac.Item]
    """In order of time."""

    grid: Grid
    """Target grid."""

    chunk: int
    """Side of a chunk in pixels; all times of a band are in one chunk."""

    resampling: str
    """GDAL's name, for measured bands; classes are always nearest."""


def open_cube(
    items: Iterable[pystac.Item],
    *,
    grid: Grid,
    dataset: str | None = None,
    months: Sequence[int] | None = None,
    bands: Sequence[str] = s2.BANDS,
    scl_masked: Sequence[int] = s2.SCL_MASKED,
    orbit: str | None = None,
    resampling: str = "nearest",
    chunk: int = 512,
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
    orbit : {"ascending", "descending"}, optional
        Sentinel-1 passes to take; both by default.
    resampling : {"nearest", "bilinear", "cubic", "average"}
        Onto pixels that are not the scene's own. The default keeps measured values.
    chunk : int
        Side of a chunk in pixels.

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
    _check_choices(orbit, resampling, chunk, bands)
    here = _overlapping(list(items), grid)
    optical = [i for i in here if _sensor(i) == "sentinel-2"]
    if not optical:
        raise NoItemsError(
            f"no Sentinel-2 scene over {grid.describe()} (box {_rounded(grid.bbox_lonlat)} in "
            f"degrees): {len(here)} items overlap it. Search that area."
        )
    cube = _open_s2(Source(optical, grid, chunk, resampling), bands, scl_masked)
    radar: list[pystac.Item] = []
    if months:
        radar = _radar_items(here, months, orbit, grid)
        cube = xr.merge(
            [cube, _open_s1(Source(radar, grid, chunk, resampling), months)],
            combine_attrs="no_conflicts",
            compat="identical",
            join="exact",
        )
    cube = cube.assign_coords(grid.coords())
    cube.attrs["dataset"] = _dataset_name(months)
    cube.attrs["resampling"] = resampling
    if any(i.properties.get("deepforest:simulated") for i in [*optical, *radar]):
        cube.attrs["simulated"] = "true"
    return cube


def _months(dataset: str | None, months: Sequence[int] | None) -> tuple[int, ...]:
    if dataset is not None and months is not None:
        raise ConfigError("dataset and months were both given: a dataset fixes its months.")
    if months is None:
        if (dataset or "S2") not in DATASETS:
            raise ConfigError(f"dataset={dataset!r} is unknown; known: {', '.join(DATASETS)}.")
        return DATASETS[dataset or "S2"]
    wanted = tuple(int(m) for m in months)
    if list(wanted) != sorted(set(wanted)) or not set(wanted) <= set(range(1, 13)):
        raise ConfigError(f"months={list(months)} are not ascending calendar months 1 to 12.")
    return wanted


def _check_choices(orbit: str | None, resampling: str, chunk: int, bands: Sequence[str]) -> None:
    if orbit not in {None, "ascending", "descending"}:
        raise ConfigError(f"orbit={orbit!r}; expected 'ascending', 'descending' or None for both.")
    if resampling not in RESAMPLING:
        raise ConfigError(f"resampling={resampling!r}; expected one of {', '.join(RESAMPLING)}.")
    if chunk < 1:
        raise ConfigError(f"chunk={chunk} is not a positive number of pixels; try 512.")
    if not bands:
        raise ConfigError("bands is empty; the networks use the ten of sentinel.s2.BANDS.")


def _dataset_name(months: tuple[int, ...]) -> str:
    names = {months: name for name, months in DATASETS.items()}
    return names.get(months, f"S1TsS2 months {', '.join(map(str, months))}")


SENSORS = {
    "sentinel-2-l2a": "sentinel-2",
    "sentinel-2-c1-l2a": "sentinel-2",
    "sentinel-1-rtc": "sentinel-1",
    "sentinel-1-grd": "sentinel-1",
}
"""Collections a cube is made of."""


def _sensor(item: pystac.Item) -> str:
    """Sensor of an item, "" for other things; a Sentinel product of another level is refused."""
    name = item.collection_id or ""
    if name not in SENSORS and name.startswith("sentinel-"):
        raise CatalogError(
            f"scene {item.id!r} is of collection {name!r}; a cube is made of "
            f"{', '.join(SENSORS)}: leave it out."
        )
    return SENSORS.get(name, "")


def _rounded(bounds: Bounds) -> tuple[float, ...]:
    return tuple(round(v, 4) for v in bounds)


def _overlapping(items: list[pystac.Item], grid: Grid) -> list[pystac.Item]:
    """Items whose box meets the grid's, by time and id: two equal lists give equal cubes."""
    if not items:
        raise NoItemsError("the list of items is empty: search again with other dates or area.")
    west, south, east, north = grid.bbox_lonlat
    kept = []
    for item in items:
        w, s, e, n = _flat(item.bbox) if item.bbox else (-180.0, -90.0, 180.0, 90.0)
        # A box whose west lies east of its east crosses the antimeridian: keep it.
        across = w > e or west > east
        if (across or (w <= east and e >= west)) and s <= north and n >= south:
            kept.append(item)
    return sorted(kept, key=lambda i: (_time(i), i.id))


def _time(item: pystac.Item) -> str:
    moment = item.datetime or item.common_metadata.start_datetime
    if moment is None:
        raise CatalogError(f"scene {item.id!r} has no datetime.")
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _open_s2(source: Source, bands: Sequence[str], masked: Sequence[int]) -> xr.Dataset:
    _require_bands(source.items, bands)
    offsets = [_offset(item, bands[0]) for item in source.items]
    dn = _stack(source, bands, dtype="uint16", fill=s2.NODATA, nodata=s2.NODATA)
    shift = xr.DataArray(np.array([o.value for o in offsets], dtype="int32"), dims="time")
    reflectance = s2.to_reflectance(dn, offset=shift)
    with_scl = [asset_for(item, "SCL") is not None for item in source.items]
    if any(with_scl):
        if not all(with_scl):
            missing = source.items[with_scl.index(False)].id
            raise MissingAssetError(
                f"{with_scl.count(False)} of {len(with_scl)} Sentinel-2 scenes lack SCL, first "
                f"{missing!r}: masked and unmasked scenes do not mix. Leave those scenes out."
            )
        nearest = Source(source.items, source.grid, source.chunk, "nearest")
        scl = _stack(nearest, ["SCL"], dtype="uint8", fill=0, nodata=0).isel(band=0, drop=True)
        reflectance = reflectance.where(s2.is_clear(scl, masked=masked))
        mask = f"SCL classes {', '.join(map(str, masked))} left out"
    else:
        mask = "none: no scene has an SCL asset"
        log.warning("Sentinel-2: no scene has an SCL asset, clouds are not masked")
    cube = xr.Dataset(
        {
            "s2": composite.median(reflectance).assign_attrs(
                long_name="surface reflectance, median", units="1", grid_mapping="spatial_ref"
            ),
            "s2_count": composite.count(reflectance.isel(band=0, drop=True)).assign_attrs(
                long_name=f"clear observations of {bands[0]}", grid_mapping="spatial_ref"
            ),
        },
        attrs={
            "s2_scenes": len(source.items),
            "s2_period": _period(source.items),
            "s2_mask": mask,
            "s2_offset": _summary(f"{o.value} ({o.reason})" for o in offsets),
            "s2_collections": _summary(str(i.collection_id) for i in source.items),
        },
    )
    return cube.transpose("band", "y", "x")


def _open_s1(source: Source, months: tuple[int, ...]) -> xr.Dataset:
    _require_bands(source.items, s1.POLARIZATIONS)
    quantity = _quantity(source.items)
    power = _stack(source, s1.POLARIZATIONS, dtype="float32", fill=np.nan, nodata=s1.NODATA)
    mean, count = s1.monthly_mean(power.rename(band="polarization"), months=months)
    present = {int(_time(i)[5:7]) for i in source.items}
    empty = [m for m in months if m not in present]
    if empty:
        log.warning(
            "Sentinel-1: no scene in month %s, filled from its neighbours",
            ", ".join(map(str, empty)),
        )
    return xr.Dataset(
        {
            "s1": s1.to_db(s1.fill_empty_months(mean)).assign_attrs(
                long_name="backscatter, monthly mean in power",
                units="dB",
                grid_mapping="spatial_ref",
            ),
            "s1_count": count.isel(polarization=0, drop=True).assign_attrs(
                long_name="acquisitions, 0 where filled from other months",
                grid_mapping="spatial_ref",
            ),
        },
        attrs={
            "s1_scenes": len(source.items),
            "s1_period": _period(source.items),
            "s1_collections": _summary(str(i.collection_id) for i in source.items),
            "s1_quantity": quantity,
            "s1_empty_months": ", ".join(map(str, empty)) or "none",
        },
    )


def _radar_items(
    items: list[pystac.Item], months: tuple[int, ...], orbit: str | None, grid: Grid
) -> list[pystac.Item]:
    radar = [i for i in items if _sensor(i) == "sentinel-1"]
    kept = [
        i
        for i in radar
        if int(_time(i)[5:7]) in months
        and (orbit is None or i.properties.get("sat:orbit_state") == orbit)
    ]
    if not kept:
        passes = f" on {orbit} passes" if orbit else ""
        raise NoItemsError(
            f"no Sentinel-1 scene in months {list(months)}{passes} over {grid.describe()}: "
            f"{len(radar)} radar items overlap it. Search those months, or use dataset 'S2'."
        )
    for item in kept:
        _require_linear_power(item)
    return kept


def _quantity(items: list[pystac.Item]) -> str:
    """gamma0 of RTC or sigma0 of a calibrated GRD; they differ by the terrain and do not mix."""
    collections = {i.collection_id for i in items}
    if len(collections) > 1:
        raise CatalogError(
            f"Sentinel-1 scenes of {' and '.join(sorted(map(str, collections)))} do not mix: "
            "one is terrain-corrected gamma0, the other sigma0. Take one collection."
        )
    return "gamma0" if collections == {"sentinel-1-rtc"} else "sigma0, not terrain-corrected"


def _require_linear_power(item: pystac.Item) -> None:
    """RTC is linear power by definition; a GRD only where a copy declares float values."""
    if item.collection_id == "sentinel-1-rtc":
        return
    asset = asset_for(item, s1.POLARIZATIONS[0])
    declared = (asset.extra_fields.get("raster:bands") or [{}])[0] if asset else {}
    if asset is not None and declared.get("data_type") not in {"float32", "float64"}:
        raise CatalogError(
            f"scene {item.id!r} of {item.collection_id} holds uncalibrated amplitudes in radar "
            "geometry: use sentinel-1-rtc (Planetary Computer), or a calibrated float32 copy."
        )


def _require_bands(items: list[pystac.Item], bands: Sequence[str]) -> None:
    lacking = [(i, [b for b in bands if asset_for(i, b) is None]) for i in items]
    lacking = [(i, missing) for i, missing in lacking if missing]
    if lacking:
        item, missing = lacking[0]
        raise MissingAssetError(
            f"{len(lacking)} of {len(items)} {_sensor(item)} scenes lack a band; first "
            f"{item.id!r} lacks {', '.join(missing)} (it has {', '.join(sorted(item.assets))}). "
            "Leave those scenes out, or open the cube with other bands."
        )


def _offset(item: pystac.Item, band: str) -> s2.Offset:
    asset = asset_for(item, band)
    declared = (asset.extra_fields.get("raster:bands") or [{}])[0] if asset else {}
    return s2.boa_offset(
        item.id, item.properties, declared.get("offset"), collection=item.collection_id
    )


def _period(items: list[pystac.Item]) -> str:
    return f"{_time(items[0])[:10]}/{_time(items[-1])[:10]}"


def _summary(values: Iterable[str]) -> str:
    return "; ".join(f"{n} x {value}" for value, n in sorted(Counter(values).items()))


def _stack(
    source: Source, bands: Sequence[str], *, dtype: str, fill: float, nodata: float
) -> xr.DataArray:
    """Lay out (time, band, y, x), one chunk along time, one band a chunk."""
    import stackstac
    from rasterio.enums import Resampling

    from deepforest_xr.reader import GridReader

    grid = source.grid
    # stackstac wants an EPSG number and uses it for boxes only, which we give in the
    # grid's CRS already; the reader warps to the CRS itself, numbered or not.
    stack: xr.DataArray = stackstac.stack(
        [_plain_item(item, bands, grid) for item in source.items],
        assets=list(bands),
        epsg=_NOMINAL_EPSG,
        bounds=grid.bounds,
        resolution=grid.resolution,
        snap_bounds=False,
        resampling=Resampling[source.resampling],
        chunksize=(-1, 1, source.chunk, source.chunk),
        dtype=np.dtype(dtype),
        fill_value=np.dtype(dtype).type(fill),
        rescale=False,
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=partial(GridReader, crs_wkt=grid.crs.to_wkt(), nodata=nodata),
    )
    if stack.shape[2:] != grid.shape:
        raise ConfigError(f"{stack.shape[2:]} pixels were laid out for {grid.describe()}.")
    return stack.drop_vars(["id", "epsg"]).drop_attrs()


_NOMINAL_EPSG = 3857


def _plain_item(item: pystac.Item, bands: Sequence[str], grid: Grid) -> dict[str, Any]:
    """Give what stackstac reads of an item, each asset's box in the grid's CRS."""
    assets = {}
    for band in bands:
        asset = asset_for(item, band)
        if asset is not None:
            assets[band] = {
                "href": asset.href,
                "type": "image/tiff",
                "proj:epsg": _NOMINAL_EPSG,
                "proj:bbox": _asset_bounds(item, asset, grid),
            }
    return {"id": item.id, "properties": {"datetime": _time(item)}, "assets": assets}


def _asset_bounds(item: pystac.Item, asset: pystac.Asset, grid: Grid) -> Bounds:
    bounds, crs = asset_extent(item, asset)
    return transform_bounds(bounds, crs, grid.crs)


def asset_extent(item: pystac.Item, asset: pystac.Asset) -> tuple[Bounds, Any]:
    """Box of an asset and the CRS it is in, from the best of its metadata.

    Raises
    ------
    CatalogError
        If neither asset nor item has a box.
    """
    fields = {**item.properties, **asset.extra_fields}
    code = fields.get("proj:code") or fields.get("proj:epsg") or fields.get("proj:wkt2")
    if isinstance(code, int):
        code = f"EPSG:{code}"
    if code and fields.get("proj:transform") and fields.get("proj:shape"):
        transform = Affine(*fields["proj:transform"][:6])
        rows, cols = fields["proj:shape"]
        right, bottom = transform @ (cols, rows)
        return (transform.c, bottom, right, transform.f), code
    if code and fields.get("proj:bbox"):
        left, bottom, right, top = fields["proj:bbox"]
        return (left, bottom, right, top), code
    if item.bbox is None:
        raise CatalogError(f"scene {item.id!r} has neither proj:bbox nor bbox.")
    return _flat(item.bbox), "EPSG:4326"


def _flat(bbox: Sequence[float]) -> Bounds:
    """West, south, east, north of a box that may have heights between them."""
    half = len(bbox) // 2
    return bbox[0], bbox[1], bbox[half], bbox[half + 1]
