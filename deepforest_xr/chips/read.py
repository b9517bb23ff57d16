"""Open a store of chips and read single ones; the arrays stay on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from affine import Affine

from deepforest_xr.chips.pack import PACKINGS
from deepforest_xr.chips.split import SPLITS
from deepforest_xr.chips.write import FORMAT
from deepforest_xr.errors import ChipError, ReadError
from deepforest_xr.grid import Grid, parse_crs
from deepforest_xr.legend import UNLABELLED, Legend

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = (FORMAT, "deepforest_xr chips 1")
"""What can be read; the first stores held float32."""


@dataclass(frozen=True, slots=True)
class Chips:
    """A store of chips, opened for reading."""

    path: Path
    """The store."""

    root: zarr.Group
    """The store, opened."""

    arrays: dict[str, zarr.Array[Any]]
    """Its pixels: ``s2``, with months ``s1``, ``label``; integers as they stand on disk."""

    bands: tuple[str, ...]
    """Sentinel-2 bands in order."""

    months: tuple[int, ...] | None
    """Sentinel-1 months in order, None without Sentinel-1."""

    legend: Legend
    """Classes of the labels; ``histogram`` has them in this order."""

    split: NDArray[np.int32]
    """0 train, 1 validation, 2 test, 3 buffer; dims (chip,)."""

    histogram: NDArray[np.int64]
    """Labelled pixels a class; dims (chip, class)."""

    attrs: dict[str, Any]
    """Size, seed, grid and provenance."""

    @property
    def grid(self) -> Grid:
        """The grid of the cube that the chips were cut from."""
        rows, cols = self.attrs["shape"]
        return Grid(parse_crs(self.attrs["crs"]), Affine(*self.attrs["transform"]), (rows, cols))

    def indices(self, split: str) -> NDArray[np.int64]:
        """Positions of a split's chips; `split` is train, validation, test or buffer."""
        return np.flatnonzero(self.split == (*SPLITS, "buffer").index(split))

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Labelled pixels of every class in a split, dims (class,)."""
        return np.asarray(self.histogram[self.indices(split)].sum(axis=0), dtype="int64")

    def read(self, chip: int) -> dict[str, NDArray[Any]]:
        """Read one chip: ``s2 (band, y, x)``, ``label (y, x)``, with months also ``s1``.

        Reflectance and dB are float32, NaN where missing, within half a step (0.00005 and
        0.005) of the cube's.
        """
        found: dict[str, NDArray[Any]] = {}
        for name, array in self.arrays.items():
            stored = np.asarray(array[chip])
            is_packed = name in PACKINGS and stored.dtype.kind != "f"
            found[name] = PACKINGS[name].unpack(stored) if is_packed else stored
        return found

    def mask(self, split: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """True on the labelled pixels of a split's chips, dims (y, x) of the cube's grid."""
        mask = np.zeros(shape, dtype=bool)
        size = int(self.attrs["size"])
        rows, cols = np.asarray(self.root["row"]), np.asarray(self.root["col"])
        for chip in self.indices(split):
            window = mask[rows[chip] : rows[chip] + size, cols[chip] : cols[chip] + size]
            window |= self.read(int(chip))["label"] != UNLABELLED
        return mask


def open_chips(path: str | Path) -> Chips:
    """Open a store of chips; only its index is read.

    Raises
    ------
    ReadError
        If nothing is there, or it is not a store of chips.
    ChipError
        If it holds no training or no validation chip.
    """
    path = Path(path)
    try:
        root = zarr.open_group(path, mode="r")
        attrs = dict(root.attrs)
        split = np.asarray(root["split"])
        histogram = np.asarray(root["histogram"])
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(
            f"{str(path)!r} is not a store of chips: {reason}. Write one with write_chips."
        ) from error
    if attrs.get("format") not in FORMATS:
        raise ReadError(
            f"{str(path)!r} has format {attrs.get('format')!r}, expected {FORMAT!r}: "
            "write the chips again with this version."
        )
    for code, name in enumerate(SPLITS[:2]):
        if not (split == code).any():
            raise ChipError(f"{str(path)!r} has no {name} chip: cut again with other fractions.")
    arrays: Any = {name: root[name] for name in ("s2", "s1", "label") if name in root}
    months: Any = attrs["months"]
    bands: Any = attrs["bands"]
    legend: Any = attrs["legend"]
    return Chips(
        path,
        root,
        arrays,
        tuple(bands),
        None if months is None else tuple(months),
        Legend.from_dict(legend),
        split,
        histogram,
        attrs,
    )
