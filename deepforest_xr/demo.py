"""The whole path in one call: scenes, cube, labels, chips, training, map, scores.

On simulated scenes by default; on items from disk with `items`. Each stage ends in a file
or store that is whole or absent, so a run that was interrupted is continued by the same
call: what is there is not made again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from deepforest_xr.accuracy import Report, assess
from deepforest_xr.catalogs import asset_for, read_items, search
from deepforest_xr.chips import Chips, ChipSpec, open_chips, write_chips
from deepforest_xr.classify import classify
from deepforest_xr.cube import DATASETS, open_cube
from deepforest_xr.errors import ConfigError, LabelError, NoItemsError, WriteError
from deepforest_xr.grid import Bounds, Grid, transform_bounds
from deepforest_xr.labels import align_labels
from deepforest_xr.legend import Legend, amazon13
from deepforest_xr.maps import (
    write_cog,
    write_confusion_picture,
    write_picture,
    write_report,
    write_stac_item,
    write_zarr,
)
from deepforest_xr.sentinel import s2
from deepforest_xr.training import TrainSettings, train

if TYPE_CHECKING:
    import pystac

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Progress | None]]

PICTURE_BANDS = ["B04", "B03", "B02"]
YEAR_DAYS = 366
OUTPUTS = (
    "scenes",
    "cube.zarr",
    "chips.zarr",
    "run",
    "map.zarr",
    "map.tif",
    "map_confidence.tif",
    "map.json",
    "map.png",
    "confusion.png",
    "curve.png",
    "accuracy.json",
    "report.md",
    "demo.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What a demo runs on and how."""

    items: str | None = None
    """STAC items on disk; None simulates scenes."""

    labels: str | None = None
    """Label raster; default: ``labels/<site>.tif`` beside the items."""

    legend: str | None = None
    """CSV of the label codes; default: ``legend.csv`` beside the label raster."""

    collection: int | None = None
    """MapBiomas collection of the label raster, instead of a legend."""

    site: str | None = None
    """Value of the items' property ``site``; default: the first that has labels."""

    datetime: str | None = None
    """Period; default: the last twelve months of the items."""

    dataset: str | None = None
    """S2, S1TsS2_7 or S1TsS2_12; default: S1TsS2_7 on simulated scenes, on others Sentinel-2
    with the Sentinel-1 months that exist."""

    model: str = "u-net"
    """Network; the small one learns most in minutes on a CPU."""

    size: int = 512
    """Side of the simulated scene in pixels."""

    chip: int | None = None
    """Side of a chip in pixels; default: 64, or 32 on areas below 320 pixels."""

    epochs: int = 30
    """Epochs at most."""

    batch: int = 4
    """Chips a step; few, because a small area has few chips."""

    learning_rate: float = 1e-3
    """Of Adam; ten times the paper's, because a demo has few steps."""

    seed: int = 0
    """Of simulation, split and training."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where the results are, and the scores."""

    out: Path
    """Folder of all outputs."""

    report: Report
    """Scores on held-out blocks, against the labels."""

    truth: Report | None
    """Scores on held-out blocks against the truth, which only a simulation knows."""


@dataclass(frozen=True, slots=True)
class _Area:
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


def run_demo(
    out: str | Path,
    settings: DemoSettings | None = None,
    *,
    overwrite: bool = False,
    stage: Stage | None = None,
) -> DemoResult:
    """Run the whole path and write its results to a folder.

    Parameters
    ----------
    out : path
        Receives ``map.zarr``, ``map.tif``, ``map.png``, ``report.md`` and what leads there.
    settings : DemoSettings
        What to run on and how.
    overwrite : bool
        Begin anew; otherwise a run of the same settings is continued.
    stage : callable(title) -> context manager, optional
        Shows progress: entered for each stage, gives a callback (done, total) or None.

    Returns
    -------
    DemoResult

    Raises
    ------
    ConfigError
        If `out` holds a demo of other settings.
    DeepForestError
        Whatever a stage raises.
    """
    settings = settings or DemoSettings()
    stage = stage or (lambda _title: nullcontext(None))
    out = Path(out)
    _claim(out, settings, overwrite=overwrite)
    with stage("Scenes and labels"):
        area = _simulated(out, settings) if settings.items is None else _on_disk(settings)
    with stage("Cube to Zarr") as progress:
        cube = _cube(out, area, settings, progress)
    labels = align_labels(
        area.labels, like=cube, collection=area.collection, legend=area.legend
    ).load()
    with stage("Chips") as progress:
        chips = _chips(out, cube, labels, settings, progress)
    with stage(f"Training {settings.model}"):
        checkpoint = _train(out, settings)
    with stage("Map") as progress:
        lulc = _map(out, cube, checkpoint, progress)
    with stage("Pictures, scores and report"):
        return _finish(out, lulc, cube, labels, chips, area, settings)


def _claim(out: Path, settings: DemoSettings, *, overwrite: bool) -> None:
    card = out / "demo.json"
    wanted = asdict(settings)
    try:
        if overwrite and card.exists():
            for name in OUTPUTS:
                path = out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        if card.exists() and json.loads(card.read_text(encoding="utf-8")) != wanted:
            raise ConfigError(
                f"{str(out)!r} holds a demo of other settings: begin anew with overwrite, or "
                "choose another folder."
            )
        taken = [name for name in OUTPUTS if (out / name).exists()]
        if taken and not card.exists():
            raise ConfigError(
                f"{str(out)!r} holds {taken[0]!r} that no demo wrote: choose another folder."
            )
        card.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"demo folder {str(out)!r} cannot be written: {error}.") from error


def _simulated(out: Path, settings: DemoSettings) -> _Area:
    from deepforest_xr.testing import simulate_scene

    folder = out / "scenes"
    scene = simulate_scene(folder, shape=(settings.size, settings.size), seed=settings.seed)
    items = search(scene.items, datetime=settings.datetime)
    return _Area(list(items), scene.grid, scene.labels, None, 8, scene.truth)


def _on_disk(settings: DemoSettings) -> _Area:
    source = Path(settings.items or "")
    everything = list(read_items(source))
    for site in _sites(everything, settings):
        items = [i for i in everything if site is None or i.properties.get("site") == site]
        items = _in_period(items, settings.datetime)
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
        return _Area(items, grid, labels, legend, settings.collection, None)
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
    kept = [
        item
        for item, time in zip(items, times, strict=True)
        if (start is None or time >= start) and (end is None or time <= end)
    ]
    if not kept:
        raise NoItemsError(
            f"no scene in {datetime}: the items cover "
            f"{min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}."
        )
    return kept


def _native_grid(item: pystac.Item) -> Grid:
    """The 10 m grid of a scene's own first band, or 10 m over the extent of a coarser one."""
    for band in s2.BANDS:
        asset = asset_for(item, band)
        if asset is None:
            continue
        fields = {**item.properties, **asset.extra_fields}
        if fields.get("proj:bbox") is None:
            continue
        code = fields.get("proj:code") or fields.get("proj:epsg")
        left, bottom, right, top = fields["proj:bbox"]
        return Grid.from_bounds((left, bottom, right, top), crs=code, resolution=10)
    raise NoItemsError(f"scene {item.id!r} states no proj:bbox for any band: its grid is unknown.")


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


def _cube(out: Path, area: _Area, settings: DemoSettings, progress: Progress | None) -> xr.Dataset:
    path = out / "cube.zarr"
    if not path.exists():
        simulated = settings.items is None
        months = _months(area.items, settings.dataset or ("S1TsS2_7" if simulated else None))
        optical = [i for i in area.items if (i.collection_id or "").startswith("sentinel-2")]
        bands = [b for b in s2.BANDS if all(asset_for(i, b) is not None for i in optical)]
        if len(bands) < len(s2.BANDS):
            log.warning("the scenes have only the bands %s", ", ".join(bands))
        cube = open_cube(area.items, grid=area.grid, months=months, bands=bands)
        write_zarr(cube, path, progress=progress)
    opened: xr.Dataset = xr.open_zarr(path)
    return opened


def _months(items: list[pystac.Item], dataset: str | None) -> tuple[int, ...]:
    if dataset is not None:
        if dataset not in DATASETS:
            raise ConfigError(f"dataset={dataset!r} is unknown; known: {', '.join(DATASETS)}.")
        return DATASETS[dataset]
    radar = [i for i in items if (i.collection_id or "").startswith("sentinel-1")]
    return tuple(sorted({i.datetime.month for i in radar if i.datetime is not None}))


def _chips(
    out: Path,
    cube: xr.Dataset,
    labels: xr.DataArray,
    settings: DemoSettings,
    progress: Progress | None,
) -> Chips:
    path = out / "chips.zarr"
    if not path.exists():
        size = settings.chip or (64 if min(labels.shape) >= 320 else 32)
        spec = ChipSpec(size=size, seed=settings.seed)
        write_chips(cube, labels, path, spec=spec, progress=progress)
    return open_chips(path)


def _train(out: Path, settings: DemoSettings) -> Path:
    checkpoint = out / "run" / "checkpoint"
    if checkpoint.exists():
        return checkpoint
    return train(
        out / "chips.zarr",
        model=settings.model,
        out=out / "run",
        settings=TrainSettings(
            epochs=settings.epochs,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
        ),
    )


def _map(out: Path, cube: xr.Dataset, checkpoint: Path, progress: Progress | None) -> xr.Dataset:
    path = out / "map.zarr"
    if not path.exists():
        write_zarr(classify(cube, checkpoint), path, progress=progress)
    opened: xr.Dataset = xr.open_zarr(path)
    return opened


def _finish(
    out: Path,
    lulc: xr.Dataset,
    cube: xr.Dataset,
    labels: xr.DataArray,
    chips: Chips,
    area: _Area,
    settings: DemoSettings,
) -> DemoResult:
    held_out = xr.DataArray(chips.mask("test", labels.shape), dims=("y", "x"))
    majority = chips.legend.codes[int(np.argmax(chips.class_counts("train")))]
    report = assess(lulc, labels, mask=held_out, majority_class=majority)
    truth = None
    if area.truth is not None:
        clean = align_labels(area.truth, like=cube, legend=amazon13())
        truth = assess(lulc, clean, mask=held_out, majority_class=majority)
    write_cog(lulc, out / "map.tif", overwrite=True)
    write_cog(lulc, out / "map.tif", variable="confidence", overwrite=True)
    title = f"{settings.model} on {cube.attrs['dataset']}"
    rgb = cube["s2"].sel(band=PICTURE_BANDS) if set(PICTURE_BANDS) <= set(chips.bands) else None
    write_picture(lulc, out / "map.png", title=title, reference=labels, rgb=rgb, overwrite=True)
    write_confusion_picture(truth or report, out / "confusion.png", overwrite=True)
    shutil.copyfile(out / "run" / "curve.png", out / "curve.png")
    start, end = str(cube.attrs["s2_period"]).split("/")
    files = {"lulc": "map.tif", "confidence": "map_confidence.tif", "preview": "map.png"}
    write_stac_item(
        lulc,
        out / "map.json",
        assets={key: out / name for key, name in files.items()},
        start=start,
        end=end,
        overwrite=True,
    )
    write_report(report, out / "accuracy.json", overwrite=True)
    text = _report_text(report, truth, cube, chips, settings, area)
    (out / "report.md").write_text(text, encoding="utf-8")
    return DemoResult(out, report, truth)


def _report_text(
    report: Report,
    truth: Report | None,
    cube: xr.Dataset,
    chips: Chips,
    settings: DemoSettings,
    area: _Area,
) -> str:
    counts = [len(chips.indices(name)) for name in ("train", "validation", "test")]
    rows = [_score_row("labels of the map's kind", report)]
    if truth is not None:
        rows.append(_score_row("clean truth of the simulation", truth))
    kind = "**Simulated scenes**" if report.simulated else "Real scenes"
    facts: list[tuple[str, Any]] = [
        ("data", f"{kind}, {cube.attrs['dataset']}, {area.grid.describe()}"),
        ("Sentinel-2", f"{cube.attrs['s2_scenes']} scenes, {cube.attrs['s2_period']}"),
        ("offsets", cube.attrs["s2_offset"]),
        ("mask", cube.attrs["s2_mask"]),
        ("Sentinel-1", f"{cube.attrs.get('s1_scenes', 0)} scenes"),
        ("network", f"{settings.model}, at most {settings.epochs} epochs"),
        ("chips", f"{counts[0]} training, {counts[1]} validation, {counts[2]} test"),
        ("labels", area.labels.name),
    ]
    lines = [
        "# deepforest_xr demo",
        "",
        "A small area and minutes of training prove that the path works, nothing more.",
        "",
        "| held-out blocks, against | overall accuracy | majority class | macro F1 | pixels |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *(f"- {name}: {value}" for name, value in facts),
        "",
        "![map](map.png)",
        "",
        "![confusion matrix](confusion.png)",
        "",
        "![training curve](curve.png)",
        "",
        (truth or report).to_markdown(),
        "",
    ]
    return "\n".join(lines)


def _score_row(name: str, report: Report) -> str:
    s = report.scores
    return (
        f"| {name} | {s.overall_accuracy:.1%} | {s.majority_baseline:.1%} | {s.macro_f1:.1%} "
        f"| {s.pixels:,} |"
    )
