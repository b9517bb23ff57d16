"""A cube and its labels to a sharded Zarr of chips, one strip of the landscape at a time.

Values are packed to integers, see `deepforest_xr.chips.pack`. An interrupted call is
continued by the same call, see `deepforest_xr.chips.resume`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from deepforest_xr.chips.cut import Entry, Pixels, Scene, Strip
from deepforest_xr.chips.pack import STORED
from deepforest_xr.chips.resume import Unfinished, unfinished
from deepforest_xr.chips.spec import ChipSpec
from deepforest_xr.chips.split import SPLITS, Split, split_cells, split_chips
from deepforest_xr.errors import ChipError, LabelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import UNLABELLED, Legend
from deepforest_xr.sentinel import s1

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

FORMAT = "deepforest_xr chips 2"
SHARD_BYTES = 64 * 1024**2


def write_chips(
    cube: xr.Dataset,
    labels: xr.DataArray,
    path: str | Path,
    *,
    weights: xr.DataArray | None = None,
    spec: ChipSpec | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Cut a cube and its labels into chips that do not overlap.

    A call that was interrupted, even killed, is continued by the same call after its last
    whole strip, and the store is the same to the byte. What is unfinished stands in the
    hidden folder ``.<name>.unfinished`` beside the store.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`: ``s2 (band, y, x)`` and, with months, ``s1 (month, polarization,
        y, x)``. Lazy or not; one strip of chips and one shard are in memory at a time.
    labels : DataArray[uint8], dims (y, x)
        From `align_labels`, on the cube's grid.
    path : str or Path
        Zarr v3 store to write: ``s2 (chip, band, y, x)`` uint16, reflectance x 10^4 and 0
        where missing, so that reflectance below 0.0001 is 0.0001; ``s1 (chip, month,
        polarization, y, x)`` int16, dB x 100 and -32768 where missing; both with CF
        attributes. ``label (chip, y, x)`` uint8 (255 also where the cube has no data); per
        chip ``split`` (3: buffer), ``block``, ``row``, ``col`` (first pixel on the grid),
        ``clipped`` (values that the integers could not hold) and ``histogram (chip,
        class)``. The attribute ``clipped`` is their sum over the area. With weights also
        ``weight (chip, y, x)`` uint8 percent. The attribute ``fingerprint`` tells these
        chips from any others.
    weights : DataArray[float], dims (y, x), optional
        Confidence in each label, 0 to 1, on the cube's grid, as `temporal_agreement` gives
        it; kept in steps of a percent.
    spec : ChipSpec
        Size and split.
    overwrite : bool
        Replace an existing store once the new one is whole.
    progress : callable(done, total), optional
        Called after each strip; a continued call begins where the last one ended.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    GridError
        If labels or weights and cube are on different grids.
    ChipError
        If the area holds no whole chip, no labelled pixel, or too few blocks, or most values
        of a row of chips are in other units.
    LabelError
        If labels are no whole numbers, a label's code is not in the legend, or a weight is
        not in [0, 1].
    WriteError
        If the store could not be written whole, or another cube's chips are unfinished there.
    """
    spec = spec or ChipSpec()
    cube, labels = _in_order(cube), labels.transpose("y", "x")
    grid = Grid.of(cube)
    grid.require_same(Grid.of(labels), ours="the cube", theirs="the label raster")
    if labels.dtype.kind not in "iu":
        raise LabelError(
            f"labels are {labels.dtype}, expected whole numbers, 255 where there is none: fill "
            "what is missing with 255 and convert to uint8, or align with align_labels."
        )
    if weights is not None:
        weights = weights.transpose("y", "x")
        grid.require_same(Grid.of(weights), ours="the cube", theirs="the weights")
    scene = Scene(cube, labels, Legend.from_attrs(labels.attrs), spec, weights)
    if scene.rows * scene.cols == 0:
        raise ChipError(
            f"{grid.describe()} holds no whole chip of {spec.size} pixels: "
            "take a larger area or smaller chips."
        )
    description = _description(scene, grid)
    card = json.dumps({**description, "spec": asdict(spec), "shard": SHARD_BYTES}, sort_keys=True)

    def digest(row: int) -> str:
        return scene.read_strip(row).digest()

    with unfinished(Path(path), card=card, digest=digest, overwrite=overwrite) as work:
        growing = _Growing.open(work, scene, card)
        for row in range(work.strips, scene.rows):
            growing.add(scene.read_strip(row))
            if progress is not None:
                progress(row + 1, scene.rows)
        growing.finish(description)
    return Path(path)


def _in_order(cube: xr.Dataset) -> xr.Dataset:
    """Put dims and polarizations in the order that a store of chips has."""
    ordered = cube.transpose("band", ..., "y", "x")
    if "s1" not in cube:
        return ordered
    ordered = ordered.sel(polarization=list(s1.POLARIZATIONS))
    return ordered.transpose("band", "month", "polarization", "y", "x")


@dataclass(slots=True)
class _Growing:
    """A store of chips that strips are added to."""

    work: Unfinished
    scene: Scene
    root: zarr.Group
    cells: NDArray[np.uint8] | None
    entries: list[Entry] = field(default_factory=list)
    batch: list[Pixels] = field(default_factory=list)

    @classmethod
    def open(cls, work: Unfinished, scene: Scene, card: str) -> _Growing:
        """Make the empty store, or take up what is there."""
        cells = None if scene.spec.cell is None else scene.deal_cells()
        if not work.strips:
            root = zarr.open_group(work.store, mode="w", zarr_format=3)
            most = scene.rows * scene.cols * (1 if cells is None else len(SPLITS))
            _create_arrays(root, scene, most)
            work.begin(card)
            return cls(work, scene, root, cells)
        growing = cls(work, scene, zarr.open_group(work.store, mode="r+"), cells, work.entries())
        growing.batch = work.pending(len(growing.entries) % growing.shard)
        return growing

    @property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """Arrays of pixels."""
        names = [name for name in (*STORED, "label") if name in self.root]
        return {name: self.root[name] for name in names}  # type: ignore[misc]

    @property
    def shard(self) -> int:
        """Chips a shard."""
        return int((self.arrays["label"].shards or (1,))[0])

    def add(self, strip: Strip) -> None:
        """Cut a strip, write the shards that it fills, and record it."""
        begin, shard = len(self.entries), self.shard
        for entry, pixels in self.scene.cut(strip, self.cells):
            self.entries.append(entry)
            self.batch.append(pixels)
            if len(self.batch) == shard:
                self._flush()
        new = len(self.entries) - begin
        pending = self.batch[max(len(self.batch) - new, 0) :]
        self.work.commit(
            strip.row,
            strip.digest(),
            self.entries[begin:],
            pending,
            is_alone=len(self.batch) <= new,
        )

    def finish(self, description: dict[str, Any]) -> None:
        """Write the last shard and the index, last of all the description."""
        if not self.entries:
            raise ChipError("no chip has labelled pixels with data: check labels and cube overlap.")
        self._flush()
        for array in self.arrays.values():  # chips without labels were skipped
            array.resize((len(self.entries), *array.shape[1:]))
        index = {
            name: np.array([getattr(entry, name) for entry in self.entries])
            for name in ("row", "col", "clipped", "histogram")
        }
        split = self._split(index)
        columns = _write_index(self.root, index, split)
        size = self.scene.spec.size
        # With cells a chip stands there once a split, and counts once.
        clipped = {(entry.row, entry.col): entry.clipped for entry in self.entries}
        self.root.attrs.update(
            {
                **description,
                "block_pixels": split.side * size,
                "buffer_pixels": split.buffer * size,
                "clipped": sum(clipped.values()),
                "fingerprint": self._fingerprint(columns, description),
            }
        )

    def _split(self, index: dict[str, NDArray[np.int64]]) -> Split:
        """Deal the chips, or describe how their cells were dealt."""
        spec = self.scene.spec
        row, col = index["row"] // spec.size, index["col"] // spec.size
        if spec.cell is None:
            return split_chips(row, col, index["histogram"], spec=spec)
        code = np.array([entry.split for entry in self.entries], dtype="uint8")
        return split_cells(row, col, code, spec=spec)

    def _fingerprint(self, columns: dict[str, NDArray[Any]], description: dict[str, Any]) -> str:
        """Hash all strips, the index and what is cut; provenance says nothing of pixels."""
        cut = {name: value for name, value in description.items() if name != "cube"}
        strips = [self.work.digest(row) for row in range(self.work.strips)]
        return fingerprint_of(columns, {**cut, "spec": asdict(self.scene.spec), "strips": strips})

    def _flush(self) -> None:
        """Write a shard's chips at once; a shard is never touched twice."""
        end = len(self.entries)
        if self.batch:
            for name, array in self.arrays.items():
                array[end - len(self.batch) : end] = np.stack([chip[name] for chip in self.batch])
        self.batch.clear()


def _create_arrays(root: zarr.Group, scene: Scene, chips: int) -> None:
    size, sizes = scene.spec.size, scene.cube.sizes
    shapes: dict[str, tuple[int, ...]] = {"s2": (sizes["band"], size, size)}
    if "s1" in scene.cube:
        shapes["s1"] = (sizes["month"], sizes["polarization"], size, size)
    largest = 2 * sum(int(np.prod(s)) for s in shapes.values())
    shard = max(1, min(chips, SHARD_BYTES // largest))
    dims = {"s2": ("band",), "s1": ("month", "polarization")}
    shapes["label"] = (size, size)
    if scene.weights is not None:
        shapes["weight"] = (size, size)
    for name, shape in shapes.items():
        packing = STORED.get(name)
        root.create_array(
            name,
            shape=(chips, *shape),
            chunks=(1, *shape),
            shards=(shard, *shape),
            dtype="uint8" if packing is None else packing.dtype,
            compressors=(ZstdCodec(level=3, checksum=True),),
            fill_value=UNLABELLED if packing is None else packing.missing,
            dimension_names=("chip", *dims.get(name, ()), "y", "x"),
            attributes=None if packing is None else packing.attributes(),
        )


def fingerprint_of(columns: dict[str, NDArray[Any]], card: dict[str, Any]) -> str:
    """Hash arrays and plain values; 32 hexadecimal digits."""
    digest = blake2b(json.dumps(card, sort_keys=True).encode(), digest_size=16)
    for name, values in sorted(columns.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _write_index(
    root: zarr.Group, index: dict[str, NDArray[np.int64]], split: Split
) -> dict[str, NDArray[Any]]:
    """Write the arrays that have a value a chip; give them back."""
    columns = {name: index[name] for name in ("row", "col", "clipped")}
    columns |= {"block": split.block, "split": split.code.astype("int64")}
    arrays: dict[str, NDArray[Any]] = {n: v.astype("int32") for n, v in columns.items()}
    arrays["histogram"] = index["histogram"]
    for name, values in arrays.items():
        dims = ("chip", "class")[: values.ndim]
        # Overwritten where a call was interrupted here.
        root.create_array(name, data=values, dimension_names=dims, overwrite=True)
    counts = [f"{(split.code == i).sum()} {name}" for i, name in enumerate((*SPLITS, "buffer"))]
    log.info("%d chips: %s", len(split.code), ", ".join(counts))
    return arrays


def _description(scene: Scene, grid: Grid) -> dict[str, Any]:
    """What is known of the store before anything is read."""
    cube, spec = scene.cube, scene.spec
    months = [int(m) for m in cube["month"].to_numpy()] if "s1" in cube else None
    return {
        "format": FORMAT,
        "size": spec.size,
        "cell": spec.cell,
        "seed": spec.seed,
        "bands": [str(b) for b in cube["band"].to_numpy()],
        "months": months,
        "arrays": [
            "s2",
            "label",
            *(["s1"] if "s1" in cube else []),
            *([] if scene.weights is None else ["weight"]),
        ],
        "splits": [*SPLITS, "buffer"],
        "legend": scene.legend.to_dict(),
        "crs": grid.crs.to_wkt(),
        "shape": list(grid.shape),
        "transform": list(grid.transform)[:6],
        "cube": {k: v for k, v in cube.attrs.items() if isinstance(v, str | int | float)},
    }
