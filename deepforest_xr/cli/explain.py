"""``deepforest-xr explain``: what a map will take, before it is made."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import Annotated

import typer

from deepforest_xr.cli import console
from deepforest_xr.cli.console import say
from deepforest_xr.cli.options import open_store


def explain(
    cube: Annotated[Path, typer.Argument(help="Zarr store from `cube`.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint; default: $DEEPFOREST_XR_MODEL, else the one from `model install`."
        ),
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Side of a block in pixels; default: the network's.")
    ] = None,
    halo: Annotated[
        int | None, typer.Option(help="Pixels around a block; default: the network's.")
    ] = None,
    blend: Annotated[
        int, typer.Option(help="Pixels over which neighbouring blocks fade into one another.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    probe: Annotated[bool, typer.Option(help="Classify one block to estimate the time.")] = True,
) -> None:
    """Print blocks, work, bytes, memory and time of a map before it is made.

    Example: `deepforest-xr explain cube.zarr --model runs/df1b/checkpoint`
    """
    import deepforest_xr as dfx

    opened = open_store(cube)
    with console.err_console.status("One block" if probe else "Counting"):
        found = dfx.explain(
            opened, model, block=block, halo=halo, blend=blend, device=device, probe=probe
        )
    say(str(found))
