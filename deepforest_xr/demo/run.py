"""The stages of a demo, one after the other.

Each ends in a file or store that is whole or absent, so a run that was interrupted is
continued by the same call: what is there is not made again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from deepforest_xr.accuracy import Report, assess
from deepforest_xr.atomic import staged
from deepforest_xr.catalogs import asset_for
from deepforest_xr.chips import Chips, ChipSpec, open_chips, write_chips
from deepforest_xr.classify import classify
from deepforest_xr.cube import DATASETS, open_cube
from deepforest_xr.demo.area import Area, area_on_disk, simulated_area
from deepforest_xr.demo.report import report_text
from deepforest_xr.demo.settings import DemoSettings
from deepforest_xr.errors import ConfigError, WriteError
from deepforest_xr.labels import align_labels
from deepforest_xr.legend import amazon13
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
SMALL_AREA = 320
"""Pixels; a shorter side gives too few chips without context."""

STRIDE = 32

PIXELS_SHOWN = 4_000_000
"""In training, where the epochs are not given."""

STEPS = (60, 300)
"""At least and at most, where the epochs are not given."""

OUTPUTS = (
    "scenes",
    "cube.zarr",
    "chips.zarr",
    "run",
    "map.zarr",
    "map.tif",
    "map.tif.aux.xml",
    "map.qml",
    "map_confidence.tif",
    "map_confidence.qml",
    "map.json",
    "map.png",
    "confusion.png",
    "curve.png",
    "accuracy.json",
    "report.md",
    "demo.json",
)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where the results are, and the scores."""

    out: Path
    """Folder of all outputs."""

    report: Report
    """Scores on held-out blocks, against the labels."""

    truth: Report | None
    """Scores on held-out blocks against the truth, which only a simulation knows."""


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
    # What is on disk is looked up before the folder is touched: a wrong name leaves no trace.
    area = None if settings.items is None else area_on_disk(settings)
    _claim(out, settings, overwrite=overwrite)
    if area is None:
        with stage("Simulated scenes"):
            area = simulated_area(out / "scenes", settings)
    with stage("Cube to Zarr") as progress:
        cube = _cube(out, area, settings, progress)
    labels = align_labels(
        area.labels, like=cube, collection=area.collection, legend=area.legend
    ).load()
    with stage("Chips") as progress:
        chips = _chips(out, cube, labels, settings, progress)
    with stage(f"Training {settings.model}"):
        checkpoint = _train(out, chips, settings)
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
        if not card.exists():
            with staged(card) as part:
                part.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"demo folder {str(out)!r} cannot be written: {error}.") from error


def _cube(out: Path, area: Area, settings: DemoSettings, progress: Progress | None) -> xr.Dataset:
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
        spec = ChipSpec(size=settings.chip, seed=settings.seed)
        if (side := min(labels.shape)) < SMALL_AREA:
            size = max(side // STRIDE, 1) * STRIDE
            spec = ChipSpec(
                size=size,
                cell=size // next(n for n in (7, 6, 5, 4) if size % n == 0),
                fractions=(0.6, 0.2, 0.2),
                seed=settings.seed,
            )
        # What an interrupted run of other settings has left does not count.
        write_chips(cube, labels, path, spec=spec, overwrite=True, progress=progress)
    return open_chips(path)


def _epochs(chips: Chips, batch: int) -> int:
    count = len(chips.indices("train"))
    steps = -(-count // batch)
    wanted = PIXELS_SHOWN / (count / steps * int(chips.attrs["size"]) ** 2)
    return round(min(max(wanted, STEPS[0]), STEPS[1]) / steps) or 1


def _train(out: Path, chips: Chips, settings: DemoSettings) -> Path:
    checkpoint = out / "run" / "checkpoint"
    if checkpoint.exists():
        return checkpoint
    epochs = settings.epochs or _epochs(chips, settings.batch)
    return train(
        out / "chips.zarr",
        model=settings.model,
        out=out / "run",
        settings=TrainSettings(
            epochs=epochs,
            patience=max(10, epochs // 3),
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
    area: Area,
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
    text = report_text(report, truth, cube, chips, settings, area)
    with staged(out / "report.md", overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
    return DemoResult(out, report, truth)
