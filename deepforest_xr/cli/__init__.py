"""The command ``deepforest-xr``: a sub-command a stage, and ``model``; each a call of the library.

Exit codes: 0 done, 1 something went wrong (one line says what), 2 wrong usage.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.logging import RichHandler

from deepforest_xr.cli import (
    basin,
    console,
    coverage,
    explain,
    k8s,
    legend,
    model,
    postprocess,
    stages,
)
from deepforest_xr.errors import DeepForestError

app = typer.Typer(
    help="Land use and land cover of the Amazon from Sentinel-1 and Sentinel-2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for stage in stages.COMMANDS:
    app.command()(stage)
app.command()(coverage.coverage)
app.command()(explain.explain)
app.command()(postprocess.postprocess)
app.add_typer(k8s.app, name="k8s")
app.add_typer(basin.app, name="basin")
app.add_typer(legend.app, name="legend")
app.add_typer(model.app, name="model")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors are one line unless ``--debug`` is among the arguments."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    try:
        app([w for w in words if w != "--debug"], prog_name="deepforest-xr")
    except DeepForestError as error:
        _fail(str(error), error, debug=debug)
    except Exception as error:
        _fail(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]} "
            "(--debug shows where; please report it)",
            error,
            debug=debug,
        )


def _fail(line: str, error: Exception, *, debug: bool) -> None:
    if debug:
        raise error
    console.err_console.print(
        f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True
    )
    raise SystemExit(1)


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    del debug  # taken out of the arguments before typer sees them
    logger = logging.getLogger("deepforest_xr")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    if not logger.handlers:
        handler = RichHandler(console=console.err_console, show_time=False, show_path=False)
        logger.addHandler(handler)
