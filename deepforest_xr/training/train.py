"""Train a network on chips: resumable, logged, ending in a checkpoint.

A run's folder holds ``run.json`` (what is trained, on what), ``metrics.csv``, ``curve.png``,
``last.ckpt`` and ``best.ckpt`` (Lightning's state, for resuming) and, when the run has
ended, ``checkpoint/``. A folder without ``checkpoint/`` is an interrupted run: the same
call continues it at the last epoch that was finished.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import warnings
import zipfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.atomic import staged
from deepforest_xr.chips import Chips, open_chips
from deepforest_xr.errors import (
    ConfigError,
    DeepForestError,
    MissingExtraError,
    ReadError,
    WriteError,
)
from deepforest_xr.models import Checkpoint, build, channel_names, entry
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training.curve import write_curve
from deepforest_xr.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightning.pytorch as lp
    from lightning.pytorch.loggers import CSVLogger
    from numpy.typing import NDArray

    from deepforest_xr.models.network import Network

log = logging.getLogger(__name__)

STRIDE = 32


def train(
    chips: str | Path,
    *,
    model: str,
    out: str | Path,
    settings: TrainSettings | None = None,
    s2_branch: str | None = None,
    progress: bool = True,
) -> Path:
    """Train a network on a store of chips.

    Parameters
    ----------
    chips : str or Path
        From `write_chips`.
    model : str
        Name of a network, see `deepforest_xr.models.names`. Two-branch networks need
        chips with Sentinel-1; one-branch networks take all channels stacked.
    out : str or Path
        Folder of the run. An interrupted run there is continued, if it is the same.
    settings : TrainSettings
        Epochs, batch, learning rate, patience, seed, device.
    s2_branch : str, optional
        Variant of a two-branch network's Sentinel-2 branch.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        ``out/checkpoint``, of the epoch with the best validation accuracy.

    Raises
    ------
    ConfigError
        If the run in `out` is finished or another one, or the network does not fit.
    MissingExtraError
        If Lightning is not installed.
    ChipError, ReadError
        If the chips, or the state of an interrupted run, cannot be used.
    WriteError
        If the run cannot be saved; it can be continued.
    """
    _require_lightning()
    settings = settings or TrainSettings()
    store = open_chips(chips)
    out = Path(out)
    finished = out / "checkpoint"
    if finished.exists():
        raise ConfigError(f"{str(finished)!r} exists: this run has ended. Choose another folder.")
    known = entry(model)
    if known.is_two_branch and store.months is None:
        raise ConfigError(
            f"{model} needs Sentinel-1, the chips hold {', '.join(store.bands)} only: "
            "cut them from a cube with months, or take a one-branch network."
        )
    from deepforest_xr.training.data import statistics
    from deepforest_xr.training.losses import loss_of, weights_of

    loss_of(settings.loss)
    weights_of(settings.class_weights, store.class_counts("train"))
    mean, std = statistics(store)
    run = _describe(store, model, settings, s2_branch, mean)
    network = _build(store, model, settings, s2_branch)
    _require_batches(store, settings)
    _require_device(settings.device)
    is_new = _claim(out, run)
    with _quiet(), _saving(out):
        _fit(network, store, (mean, std), settings, out, resume=not is_new, progress=progress)
    checkpoint = Checkpoint.from_module(
        network,
        bands=channel_names(store.months, store.bands),
        mean=mean.tolist(),
        std=std.tolist(),
        months=store.months,
        legend=store.legend,
        provenance=run,
    )
    simulated = ", simulated scenes" if store.attrs["cube"].get("simulated") else ""
    write_curve(out / "metrics.csv", out / "curve.png", title=f"{model}{simulated}")
    return checkpoint.save(finished)


def _require_lightning() -> None:
    if find_spec("lightning") is None:
        raise MissingExtraError(
            'training needs Lightning: pip install "deepforest-xr[train]" '
            "(torch first, in the build you want)."
        )


def _describe(
    store: Chips,
    model: str,
    settings: TrainSettings,
    s2_branch: str | None,
    mean: NDArray[np.float64],
) -> dict[str, Any]:
    """What the run is: another description is another run."""
    return {
        "model": model,
        "s2_branch": s2_branch,
        # A run may go on elsewhere: device and workers are no part of what it is.
        "settings": {k: v for k, v in settings.to_dict().items() if k not in {"device", "workers"}},
        "chips": {
            "count": len(store.split),
            "size": store.attrs["size"],
            "bands": list(store.bands),
            "months": None if store.months is None else list(store.months),
            "seed": store.attrs["seed"],
            "legend": store.legend.to_dict(),
            "histogram": store.histogram.sum(axis=0).tolist(),
            "split": np.bincount(store.split).tolist(),
            # Other pixels have another mean: a fingerprint that costs no second reading.
            "mean_of_means": float(np.round(mean.mean(), 9)),
            "cube": store.attrs["cube"],
        },
    }


def _claim(out: Path, run: dict[str, Any]) -> bool:
    """Make the folder a run's own; True for a new one, False for one to continue."""
    card = out / "run.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if card.exists():
            if json.loads(card.read_text(encoding="utf-8")) != json.loads(json.dumps(run)):
                raise ConfigError(
                    f"{str(out)!r} holds an interrupted run with other chips, model or settings: "
                    "choose another folder, or delete it."
                )
            return not (out / "last.ckpt").exists()
        with staged(card) as part:
            part.write_text(json.dumps(run, indent=2), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"run folder {str(out)!r} cannot be written: {error}.") from error
    return True


def _build(store: Chips, model: str, settings: TrainSettings, s2_branch: str | None) -> Network:
    import torch

    torch.manual_seed(settings.seed)
    radar = len(store.months or ())
    is_two_branch = entry(model).is_two_branch
    return build(
        model,
        bands=len(store.bands) + (0 if is_two_branch else 2 * radar),
        classes=len(store.legend.classes),
        months=radar if is_two_branch else None,
        s2_branch=s2_branch,
    )


def _require_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device='cuda' but this machine shows no GPU: use 'auto' or 'cpu'.")


def _require_batches(store: Chips, settings: TrainSettings) -> None:
    chips, size = len(store.indices("train")), int(store.attrs["size"])
    if min(chips, settings.batch) == 1 and size == STRIDE:
        raise ConfigError(
            f"a batch of one chip of {size} pixels ({chips} training chips, "
            f"batch={settings.batch}) is one pixel at a network's bottom, too few for its "
            "BatchNorm: take larger chips or batches."
        )


def _fit(
    network: Network,
    store: Chips,
    moments: tuple[NDArray[np.float64], NDArray[np.float64]],
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool,
    progress: bool,
) -> None:
    """Run Lightning; the network ends with the weights of its best epoch."""
    import torch

    from deepforest_xr.training.data import loader
    from deepforest_xr.training.losses import loss_of, weights_of
    from deepforest_xr.training.module import TrainingModule

    standardisation = Standardisation(
        moments[0].astype("float32"),
        moments[1].astype("float32"),
        len(store.months or ()),
        entry(network.model_name).is_two_branch,
    )
    module = TrainingModule(
        network,
        weights_of(settings.class_weights, store.class_counts("train")),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        loss=loss_of(settings.loss),
    )
    last = out / "last.ckpt"
    if resume:
        _require_whole(last)
        log.info("continuing the run in %s", out)
    trainer = _trainer(settings, out, resume=resume, progress=progress)
    with _interruptible():
        trainer.fit(
            module,
            loader(
                store,
                "train",
                standardisation,
                settings,
                training=True,
                is_balanced=settings.balanced,
                month_dropout=settings.month_dropout,
                workers=settings.workers,
            ),
            loader(store, "validation", standardisation, settings, training=False),
            ckpt_path=last if resume else None,
            weights_only=True,
        )
    state = torch.load(out / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    network.cpu().eval()


def _trainer(settings: TrainSettings, out: Path, *, resume: bool, progress: bool) -> lp.Trainer:
    import lightning.pytorch as lp
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    best = ModelCheckpoint(
        out,
        "best",
        monitor="val_accuracy",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(out, "last", enable_version_counter=False)
    stop = EarlyStopping("val_accuracy", mode="max", patience=settings.patience)
    csv = CSVLogger(out, name="", version="")
    if resume:
        _keep_log(csv, out)
    return lp.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if settings.device == "cuda" else settings.device,
        devices=1,
        callbacks=[best, last, stop],
        logger=csv,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=out,
    )


def _keep_log(csv: CSVLogger, out: Path) -> None:
    """Let the log of the finished epochs stand: Lightning begins by deleting it."""
    import pandas as pd
    import torch

    log_file = out / "metrics.csv"
    if not log_file.exists():
        return
    epochs = torch.load(out / "last.ckpt", map_location="cpu", weights_only=True)["epoch"]
    rows = pd.read_csv(log_file)
    writer = csv.experiment
    rows[rows["epoch"] <= epochs].to_csv(log_file, index=False)
    writer.metrics_keys = list(rows.columns)


def _require_whole(state: Path) -> None:
    """Refuse a state that a full disk or a power cut left half-written."""
    if not zipfile.is_zipfile(state):
        raise ReadError(
            f"{str(state)!r} was not written whole, the run cannot be continued: delete the "
            "folder and train again."
        )


@contextmanager
def _saving(out: Path) -> Iterator[None]:
    """Make a full disk one line; the epochs saved before stay."""
    try:
        yield
    except DeepForestError:
        raise
    except OSError as error:
        raise WriteError(
            f"the run in {str(out)!r} could not be saved: {error}. Free space and call again: "
            "it continues after the last epoch that was saved."
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be KeyboardInterrupt: Lightning ignores further signals and exits with 1."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice that does not concern the user."""
    import lightning.pytorch  # noqa: F401 - sets its loggers' levels when first imported

    names = ("lightning.pytorch", "lightning.fabric", "lightning")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
