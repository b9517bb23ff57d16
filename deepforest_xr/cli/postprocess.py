"""``deepforest-xr postprocess``: smooth a map; the order of the steps is fixed."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

from deepforest_xr.cli.console import bar, require_free, say
from deepforest_xr.cli.options import Overwrite, open_store

if TYPE_CHECKING:
    import xarray as xr

CRF = ("reflectance", "paper")
SMOOTH = ("bayes", "majority")


def postprocess(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="Zarr store from `classify`.")],
    out: Annotated[Path, typer.Option(help="Zarr store of the smoothed map.")],
    crf: Annotated[
        str | None,
        typer.Option(help="Dense CRF: reflectance (with --cube), or paper: on the classes alone."),
    ] = None,
    cube: Annotated[Path | None, typer.Option(help="What was classified, for --crf.")] = None,
    smooth: Annotated[
        str | None, typer.Option(help="bayes (needs a map with --probability) or majority.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of --smooth's window in pixels; default: 9 and 3.")
    ] = None,
    smoothness: Annotated[
        float | None, typer.Option(help="Of --smooth bayes; default: 20, as in sits.")
    ] = None,
    mmu: Annotated[float | None, typer.Option(help="Minimum mapping unit in hectares.")] = None,
    connectivity: Annotated[
        int | None,
        typer.Option(help="Of --mmu: 4, the default, joins pixels by sides, 8 by corners too."),
    ] = None,
    cog: Annotated[Path | None, typer.Option(help="Also a GeoTIFF.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also a quick-look PNG.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Smooth a map: first --crf, then --smooth, then --mmu, whichever are given.

    Example: `deepforest-xr postprocess map.zarr --smooth bayes --mmu 0.5 --out smooth.zarr`
    """
    import deepforest_xr as dfx
    from deepforest_xr.maps.cog import cog_files

    _require_steps(crf, cube, smooth, window, smoothness, mmu)
    if mmu is None and connectivity is not None:
        raise typer.BadParameter("--connectivity is for --mmu.")
    require_free([out, *(cog_files(cog) if cog else ()), picture], overwrite=overwrite)
    result = open_store(map_)
    if crf is not None:
        opened = None if cube is None else open_store(cube)
        result = dfx.postprocess.dense_crf(result, opened, paper=crf == "paper")
    if smooth is not None:
        result = _smoothed(result, smooth, window, smoothness)
    if mmu is not None:
        result = dfx.postprocess.minimum_mapping_unit(result, mmu, connectivity=connectivity or 4)
    with bar("Post-processing") as progress:
        dfx.write_zarr(result, out, overwrite=overwrite, progress=progress)
    written = open_store(out)
    if cog is not None:
        dfx.write_cog(written, cog, overwrite=overwrite)
    if picture is not None:
        dfx.maps.write_picture(written, picture, overwrite=overwrite)
    say("map written to " + ", ".join(str(p) for p in (out, cog, picture) if p is not None))


def _smoothed(
    result: xr.Dataset, smooth: str, window: int | None, smoothness: float | None
) -> xr.Dataset:
    from deepforest_xr.postprocess import bayesian_smoothing, majority

    if smooth == "majority":
        return majority(result, size=3 if window is None else window)
    return bayesian_smoothing(
        result,
        window=9 if window is None else window,
        smoothness=20 if smoothness is None else smoothness,
    )


def _require_steps(
    crf: str | None,
    cube: Path | None,
    smooth: str | None,
    window: int | None,
    smoothness: float | None,
    mmu: float | None,
) -> None:
    """Refuse words that are no step, and options of a step that is not asked for."""
    wrong = {
        "give at least one of --crf, --smooth and --mmu.": (crf, smooth, mmu) == (None,) * 3,
        f"--crf is one of {', '.join(CRF)}.": crf not in (None, *CRF),
        f"--smooth is one of {', '.join(SMOOTH)}.": smooth not in (None, *SMOOTH),
        "--crf reflectance needs --cube.": crf == "reflectance" and cube is None,
        "--cube is for --crf reflectance.": crf != "reflectance" and cube is not None,
        "--crf paper leaves no probabilities for --smooth bayes; take majority.": (crf, smooth)
        == ("paper", "bayes"),
        "--window is for --smooth.": smooth is None and window is not None,
        "--smoothness is for --smooth bayes.": smooth != "bayes" and smoothness is not None,
    }
    for says, is_so in wrong.items():
        if is_so:
            raise typer.BadParameter(says)
