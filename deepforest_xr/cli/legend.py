"""``deepforest-xr legend``: classes, their codes and colours, and what MapBiomas codes become."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from deepforest_xr.cli import console
from deepforest_xr.cli.console import say
from deepforest_xr.legend import UNLABELLED, amazon13, mapbiomas_classes

if TYPE_CHECKING:
    from deepforest_xr.legend import MapBiomasClass

app = typer.Typer(help="Classes and their colours.", no_args_is_help=True)


@app.callback()
def _legend() -> None:
    """Classes and their colours."""


@app.command()
def show(
    collection: Annotated[
        int | None,
        typer.Option(help="MapBiomas collection; without it the paper's 13 classes are shown."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show codes, names and colours, and the class that each MapBiomas code becomes.

    Example: `deepforest-xr legend show --collection 8`
    """
    if collection is None:
        _show_paper(as_json=as_json)
        return
    classes = mapbiomas_classes(collection)
    if as_json:
        say(_mapbiomas_json(collection, classes))
        return
    console.out_console.print(_mapbiomas_table(collection, classes))
    say(f"class: of legend {amazon13().name}; - where none fits, {UNLABELLED} in aligned labels")


def _show_paper(*, as_json: bool) -> None:
    legend = amazon13()
    if as_json:
        say(json.dumps(legend.to_dict(), ensure_ascii=False, indent=2))
        return
    table = Table("", "code", f"legend {legend.name}", "color", box=None, header_style="bold")
    for known in legend.classes:
        table.add_row(_swatch(known.color), str(known.code), Text(known.name), known.color)
    console.out_console.print(table)


def _mapbiomas_json(collection: int, classes: tuple[MapBiomasClass, ...]) -> str:
    names = dict(zip(amazon13().codes, amazon13().names, strict=True))
    rows = [
        asdict(known)
        | {
            "target": None if known.target == UNLABELLED else known.target,
            "target_name": names.get(known.target),
        }
        for known in classes
    ]
    content = {"collection": collection, "target_legend": amazon13().name, "classes": rows}
    return json.dumps(content, ensure_ascii=False, indent=2)


def _mapbiomas_table(collection: int, classes: tuple[MapBiomasClass, ...]) -> Table:
    targets = {known.code: known for known in amazon13().classes}
    title = f"MapBiomas collection {collection}"
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    table.add_column("")
    table.add_column("code", justify="right", no_wrap=True)
    for heading in ("english", "portuguese", "color", "", "class"):
        table.add_column(heading)
    for known in classes:
        target = targets.get(known.target)
        indent = "  " * (known.level - 1)
        table.add_row(
            _swatch(known.color),
            str(known.code),
            Text(indent + known.english),
            Text(known.portuguese),
            known.color,
            _swatch(target.color) if target else "",
            Text(f"{target.code} {target.name}" if target else "-"),
        )
    return table


def _swatch(color: str) -> Text:
    return Text("  ", style=f"on {color}")
