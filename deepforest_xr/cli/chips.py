"""The command ``chips``: a cube and its labels to training chips."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from deepforest_xr.cli.console import bar, say
from deepforest_xr.cli.options import (
    Collection,
    LabelBand,
    LegendFile,
    Overwrite,
    open_store,
    read_labels,
)


def chips(
    cube: Annotated[Path, typer.Argument(help="Zarr store from `cube`.")],
    labels: Annotated[str, typer.Argument(help="Label raster, file or URL.")],
    out: Annotated[Path, typer.Option(help="Zarr store to write.")],
    collection: Collection = None,
    legend: LegendFile = None,
    band: LabelBand = None,
    size: Annotated[int, typer.Option(help="Side of a chip in pixels, a multiple of 32.")] = 256,
    cell: Annotated[
        int | None,
        typer.Option(help="Small areas: deal squares of so many pixels, not whole chips."),
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option(
            help="Chips left out between training and test; default 1 where they suffice."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Cut training chips and split them by spatial blocks; interrupted, it continues.

    Example: `deepforest-xr chips cube.zarr mapbiomas.tif --collection 8 --out chips.zarr`
    """
    import deepforest_xr as dfx

    opened = open_store(cube)
    aligned = read_labels(labels, opened, collection, legend, band)
    with bar("Chips") as progress:
        dfx.write_chips(
            opened,
            aligned,
            out,
            spec=dfx.ChipSpec(size=size, cell=cell, buffer=buffer, seed=seed),
            overwrite=overwrite,
            progress=progress,
        )
    store = dfx.open_chips(out)
    counts = ", ".join(
        f"{len(store.indices(s))} {s}" for s in ("train", "validation", "test", "buffer")
    )
    say(f"{len(store.split)} chips of {size} pixels ({counts}) written to {out}")
