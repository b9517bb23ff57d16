"""Train a network on chips: resumable, logged, ending in a checkpoint.

A run's folder holds ``run.json`` (what is trained, on what), ``environment.json`` (with what,
an entry for each continuation), ``metrics.csv``, ``curve.png``, ``last.ckpt`` and ``best.ckpt``
(Lightning's state, for resuming), ``tensorboard/`` where asked for and, when the run has
ended, ``checkpoint/``. A folder without ``checkpoint/`` is an interrupted run: the same
call continues it at the last epoch that was finished.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.atomic import staged
from deepforest_xr.chips import Chips, open_chips
from deepforest_xr.errors import (
    ChipError,
    ConfigError,
    MissingExtraError,
    ReadError,
    WriteError,
)
from deepforest_xr.models import Checkpoint, channel_names, entry
from deepforest_xr.training.curve import write_curve
from deepforest_xr.training.recipes import deviations, recipe_of
from deepforest_xr.training.settings import ELSEWHERE, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepforest_xr.models.network import Network
    from deepforest_xr.training.fit import Fit

log = logging.getLogger(__name__)

STRIDE = 32


def train(
    chips: str | Path | Sequence[str | Path],
    *,
    model: str,
    out: str | Path,
    settings: TrainSettings | None = None,
    s2_branch: str | None = None,
    progress: bool = True,
) -> Path:
    """Train a network on a store of chips, or on several.

    Parameters
    ----------
    chips : str, Path, or a sequence of them
        From `write_chips`.
    model : str
        Name of a network, see `deepforest_xr.models.names`. Two-branch networks need
        chips with Sentinel-1; one-branch networks take all channels stacked.
    out : str or Path
        Folder of the run. An interrupted run there is continued, if it is the same.
    settings : TrainSettings
        Epochs, batch, learning rate, patience, seed, devices; `recipe_of` gives named ones.
    s2_branch : str, optional
        Variant of a two-branch network's Sentinel-2 branch.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        ``out/checkpoint``, of the epoch with the best validation accuracy, with a temperature
        fitted on the validation chips.

    Raises
    ------
    ConfigError
        If the run in `out` is finished or another one, or network, settings and machine do
        not fit.
    MissingExtraError
        If Lightning is not installed, or TensorBoard is asked for and is not.
    ChipError, ReadError
        If the chips, or the state of an interrupted run, cannot be used.
    WriteError
        If the run cannot be saved; it can be continued.
    """
    settings = settings or TrainSettings()
    _require_packages(settings)
    paths = [chips] if isinstance(chips, (str, Path)) else list(chips)
    store = open_chips(paths[0] if len(paths) == 1 else paths)
    out = Path(out)
    finished = out / "checkpoint"
    if finished.exists():
        raise ConfigError(f"{str(finished)!r} exists: this run has ended. Choose another folder.")
    # Heavy imports: after what may be refused without them.
    from deepforest_xr.training.confidence import fit_temperature
    from deepforest_xr.training.data import statistics
    from deepforest_xr.training.environment import append_environment, describe_environment
    from deepforest_xr.training.fit import Fit, build_network, load_best

    settings = replace(settings, device=_device(settings))
    _require_fit(store, model, settings)
    channels = channel_names(store.months, store.bands)
    mean, std = statistics(store)
    run = _describe(store, model, settings, s2_branch, mean)
    network = build_network(store, model, settings, s2_branch)
    _advise(store, settings)
    is_new = _claim(out, run)
    append_environment(
        out / "environment.json", describe_environment(settings.device, settings.devices)
    )
    job = Fit(
        settings=settings, out=out, mean=mean, std=std, is_continued=not is_new, progress=progress
    )
    try:
        _run(job, network, store, [str(path) for path in paths], model, s2_branch)
    except ChipError:
        if not (out / "last.ckpt").exists():
            (out / "run.json").unlink()  # nothing to continue: other settings may begin here
        raise
    load_best(network, out)
    checkpoint = Checkpoint.from_module(
        network,
        bands=channels,
        mean=mean.tolist(),
        std=std.tolist(),
        months=store.months,
        legend=store.legend,
        temperature=fit_temperature(network, store, job),
        provenance=run,
    )
    simulated = ", simulated scenes" if store.attrs["cube"].get("simulated") else ""
    write_curve(out / "metrics.csv", out / "curve.png", title=f"{model}{simulated}")
    return checkpoint.save(finished)


def _run(
    job: Fit, network: Network, store: Chips, paths: list[str], model: str, s2_branch: str | None
) -> None:
    """Train here, or in processes of their own that share each batch."""
    import torch

    from deepforest_xr.training.fit import fit
    from deepforest_xr.training.processes import fit_in_processes

    if job.settings.devices == 1:
        fit(network, store, job)
    else:
        fit_in_processes(paths, model, s2_branch, job, threads=torch.get_num_threads())


def _require_packages(settings: TrainSettings) -> None:
    if find_spec("lightning") is None:
        raise MissingExtraError(
            'training needs Lightning: pip install "deepforest-xr[train]" '
            "(torch first, in the build you want)."
        )
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise MissingExtraError(
            "a log for TensorBoard needs its package: pip install tensorboard, or leave "
            "tensorboard out: metrics.csv holds the same numbers."
        )


def _device(settings: TrainSettings) -> str:
    """The device that ``auto`` stands for; one that is not there is refused."""
    import torch

    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ConfigError("device='cuda' but this machine shows no GPU: use 'auto' or 'cpu'.")
    device = "cuda" if has_gpu and settings.device != "cpu" else "cpu"
    if device == "cpu" and settings.precision == "16":
        raise ConfigError(
            "precision='16' needs a GPU, this run is on the CPU: use precision='bf16' or '32'."
        )
    if device == "cuda" and settings.devices > (gpus := torch.cuda.device_count()):
        raise ConfigError(
            f"devices={settings.devices} but this machine shows {gpus} GPU(s): use "
            f"devices={gpus}, or device='cpu'."
        )
    return device


def _require_fit(store: Chips, model: str, settings: TrainSettings) -> None:
    """Refuse what network, chips and settings cannot be together, before a folder is made."""
    from deepforest_xr.training.losses import loss_of, weights_of

    if entry(model).is_two_branch and store.months is None:
        raise ConfigError(
            f"{model} needs Sentinel-1, the chips hold {', '.join(store.bands)} only: "
            "cut them from a cube with months, or take a one-branch network."
        )
    recipe_of(settings.recipe)
    loss_of(settings.loss)
    weights_of(settings.class_weights, store.class_counts("train"))
    for split in ("train", "validation"):
        if not store.class_counts(split).any():
            raise ChipError(
                f"no {split} chip of {store.path!r} has a labelled pixel: cut the chips again with "
                "another seed or other fractions, or look whether the labels meet the cube."
            )
        if (count := len(store.indices(split))) < settings.devices:
            raise ChipError(
                f"devices={settings.devices} but {store.path!r} has {count} {split} chips, less "
                f"than one each: use devices={count}."
            )
    _require_batches(store, settings)


def _advise(store: Chips, settings: TrainSettings) -> None:
    """Log what is allowed but may surprise."""
    for phrase in deviations(settings, store):
        log.warning("recipe %r: %s", settings.recipe, phrase)
    counts = store.class_counts("train")
    unseen = [c.name for c, n in zip(store.legend.classes, counts, strict=True) if not n]
    if unseen:
        log.warning(
            "no training pixel of %s: the network cannot learn them; their weight is what "
            "class_weights=%r gives",
            ", ".join(unseen),
            settings.class_weights,
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
        "settings": {k: v for k, v in settings.to_dict().items() if k not in ELSEWHERE},
        "chips": {
            "fingerprint": store.fingerprint,
            "count": len(store.split),
            "size": store.attrs["size"],
            "bands": list(store.bands),
            "months": None if store.months is None else list(store.months),
            "seed": store.attrs["seed"],
            "legend": store.legend.to_dict(),
            "histogram": store.histogram.sum(axis=0).tolist(),
            "split": np.bincount(store.split).tolist(),
            # Other pixels have another mean, also in stores of before there were fingerprints.
            "mean_of_means": float(np.round(mean.mean(), 9)),
            "cube": store.attrs["cube"],
        },
    }


def _read_card(card: Path) -> Any:
    try:
        return json.loads(card.read_text(encoding="utf-8"))
    except ValueError:
        raise ReadError(
            f"{str(card)!r} was not written whole, the run cannot be continued: delete the folder "
            "and train again."
        ) from None


def _claim(out: Path, run: dict[str, Any]) -> bool:
    """Make the folder a run's own; True for a new one, False for one to continue."""
    card = out / "run.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if card.exists():
            if _read_card(card) != json.loads(json.dumps(run)):
                raise ConfigError(
                    f"{str(out)!r} holds an interrupted run with other chips, model or settings: "
                    "choose another folder, or delete it."
                )
            return not (out / "last.ckpt").exists()
        with staged(card) as part:
            part.write_text(json.dumps(run, indent=2), encoding="utf-8")
    except ReadError:
        raise
    except OSError as error:
        raise WriteError(f"run folder {str(out)!r} cannot be written: {error}.") from error
    return True


def _require_batches(store: Chips, settings: TrainSettings) -> None:
    chips, size = len(store.indices("train")), int(store.attrs["size"])
    if min(chips, settings.batch) // settings.devices == 1 and size == STRIDE:
        each = f", devices={settings.devices}" if settings.devices > 1 else ""
        raise ConfigError(
            f"a batch of one chip of {size} pixels ({chips} training chips, "
            f"batch={settings.batch}{each}) is one pixel at a network's bottom, too few for its "
            "BatchNorm: take larger chips or batches."
        )
