"""The command ``chips``: a cube and its labels to training chips."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    import xarray as xr

YEAR = "{year}"


def chips(
    cube: Annotated[Path, typer.Argument(help="Zarr store from `cube`.")],
    labels: Annotated[
        str, typer.Argument(help="Label raster, file or URL; with --years {year} stands in it.")
    ],
    out: Annotated[Path, typer.Option(help="Zarr store to write.")],
    collection: Collection = None,
    legend: LegendFile = None,
    band: LabelBand = None,
    years: Annotated[
        str | None,
        typer.Option(
            help="2016-2018 or 2015,2017: read a raster of each, take every pixel's most frequent "
            "class, and weigh it by the share of years that agree."
        ),
    ] = None,
    border_ignore: Annotated[
        float | None,
        typer.Option(
            metavar="METRES",
            help="Leave out labels as near as this to another class; 30 for maps of 30 m.",
        ),
    ] = None,
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
    fractions: Annotated[
        tuple[float, float, float],
        typer.Option(
            help="Shares of training, validation and test; the paper's are 0.8 0.2 0.",
            metavar="TRAIN VALIDATION TEST",
        ),
    ] = (0.7, 0.15, 0.15),
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Cut training chips and split them by spatial blocks; interrupted, it continues.

    Examples: `deepforest-xr chips cube.zarr mapbiomas.tif --collection 8 --out chips.zarr`,
    `deepforest-xr chips cube.zarr mapbiomas_{year}.tif --years 2016-2020 --border-ignore 30
    --collection 8 --out chips.zarr`
    """
    import deepforest_xr as dfx

    opened = open_store(cube)
    rasters = _by_year(labels, years)
    read = [read_labels(raster, opened, collection, legend, band) for raster in rasters.values()]
    aligned, weights = _agreement(read, list(rasters)) if years else (read[0], None)
    if border_ignore is not None:
        aligned = dfx.labels.border_ignore(aligned, border_ignore)
    with bar("Chips") as progress:
        dfx.write_chips(
            opened,
            aligned,
            out,
            weights=weights,
            spec=dfx.ChipSpec(size=size, cell=cell, buffer=buffer, fractions=fractions, seed=seed),
            overwrite=overwrite,
            progress=progress,
        )
    store = dfx.open_chips(out)
    counts = ", ".join(
        f"{len(store.indices(s))} {s}" for s in ("train", "validation", "test", "buffer")
    )
    say(f"{len(store.split)} chips of {size} pixels ({counts}) written to {out}")


def _by_year(labels: str, years: str | None) -> dict[int, str]:
    """Label raster of each year; without years the one, under the year 0."""
    if years is None:
        if YEAR in labels:
            raise typer.BadParameter(f"{labels!r} has {YEAR}: say which with --years 2016-2018.")
        return {0: labels}
    if not re.fullmatch(r"\d{4}(-\d{4}|(,\d{4})+)?", years):
        raise typer.BadParameter(f"--years {years} is neither 2016-2018 nor 2015,2017.")
    if YEAR not in labels:
        raise typer.BadParameter(f"--years needs {YEAR} in {labels!r}, where the year stands.")
    numbers = [int(year) for year in re.split("[-,]", years)]
    if "-" in years:
        numbers = list(range(numbers[0], numbers[1] + 1))
    if not numbers or len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"--years {years} ends before it begins, or names a year twice.")
    return {year: labels.replace(YEAR, str(year)) for year in numbers}


def _agreement(labels: list[xr.DataArray], years: list[int]) -> tuple[xr.DataArray, xr.DataArray]:
    """Most frequent class of the years, and the share of years that agree."""
    import xarray as xr

    import deepforest_xr as dfx

    by_year = xr.concat(
        labels,
        xr.Variable("year", years),
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    return dfx.labels.temporal_agreement(by_year)
