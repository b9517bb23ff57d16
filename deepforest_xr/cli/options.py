"""Options that several commands have, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepforest_xr.errors import ReadError
from deepforest_xr.models.registry import names

if TYPE_CHECKING:
    import xarray as xr

    from deepforest_xr.grid import Grid

NETWORKS = ", ".join(names())

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Collection = Annotated[
    int | None, typer.Option(help="MapBiomas collection of the label codes (4, 5, 8, 9, 10).")
]
LegendFile = Annotated[
    Path | None, typer.Option("--legend", help="CSV (code, name, color) of other label codes.")
]
LabelBand = Annotated[int | None, typer.Option(help="Band of the label raster, from 1.")]
Dataset = Annotated[str | None, typer.Option(help="S2, S1TsS2_7 (June to December) or S1TsS2_12.")]

Crs = Annotated[str, typer.Option(help="CRS of the grid, for example EPSG:32721.")]
Bounds = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option(help="Left bottom right top in units of the CRS.", metavar="L B R T"),
]
Bbox = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option(help="West south east north in degrees instead.", metavar="W S E N"),
]
Resolution = Annotated[float, typer.Option(help="Pixel size in units of the CRS.")]


def make_grid(
    crs: str,
    bounds: tuple[float, float, float, float] | None,
    bbox: tuple[float, float, float, float] | None,
    resolution: float,
) -> Grid:
    """Grid of the options ``--crs``, ``--bounds`` or ``--bbox``, and ``--resolution``."""
    from deepforest_xr.grid import Grid

    if bounds is not None and bbox is None:
        return Grid.from_bounds(bounds, crs=crs, resolution=resolution)
    if bbox is not None and bounds is None:
        return Grid.from_lonlat(bbox, crs=crs, resolution=resolution)
    raise typer.BadParameter("give either --bounds or --bbox.")


def read_labels(
    path: str, like: xr.Dataset, collection: int | None, legend: Path | None, band: int | None
) -> xr.DataArray:
    """Label raster of the options ``--collection`` or ``--legend``, and ``--band``."""
    import deepforest_xr as dfx

    if (collection is None) == (legend is None):
        raise typer.BadParameter("give either --collection (MapBiomas) or --legend (CSV).")
    classes = None if legend is None else dfx.Legend.from_csv(legend, raster=Path(path).name)
    return dfx.align_labels(path, like=like, collection=collection, legend=classes, band=band)


def open_store(path: Path) -> xr.Dataset:
    """Open a Zarr store that this tool wrote."""
    import xarray as xr

    if not path.exists():
        raise ReadError(f"{str(path)!r} does not exist: give a Zarr store that this tool wrote.")
    try:
        opened: xr.Dataset = xr.open_zarr(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"{str(path)!r} cannot be opened as Zarr: {reason}.") from error
    return opened
