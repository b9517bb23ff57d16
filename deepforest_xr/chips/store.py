"""One store of chips on disk: its index in memory, its pixels read chip by chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from affine import Affine

from deepforest_xr.chips.pack import STORED
from deepforest_xr.chips.shards import Shards
from deepforest_xr.chips.split import SPLITS
from deepforest_xr.chips.write import FORMAT, fingerprint_of
from deepforest_xr.errors import ReadError
from deepforest_xr.grid import Grid, parse_crs
from deepforest_xr.legend import UNLABELLED, Legend

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMATS = (FORMAT, "deepforest_xr chips 1")
"""What can be read; the first stores held float32."""

CODES = (*SPLITS, "buffer")
"""Names of the codes in ``split``."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store of chips, opened for reading."""

    path: Path
    """Where it stands."""

    root: zarr.Group
    """The store, opened."""

    arrays: dict[str, zarr.Array[Any]]
    """Its pixels: ``s2``, ``label``, where it has them ``s1`` and ``weight``; integers as they
    stand on disk."""

    shards: dict[str, Shards | None]
    """The same, read without zarr where they are as `write_chips` leaves them."""

    bands: tuple[str, ...]
    """Sentinel-2 bands in order."""

    months: tuple[int, ...] | None
    """Sentinel-1 months in order, None without Sentinel-1."""

    legend: Legend
    """Classes of the labels; ``histogram`` has them in this order."""

    row: NDArray[np.int32]
    """First pixel of each chip on the grid; dims (chip,)."""

    col: NDArray[np.int32]
    """First pixel of each chip on the grid; dims (chip,)."""

    split: NDArray[np.int32]
    """0 train, 1 validation, 2 test, 3 buffer; dims (chip,)."""

    histogram: NDArray[np.int64]
    """Labelled pixels a class; dims (chip, class)."""

    attrs: dict[str, Any]
    """Size, seed, grid and provenance."""

    @property
    def size(self) -> int:
        """Side of a chip in pixels."""
        return int(self.attrs["size"])

    @property
    def shard(self) -> NDArray[np.int64]:
        """Number of the shard that each chip stands in; dims (chip,)."""
        label = self.arrays["label"]
        return np.arange(len(self.split)) // (label.shards or label.chunks)[0]

    @property
    def grid(self) -> Grid:
        """The grid of the cube that the chips were cut from."""
        rows, cols = self.attrs["shape"]
        return Grid(parse_crs(self.attrs["crs"]), Affine(*self.attrs["transform"]), (rows, cols))

    @property
    def fingerprint(self) -> str:
        """See `Chips.fingerprint`."""
        if written := self.attrs.get("fingerprint"):
            return str(written)
        names = ("row", "col", "split", "block", "clipped", "histogram")
        columns = {name: np.asarray(self.root[name]) for name in names if name in self.root}
        return fingerprint_of(columns, self.attrs)

    def read(self, chip: int) -> dict[str, NDArray[Any]]:
        """Read one chip, see `Chips.read`.

        Raises
        ------
        ReadError
            If its bytes are not there or damaged.
        """
        return {
            name: STORED[name].unpack(values) if name in STORED else values.copy()
            for name, values in self.stored(chip).items()
        }

    def stored(self, chip: int) -> dict[str, NDArray[Any]]:
        """Give a chip's arrays as they stand on disk; they cannot be written to.

        Raises
        ------
        ReadError
            If its bytes are not there or damaged.
        """
        return {name: self._stored(name, chip) for name in self.arrays}

    def _stored(self, name: str, chip: int) -> NDArray[Any]:
        """Give an array of one chip as it stands on disk."""
        shards = self.shards[name]
        try:
            if shards is not None:
                return shards.read(chip)
            return np.asarray(self.arrays[name][chip])
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ReadError(
                f"{name!r} of {self.origin(chip)} cannot be read: {reason}. Copy the store again, "
                "or write it again with write_chips."
            ) from error

    def mask(self, split: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """True on the labelled pixels of a split's chips, dims (y, x) of `grid`."""
        mask = np.zeros(shape, dtype=bool)
        for chip in np.flatnonzero(self.split == CODES.index(split)):
            row, col = self.row[chip], self.col[chip]
            window = mask[row : row + self.size, col : col + self.size]
            window |= self.read(int(chip))["label"] != UNLABELLED
        return mask

    def origin(self, chip: int) -> str:
        """Say where a chip is from, see `Chips.origin`."""
        grid, row, col = self.grid, int(self.row[chip]), int(self.col[chip])
        x = grid.transform.c + col * grid.transform.a
        y = grid.transform.f + row * grid.transform.e
        return (
            f"chip {chip} of {str(self.path)!r} (row {row}, col {col}: upper left corner at "
            f"x={x:.10g}, y={y:.10g} in {grid.crs.name})"
        )


def open_store(path: Path) -> Store:
    """Open one store; only its index is read.

    Raises
    ------
    ReadError
        If nothing is there, or it is not a store of chips.
    """
    try:
        root = zarr.open_group(path, mode="r")
        attrs: dict[str, Any] = dict(root.attrs)
        index = {n: np.asarray(root[n]) for n in ("row", "col", "split", "histogram")}
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
    arrays: Any = {name: root[name] for name in ("s2", "s1", "label", "weight") if name in root}
    months = attrs["months"]
    needed = {"s2", "label", *(("s1",) if months else ()), *attrs.get("arrays", ())}
    if absent := sorted(needed - set(arrays)):
        raise ReadError(
            f"{str(path)!r} lacks its array {absent[0]!r}: copy the store again, or write it again "
            "with write_chips."
        )
    return Store(
        path,
        root,
        arrays,
        {name: Shards.of(array) for name, array in arrays.items()},
        tuple(attrs["bands"]),
        None if months is None else tuple(months),
        Legend.from_dict(attrs["legend"]),
        index["row"],
        index["col"],
        index["split"],
        index["histogram"],
        attrs,
    )
