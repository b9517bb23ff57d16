"""A cube and its labels to a sharded Zarr of chips, one strip of the landscape at a time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from deepforest_xr.atomic import staged
from deepforest_xr.chips.split import SPLITS, assign_splits
from deepforest_xr.errors import ChipError, ConfigError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import UNLABELLED, Legend
from deepforest_xr.sentinel import s1

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

FORMAT = "deepforest_xr chips 1"
STRIDE = 32
SHARD_BYTES = 64 * 1024**2
BLOCKS_WANTED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSpec:
    """How a cube is cut into chips and how the chips are split."""

    size: int = 256
    """Side of a chip in pixels, a multiple of 32 (five halvings in the encoders)."""

    cell: int | None = None
    """Side in pixels of the squares that are dealt to the splits inside the chips, a divisor of
    `size`; for areas that hold only a few chips of the side a network needs. A chip is then kept
    once a split, with the labels of that split's cells only: labels are held out, pixels are
    not. Default: blocks of whole chips are dealt."""

    block: int | None = None
    """Side of a block in chips; blocks go whole to one split. Default: 2, or 1 where the
    area has fewer than 12 blocks of 2 x 2."""

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of training, validation and test."""

    seed: int = 0
    """Of the split."""

    min_labelled: float = 0.01
    """Chips with a smaller share of labelled pixels are left out."""

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % STRIDE:
            raise ConfigError(f"chip size {self.size} is not a positive multiple of 32; try 256.")
        if self.cell is not None and (self.cell < 1 or self.size % self.cell):
            raise ConfigError(
                f"cell={self.cell} does not divide a chip of {self.size} pixels; try "
                f"{self.size // 4}."
            )
        if self.block is not None and self.block < 1:
            raise ConfigError(f"block={self.block} chips is not positive; try 2.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} is negative; try 0.")


@dataclass(slots=True)
class _Index:
    """What is known of every chip besides its pixels."""

    row: list[int]
    col: list[int]
    split: list[int]
    histogram: list[NDArray[np.int64]]


def write_chips(
    cube: xr.Dataset,
    labels: xr.DataArray,
    path: str | Path,
    *,
    spec: ChipSpec | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Cut a cube and its labels into chips that do not overlap.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`: ``s2 (band, y, x)`` and, with months, ``s1 (month, polarization,
        y, x)``. Lazy or not; one strip of chips is in memory at a time.
    labels : DataArray[uint8], dims (y, x)
        From `align_labels`, on the cube's grid.
    path : str or Path
        Zarr v3 store to write: ``s2 (chip, band, y, x)`` float32, ``s1 (chip, month,
        polarization, y, x)`` float32, ``label (chip, y, x)`` uint8 (255 also where the
        cube has no data); per chip ``split``, ``block``, ``row``, ``col`` (first pixel
        on the grid) and ``histogram (chip, class)``.
    spec : ChipSpec
        Size and split.
    overwrite : bool
        Replace an existing store once the new one is whole.
    progress : callable(done, total), optional
        Called after each strip.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    GridError
        If labels and cube are on different grids.
    ChipError
        If the area holds no whole chip, no labelled pixel, or too few blocks.
    WriteError
        If the store could not be written whole; nothing is left.
    """
    spec = spec or ChipSpec()
    cube, labels = _in_order(cube), labels.transpose("y", "x")
    grid = Grid.of(cube)
    grid.require_same(Grid.of(labels), ours="the cube", theirs="the label raster")
    legend = Legend.from_attrs(labels.attrs)
    rows, cols = (n // spec.size for n in grid.shape)
    if rows * cols == 0:
        raise ChipError(
            f"{grid.describe()} holds no whole chip of {spec.size} pixels: "
            "take a larger area or smaller chips."
        )
    cells = None if spec.cell is None else _deal_cells(labels, legend, spec, rows, cols)
    with staged(path, overwrite=overwrite) as part:
        root = zarr.open_group(part, mode="w-", zarr_format=3)
        most = rows * cols * (1 if cells is None else len(SPLITS))
        arrays = _create_arrays(root, cube, spec.size, most)
        index = _Index([], [], [], [])
        batch: list[dict[str, NDArray[Any]]] = []
        shard = (arrays["label"].shards or (1,))[0]
        for row in range(rows):
            strip = _read_strip(cube, labels, spec, row, cols)
            _require_known(strip["label"], legend)
            for chip in _cut(strip, cells, legend, spec, row, cols, index):
                batch.append(chip)
                if len(batch) == shard:
                    _flush(arrays, batch, len(index.row))
            if progress is not None:
                progress(row + 1, rows)
        _flush(arrays, batch, len(index.row))
        _resize(arrays, len(index.row))
        _write_index(root, cube, index, spec, legend, grid)
    return Path(path)


def _in_order(cube: xr.Dataset) -> xr.Dataset:
    """Put dims and polarizations in the order that a store of chips has."""
    ordered = cube.transpose("band", ..., "y", "x")
    if "s1" not in cube:
        return ordered
    ordered = ordered.sel(polarization=list(s1.POLARIZATIONS))
    return ordered.transpose("band", "month", "polarization", "y", "x")


def _deal_cells(
    labels: xr.DataArray, legend: Legend, spec: ChipSpec, rows: int, cols: int
) -> NDArray[np.uint8]:
    """Deal the cells to splits; their codes on every pixel of the chips, dims (y, x)."""
    side = spec.cell or spec.size
    codes = labels.isel(y=slice(0, rows * spec.size), x=slice(0, cols * spec.size)).to_numpy()
    _require_known(codes, legend)
    squares = codes.reshape(codes.shape[0] // side, side, codes.shape[1] // side, side)
    histograms = np.stack([(squares == c).sum(axis=(1, 3)) for c in legend.codes], axis=-1)
    flat = histograms.reshape(-1, len(legend.codes))
    labelled = np.flatnonzero(flat.sum(axis=1))
    dealt = np.zeros(len(flat), dtype="uint8")
    dealt[labelled] = assign_splits(
        labelled, flat[labelled], fractions=spec.fractions, seed=spec.seed
    )
    of_cell = dealt.reshape(histograms.shape[:2])
    return of_cell.repeat(side, axis=0).repeat(side, axis=1)


def _cut(
    strip: dict[str, NDArray[Any]],
    cells: NDArray[np.uint8] | None,
    legend: Legend,
    spec: ChipSpec,
    row: int,
    cols: int,
    index: _Index,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Give the chips of a strip that have labels, and enter them in the index."""
    top = row * spec.size
    needed = spec.min_labelled * spec.size**2 if cells is None else 0
    for left in range(0, cols * spec.size, spec.size):
        at = slice(left, left + spec.size)
        pixels = {name: array[..., at] for name, array in strip.items() if name != "label"}
        for split in (0,) if cells is None else range(len(SPLITS)):
            label = strip["label"][:, at]
            if cells is not None:
                label = np.where(cells[top : top + spec.size, at] == split, label, UNLABELLED)
            histogram = np.array([(label == c).sum() for c in legend.codes])
            if histogram.sum() > needed:
                index.row.append(top)
                index.col.append(left)
                index.split.append(split)
                index.histogram.append(histogram)
                yield {**pixels, "label": label.astype("uint8")}


def _read_strip(
    cube: xr.Dataset, labels: xr.DataArray, spec: ChipSpec, row: int, cols: int
) -> dict[str, NDArray[Any]]:
    """Read a row of chips; labels are 255 where a band has no data."""
    window = {
        "y": slice(row * spec.size, (row + 1) * spec.size),
        "x": slice(0, cols * spec.size),
    }
    names = [name for name in ("s2", "s1") if name in cube]
    pixels, codes = dask.compute(cube[names].isel(window), labels.isel(window))
    strip = {name: pixels[name].to_numpy() for name in names}
    seen = np.isfinite(strip["s2"]).all(axis=0)
    if "s1" in strip:
        seen &= np.isfinite(strip["s1"]).any(axis=(0, 1))
    label = np.where(seen, codes.to_numpy(), UNLABELLED).astype("uint8")
    return {**strip, "label": label}


def _require_known(label: NDArray[np.uint8], legend: Legend) -> None:
    unknown = sorted(set(np.unique(label).tolist()) - set(legend.codes) - {UNLABELLED})
    if unknown:
        raise LabelError(
            f"labels hold codes {unknown} that legend {legend.name!r} does not know "
            f"({legend.codes}): align them with align_labels."
        )


def _create_arrays(
    root: zarr.Group, cube: xr.Dataset, size: int, chips: int
) -> dict[str, zarr.Array[Any]]:
    codec = ZstdCodec(level=3)
    shapes: dict[str, tuple[int, ...]] = {"s2": (cube.sizes["band"], size, size)}
    if "s1" in cube:
        shapes["s1"] = (cube.sizes["month"], cube.sizes["polarization"], size, size)
    largest = 4 * sum(int(np.prod(s)) for s in shapes.values())
    shard = max(1, min(chips, SHARD_BYTES // largest))
    dims = {"s2": ("band",), "s1": ("month", "polarization"), "label": ()}
    return {
        name: root.create_array(
            name,
            shape=(chips, *shape),
            chunks=(1, *shape),
            shards=(shard, *shape),
            dtype="uint8" if name == "label" else "float32",
            compressors=(codec,),
            fill_value=UNLABELLED if name == "label" else float("nan"),
            dimension_names=("chip", *dims[name], "y", "x"),
        )
        for name, shape in {**shapes, "label": (size, size)}.items()
    }


def _flush(
    arrays: dict[str, zarr.Array[Any]], batch: list[dict[str, NDArray[Any]]], end: int
) -> None:
    """Write a shard's chips at once; a shard is never touched twice."""
    if not batch:
        return
    for name in batch[0]:
        arrays[name][end - len(batch) : end] = np.stack([chip[name] for chip in batch])
    batch.clear()


def _resize(arrays: dict[str, zarr.Array[Any]], count: int) -> None:
    """Cut the arrays to the chips kept; unlabelled ones were skipped."""
    if count == 0:
        raise ChipError("no chip has labelled pixels with data: check labels and cube overlap.")
    for array in arrays.values():
        array.resize((count, *array.shape[1:]))


def _write_index(
    root: zarr.Group, cube: xr.Dataset, index: _Index, spec: ChipSpec, legend: Legend, grid: Grid
) -> None:
    """Write what is known of every chip, last of all the description of the store."""
    row, col = np.array(index.row), np.array(index.col)
    histogram = np.stack(index.histogram)
    side = spec.size * (spec.block or _default_block(row // spec.size, col // spec.size))
    block = (row // side) * (grid.shape[1] // side + 1) + col // side
    split = np.array(index.split, dtype="uint8")
    if spec.cell is None:
        split = assign_splits(block, histogram, fractions=spec.fractions, seed=spec.seed)
    columns = {"row": row, "col": col, "block": block, "split": split}
    for name, values in columns.items():
        root.create_array(name, data=values.astype("int32"), dimension_names=("chip",))
    root.create_array("histogram", data=histogram, dimension_names=("chip", "class"))
    root.attrs.update(_description(cube, spec, legend, grid, side))
    counts = ", ".join(f"{(split == i).sum()} {name}" for i, name in enumerate(SPLITS))
    log.info("%d chips of %d pixels: %s", len(row), spec.size, counts)


def _default_block(row: NDArray[np.int64], col: NDArray[np.int64]) -> int:
    pairs = len(np.unique(np.stack([row // 2, col // 2]), axis=1).T)
    return 2 if pairs >= BLOCKS_WANTED else 1


def _description(
    cube: xr.Dataset, spec: ChipSpec, legend: Legend, grid: Grid, side: int
) -> dict[str, Any]:
    months = [int(m) for m in cube["month"].to_numpy()] if "s1" in cube else None
    return {
        "format": FORMAT,
        "size": spec.size,
        "cell": spec.cell,
        "block_pixels": side,
        "seed": spec.seed,
        "bands": [str(b) for b in cube["band"].to_numpy()],
        "months": months,
        "splits": list(SPLITS),
        "legend": legend.to_dict(),
        "crs": grid.crs.to_wkt(),
        "shape": list(grid.shape),
        "transform": list(grid.transform)[:6],
        "cube": {k: v for k, v in cube.attrs.items() if isinstance(v, str | int | float)},
    }
