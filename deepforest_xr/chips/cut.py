"""One strip of the landscape to chips: read, check, pack, cut. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from deepforest_xr.chips.pack import PACKINGS, WEIGHT
from deepforest_xr.chips.split import SPLITS, assign_splits
from deepforest_xr.errors import ChipError, LabelError
from deepforest_xr.legend import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from deepforest_xr.chips.spec import ChipSpec
    from deepforest_xr.legend import Legend

MOST = 0.5
"""Of a strip's values, the largest share that may be too large: glint and clouds take less."""

EXPECTED = {
    "s2": "reflectance from 0 to 1: divide digital numbers by 10000",
    "s1": "backscatter in dB: take 10 log10 of power",
}
"""What values are in the units of a cube, and what to do."""

Pixels = dict[str, "NDArray[Any]"]
"""Arrays of one chip as they stand on disk: ``s2``, ``label``, where given ``s1``, ``weight``."""


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of chips in memory, packed."""

    row: int
    """Of the strip, in chips from the top."""

    pixels: Pixels
    """``s2``, where given ``s1`` and ``weight``; dims (..., y, x)."""

    label: NDArray[np.uint8]
    """255 where there is no label or a band has no data; dims (y, x)."""

    clipped: NDArray[np.int64]
    """Values of each pixel that the integers could not hold; dims (y, x)."""

    def digest(self) -> str:
        """Tell this strip from any other."""
        digest = blake2b(self.label.tobytes(), digest_size=16)
        for values in self.pixels.values():
            digest.update(np.ascontiguousarray(values).ravel().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of a chip besides block and split."""

    row: int
    """First pixel on the cube's grid."""

    col: int
    """First pixel on the cube's grid."""

    split: int
    """Of its labels, where cells were dealt; 0 otherwise."""

    clipped: int
    """Values that the integers could not hold."""

    histogram: tuple[int, ...]
    """Labelled pixels of each class."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What chips are cut from."""

    cube: xr.Dataset
    """``s2 (band, y, x)`` and, with months, ``s1 (month, polarization, y, x)``."""

    labels: xr.DataArray
    """Codes, dims (y, x), on the cube's grid."""

    legend: Legend
    """Of the labels."""

    spec: ChipSpec
    """Size and split."""

    weights: xr.DataArray | None = None
    """Confidence in the labels, 0 to 1, dims (y, x), on the cube's grid."""

    @property
    def rows(self) -> int:
        """Rows of whole chips."""
        return int(self.cube.sizes["y"]) // self.spec.size

    @property
    def cols(self) -> int:
        """Columns of whole chips."""
        return int(self.cube.sizes["x"]) // self.spec.size

    def read_strip(self, row: int) -> Strip:
        """Read and pack a row of chips.

        Raises
        ------
        LabelError
            If a label's code is not in the legend, or a weight is not in [0, 1].
        ChipError
            If most values are larger than the integers hold.
        """
        size = self.spec.size
        window = {"y": slice(row * size, (row + 1) * size), "x": slice(0, self.cols * size)}
        names = [name for name in PACKINGS if name in self.cube]
        wanted = (self.cube[names], self.labels, self.weights)
        values, codes, weights = dask.compute(*(w if w is None else w.isel(window) for w in wanted))
        pixels, clipped = {}, np.zeros(codes.shape, dtype="int64")
        for name in names:
            pixels[name], is_clipped = PACKINGS[name].pack(values[name].to_numpy())
            require_in_range(name, pixels[name])
            clipped += is_clipped.reshape(-1, *codes.shape).sum(axis=0)
        seen = np.isfinite(values["s2"].to_numpy()).all(axis=0)
        if "s1" in values:
            seen &= np.isfinite(values["s1"].to_numpy()).any(axis=(0, 1))
        require_known(codes.to_numpy()[seen], self.legend)
        label = np.where(seen, codes.to_numpy().astype("uint8"), np.uint8(UNLABELLED))
        if weights is not None:
            pixels["weight"] = pack_weights(weights.to_numpy())
            label[pixels["weight"] == 0] = UNLABELLED
        return Strip(row, pixels, label, clipped)

    def cut(self, strip: Strip, cells: NDArray[np.uint8] | None) -> Iterator[tuple[Entry, Pixels]]:
        """Give the chips of a strip that have labels; `cells` from `deal_cells`."""
        size, top = self.spec.size, strip.row * self.spec.size
        needed = self.spec.min_labelled * size**2 if cells is None else 0
        for left in range(0, self.cols * size, size):
            at = slice(left, left + size)
            pixels = {name: values[..., at] for name, values in strip.pixels.items()}
            clipped = int(strip.clipped[:, at].sum())
            for split in (0,) if cells is None else range(len(SPLITS)):
                label = strip.label[:, at]
                if cells is not None:
                    label = np.where(cells[top : top + size, at] == split, label, UNLABELLED)
                counts = np.bincount(label.ravel(), minlength=UNLABELLED + 1)
                histogram = tuple(int(counts[code]) for code in self.legend.codes)
                if sum(histogram) > needed:
                    yield Entry(top, left, split, clipped, histogram), {**pixels, "label": label}

    def deal_cells(self) -> NDArray[np.uint8]:
        """Deal the cells to splits; their codes on every pixel of the chips, dims (y, x)."""
        size = self.spec.size
        side = self.spec.cell or size
        window = {"y": slice(0, self.rows * size), "x": slice(0, self.cols * size)}
        codes = self.labels.isel(window).to_numpy()
        require_known(codes, self.legend)
        squares = codes.reshape(codes.shape[0] // side, side, codes.shape[1] // side, side)
        counts = [(squares == c).sum(axis=(1, 3)) for c in self.legend.codes]
        histograms = np.stack(counts, axis=-1)
        flat = histograms.reshape(-1, len(self.legend.codes))
        labelled = np.flatnonzero(flat.sum(axis=1))
        dealt = np.zeros(len(flat), dtype="uint8")
        dealt[labelled] = assign_splits(
            labelled, flat[labelled], fractions=self.spec.fractions, seed=self.spec.seed
        )
        of_cell = dealt.reshape(histograms.shape[:2])
        return of_cell.repeat(side, axis=0).repeat(side, axis=1)


def require_in_range(name: str, packed: NDArray[Any]) -> None:
    """Refuse a strip most of whose values were too large: they are in other units."""
    packing = PACKINGS[name]
    share = (packed == packing.highest).mean()
    if share > MOST:
        raise ChipError(
            f"{share:.0%} of the values of {name!r} in a row of chips are above "
            f"{packing.highest / packing.steps:g}, expected {EXPECTED[name]}."
        )


def require_known(label: NDArray[np.integer], legend: Legend) -> None:
    """Refuse codes that the legend does not know."""
    unknown = sorted(set(np.unique(label).tolist()) - set(legend.codes) - {UNLABELLED})
    if unknown:
        raise LabelError(
            f"labels hold codes {unknown} that legend {legend.name!r} does not know "
            f"({legend.codes}): align them with align_labels."
        )


def pack_weights(weights: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Percent of weights; refuses what is no share."""
    is_share = (weights >= 0) & (weights <= 1)
    if not is_share.all():
        raise LabelError(
            f"weights hold {weights[~is_share].flat[0]:.6g}, expected shares in [0, 1] on every "
            "pixel: take them from temporal_agreement, or fill what is missing with 0."
        )
    return WEIGHT.pack(weights)[0]
