"""The command ``train``: chips to a checkpoint."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from deepforest_xr.cli.console import say
from deepforest_xr.cli.options import NETWORKS


def train(
    chips: Annotated[Path, typer.Argument(help="Zarr store from `chips`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run continues.")],
    model: Annotated[str, typer.Option(help=f"{NETWORKS}.")] = "deepforest-1b",
    epochs: Annotated[int, typer.Option(help="At most.")] = 100,
    batch: Annotated[int, typer.Option(help="Chips a step.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-4,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better validation accuracy before stopping.")
    ] = 10,
    loss: Annotated[
        str,
        typer.Option(
            help="cross-entropy, focal, generalised-cross-entropy, symmetric-cross-entropy, "
            "label-smoothing, bootstrapping-soft or bootstrapping-hard."
        ),
    ] = "cross-entropy",
    class_weights: Annotated[
        str, typer.Option(help="share (the paper's), inverse-frequency, effective-number, uniform.")
    ] = "share",
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Draw chips so that classes are seen alike.")
    ] = False,
    month_dropout: Annotated[
        float, typer.Option(help="Probability that a Sentinel-1 month is missing.")
    ] = 0.0,
    workers: Annotated[int, typer.Option(help="Processes that read ahead.")] = 0,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a network; ends in `OUT/checkpoint`.

    Example: `deepforest-xr train chips.zarr --model deepforest-1b --out runs/df1b`
    """
    import deepforest_xr as dfx

    settings = dfx.TrainSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        patience=patience,
        loss=loss,
        class_weights=class_weights,
        balanced=balanced,
        month_dropout=month_dropout,
        workers=workers,
        seed=seed,
        device=device,
    )
    checkpoint = dfx.train(chips, model=model, out=out, settings=settings)
    say(f"checkpoint written to {checkpoint}, curve to {out / 'curve.png'}")
