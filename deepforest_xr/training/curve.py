"""The curve of a run: loss and accuracy an epoch, from its CSV log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepforest_xr.atomic import staged
from deepforest_xr.errors import MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path


def write_curve(log: Path, path: Path, *, title: str) -> Path:
    """Draw training and validation loss and accuracy.

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
    # Lightning writes training and validation values of an epoch in rows of their own.
    table = pd.read_csv(log).groupby("epoch").first()
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, label in (("train", "training"), ("val", "validation")):
            values = table[f"{split}_{what}"]
            axes.plot(np.arange(1, len(table) + 1), values, marker="o", markersize=3, label=label)
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    best = int(np.argmax(table["val_accuracy"].to_numpy()))
    axes.axvline(best + 1, color="0.6", linestyle=":")
    figure.suptitle(title, fontsize=11)
    with staged(path, overwrite=True) as part:
        figure.savefig(part, dpi=110, format="png")
    return path
