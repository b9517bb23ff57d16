"""Open stores of chips, one or several as one set, and read single chips.

The arrays stay on disk. Several stores are tiles of one landscape or of several, each on its
own grid; positions count through them in the order they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.chips.apart import keep_apart
from deepforest_xr.chips.split import SPLITS
from deepforest_xr.chips.store import CODES, Store, open_store
from deepforest_xr.errors import ChipError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr
    from numpy.typing import NDArray

    from deepforest_xr.grid import Grid
    from deepforest_xr.legend import Legend


ALIKE = (
    ("band sets", "cut them from cubes of the same bands"),
    ("Sentinel-1 months", "cut them from cubes of the same months"),
    ("sizes", "cut them with one size"),
    ("legends", "align all labels to one legend"),
    ("Sentinel-1 quantities", "open all cubes from one kind of Sentinel-1 product"),
)
"""What stores of one set have in common, and what to do where they do not."""


@dataclass(frozen=True, slots=True)
class Chips:
    """Chips of one store or of several, opened for reading."""

    parts: tuple[Store, ...]
    """The stores in order; alike in bands, months, legend and size of a chip."""

    split: NDArray[np.int32]
    """0 train, 1 validation, 2 test, 3 buffer; dims (chip,)."""

    histogram: NDArray[np.int64]
    """Labelled pixels a class; dims (chip, class)."""

    @property
    def path(self) -> str:
        """The store's path, of several the first and how many more; for messages."""
        more = len(self.parts) - 1
        return f"{self.parts[0].path}{f' and {more} more' if more else ''}"

    @property
    def bands(self) -> tuple[str, ...]:
        """Sentinel-2 bands in order."""
        return self.parts[0].bands

    @property
    def months(self) -> tuple[int, ...] | None:
        """Sentinel-1 months in order, None without Sentinel-1."""
        return self.parts[0].months

    @property
    def legend(self) -> Legend:
        """Classes of the labels; ``histogram`` has them in this order."""
        return self.parts[0].legend

    @property
    def attrs(self) -> dict[str, Any]:
        """Size, seed, grid and provenance; where several stores differ, a list of theirs.

        ``cube`` holds the attributes of all their cubes: simulated is the set if one store is.
        """
        attrs = _merged([part.attrs for part in self.parts])
        return attrs | {"cube": _merged([part.attrs["cube"] for part in self.parts])}

    @property
    def fingerprint(self) -> str:
        """What the pixels are, 32 hexadecimal digits: other pixels, labels or splits, another.

        `write_chips` takes it of every value it writes; a store that is changed by other
        hands keeps it. A store written before there were fingerprints has that of its index
        (places, splits, class histograms) and its metadata: there, other reflectances under
        the same labels go unseen. Of several stores: a hash of theirs, in order.
        """
        prints = [part.fingerprint for part in self.parts]
        if len(prints) == 1:
            return prints[0]
        return blake2b(" ".join(prints).encode(), digest_size=16).hexdigest()

    @property
    def root(self) -> zarr.Group:
        """The opened store; several have none in common: see `parts`."""
        return self._only("root").root

    @property
    def shard(self) -> NDArray[np.int64]:
        """Number of the shard that each chip stands in, counted through; dims (chip,)."""
        numbers, first = [], 0
        for part in self.parts:
            numbers.append(first + part.shard)
            first = int(numbers[-1][-1]) + 1 if len(part.split) else first
        return np.concatenate(numbers)

    @property
    def grid(self) -> Grid:
        """The grid of the cube that the chips were cut from; each of several has its own.

        Raises
        ------
        ChipError
            If there are several stores: ask each of `parts`.
        """
        return self._only("grid").grid

    def indices(self, split: str) -> NDArray[np.int64]:
        """Positions of a split's chips; `split` is train, validation, test or buffer."""
        return np.flatnonzero(self.split == CODES.index(split))

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Labelled pixels of every class in a split, dims (class,)."""
        return np.asarray(self.histogram[self.indices(split)].sum(axis=0), dtype="int64")

    def read(self, chip: int) -> dict[str, NDArray[Any]]:
        """Read one chip.

        Returns
        -------
        dict of str to ndarray
            ``s2 (band, y, x)`` reflectance and, with months, ``s1 (month, polarization, y,
            x)`` dB, float32, NaN where missing, within half a step (0.00005 and 0.005) of
            the cube's; ``label (y, x)`` uint8, 255 where there is none; where the store has
            it ``weight (y, x)`` float32, 0 to 1, within half a percent.
        """
        part, number = self.find(chip)
        return part.read(number)

    def find(self, chip: int) -> tuple[Store, int]:
        """Give the store that holds a position, and the chip's position there."""
        first = 0
        for part in self.parts:
            if 0 <= chip - first < len(part.split):
                return part, chip - first
            first += len(part.split)
        raise IndexError(f"{self.path!r} has no chip {chip}: it holds {first}, from 0 on.")

    def origin(self, position: int) -> str:
        """Say in one phrase where a chip is from: store, first pixel, map coordinates.

        Parameters
        ----------
        position : int
            As in `Batch.chip` and `indices`.
        """
        part, number = self.find(position)
        return part.origin(number)

    def mask(self, split: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """True on the labelled pixels of a split's chips, dims (y, x) of the cube's grid.

        Raises
        ------
        ChipError
            If there are several stores: ask each of `parts`.
        """
        return self._only("mask").mask(split, shape)

    def _only(self, wanted: str) -> Store:
        if len(self.parts) > 1:
            raise ChipError(
                f"{self.path!r} are {len(self.parts)} stores, each with its own {wanted}: "
                "ask each of Chips.parts for it, or open one store alone."
            )
        return self.parts[0]


def open_chips(path: str | Path | Sequence[str | Path]) -> Chips:
    """Open a store of chips, or several as one set; only the index is read.

    Parameters
    ----------
    path : str or Path, or a sequence of them
        Stores from `write_chips`. Several are joined in the order given: tiles on any grids
        and in any CRS, alike in bands, months, legend and size of a chip. Splits are each
        store's own, but training chips that overlap what another store holds out, or lie
        within the buffer of it, are left out (split 3), and the log says how many.

    Returns
    -------
    Chips

    Raises
    ------
    ReadError
        If nothing is there, or it is not a store of chips.
    ChipError
        If stores differ, one comes twice, or no store holds a training or a validation chip.
    """
    paths = [path] if isinstance(path, str | PathLike) else list(path)
    if not paths:
        raise ChipError("no store of chips given: pass one path or several.")
    parts = tuple(open_store(Path(one)) for one in paths)
    for first, part in zip(parts[:1] * len(parts), parts[1:], strict=False):
        _require_alike(first, part)
    for one, other in combinations(parts, 2):
        if one.path.resolve() == other.path.resolve() or one.fingerprint == other.fingerprint:
            raise ChipError(
                f"{str(one.path)!r} and {str(other.path)!r} hold the same chips, which would count "
                "double: give one of them."
            )
    split = keep_apart(parts)
    chips = Chips(parts, split, np.concatenate([part.histogram for part in parts]))
    for code, name in enumerate(SPLITS[:2]):
        if not (split == code).any():
            raise ChipError(f"{chips.path!r} has no {name} chip: cut again with other fractions.")
    return chips


def _require_alike(ours: Store, theirs: Store) -> None:
    """Refuse stores whose chips do not make one batch; say in what they differ."""
    where = (repr(str(ours.path)), repr(str(theirs.path)))
    for (what, then), one, other in zip(ALIKE, _facts(ours), _facts(theirs), strict=True):
        if one != other:
            differences = _difference(where, one, other)
            raise ChipError(f"chips of different {what} mixed: {differences}; {then}.")


def _facts(store: Store) -> tuple[list[str], ...]:
    """What `ALIKE` names, of one store."""
    return (
        list(store.bands),
        [str(month) for month in store.months or ()],
        [f"{store.size} pixels"],
        [f"{c.code} {c.name}" for c in store.legend.classes],
        [str(store.attrs["cube"].get("s1_quantity", "gamma0")).split(",")[0]]
        if store.months
        else [],
    )


def _difference(where: tuple[str, str], one: list[str], other: list[str]) -> str:
    """Name what is only in one of two lists, or that their order differs."""
    only = [[x for x in one if x not in other], [x for x in other if x not in one]]
    if not any(only):
        return (
            f"{where[0]} has them in the order {', '.join(one)}, "
            f"{where[1]} in the order {', '.join(other)}"
        )
    named = [f"only {at} has {', '.join(x)}" for at, x in zip(where, only, strict=True) if x]
    rest = [f"{at} has nothing more" for at, x in zip(where, only, strict=True) if not x]
    return " and ".join((*named, *rest))


def _merged(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Join attributes: one value where all that have it agree, otherwise a list of all."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for attrs in attributes for name in attrs):
        values = [attrs[name] for attrs in attributes if name in attrs]
        merged[name] = values[0] if all(v == values[0] for v in values) else values
    return merged
