"""Land-cover classes: codes, names, colours, and the crosswalk from MapBiomas.

A legend's codes are what maps and aligned labels hold, 1 to 254: 0 is "no data" of a
map, 255 is "unlabelled" of a label raster. The default is the paper's 13 classes.
MapBiomas numbers mean different things in different collections, so a crosswalk is
always asked for by collection. The tables are ``legends/*.csv``; in MapBiomas' the cell
``class`` is filled only where a class is decided, codes below take their parent's. A name
that no source gives in Portuguese is blank.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np

from deepforest_xr.errors import ConfigError, LabelError

NODATA = 0
UNLABELLED = 255

# Unknown codes that an error names; a raster of something else has thousands.
NAMED = 10


@dataclass(frozen=True, slots=True)
class LandCoverClass:
    """One class of a legend."""

    code: int
    """Value in maps and labels, 1 to 254."""

    name: str
    """English name."""

    color: str
    """``#rrggbb``."""


@dataclass(frozen=True, slots=True)
class Legend:
    """An ordered set of classes; a network's output channel is the position in it."""

    name: str
    """Short identifier, kept in checkpoints and maps."""

    classes: tuple[LandCoverClass, ...]
    """In the order of the network's output channels."""

    def __post_init__(self) -> None:
        codes = [c.code for c in self.classes]
        if not codes:
            raise ConfigError(f"legend {self.name!r} has no class.")
        if len(set(codes)) != len(codes):
            raise ConfigError(f"legend {self.name!r} gives a code twice: {codes}.")
        if min(codes) <= NODATA or max(codes) >= UNLABELLED:
            raise ConfigError(
                f"legend {self.name!r} has codes {codes}; 1 to 254 are free "
                "(0 is no data, 255 unlabelled)."
            )

    @classmethod
    def from_csv(
        cls, path: str | Path, *, name: str | None = None, raster: str | None = None
    ) -> Self:
        """Read columns ``code`` (or ``value``), ``name`` and ``color`` (or ``hex_color``).

        Code 0 is skipped (no data), a repeated row is read once, a missing colour is
        drawn from a fixed palette. A table of several rasters has a column ``raster``; of
        it, only the rows of the one named `raster` are read.

        Raises
        ------
        ConfigError
            If the file lacks a column or a code is not a number from 1 to 254.
        """
        path = Path(path)
        try:
            # Spreadsheets write a byte-order mark before the first column's name.
            with path.open(newline="", encoding="utf-8-sig") as stream:
                rows = list(csv.DictReader(stream))
        except OSError as error:
            raise ConfigError(f"legend {path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"legend {path} is not UTF-8: save it as UTF-8.") from error
        classes: dict[int, LandCoverClass] = {}
        for row in rows:
            if raster is not None and row.get("raster", raster) != raster:
                continue
            code = _number(row.get("code") or row.get("value"), path)
            if code == NODATA or code in classes:
                continue
            color = row.get("color") or row.get("hex_color") or _palette(len(classes))
            classes[code] = LandCoverClass(code, (row.get("name") or str(code)).strip(), color)
        return cls(name or path.stem, tuple(classes.values()))

    @classmethod
    def from_attrs(cls, attrs: dict[Any, Any]) -> Self:
        """Rebuild the legend from the CF flag attributes that `attrs` writes."""
        try:
            values = np.atleast_1d(attrs["flag_values"]).tolist()
            names = [word.replace("_", " ") for word in str(attrs["flag_meanings"]).split()]
        except KeyError as error:
            raise LabelError(
                f"no {error.args[0]!r} in the attributes: classes unknown; use labels from "
                "align_labels, or set CF flag_values and flag_meanings."
            ) from error
        colors = str(attrs.get("flag_colors", "")).split()
        if len(colors) != len(values):
            colors = [_palette(i) for i in range(len(values))]
        classes = tuple(
            LandCoverClass(int(v), n, c) for v, n, c in zip(values, names, colors, strict=True)
        )
        return cls(str(attrs.get("legend", "unnamed")), classes)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild the legend from `to_dict`."""
        return cls(data["name"], tuple(LandCoverClass(**c) for c in data["classes"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        classes = [{"code": c.code, "name": c.name, "color": c.color} for c in self.classes]
        return {"name": self.name, "classes": classes}

    def attrs(self) -> dict[str, Any]:
        """CF flag attributes, with colours as a list of ``#rrggbb`` words."""
        return {
            "flag_values": np.array(self.codes, dtype="uint8"),
            "flag_meanings": " ".join(c.name.replace(" ", "_") for c in self.classes),
            "flag_colors": " ".join(c.color for c in self.classes),
            "legend": self.name,
        }

    def classification(self) -> list[dict[str, Any]]:
        """Give ``classification:classes`` of the STAC classification extension 2.0.0."""
        return [
            {
                "value": c.code,
                "name": _machine_name(c.name),
                "title": c.name,
                "description": f"{c.name} (class {c.code} of legend {self.name}).",
                "color_hint": c.color.lstrip("#").upper(),
            }
            for c in self.classes
        ]

    @property
    def codes(self) -> list[int]:
        """Codes in the order of the network's channels."""
        return [c.code for c in self.classes]

    @property
    def names(self) -> list[str]:
        """Names in the order of the network's channels."""
        return [c.name for c in self.classes]

    def rgb(self) -> dict[int, tuple[int, int, int]]:
        """Colour of every code, 0 to 255 a channel."""
        return {c.code: _rgb(c.color) for c in self.classes}


@dataclass(frozen=True, slots=True)
class Crosswalk:
    """From the codes of a label raster to the codes of a legend."""

    source: str
    """What the codes belong to, for messages ("MapBiomas collection 8")."""

    legend: Legend
    """Target classes."""

    mapping: dict[int, int]
    """Source code to target code, or to 255 where no class fits."""

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Translate an integer array; unknown codes raise LabelError, naming them.

        Parameters
        ----------
        codes : ndarray of integers, any shape

        Returns
        -------
        ndarray[uint8], shape of `codes`
        """
        present = np.unique(codes)
        unknown = [int(c) for c in present if int(c) not in self.mapping]
        if unknown:
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            raise LabelError(
                f"label codes {unknown[:NAMED]}{more} are not in {self.source}; known are "
                f"{sorted(self.mapping)}: name the collection or the legend that the raster is of."
            )
        targets = np.array([self.mapping[int(c)] for c in present], dtype="uint8")
        return targets[np.searchsorted(present, codes)]


@cache
def amazon13() -> Legend:
    """The paper's 13 MapBiomas classes of the Amazon (Cherif et al. 2022)."""
    return Legend.from_csv(Path(str(files("deepforest_xr") / "legends" / "amazon13.csv")))


@dataclass(frozen=True, slots=True)
class MapBiomasClass:
    """One code of one MapBiomas collection."""

    code: int
    """Value in the collection's rasters."""

    parent: int | None
    """Code of the class it is part of; None at the top."""

    level: int
    """Depth in the collection's numbering, 1 at the top."""

    english: str
    """Name in English."""

    portuguese: str
    """Name in Portuguese, blank where no source has it."""

    color: str
    """MapBiomas' own, ``#rrggbb``."""

    target: int
    """Code of the paper's class, or 255 where none fits."""


@cache
def mapbiomas_collections() -> tuple[int, ...]:
    """Collections with a legend here, ascending."""
    return tuple(sorted({int(row["collection"]) for row in _mapbiomas_rows()}))


@cache
def mapbiomas_classes(collection: int) -> tuple[MapBiomasClass, ...]:
    """Legend of one MapBiomas collection, each class followed by those it consists of.

    Raises
    ------
    ConfigError
        If the collection is not in ``legends/mapbiomas.csv``.
    """
    classes: dict[int, MapBiomasClass] = {}
    for row in _mapbiomas_rows():
        if int(row["collection"]) != collection:
            continue
        above = classes[int(row["parent"])] if row["parent"] else None
        inherited = above.target if above else UNLABELLED
        code = int(row["code"])
        classes[code] = MapBiomasClass(
            code=code,
            parent=above.code if above else None,
            level=above.level + 1 if above else 1,
            english=row["english"],
            portuguese=row["portuguese"],
            color=row["color"],
            target=int(row["class"] or inherited),
        )
    if not classes:
        raise ConfigError(
            f"MapBiomas collection {collection} has no crosswalk; "
            f"known: {list(mapbiomas_collections())}."
        )
    return tuple(classes.values())


@cache
def mapbiomas(collection: int) -> Crosswalk:
    """Crosswalk of one MapBiomas collection to the paper's 13 classes.

    A code goes where the finest class above it that is decided goes: soybean with the
    temporary crops, sugar cane to its own class. Aggregate codes ("Forest", "Farming",
    mosaics) and classes without a counterpart (mangrove, coral reef) become unlabelled.

    Raises
    ------
    ConfigError
        If the collection is not in ``legends/mapbiomas.csv``.
    """
    mapping = {known.code: known.target for known in mapbiomas_classes(collection)}
    # 0 and 27 are "not observed" in every collection, listed or not.
    return Crosswalk(
        f"MapBiomas collection {collection}",
        amazon13(),
        {0: UNLABELLED, 27: UNLABELLED} | mapping,
    )


@cache
def _mapbiomas_rows() -> tuple[dict[str, str], ...]:
    table = files("deepforest_xr") / "legends" / "mapbiomas.csv"
    return tuple(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def identity(legend: Legend) -> Crosswalk:
    """Crosswalk for a raster that already holds the legend's codes; 0 is unlabelled."""
    return Crosswalk(
        f"legend {legend.name!r}",
        legend,
        {NODATA: UNLABELLED, UNLABELLED: UNLABELLED} | {c: c for c in legend.codes},
    )


def _number(text: str | None, path: Path) -> int:
    try:
        return int(text or "")
    except ValueError as error:
        raise ConfigError(
            f"legend {path}: {text!r} is not a code; expected columns code, name, color."
        ) from error


def _machine_name(name: str) -> str:
    """Only letters, digits, ``-`` and ``_``, as the classification extension asks."""
    return re.sub(r"[^0-9A-Za-z-]+", "_", name).strip("_").lower() or "class"


def _rgb(color: str) -> tuple[int, int, int]:
    digits = color.lstrip("#")
    return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)


def _palette(position: int) -> str:
    """Colours for legends that come without (Okabe and Ito's, safe for colour blindness)."""
    colors = (
        "#009e73",
        "#e69f00",
        "#56b4e9",
        "#f0e442",
        "#0072b2",
        "#d55e00",
        "#cc79a7",
        "#999999",
    )
    return colors[position % len(colors)]
