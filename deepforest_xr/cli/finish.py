"""``deepforest-xr basin finish``: from the tiles of a basin to what is handed on."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

from deepforest_xr.cli.console import bar, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cogs(StrEnum):
    """What one GeoTIFF holds."""

    TILE = "tile"
    DEGREE = "degree"
    NONE = "none"


def finish(
    out: Annotated[str, typer.Argument(help="Folder or URL (s3://bucket/prefix) of the basin.")],
    polygons: Annotated[
        Path | None,
        typer.Option(
            help="GeoJSON or GeoPackage (file.gpkg|layername=uf) of states or the like, to sum up "
            "areas in."
        ),
    ] = None,
    name_field: Annotated[
        str, typer.Option(help="Property of the polygons that names them.")
    ] = "name",
    cogs: Annotated[Cogs, typer.Option(help="GeoTIFFs one a tile, one a degree, or none.")] = (
        Cogs.TILE
    ),
    to: Annotated[
        str | None, typer.Option(help="Folder or URL of the results; default: OUT/finish.")
    ] = None,
    license_name: Annotated[
        str, typer.Option("--license", help="SPDX expression of the map's license, or other.")
    ] = "other",
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on without tiles that are not done.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make everything anew, with other settings too.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="GeoTIFFs made at once; default: one a core, 4 at most.")
    ] = None,
) -> None:
    """Verify every tile; make pyramid, GeoTIFFs, mosaic, STAC catalog, areas and a page of it.

    Example: `deepforest-xr basin finish s3://maps/amazon --polygons states.geojson --cogs degree`
    """
    from deepforest_xr.basin import open_plan
    from deepforest_xr.basin.finish import finish_basin
    from deepforest_xr.basin.polygons import PolygonLayer

    layer = None if polygons is None else PolygonLayer(polygons, name_field)
    with _bars() as progress:
        finished = finish_basin(
            open_plan(out),
            polygons=layer,
            cogs=None if cogs is Cogs.NONE else cogs.value,
            out=to,
            license_name=license_name,
            partial=partial,
            overwrite=overwrite,
            workers=workers,
            progress=progress,
        )
    say(str(finished))


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress bar a step, each ended when the next begins."""
    shown: dict[str, Callable[[int, int], None]] = {}
    with ExitStack() as open_bar:

        def progress(step: str, done: int, total: int) -> None:
            if step not in shown:
                open_bar.close()
                shown[step] = open_bar.enter_context(bar(step))
            shown[step](done, total)

        yield progress
