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

    margin: int = 0
    """Pixels on each side of a chip that are context only: their labels are 255, and they may
    lie on a neighbour's labelled part or, as NaN, beyond the cube. For areas too small for
    chips of the side a network needs (64 pixels and more)."""

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
        if not 0 <= self.margin < self.size / 2:
            raise ConfigError(
                f"margin={self.margin} leaves nothing of a chip of {self.size} pixels; "
                "it is at least 0 and less than half the size."
            )
        if self.block is not None and self.block < 1:
            raise ConfigError(f"block={self.block} chips is not positive; try 2.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} is negative; try 0.")

    @property
    def core(self) -> int:
        """Side of the labelled part in pixels; these parts do not overlap."""
        return self.size - 2 * self.margin


@dataclass(slots=True)
class _Index:
    """What is known of every chip besides its pixels."""

    row: list[int]
    col: list[int]
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
    """Cut a cube and its labels into chips whose labelled parts do not overlap.

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
        of its labelled part on the grid) and ``histogram (chip, class)``.
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
    grid = Grid.of(cube)
    grid.require_same(Grid.of(labels), ours="the cube", theirs="the label raster")
    legend = Legend.from_attrs(labels.attrs)
    rows, cols = (n // spec.core for n in grid.shape)
    if rows * cols == 0:
        raise ChipError(
            f"{grid.describe()} holds no whole chip of {spec.core} pixels: "
            "take a larger area or smaller chips."
        )
    with staged(path, overwrite=overwrite) as part:
        root = zarr.open_group(part, mode="w-", zarr_format=3)
        arrays = _create_arrays(root, cube, spec.size, rows * cols)
        index = _Index([], [], [])
        batch: list[dict[str, NDArray[Any]]] = []
        shard = (arrays["label"].shards or (1,))[0]
        for row, chips in _strips(cube, labels, legend, spec, rows, cols):
            for col, chip, histogram in chips:
                batch.append(chip)
                index.row.append(row * spec.core)
                index.col.append(col * spec.core)
                index.histogram.append(histogram)
                if len(batch) == shard:
                    _flush(arrays, batch, len(index.row))
            if progress is not None:
                progress(row + 1, rows)
        _flush(arrays, batch, len(index.row))
        _resize(arrays, len(index.row))
        _write_index(root, cube, index, spec, legend, grid)
    return Path(path)


def _strips(
    cube: xr.Dataset, labels: xr.DataArray, legend: Legend, spec: ChipSpec, rows: int, cols: int
) -> Iterator[tuple[int, list[tuple[int, dict[str, NDArray[Any]], NDArray[np.int64]]]]]:
    """Give every row of chips: column, arrays and class histogram of those with labels."""
    needed = spec.min_labelled * spec.core**2
    inner = slice(spec.margin, spec.margin + spec.core)
    for row in range(rows):
        strip = _read_strip(cube, labels, spec, row, cols)
        _require_known(strip["label"], legend)
        chips = []
        for col in range(cols):
            at = slice(col * spec.core, col * spec.core + spec.size)
            label = np.full((spec.size, spec.size), UNLABELLED, dtype="uint8")
            label[inner, inner] = strip["label"][inner, at][:, inner]
            histogram = np.array([(label == c).sum() for c in legend.codes])
            if histogram.sum() > needed:
                chip = {name: array[..., at] for name, array in strip.items() if name != "label"}
                chips.append((col, {**chip, "label": label}, histogram))
        yield row, chips


def _read_strip(
    cube: xr.Dataset, labels: xr.DataArray, spec: ChipSpec, row: int, cols: int
) -> dict[str, NDArray[Any]]:
    """Read a row of chips with margins; beyond the cube NaN and 255."""
    height, width = labels.sizes["y"], labels.sizes["x"]
    top, bottom = row * spec.core - spec.margin, (row + 1) * spec.core + spec.margin
    right = cols * spec.core + spec.margin
    window = {"y": slice(max(top, 0), bottom), "x": slice(0, right)}
    beyond = [
        (max(-top, 0), max(bottom - height, 0)),
        (spec.margin, max(right - width, 0)),
    ]
    names = [name for name in ("s2", "s1") if name in cube]
    pixels, codes = dask.compute(cube[names].isel(window), labels.isel(window))
    strip = {name: pixels[name].to_numpy() for name in names}
    seen = np.isfinite(strip["s2"]).all(axis=0)
    label = np.where(seen, codes.to_numpy(), UNLABELLED).astype("uint8")
    if spec.margin:
        strip = {n: _extend(array, beyond, np.nan) for n, array in strip.items()}
        label = _extend(label, beyond, UNLABELLED)
    return {**strip, "label": label}


def _extend(array: NDArray[Any], beyond: list[tuple[int, int]], value: float) -> NDArray[Any]:
    width = [(0, 0)] * (array.ndim - 2) + beyond
    return np.pad(array, width, constant_values=value)


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
    side = spec.core * (spec.block or _default_block(row // spec.core, col // spec.core))
    block = (row // side) * (grid.shape[1] // side + 1) + col // side
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
        "margin": spec.margin,
        "block_pixels": side,
        "seed": spec.seed,
        "bands": [str(b) for b in cube["band"].to_numpy()],
        "months": months,
        "splits": list(SPLITS),
        "legend": legend.to_dict(),
        "crs": grid.crs.to_wkt(),
        "transform": list(grid.transform)[:6],
        "cube": {k: v for k, v in cube.attrs.items() if isinstance(v, str | int | float)},
    }
