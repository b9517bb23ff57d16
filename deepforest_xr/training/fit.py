"""The run of Lightning itself, in this process or as one of several that share each batch."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deepforest_xr.errors import DeepForestError, ReadError, WriteError
from deepforest_xr.models import build, entry
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training.settings import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightning.pytorch as lp
    from lightning.pytorch.loggers import CSVLogger, Logger
    from numpy.typing import NDArray

    from deepforest_xr.chips import Chips
    from deepforest_xr.models.network import Network
    from deepforest_xr.training.settings import TrainSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is to be run, checked already."""

    settings: TrainSettings
    """With a device that is there: cpu or cuda."""

    out: Path
    """Folder of the run."""

    mean: NDArray[Any]
    """Of the channels over the training chips, dims (channel,)."""

    std: NDArray[Any]
    """Of the channels over the training chips, dims (channel,)."""

    is_continued: bool
    """Go on from ``last.ckpt``."""

    progress: bool
    """Show a progress bar."""

    def standardisation(self, network: Network, store: Chips) -> Standardisation:
        """How chips become what the network takes."""
        return Standardisation(
            self.mean.astype("float32"),
            self.std.astype("float32"),
            len(store.months or ()),
            entry(network.model_name).is_two_branch,
        )


def build_network(
    store: Chips, model: str, settings: TrainSettings, s2_branch: str | None
) -> Network:
    """Network for the channels and classes of the chips; its weights follow from the seed."""
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


def fit(network: Network, store: Chips, job: Fit, *, rank: int = 0) -> None:
    """Train until the epochs are over or validation gets no better; the states are on disk.

    Parameters
    ----------
    network : Network
        What is trained; its weights at the end are the last step's.
    store : Chips
        From `open_chips`.
    job : Fit
        How.
    rank : int
        Of this process among ``job.settings.devices``.

    Raises
    ------
    ChipError
        If the loss is not finite.
    ReadError
        If the state of an interrupted run was not written whole.
    WriteError
        If the run cannot be saved.
    """
    from deepforest_xr.training.data import loader
    from deepforest_xr.training.losses import weights_of
    from deepforest_xr.training.module import TrainingModule

    settings = job.settings
    standardisation = job.standardisation(network, store)
    module = TrainingModule(
        network,
        weights_of(settings.class_weights, store.class_counts("train")),
        settings,
        origin=store.origin,
    )
    last = job.out / "last.ckpt"
    if job.is_continued:
        _require_whole(last)
        log.info("continuing the run in %s", job.out)
        if _has_stopped(last):
            return
    world = settings.devices
    with _quiet(), _saving(job.out):
        trainer = _trainer(job, rank)
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
                    rank=rank,
                    world=world,
                ),
                loader(
                    store,
                    "validation",
                    standardisation,
                    settings,
                    training=False,
                    rank=rank,
                    world=world,
                ),
                ckpt_path=last if job.is_continued else None,
                weights_only=True,
            )


def load_best(network: Network, out: Path) -> None:
    """Give a network the weights of the best epoch, ready to predict."""
    state = torch.load(out / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    network.cpu().eval()


def _has_stopped(last: Path) -> bool:
    """Whether a run had ended by its patience; Lightning would train on."""
    state = torch.load(last, map_location="cpu", weights_only=True)["callbacks"]
    stops = [kept for name, kept in state.items() if name.startswith("EarlyStopping")]
    return any(kept["wait_count"] >= kept["patience"] for kept in stops)


def _trainer(job: Fit, rank: int) -> lp.Trainer:
    import lightning.pytorch as lp
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy

    class InFolder(ModelCheckpoint):
        """Keeps what was best when the run's folder was moved."""

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            def here(path: str) -> str:
                return str(job.out.resolve() / Path(path).name) if path else path

            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            best = {here(path): score for path, score in state_dict["best_k_models"].items()}
            moved = {name: here(state_dict[name]) for name in paths}
            super().load_state_dict(
                state_dict | moved | {"best_k_models": best, "dirpath": self.dirpath}
            )

    settings = job.settings
    best = InFolder(
        job.out,
        "best",
        monitor="val_accuracy",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(job.out, "last", enable_version_counter=False)
    stop = EarlyStopping("val_accuracy", mode="max", patience=settings.patience)
    # Buffers are not broadcast: in validation, processes may have different numbers of batches,
    # and BatchNorm's statistics are averaged once an epoch instead of the first's taken.
    shared = DDPStrategy(cluster_environment=LightningEnvironment(), broadcast_buffers=False)
    return lp.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=settings.devices,
        strategy=shared if settings.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision=PRECISIONS[settings.precision],  # type: ignore[arg-type]
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=[best, last, stop],
        logger=_loggers(job, rank),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=job.progress,
        enable_model_summary=False,
        default_root_dir=job.out,
    )


def _loggers(job: Fit, rank: int) -> list[Logger]:
    """The CSV log and, where asked for, TensorBoard's; both go on after the last epoch saved."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    csv = CSVLogger(job.out, name="", version="")
    steps = None
    if job.is_continued:
        state = torch.load(job.out / "last.ckpt", map_location="cpu", weights_only=True)
        steps = state["global_step"]
        if rank == 0:
            _keep_log(csv, job.out, state["epoch"])
    if not job.settings.tensorboard:
        return [csv]
    # What was logged of an epoch that is run again is told to TensorBoard as void.
    return [csv, TensorBoardLogger(job.out, name="", version="tensorboard", purge_step=steps)]


def _keep_log(csv: CSVLogger, out: Path, epoch: int) -> None:
    """Let the log of the finished epochs stand: Lightning begins by deleting it."""
    import pandas as pd

    log_file = out / "metrics.csv"
    try:
        rows = pd.read_csv(log_file)
    except FileNotFoundError:
        return
    except (pd.errors.EmptyDataError, pd.errors.ParserError):
        log.warning("%s was not written whole, its earlier epochs are lost", log_file)
        return
    writer = csv.experiment
    rows[rows["epoch"] <= epoch].to_csv(log_file, index=False)
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
