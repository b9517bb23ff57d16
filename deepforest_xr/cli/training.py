"""The command ``train``: chips to a checkpoint."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from deepforest_xr.cli.console import say
from deepforest_xr.cli.options import NETWORKS


def train(
    chips: Annotated[list[Path], typer.Argument(help="Zarr store from `chips`, or several.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run continues.")],
    model: Annotated[str, typer.Option(help=f"{NETWORKS}.")] = "deepforest-1b",
    recipe: Annotated[
        str,
        typer.Option(
            help="default or paper: gives every setting that no other option names; those in "
            "brackets are default's."
        ),
    ] = "default",
    epochs: Annotated[int | None, typer.Option(help="At most. [100]")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Chips a step, over all processes together. [10]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam; with a schedule, the highest. [0.001]")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Of the learning rate: constant or cosine. [constant]")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Share of the steps in which cosine's rate rises. [0.05]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Epochs without a better validation accuracy before stopping. [30]"),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="cross-entropy, focal, generalised-cross-entropy, symmetric-cross-entropy, "
            "label-smoothing, bootstrapping-soft or bootstrapping-hard. [cross-entropy]"
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            help="share (the paper's), inverse-frequency, square-root, effective-number, uniform. "
            "[square-root]"
        ),
    ] = None,
    gradient_clip: Annotated[
        float | None, typer.Option(help="Longest gradient of a step; 0 clips none. [0]")
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of the weights' average; 0 keeps none. [0.98]"),
    ] = None,
    batchnorm_warmup: Annotated[
        bool | None,
        typer.Option(
            "--batchnorm-warmup/--no-batchnorm-warmup",
            help="BatchNorm's statistics follow from the first step on. [yes]",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="32, bf16, or 16 (on a GPU only). [32]")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="Turns and mirrorings: eight, paper or none. [eight]")
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--no-balanced", help="Draw chips so that classes are seen alike. [no]"
        ),
    ] = None,
    month_dropout: Annotated[
        float | None, typer.Option(help="Probability that a Sentinel-1 month is missing. [0]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read ahead, for each device. [0]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation. [0]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. [auto]")] = None,
    devices: Annotated[
        int | None, typer.Option(help="GPUs, or processes, that share each batch. [1]")
    ] = None,
    tensorboard: Annotated[
        bool | None,
        typer.Option("--tensorboard/--no-tensorboard", help="Log for TensorBoard too. [no]"),
    ] = None,
) -> None:
    """Train a network; ends in `OUT/checkpoint`.

    Example: `deepforest-xr train chips.zarr --model deepforest-1b --out runs/df1b`
    """
    given = {
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warmup": warmup,
        "patience": patience,
        "loss": loss,
        "class_weights": class_weights,
        "gradient_clip": gradient_clip,
        "ema": ema,
        "batchnorm_warmup": batchnorm_warmup,
        "precision": precision,
        "augment": augment,
        "balanced": balanced,
        "month_dropout": month_dropout,
        "workers": workers,
        "seed": seed,
        "device": device,
        "devices": devices,
        "tensorboard": tensorboard,
    }
    import deepforest_xr as dfx
    from deepforest_xr.training.recipes import recipe_of

    settings = recipe_of(recipe, **{k: v for k, v in given.items() if v is not None})
    checkpoint = dfx.train(chips, model=model, out=out, settings=settings)
    say(f"checkpoint written to {checkpoint}, curve to {out / 'curve.png'}")
