"""An accuracy report to files: Markdown for people, JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepforest_xr.atomic import staged

if TYPE_CHECKING:
    from deepforest_xr.accuracy import Report


def write_report(report: Report, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an accuracy report.

    Parameters
    ----------
    report : Report
        From `deepforest_xr.accuracy.assess`.
    path : str or Path
        ``*.md`` or ``*.json`` writes that one file; anything else is a folder, made if
        absent, that receives ``accuracy.md`` and ``accuracy.json``.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    WriteError
        If a file exists or cannot be written.
    """
    path = Path(path)
    files = [path]
    if path.suffix.lower() not in (".md", ".json"):
        files = [path / "accuracy.md", path / "accuracy.json"]
    for file in files:
        text = report.to_json() if file.suffix.lower() == ".json" else report.to_markdown()
        with staged(file, overwrite=overwrite) as partial:
            partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return path
