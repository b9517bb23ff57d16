"""What ``deepforest-xr assess`` does besides comparing rasters: samples drawn, and labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import typer

from deepforest_xr.cli import console
from deepforest_xr.cli.console import require_free, say
from deepforest_xr.legend import Legend

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from deepforest_xr.accuracy import Report
    from deepforest_xr.accuracy.sampling import Allocation


def is_points(reference: str) -> bool:
    """Whether a reference is a table of labelled points and no raster."""
    return reference.lower().endswith((".csv", ".geojson", ".json"))


def refuse_with_points(**options: object) -> None:
    """Raise for options that say nothing about labelled points, rather than ignore them."""
    if given := [f"--{name}" for name, value in options.items() if value]:
        raise typer.BadParameter(f"{', '.join(given)} cannot go with labelled points.")


def held_out(lulc: xr.Dataset, chips: Path | None) -> tuple[xr.DataArray | None, int | None]:
    """Mask of the test blocks, and the most frequent class of the training part."""
    import xarray as xr

    import deepforest_xr as dfx

    if chips is None:
        return None, None
    store, grid = dfx.open_chips(chips), dfx.Grid.of(lulc)
    store.grid.require_same(grid, ours="the chips' cube", theirs="the map")
    mask = xr.DataArray(store.mask("test", grid.shape), dims=("y", "x"))
    return mask, store.legend.codes[int(np.argmax(store.class_counts("train")))]


def draw_sample(
    lulc: xr.Dataset,
    out: Path,
    *,
    units: int | None,
    expected: float,
    standard_error: float,
    allocation: Allocation,
    minimum: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Plan a sample of a map, draw its points and write them to be labelled."""
    from deepforest_xr import accuracy
    from deepforest_xr.maps import write_points

    require_free([out], overwrite=overwrite)
    with console.err_console.status("Drawing"):
        plan = accuracy.plan_sample(
            accuracy.mapped_area(lulc["lulc"]),
            expected,
            standard_error=standard_error,
            total=units,
            allocation=allocation,
            minimum=minimum,
        )
        points = accuracy.draw_points(lulc["lulc"], plan.units, seed=seed, allow_fewer=True)
    write_points(points, out, overwrite=overwrite)
    say(
        f"{len(points)} points written to {out}: fill in `reference`, then assess the map with it "
        f"(overall accuracy then to ± {1.96 * plan.standard_error:.1%} if {expected:.0%} are right)"
    )


def assess_sample(lulc: xr.Dataset, points: str) -> Report:
    """Assess a map by labelled points, weighted by the mapped area of each class."""
    from deepforest_xr import accuracy
    from deepforest_xr.maps import read_points

    codes = lulc["lulc"]
    stated = (str(data.attrs.get("simulated")).lower() for data in (lulc, codes))
    return accuracy.assess_points(
        read_points(points),
        accuracy.mapped_area(codes),
        Legend.from_attrs(codes.attrs),
        simulated="true" in stated,
    )
