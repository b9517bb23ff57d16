"""Simulated Sentinel-1 and Sentinel-2 scenes as COGs and STAC items, the truth beside them.

Everything is made from a seed and says so: nothing here was measured by a satellite.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import ConfigError, ReadError
from deepforest_xr.legend import amazon13
from deepforest_xr.testing import mapbiomas, stac, tiles
from deepforest_xr.testing.landscape import Land, build
from deepforest_xr.testing.noise import Shape, blur, stream
from deepforest_xr.testing.signatures import BANDS, Signal, speckle
from deepforest_xr.testing.weather import Sky, classify_scene, sky, sun

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from affine import Affine

    from deepforest_xr.grid import Grid

OFFSET_BEGINS = 2022
"""Year from which every scene is processed with baseline 04.00 or later."""

ZERO_BORDERS_END = datetime(2018, 3, 13, tzinfo=UTC)
"""Before it, Sentinel-1 products have zeros beyond the edge of the swath (IPF 2.90)."""

S1_NODATA = -32768.0
_BRIGHTER = {"ascending": 1.0, "descending": 10**-0.03}  # 0.3 dB between the orbits


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedScene:
    """What `simulate_scene` has written."""

    folder: Path
    """Holds everything below."""

    items: Path
    """STAC ItemCollection; hrefs are relative to this file."""

    labels: Path
    """uint8 GeoTIFF in EPSG:4326, about 30 m, codes of MapBiomas collection 8, 0 = no data."""

    truth: Path
    """uint8 GeoTIFF on `grid`, codes 1 to 13 of `amazon13`, without an error."""

    grid: Grid
    """The truth's 10 m grid (EPSG:32721), completely covered by every month's scenes."""


def open_scene(folder: str | Path) -> SimulatedScene:
    """Find again what `simulate_scene` has written to a folder.

    Raises
    ------
    ReadError
        If there is no whole scene.
    """
    import rasterio
    from rasterio.errors import RasterioError

    from deepforest_xr.grid import Grid, parse_crs

    folder = Path(folder)
    names = {"items": "items.json", "labels": "mapbiomas.tif", "truth": "truth.tif"}
    paths = {key: folder / name for key, name in names.items()}
    try:
        with rasterio.open(paths["truth"]) as truth:
            grid = Grid(parse_crs(truth.crs.to_wkt()), truth.transform, truth.shape)
    except RasterioError as error:
        raise ReadError(f"{str(folder)!r} holds no simulated scene: simulate it again.") from error
    if missing := [path.name for path in paths.values() if not path.exists()]:
        raise ReadError(f"{str(folder)!r} lacks {missing[0]}: simulate the scene again.")
    return SimulatedScene(folder=folder, grid=grid, **paths)


def simulate_scene(
    folder: str | Path,
    *,
    shape: Shape = (768, 768),
    year: int = 2018,
    months: Collection[int] = range(1, 13),
    seed: int = 0,
    s2_per_month: int = 1,
    s1_looks: float = 4.4,
    missing_months: Collection[int] = (3, 10),
    s2_missing_months: Collection[int] = (),
) -> SimulatedScene:
    """Write a year of simulated scenes over 54 W, 8 S, where two UTM zones meet.

    Each Sentinel-2 date has three overlapping granules in EPSG:32721 and EPSG:32722. For a
    year before 2022 every third granule counts as reprocessed: it has baseline 05.00 and
    1000 added to its numbers, its neighbour of the same date may not have. Each month has
    one ascending Sentinel-1 scene (EPSG:32721) and one descending (EPSG:32722, 0.3 dB
    darker, with zeros at its border until March 2018).

    The truth is the middle of a `landscape` twelve pixels larger on each side, so in a small
    scene its class shares are only roughly those of the paper.

    Parameters
    ----------
    folder : path
        Made if needed. ``items.json`` is written last: where it is, all else is.
    shape : (rows, columns)
        Of the truth, pixels of 10 m, at least 64 x 64.
    year : int
        2016 to 2098.
    months : collection of int
        1 to 12; a month is the same whichever others are simulated.
    seed : int
        Same arguments, same pixels.
    s2_per_month : int
        Sentinel-2 dates a month, 1 to 6.
    s1_looks : float
        Equivalent number of looks: the fewer, the more speckle.
    missing_months : collection of int
        Months without any Sentinel-1 acquisition, as happens over Brazil.
    s2_missing_months : collection of int
        Months without any Sentinel-2 date.

    Returns
    -------
    SimulatedScene

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    """
    plan = _Plan(
        year=year,
        months=tuple(sorted(set(months))),
        seed=seed,
        s2_per_month=s2_per_month,
        s1_looks=s1_looks,
        s1_missing=frozenset(missing_months),
        s2_missing=frozenset(s2_missing_months),
    )
    folder = Path(folder)
    on = tiles.canvas(shape)
    land = build(on.shape, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    scene = SimulatedScene(
        folder=folder,
        items=folder / "items.json",
        labels=folder / "mapbiomas.tif",
        truth=folder / "truth.tif",
        grid=on.grid,
    )
    scene.items.unlink(missing_ok=True)
    write = _Writer(seed)
    _write_truth(scene, land, on, write)
    signal = Signal(land, seed=seed)
    items = [
        *_sentinel2(plan, on, signal, scene.folder, write),
        *_sentinel1(plan, on, signal, scene.folder, write),
    ]
    _write_items(scene, items, seed)
    return scene


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """When the satellites pass; checked when made."""

    year: int
    months: tuple[int, ...]
    seed: int
    s2_per_month: int
    s1_looks: float
    s1_missing: frozenset[int]
    s2_missing: frozenset[int]

    def __post_init__(self) -> None:
        if not self.months or not set(self.months) <= set(range(1, 13)):
            raise ConfigError(f"months={self.months} are not months; give some of 1 to 12.")
        if not 1 <= self.s2_per_month <= 6:
            raise ConfigError(
                f"s2_per_month={self.s2_per_month}; both satellites pass 1 to 6 times."
            )
        if not self.s1_looks > 0:
            raise ConfigError(f"s1_looks={self.s1_looks} must be positive; Sentinel-1 GRD has 4.4.")
        if not 2016 <= self.year <= 2098 or self.seed < 0:
            raise ConfigError(
                f"year={self.year}, seed={self.seed}: years are 2016 to 2098, seeds 0 or more."
            )

    def s2_passes(self) -> Iterator[list[stac.S2Pass]]:
        """Granules of each date, in the order of `tiles.GRANULES`."""
        for month in (m for m in self.months if m not in self.s2_missing):
            start = stream(self.seed, "s2 dates", self.year, month).uniform()
            for number in range(self.s2_per_month):
                day = 1 + int(28 * (number + start) / self.s2_per_month)
                when = datetime(self.year, month, day, 13, 58, 41, 24_000, tzinfo=UTC)
                turn = month * self.s2_per_month + number
                yield [
                    stac.S2Pass(
                        when=when,
                        satellite=("S2A", "S2B")[turn % 2],
                        tile=name,
                        baseline=self._baseline(turn + place),
                    )
                    for place, (name, *_) in enumerate(tiles.GRANULES)
                ]

    def _baseline(self, turn: int) -> str:
        if turn % 3 == 2:
            return "05.00"
        return "02.12" if self.year < OFFSET_BEGINS else "05.10"

    def s1_passes(self) -> Iterator[stac.S1Pass]:
        """One ascending and one descending acquisition a month."""
        for month in (m for m in self.months if m not in self.s1_missing):
            rng = stream(self.seed, "s1 dates", self.year, month)
            first = datetime(self.year, month, 1, 21, 46, 3, tzinfo=UTC)
            for orbit, hour in (("ascending", 0.0), ("descending", -12.4)):
                when = first + timedelta(days=int(rng.integers(1, 27)), hours=hour)
                satellite = "S1A" if orbit == "ascending" else "S1B"
                yield stac.S1Pass(when=when, satellite=satellite, orbit=orbit, looks=self.s1_looks)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes one band as a cloud-optimised GeoTIFF that says it is simulated."""

    seed: int

    def __call__(
        self,
        path: Path,
        image: np.ndarray,
        *,
        epsg: int,
        transform: Affine,
        nodata: float,
        colors: dict[int, tuple[int, int, int]] | None = None,
    ) -> Path:
        import rasterio

        path.parent.mkdir(exist_ok=True)
        rows, cols = image.shape
        longest = max(rows, cols)
        options: dict[str, Any] = {
            "compress": "deflate",
            "level": 1,  # noise hardly compresses: harder tries cost time only
            "predictor": "FLOATING_POINT" if image.dtype.kind == "f" else "STANDARD",
            "blocksize": 256 if longest > 128 else 128,
            "overviews": "IGNORE_EXISTING" if longest > 512 else "NONE",
            # Means of codes would be codes of something else.
            "overview_resampling": "nearest" if image.dtype == "uint8" else "average",
        }
        with rasterio.open(
            path,
            "w",
            driver="COG",
            height=rows,
            width=cols,
            count=1,
            dtype=image.dtype,
            crs=f"EPSG:{epsg}",
            transform=transform,
            nodata=nodata,
            **options,
        ) as out:
            out.write(image, 1)
            out.update_tags(TIFFTAG_IMAGEDESCRIPTION=stac.description(self.seed))
            if colors:
                out.write_colormap(1, {0: (0, 0, 0)} | colors)
        return path


def _write_truth(scene: SimulatedScene, land: Land, on: tiles.Canvas, write: _Writer) -> None:
    truth = np.ascontiguousarray(land.codes[on.inner])
    write(
        scene.truth,
        truth,
        epsg=tiles.WEST,
        transform=on.grid.transform,
        nodata=0,
        colors=amazon13().rgb(),
    )
    to = mapbiomas.label_grid(on)
    labels = mapbiomas.labels(land.codes, on=on, to=to, seed=write.seed)
    write(scene.labels, labels, epsg=4326, transform=to.transform, nodata=0)


def _sentinel2(
    plan: _Plan, on: tiles.Canvas, signal: Signal, folder: Path, write: _Writer
) -> Iterator[stac.Json]:
    """Write every date's granules and yield their items."""
    granules = tiles.granules(on)
    for passes in plan.s2_passes():
        when = passes[0].when
        day = when.toordinal()
        _, azimuth = sun(when.timetuple().tm_yday)
        above = sky(on.shape, month=when.month, day=day, azimuth=azimuth, seed=plan.seed)
        dry = signal.dryness(when.month + when.day / 30)
        ground = {}
        for band in BANDS:
            light = blur(signal.reflectance(band, dry, day=day))
            if band in ("B03", "B04", "B08"):
                ground[band] = light
            seen = above.seen(band, light)
            for granule, tile in zip(passes, granules, strict=True):
                _write_band(granule, tile, band, seen, folder, write)
        for granule, tile in zip(passes, granules, strict=True):
            yield stac.s2_item(
                granule, tile, _write_scl(granule, tile, ground, above, folder, write)
            )


def _write_band(
    granule: stac.S2Pass,
    tile: tiles.Tile,
    band: str,
    seen: np.ndarray,
    folder: Path,
    write: _Writer,
) -> None:
    """Digital numbers at the band's own resolution."""
    factor = stac.S2_ASSETS[band][0] // 10
    counts = np.rint(tiles.coarsen(tile.sample(seen), factor) * 10_000) + granule.offset
    counts = np.clip(counts, 1, 65_535).astype("uint16")
    counts[~_whole(tile, factor)] = 0
    write(
        folder / granule.name() / f"{band}.tif",
        counts,
        epsg=tile.epsg,
        nodata=0,
        transform=tile.transform @ tile.transform.scale(factor),
    )


def _write_scl(
    granule: stac.S2Pass,
    tile: tiles.Tile,
    ground: dict[str, np.ndarray],
    above: Sky,
    folder: Path,
    write: _Writer,
) -> np.ndarray:
    """Scene classification at 20 m."""
    coarse = {band: tiles.coarsen(tile.sample(light), 2) for band, light in ground.items()}
    over = Sky(
        **{
            part: tiles.coarsen(tile.sample(getattr(above, part)), 2)
            for part in ("cloud", "veil", "shadow")
        }
    )
    scl = classify_scene(coarse["B04"], coarse["B03"], coarse["B08"], over)
    scl[~_whole(tile, 2)] = 0
    write(
        folder / granule.name() / "SCL.tif",
        scl,
        epsg=tile.epsg,
        nodata=0,
        transform=tile.transform @ tile.transform.scale(2),
    )
    return scl


def _whole(tile: tiles.Tile, factor: int) -> np.ndarray:
    """Whether each coarse pixel lies wholly on the landscape."""
    covered = tiles.coarsen(tile.valid.astype("float32"), factor)
    return np.asarray(covered == 1)


def _sentinel1(
    plan: _Plan, on: tiles.Canvas, signal: Signal, folder: Path, write: _Writer
) -> Iterator[stac.Json]:
    """Write every acquisition and yield its item."""
    swaths = {
        "ascending": tiles.cut(on, "ascending", tiles.WEST, border=120),
        "descending": tiles.cut(on, "descending", tiles.EAST),
    }
    for scene in plan.s1_passes():
        tile = swaths[scene.orbit]
        dry = signal.dryness(scene.when.month + scene.when.day / 30)
        rng = stream(plan.seed, f"speckle {scene.orbit}", scene.when.toordinal())
        files = {}
        for key in ("vv", "vh"):
            mean = _BRIGHTER[scene.orbit] * tile.sample(signal.gamma0(key, dry))
            power = speckle(mean, looks=plan.s1_looks, rng=rng)
            if scene.orbit == "descending" and scene.when < ZERO_BORDERS_END:
                power[tile.source % on.shape[1] < 3] = 0
            power[~tile.valid] = S1_NODATA
            path = write(
                folder / scene.name / f"{key}.tif",
                power,
                epsg=tile.epsg,
                transform=tile.transform,
                nodata=S1_NODATA,
            )
            content = path.read_bytes()
            files[key] = (len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())
        yield stac.s1_item(scene, tile, files)


def _write_items(scene: SimulatedScene, items: list[stac.Json], seed: int) -> None:
    """Write the collections, then the items: the sign that all is there."""
    for name in ("sentinel-2-l2a", "sentinel-1-rtc"):
        members = [item for item in items if item["collection"] == name]
        if members:
            text = json.dumps(stac.collection(name, members, seed=seed), indent=1)
            (scene.folder / f"{name}.json").write_text(text, encoding="utf-8")
    features = {
        "type": "FeatureCollection",
        "description": stac.description(seed),
        "features": items,
    }
    part = scene.items.with_suffix(".part")
    part.write_text(json.dumps(features, indent=1), encoding="utf-8")
    part.replace(scene.items)
