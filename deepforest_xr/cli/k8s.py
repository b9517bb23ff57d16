"""``deepforest-xr k8s``: render the manifests, and what pods run around their commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepforest_xr.cli.console import err_console, say

app = typer.Typer(help="Kubernetes manifests, and what their pods run.", no_args_is_help=True)


@app.command("render")
def render_manifests(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("k8s"),
    settings: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
) -> None:
    """Write the manifests of a run, over those of an earlier rendering.

    Example: `deepforest-xr k8s render --settings k8s.toml --out k8s`
    """
    from deepforest_xr.k8s import Settings, read_settings, write_manifests

    chosen = Settings() if settings is None else read_settings(settings)
    written = write_manifests(chosen, out)
    say(f"{len(written)} files written below {out}")


@app.command("fetch-model")
def fetch_model(
    source: Annotated[
        str, typer.Argument(metavar="PATH|URL", help="Folder of a checkpoint, or its address.")
    ],
    to: Annotated[Path, typer.Option(help="Link to make to the installed checkpoint.")],
    sha256: Annotated[str | None, typer.Option(help="Checksum that its weights must have.")] = None,
) -> None:
    """Install a checkpoint and link it at a place that does not change.

    Example: `deepforest-xr k8s fetch-model /data/models/df1b --to /model/checkpoint`
    """
    from deepforest_xr.k8s import fetch_model as fetch

    say(f"{to} is {fetch(source, to, sha256=sha256)}")


@app.command("retry")
def retry_command(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run.")],
    attempts: Annotated[int, typer.Option(min=1, help="Most times to start it.")] = 20,
    on: Annotated[int, typer.Option(min=1, help="Exit code that means interrupted.")] = 75,
) -> None:
    """Run a command again while it is interrupted; its last exit code is that of this command.

    Example: `deepforest-xr k8s retry --attempts 5 -- deepforest-xr basin run out`
    """
    from deepforest_xr.k8s import retry

    code = retry(command, attempts=attempts, on=on)
    if code:
        say(f"{command[0]} ended with {code}", err_console)
    raise typer.Exit(code)
