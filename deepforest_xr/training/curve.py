"""The curve of a run: loss, accuracy and learning rate an epoch, from its CSV log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepforest_xr.atomic import staged
from deepforest_xr.errors import MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path


def write_curve(log: Path, path: Path, *, title: str) -> Path:
    """Draw training and validation loss and accuracy; the learning rate where it varies.

    Parameters
    ----------
    log : Path
        ``metrics.csv`` of a run.
    path : Path
        PNG to write.
    title : str
        Says the network, and "simulated" where the chips are.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    WriteError
        If the picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingExtraError(
            'drawing needs matplotlib: pip install "deepforest-xr[viz]".'
        ) from error
    # One row an epoch; an epoch that was interrupted and run again is there once.
    table = pd.read_csv(log).groupby("epoch").first()
    epochs = np.arange(1, len(table) + 1)
    varies = table["learning_rate"].nunique() > 1
    figure = Figure(figsize=(13 if varies else 9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3 if varies else 2)
    for axes, what in zip(panels, ("loss", "accuracy"), strict=False):
        for split, label in (("train", "training"), ("val", "validation")):
            axes.plot(epochs, table[f"{split}_{what}"], marker="o", markersize=3, label=label)
        axes.set_ylabel(what)
        axes.legend(frameon=False)
    if varies:
        panels[2].plot(epochs, table["learning_rate"], color="0.3")
        panels[2].set_ylabel("learning rate")
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    best = int(np.argmax(table["val_accuracy"].to_numpy()))
    panels[1].axvline(best + 1, color="0.6", linestyle=":")
    figure.suptitle(title, fontsize=11)
    with staged(path, overwrite=True) as part:
        figure.savefig(part, dpi=110, format="png")
    return path
