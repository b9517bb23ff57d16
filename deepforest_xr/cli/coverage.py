"""``deepforest-xr coverage``: what was seen, month by month, before anything long starts."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import Annotated

import typer

from deepforest_xr.cli.console import bar, require_free, say
from deepforest_xr.cli.options import Bbox, Bounds, Crs, Overwrite, Resolution, make_grid


def coverage(
    items: Annotated[Path, typer.Argument(help="Items on disk, from `search`.")],
    crs: Crs,
    bounds: Bounds = None,
    bbox: Bbox = None,
    resolution: Resolution = 10,
    read: Annotated[
        bool, typer.Option("--read", help="Count clear pixels in the scene classification.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
    overwrite: Overwrite = False,
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
