"""What the commands print, and where: results on standard output, all else on standard error."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from deepforest_xr.errors import WriteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PIPED_WIDTH = 200
"""Columns where no terminal says: a row of a table stays one line in a file or a pipe."""

out_console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
err_console = Console(stderr=True)


def say(line: str, console: Console | None = None) -> None:
    """Print one line as it is, however long."""
    (console or out_console).print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(
    title: str, *, in_bytes: bool = False, in_lines: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for a stage; without a terminal its title once, or a line at each change."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    if in_lines and not err_console.is_terminal:
        told: set[int] = set()

        def tell(done: int, total: int) -> None:
            if done not in told:
                told.add(done)
                say(f"{title}: {done:,} of {total:,}", err_console)

        yield tell
        return
    if not err_console.is_terminal or title.startswith("Training"):
        # Training draws its own bar.
        say(title, err_console)
        yield lambda _done, _total: None
        return
    with Progress(*columns, console=err_console) as progress:
        task = progress.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield update
        if not in_lines:  # an interrupted run leaves what it reached
            total = progress.tasks[0].total or 1
            progress.update(task, completed=total, total=total)


def require_free(paths: list[Path | None], *, overwrite: bool) -> None:
    """Refuse at once what would be refused after a long computation."""
    taken = [str(p) for p in paths if p is not None and p.exists()]
    if taken and not overwrite:
        raise WriteError(f"{taken[0]} exists: choose another name, or pass --overwrite.")
