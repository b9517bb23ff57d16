"""``deepforest-xr coverage``: what was seen, month by month, before anything long starts."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import Annotated

import typer

from deepforest_xr.cli.console import bar, require_free, say
from deepforest_xr.cli.stages import make_grid


def coverage(
    items: Annotated[Path, typer.Argument(help="Items on disk, from `search`.")],
    crs: Annotated[str, typer.Option(help="CRS of the grid, for example EPSG:32721.")],
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="Left bottom right top in units of the CRS.", metavar="L B R T"),
    ] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="West south east north in degrees instead.", metavar="W S E N"),
    ] = None,
    resolution: Annotated[float, typer.Option(help="Pixel size in units of the CRS.")] = 10,
    read: Annotated[
        bool, typer.Option("--read", help="Count clear pixels in the scene classification.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Count scenes and clear observations of each month over a grid.

    Example: `deepforest-xr coverage items.parquet --crs EPSG:32721 --bbox -55.2 -8.6 -55.0 -8.4`
    """
    import deepforest_xr as dfx

    require_free([picture], overwrite=overwrite)
    grid = make_grid(crs, bounds, bbox, resolution)
    if read:
        with bar("Scene classification") as progress:
            found = dfx.coverage(dfx.read_items(items), grid, read=True, progress=progress)
    else:
        found = dfx.coverage(dfx.read_items(items), grid)
    say(str(found))
    if picture is not None:
        found.write_picture(picture, overwrite=overwrite)
        say(f"picture written to {picture}")
