"""Stratified random points of a map, to be labelled by eye, and the way back to counts.

A pixel's rank is the number that SplitMix64 gives at its position in the map; a class's
sample is its pixels of lowest rank. So one pass over the blocks is enough, the points depend
on the seed and not on the chunks, and a larger sample with the same seed holds the smaller
one: points can be added later without labelling anew.

Tables and text only: `deepforest_xr.maps.write_points` writes the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.accuracy.blocks import codes_and_legend, reduce_blocks
from deepforest_xr.errors import ConfigError, GridError, LabelError
from deepforest_xr.grid import Grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import xarray as xr

    from deepforest_xr.legend import Legend

log = logging.getLogger(__name__)

COLUMNS = ("id", "x", "y", "longitude", "latitude", "code", "class", "reference")
SQUARE_METRES_PER_HECTARE = 10_000.0
# Steele, Lea and Flood 2014: increment and multipliers of SplitMix64.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mapped_area(lulc: xr.DataArray) -> np.ndarray:
    """Measure each class of a map in hectares, block by block.

    Parameters
    ----------
    lulc : DataArray of integers, dims (y, x)
        Class codes with CF flags and ``spatial_ref``; 0 is no data.

    Returns
    -------
    ndarray[float64], dims (class,)
        In the order of the legend. Of a projected CRS the area in its plane, which in UTM
        differs from the ground's by 0.1 %; of a geographic one the ellipsoid's.

    Raises
    ------
    DtypeError
        If the map does not hold integers.
    GridError
        If it has no grid.
    """
    array, legend = codes_and_legend(lulc)
    hectares = _row_hectares(Grid.of(lulc))
    task = partial(_block_area, codes=legend.codes, hectares=hectares)
    area: np.ndarray = reduce_blocks(array, task, _add)
    return area


def _block_area(
    block: np.ndarray, row: int, _col: int, *, codes: list[int], hectares: np.ndarray
) -> np.ndarray:
    weights = hectares[row : row + block.shape[0]]
    return np.array([(block == code).sum(axis=1) @ weights for code in codes])


def _add(parts: list[np.ndarray]) -> np.ndarray:
    total: np.ndarray = np.sum(parts, axis=0)
    return total


def _row_hectares(grid: Grid) -> np.ndarray:
    """Area of a pixel of each row."""
    rows = grid.shape[0]
    xres, yres = grid.resolution
    if not grid.crs.is_geographic:
        metres = grid.crs.axis_info[0].unit_conversion_factor
        return np.full(rows, xres * yres * metres**2 / SQUARE_METRES_PER_HECTARE)
    ellipsoid = grid.crs.ellipsoid
    if ellipsoid is None:
        raise GridError(f"{grid.crs.name} has no ellipsoid: reproject the map first.")
    minor, flattening = ellipsoid.semi_minor_metre, 1 / (ellipsoid.inverse_flattening or np.inf)
    e = max(np.sqrt(flattening * (2 - flattening)), 1e-9)
    edges = np.radians(grid.transform.f + grid.transform.e * np.arange(rows + 1))
    s = np.sin(edges)
    # Area from the equator to a parallel, per radian of longitude.
    zone = minor**2 / 2 * (s / (1 - (e * s) ** 2) + np.arctanh(e * s) / e)
    area: np.ndarray = -np.diff(zone) * np.radians(xres) / SQUARE_METRES_PER_HECTARE
    return area


def draw_points(
    lulc: xr.DataArray,
    units: Sequence[int] | np.ndarray | Mapping[int, int],
    *,
    seed: int = 0,
    allow_fewer: bool = False,
) -> pd.DataFrame:
    """Draw points at random within each class of a map, without replacement.

    Parameters
    ----------
    lulc : DataArray of integers, dims (y, x)
        Class codes with CF flags and ``spatial_ref``; computed block by block where it is
        dask-backed, never whole.
    units : sequence of int, or mapping from code to int
        Points of each class, in the order of the legend (`SamplePlan.units`).
    seed : int
        Same seed, same map, same points, whatever the chunks.
    allow_fewer : bool
        Of a class with fewer pixels than points take all, and log it.

    Returns
    -------
    pandas.DataFrame
        ``id``, ``x`` and ``y`` of the pixel's centre in the map's CRS, ``longitude`` and
        ``latitude`` (degrees), ``code`` and ``class`` of the map, and an empty ``reference``
        to be filled in. In random order: whoever labels sees no class after the other, and
        should not be shown `code` and `class`.

    Raises
    ------
    ConfigError
        If a class has fewer pixels than points (or none), or `units` does not fit the legend.
    DtypeError
        If the map does not hold integers.
    GridError
        If it has no grid.
    """
    import pandas as pd
    from pyproj import Transformer

    array, legend = codes_and_legend(lulc)
    grid, wanted = Grid.of(lulc), _wanted(units, legend)
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    task = partial(_lowest_of_block, wanted=wanted, width=grid.shape[1], start=start)
    drawn = reduce_blocks(array, task, partial(_lowest, wanted=wanted))
    _require_enough(drawn, wanted, legend, allow_fewer=allow_fewer)
    codes = np.repeat(list(wanted), [drawn[code].ranks.size for code in wanted])
    ranks = np.concatenate([drawn[code].ranks for code in wanted])
    places = np.concatenate([drawn[code].places for code in wanted])
    # The ranks themselves would put common classes first: theirs are the lowest.
    order = np.argsort(_splitmix64(ranks, start), kind="stable")
    rows, cols = np.divmod(places[order], grid.shape[1])
    x = grid.transform.c + grid.transform.a * (cols + 0.5)
    y = grid.transform.f + grid.transform.e * (rows + 0.5)
    degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    names = dict(zip(legend.codes, legend.names, strict=True))
    values = (
        np.arange(1, places.size + 1), x, y, *degrees, codes[order],
        [names[code] for code in codes[order]], pd.array([pd.NA] * places.size, dtype="Int64"),
    )  # fmt: skip
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """The pixels of lowest rank of one class."""

    ranks: np.ndarray
    """uint64."""

    places: np.ndarray
    """int64, row times width plus column."""

    pixels: int
    """Pixels of the class seen."""


def _wanted(
    units: Sequence[int] | np.ndarray | Mapping[int, int], legend: Legend
) -> dict[int, int]:
    """Points of each class that gets any."""
    if isinstance(units, Mapping):
        pairs = {int(code): int(n) for code, n in units.items()}
    elif len(units) == len(legend.codes):
        pairs = {code: int(n) for code, n in zip(legend.codes, units, strict=True)}
    else:
        raise ConfigError(f"{len(units)} numbers of points for {len(legend.codes)} classes.")
    if unknown := sorted(set(pairs) - set(legend.codes)):
        raise ConfigError(f"points for codes {unknown}, which are not in {sorted(legend.codes)}.")
    if min(pairs.values(), default=0) < 0 or not any(pairs.values()):
        raise ConfigError(f"points of each class {pairs} must be 0 or more, and not all 0.")
    return {code: n for code, n in pairs.items() if n}


def _lowest_of_block(
    block: np.ndarray, row: int, col: int, *, wanted: dict[int, int], width: int, start: np.uint64
) -> dict[int, _Drawn]:
    rows, cols = np.arange(block.shape[0])[:, None] + row, np.arange(block.shape[1]) + col
    places = (rows * width + cols).ravel()
    ranks, codes = _splitmix64(places, start), block.ravel()
    found = {}
    for code, n in wanted.items():
        mine = np.flatnonzero(codes == code)
        found[code] = _keep(ranks[mine], places[mine], n, mine.size)
    return found


def _splitmix64(places: np.ndarray, start: np.uint64) -> np.ndarray:
    """Outputs number `places` of the generator SplitMix64 started at `start`."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        z: np.ndarray = start + (places.astype("uint64") + np.uint64(1)) * GOLDEN
        z ^= z >> np.uint64(30)
        z *= MIX_1
        z ^= z >> np.uint64(27)
        z *= MIX_2
    z ^= z >> np.uint64(31)
    return z


def _keep(ranks: np.ndarray, places: np.ndarray, n: int, pixels: int) -> _Drawn:
    if ranks.size > n:
        lowest = np.argpartition(ranks, n - 1)[:n]
        ranks, places = ranks[lowest], places[lowest]
    return _Drawn(ranks, places, pixels)


def _lowest(parts: list[dict[int, _Drawn]], wanted: dict[int, int]) -> dict[int, _Drawn]:
    return {
        code: _keep(
            np.concatenate([part[code].ranks for part in parts]),
            np.concatenate([part[code].places for part in parts]),
            n,
            sum(part[code].pixels for part in parts),
        )
        for code, n in wanted.items()
    }


def _require_enough(
    drawn: dict[int, _Drawn], wanted: dict[int, int], legend: Legend, *, allow_fewer: bool
) -> None:
    names = dict(zip(legend.codes, legend.names, strict=True))
    for code, n in wanted.items():
        pixels = drawn[code].pixels
        if pixels >= n:
            continue
        said = f"{n} points wanted of {names[code]!r} (code {code}), which has {pixels} pixels"
        if not allow_fewer or not pixels:
            raise ConfigError(f"{said}: ask for fewer.")
        log.warning("%s: all are drawn", said)


def points_to_geojson(table: pd.DataFrame) -> str:
    """Give a table of points as GeoJSON (RFC 7946, WGS 84), for QGIS or Collect Earth.

    Parameters
    ----------
    table : DataFrame
        From `draw_points`; other columns become properties too, missing values null.
    """
    features = []
    for record in table.to_dict(orient="records"):
        properties = {str(key): _plain(value) for key, value in record.items()}
        place = [properties.pop("longitude"), properties.pop("latitude")]
        features.append(
            {
                "type": "Feature",
                "id": properties["id"],
                "geometry": {"type": "Point", "coordinates": place},
                "properties": properties,
            }
        )
    content = {"type": "FeatureCollection", "features": features}
    return json.dumps(content, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value JSON knows."""
    import pandas as pd

    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def counts_from_points(
    table: pd.DataFrame, legend: Legend, *, mapped: str = "code", reference: str = "reference"
) -> np.ndarray:
    """Count labelled points by map class and reference class.

    Parameters
    ----------
    table : DataFrame
        From `draw_points`, the reference column filled in.
    legend : Legend
        The map's.
    mapped, reference : str
        Columns; a class is its code or its name. Points without a reference are left out,
        and their number is logged: they bias the estimates unless they are missing at random.

    Returns
    -------
    ndarray[int64], dims (map, reference)
        For `area_adjusted`.

    Raises
    ------
    ConfigError
        If a column is missing.
    LabelError
        If a class is unknown, or no point is labelled.
    """
    for name in (mapped, reference):
        if name not in table.columns:
            raise ConfigError(f"the points have no column {name!r}, but {list(table.columns)}.")
    labelled = table[table[reference].notna() & (table[reference].astype(str).str.strip() != "")]
    if labelled.empty:
        raise LabelError(f"none of {len(table)} points has a {reference!r}: label them first.")
    if missing := len(table) - len(labelled):
        log.warning("%d of %d points have no label and are left out", missing, len(table))
    rows = [_position(value, legend, mapped) for value in labelled[mapped]]
    cols = [_position(value, legend, reference) for value in labelled[reference]]
    counts = np.zeros((len(legend.codes),) * 2, dtype="int64")
    np.add.at(counts, (rows, cols), 1)
    return counts


def _position(value: Any, legend: Legend, column: str) -> int:
    """Row of a class given as code (also as text or float, as tables turn them) or name."""
    text = str(value).strip()
    if text in legend.names:
        return legend.names.index(text)
    try:
        return legend.codes.index(float(text))  # type: ignore[arg-type]  # 3.0 == 3
    except ValueError as error:
        raise LabelError(
            f"{column} {text!r} is no class of legend {legend.name!r}: use a code of "
            f"{sorted(legend.codes)}, or a class's name."
        ) from error
