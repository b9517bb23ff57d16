"""``deepforest-xr model``: the networks there are, and what to do with a checkpoint."""

from __future__ import annotations

import calendar
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from deepforest_xr.cli import console
from deepforest_xr.cli.console import bar, require_free, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepforest_xr.models import Checkpoint

# What `list` counts parameters with: the paper's bands and classes, its shorter series.
BANDS, CLASSES, MONTHS = 10, 13, 7

app = typer.Typer(help="Networks and checkpoints.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a checkpoint.")]


@app.command("list")
def list_models() -> None:
    """List the networks.

    Example: `deepforest-xr model list`
    """
    from deepforest_xr.models import entry, names
    from deepforest_xr.models.checkpoint import parameter_count

    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("inputs", no_wrap=True)
    for heading in ("parameters", "halo", "field"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("network")
    for known in map(entry, names()):
        arguments = {"bands": BANDS, "classes": CLASSES}
        if known.is_two_branch:
            arguments["months"] = MONTHS
        table.add_row(
            known.name,
            "bands, months" if known.is_two_branch else "bands",
            f"{parameter_count(known.name, arguments):,}",
            str(known.halo),
            str(known.reach),
            known.summary,
        )
    console.out_console.print(table)
    say(
        f"parameters with {BANDS} bands and {CLASSES} classes, and {MONTHS} months where they are "
        "an input; halo of a tile and receptive field (to each side) in pixels"
    )


@app.command()
def show(path: Folder) -> None:
    """Show what a checkpoint is: network, inputs, normalisation, legend, provenance.

    Example: `deepforest-xr model show run/checkpoint`
    """
    from deepforest_xr.models import load

    checkpoint = load(path)
    for table in (_facts(checkpoint), _channels(checkpoint), _legend(checkpoint)):
        console.out_console.print(table)
    provenance = Table("provenance", "", box=None, header_style="bold")
    for key, value in _flat(checkpoint.provenance):
        provenance.add_row(Text(key), Text(value, overflow="fold"))
    console.out_console.print(provenance if provenance.row_count else "no provenance recorded")


@app.command()
def install(
    source: Annotated[
        str, typer.Argument(metavar="PATH|URL", help="Folder of a checkpoint, or its address.")
    ],
) -> None:
    """Make a checkpoint the default of `classify`; its checksum is verified first.

    Example: `deepforest-xr model install run/checkpoint`
    """
    from deepforest_xr.classify import MODEL_VARIABLE
    from deepforest_xr.models import install, load
    from deepforest_xr.models.install import pointer

    with bar("Model", in_bytes=True) as progress:
        folder = install(source, progress=progress)
    checkpoint = load(folder)
    say(f"{checkpoint.model} {checkpoint.sha256[:12]} is the default of classify now: {folder}")
    say(f"to undo, install another or delete {pointer()}")
    if os.environ.get(MODEL_VARIABLE):
        say(f"{MODEL_VARIABLE} is set and comes before it", console.err_console)


@app.command()
def export(
    path: Folder,
    onnx: Annotated[Path, typer.Option(help="ONNX file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a checkpoint's network as ONNX, once onnxruntime computes what torch does.

    Example: `deepforest-xr model export run/checkpoint --onnx model.onnx`
    """
    from deepforest_xr.models import export_onnx

    require_free([onnx], overwrite=overwrite)
    with console.err_console.status("Exporting, about half a minute"):
        written = export_onnx(path, onnx, overwrite=overwrite)
    say(
        f"written to {written.path}: opset {written.opset}, logits within "
        f"{written.difference:.1e} of torch's"
    )


def _facts(checkpoint: Checkpoint) -> Table:
    from deepforest_xr.models import entry

    known = entry(checkpoint.model)
    used = {key: value for key, value in checkpoint.build_arguments.items() if value is not None}
    months = ", ".join(calendar.month_name[month] for month in checkpoint.months or ())
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("network", f"{checkpoint.model}: {known.summary}")
    table.add_row("built with", ", ".join(f"{key}={value}" for key, value in used.items()))
    table.add_row("parameters", f"{checkpoint.parameters:,}")
    table.add_row("receptive field", f"+-{known.reach} px; halo of a tile {known.halo} px")
    table.add_row("Sentinel-1 months", months or "none")
    table.add_row("temperature", f"{checkpoint.temperature:.4g}")
    table.add_row("sha256 of weights", checkpoint.sha256)
    return table


def _channels(checkpoint: Checkpoint) -> Table:
    table = Table("channel", "unit", box=None, header_style="bold")
    table.add_column("mean", justify="right")
    table.add_column("std", justify="right")
    rows = zip(checkpoint.bands, checkpoint.units, checkpoint.mean, checkpoint.std, strict=True)
    for name, unit, mean, std in rows:
        table.add_row(Text(name), Text(unit), f"{mean:.4g}", f"{std:.4g}")
    return table


def _legend(checkpoint: Checkpoint) -> Table:
    legend = checkpoint.legend
    title = Column(Text(f"legend {legend.name}"))
    table = Table("", "code", title, "color", box=None, header_style="bold")
    for known in legend.classes:
        swatch = Text("  ", style=f"on {known.color}")
        table.add_row(swatch, str(known.code), Text(known.name), known.color)
    return table


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as ``a.b`` and text; the legend has a table of its own."""
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            if key != "legend":
                yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value))
        else:
            yield name, str(value)
