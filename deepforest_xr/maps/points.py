"""Points to label, to a file and back: CSV for Collect Earth, GeoJSON for QGIS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from deepforest_xr.accuracy import points_to_geojson
from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError, ReadError

if TYPE_CHECKING:
    import pandas as pd

GEOJSON = (".geojson", ".json")


def write_points(table: pd.DataFrame, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write points of a sample.

    Parameters
    ----------
    table : DataFrame
        From `deepforest_xr.accuracy.draw_points`.
    path : str or Path
        ``*.csv``, or ``*.geojson`` (WGS 84).
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ConfigError
        If the suffix is neither.
    WriteError
        If the file exists or cannot be written.
    """
    path = Path(path)
    _require_suffix(path)
    with staged(path, overwrite=overwrite) as partial:
        if path.suffix.lower() == ".csv":
            table.to_csv(partial, index=False)
        else:
            partial.write_text(points_to_geojson(table) + "\n", encoding="utf-8")
    return path


def read_points(path: str | Path) -> pd.DataFrame:
    """Read labelled points from CSV or GeoJSON.

    Parameters
    ----------
    path : str or Path
        As `write_points` wrote it, ``reference`` filled in; other columns are kept.

    Returns
    -------
    pandas.DataFrame
        For `deepforest_xr.accuracy.counts_from_points`.

    Raises
    ------
    ConfigError
        If the suffix is neither.
    ReadError
        If the file cannot be read.
    """
    import pandas as pd

    path = Path(path)
    _require_suffix(path)
    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path)
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        return pd.DataFrame(
            [
                feature["properties"]
                | dict(
                    zip(("longitude", "latitude"), feature["geometry"]["coordinates"], strict=False)
                )
                for feature in features
            ]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"{str(path)!r} cannot be read as points: {reason}.") from error


def _require_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".csv", *GEOJSON):
        raise ConfigError(f"points are .csv or .geojson, got {path.name!r}.")
