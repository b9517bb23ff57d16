"""Notebooks of examples/, with other values in the cell that is tagged "parameters"."""

from pathlib import Path

import nbformat

EXAMPLES = Path(__file__).parents[1] / "examples"


def read_notebook(name, parameters=None):
    """A notebook; assignments of `parameters` follow those of its own cell."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    if parameters is not None:
        (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        cell.source += f"\n{parameters}\n"
    return notebook


def code(notebook):
    """The code of its cells, one after the other."""
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
