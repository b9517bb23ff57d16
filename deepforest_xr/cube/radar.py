"""Sentinel-1 items to lazy monthly means in decibels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.catalogs import catalog_of, quantity
from deepforest_xr.cube.metadata import month, period, require_bands, sensor, summary
from deepforest_xr.engines import Layer, stack, whole
from deepforest_xr.engines.extent import reaching
from deepforest_xr.errors import CatalogError, NoItemsError
from deepforest_xr.sentinel import s1, speckle
from deepforest_xr.sentinel.prepare import Clean, nothing_to_do

if TYPE_CHECKING:
    import pystac
    from numpy.typing import NDArray

    from deepforest_xr.engines import Source
    from deepforest_xr.grid import Grid

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Radar:
    """How Sentinel-1 is averaged."""

    months: tuple[int, ...]
    orbit: str | None
    speckle: str | None
    looks: float
    without_border: bool
    resampling: str

    @property
    def pools_dates(self) -> bool:
        """Whether the speckle filter needs all dates at once."""
        return self.speckle is not None and speckle.FILTERS[self.speckle].pools_dates

    @property
    def clean(self) -> Clean:
        """What is done to each scene by itself."""
        alone = None if self.pools_dates else self.speckle
        return Clean(self.without_border, alone, looks=self.looks)


def open_s1(source: Source, how: Radar) -> xr.Dataset:
    """Lay out ``s1 (month, polarization, y, x)`` and ``s1_count (month, y, x)``, lazily."""
    require_bands(source.items, s1.POLARIZATIONS)
    measured = one_quantity(source.items)
    clean = how.clean
    power = stack(
        source,
        Layer(
            bands=s1.POLARIZATIONS,
            dtype="float32",
            fill=np.nan,
            nodata=s1.NODATA,
            resampling=how.resampling,
            prepare=None if nothing_to_do(clean) else clean,
        ),
    )
    if how.pools_dates:
        power = speckle.quegan(power, window=clean.window)
    month_of = np.array([month(item) for item in source.items])
    empty = [m for m in how.months if m not in set(month_of)]
    if empty:
        log.warning(
            "Sentinel-1: no scene in month %s, filled from its neighbours",
            ", ".join(map(str, empty)),
        )
    shared = {"months": how.months, "month_of": month_of}
    mean = _by_month(_mean_block, power.data, "tpyx", "mpyx", shared, dtype="float32")
    count = _by_month(_count_block, power.data[:, 0], "tyx", "myx", shared, dtype="uint16")
    return xr.Dataset(
        {
            "s1": (
                ("month", "polarization", "y", "x"),
                mean,
                {
                    "long_name": "backscatter, monthly mean in power",
                    "units": "dB",
                    "grid_mapping": "spatial_ref",
                },
            ),
            "s1_count": (
                ("month", "y", "x"),
                count,
                {
                    "long_name": "acquisitions, 0 where filled from other months",
                    "grid_mapping": "spatial_ref",
                },
            ),
        },
        coords={"month": list(how.months), "polarization": list(s1.POLARIZATIONS)},
        attrs={
            "s1_scenes": len(source.items),
            "s1_period": period(source.items),
            "s1_collections": summary(str(i.collection_id) for i in source.items),
            "s1_quantity": measured,
            "s1_level": summary(catalog_of(i).level(i) for i in source.items),
            "s1_orbit": how.orbit or "both",
            "s1_speckle": _described(how),
            "s1_border_noise": "masked" if how.without_border else "zero and negative power only",
            "s1_empty_months": ", ".join(map(str, empty)) or "none",
        },
    )


def radar_items(
    items: list[pystac.Item], months: tuple[int, ...], orbit: str | None, grid: Grid
) -> list[pystac.Item]:
    """Scenes of the months and passes wanted.

    Raises
    ------
    NoItemsError
        If there is none.
    """
    radar = reaching([i for i in items if sensor(i) == "sentinel-1"], s1.POLARIZATIONS, grid)
    kept = [
        i
        for i in radar
        if month(i) in months
        and (orbit is None or str(i.properties.get("sat:orbit_state")).lower() == orbit)
    ]
    if not kept:
        passes = f" on {orbit} passes" if orbit else ""
        raise NoItemsError(
            f"no Sentinel-1 scene in months {list(months)}{passes} over {grid.describe()}: "
            f"{len(radar)} radar items overlap it. Search those months, or use dataset 'S2'."
        )
    return kept


def one_quantity(items: list[pystac.Item]) -> str:
    """gamma0 of RTC or sigma0 of a calibrated GRD; they differ by the terrain and do not mix.

    Raises
    ------
    CatalogError
        If both are there, or a scene is uncalibrated.
    """
    measured = {quantity(item) for item in items}
    if len(measured) > 1:
        collections = " and ".join(sorted({str(i.collection_id) for i in items}))
        raise CatalogError(
            f"Sentinel-1 scenes of {collections} do not mix: one is terrain-corrected gamma0, the "
            "other sigma0. Take one collection."
        )
    return measured.pop()


def _by_month(
    block: Any, power: da.Array, of: str, out: str, shared: dict[str, Any], *, dtype: str
) -> da.Array:
    return da.blockwise(
        partial(block, **shared),
        out,
        power,
        of,
        new_axes={"m": len(shared["months"])},
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype=dtype),
    )


def _mean_block(
    power: NDArray[np.float32], *, months: tuple[int, ...], month_of: NDArray[np.int64]
) -> NDArray[np.float32]:
    return s1.monthly_db_array(whole(power), month_of, months=months)


def _count_block(
    power: NDArray[np.float32], *, months: tuple[int, ...], month_of: NDArray[np.int64]
) -> NDArray[np.uint16]:
    return s1.monthly_mean_array(whole(power), month_of, months=months)[1]


def _described(how: Radar) -> str:
    if how.speckle is None:
        return "none"
    chosen = speckle.FILTERS[how.speckle]
    settings = {"window": how.clean.window, "looks": how.looks}
    told = ", ".join(f"{name} {settings[name]:g}" for name in chosen.settings)
    return f"{how.speckle} ({told}) in linear power"
