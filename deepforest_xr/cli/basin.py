"""``deepforest-xr basin``: plan, run and look at the map of a whole basin.

Exit codes of ``basin run``: 0 all tiles of the share are done, 1 an error that concerns every
tile, 42 tiles were set aside (running again does not help before their cause is mended), 75
interrupted or the scheduler was lost (run again).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepforest_xr.cli import console
from deepforest_xr.cli.console import bar, require_free, say
from deepforest_xr.cli.finish import finish
from deepforest_xr.cli.options import Overwrite  # noqa: TC001 - typer reads it at run time

if TYPE_CHECKING:
    from collections.abc import Iterator

SET_ASIDE = 42
TRY_AGAIN = 75

Out = Annotated[str, typer.Argument(help="Folder or URL (s3://bucket/prefix) of the basin.")]
app = typer.Typer(
    help="The map of a whole basin, tile by tile: plan it, run it, look at it, run it again.",
    no_args_is_help=True,
)


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="TOML file of the basin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    tiles: Annotated[Path | None, typer.Option(help="GeoJSON of the tiles to write.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the tiles to draw.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace GeoJSON and PNG, never a plan.")
    ] = False,
) -> None:
    """Choose and freeze scenes, lay out the empty map, print what it will take.

    Example: `deepforest-xr basin plan amazon.toml --dry-run --picture tiles.png`
    """
    from deepforest_xr.atomic import staged
    from deepforest_xr.basin import BasinConfig, plan_basin
    from deepforest_xr.basin.status import draw_tiles

    require_free([tiles, picture], overwrite=overwrite)
    settings = BasinConfig.from_toml(config)
    with bar("Scenes of tiles") as progress:
        planned = plan_basin(settings, dry_run=dry_run, progress=progress)
    say(str(planned))
    if tiles is not None:
        with staged(tiles, overwrite=overwrite) as part:
            part.write_text(json.dumps(planned.geojson()), encoding="utf-8")
    if picture is not None:
        draw_tiles(planned, {}, picture, overwrite=overwrite)


@app.command()
def run(
    out: Out,
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n: only every n-th tile from the i-th, from 0; for processes that "
            "share nothing but the store."
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://host:port.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Tiles at once in this process.")] = 1,
    max_attempts: Annotated[int, typer.Option(help="Attempts before a tile is set aside.")] = 3,
    lease: Annotated[
        float,
        typer.Option(help="Seconds without a word after which this runner has lost its tile."),
    ] = 600.0,
    model: Annotated[
        str | None, typer.Option(help="Folder of the checkpoint here, if it was elsewhere.")
    ] = None,
) -> None:
    """Map what is not done; run it again (or `resume`) to go on after anything.

    Example: `deepforest-xr basin run s3://maps/amazon --shard $JOB_COMPLETION_INDEX/16`
    """
    from deepforest_xr.basin import open_plan, run_basin

    planned = open_plan(out)
    share = _share(shard)
    with _stopped_by_signals() as stop, _client(scheduler) as client:
        with bar("Tiles done", in_lines=True) as progress:
            summary = run_basin(
                planned,
                client=client,
                workers=workers,
                shard=share,
                max_attempts=max_attempts,
                lease=lease,
                model=model,
                stop=stop,
                progress=progress,
            )
        say(str(summary))
        if summary.is_interrupted:
            _leave(TRY_AGAIN)
    if summary.set_aside:
        raise typer.Exit(SET_ASIDE)


@app.command()
def status(
    out: Out,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    map_: Annotated[Path | None, typer.Option("--map", help="PNG of the tiles to draw.")] = None,
    tiles: Annotated[Path | None, typer.Option(help="GeoJSON of the tiles to write.")] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(help="Attempts before a tile is set aside; default: as the last run."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print how far a basin is, from its ledger.

    Example: `deepforest-xr basin status s3://maps/amazon --map states.png --overwrite`
    """
    from deepforest_xr.atomic import staged
    from deepforest_xr.basin import basin_status, open_plan

    require_free([map_, tiles], overwrite=overwrite)
    found = basin_status(open_plan(out), max_attempts=max_attempts)
    say(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
    if map_ is not None:
        found.write_picture(map_, overwrite=overwrite)
    if tiles is not None:
        with staged(tiles, overwrite=overwrite) as part:
            part.write_text(json.dumps(found.geojson()), encoding="utf-8")


app.command("resume", help="The same as `run`: what is done stays done.")(run)
app.command()(finish)


def _share(text: str | None) -> tuple[int, int] | None:
    """Read i/n."""
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"--shard {text}: expected i/n, as 0/16; is a variable empty?")
    return int(number), int(count)


@contextmanager
def _client(scheduler: str | None) -> Iterator[Any]:
    """Give a client of a Dask scheduler, or None without one."""
    if scheduler is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        console.err_console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(TRY_AGAIN) from error
    try:
        yield client
    finally:
        client.close(timeout=5)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Give what SIGTERM and SIGINT set; a second signal ends the process as ever."""
    stop = threading.Event()
    earlier: dict[int, Any] = {}

    def asked(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, earlier[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            earlier[number] = signal.signal(number, asked)
    try:
        yield stop
    finally:
        for before, handler in earlier.items():
            signal.signal(before, handler)


def _leave(code: int) -> None:
    """End at once: threads may still be reading a tile that was given back."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
