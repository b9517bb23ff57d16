"""What will be computed: the model, its inputs by name, blocks and windows. Nothing is read."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.classify.block import Task
from deepforest_xr.classify.predict import remember
from deepforest_xr.errors import BandMismatchError, ConfigError, NoModelError
from deepforest_xr.grid import Grid
from deepforest_xr.models import Checkpoint, channel_names, entry
from deepforest_xr.models.checkpoint import load
from deepforest_xr.models.install import installed
from deepforest_xr.models.network import STRIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

MODEL_VARIABLE = "DEEPFOREST_XR_MODEL"

COUNT = "s2_count"
"""Variable of a cube: where it is 0, nothing was seen, whatever value stands for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A map that may be computed, or priced."""

    checkpoint: Checkpoint
    """The model."""

    path: str | None
    """Folder of the checkpoint, None for one that lives in this process only."""

    grid: Grid
    """Of the cube and of the map."""

    inputs: xr.Dataset
    """The model's bands and months of the cube, in the model's order, chunks as they are."""

    blocks: tuple[tuple[int, ...], tuple[int, ...]]
    """Sizes in pixels of the blocks along y and x."""

    halo: int
    """Pixels around a block."""

    blend: int
    """Pixels on each side of a border over which neighbours are blended."""

    device: str
    """As it was asked for: auto, cpu or cuda."""

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels around a block along y and x: none on an axis of one block."""
        rows, cols = (self.halo if len(sizes) > 1 else 0 for sizes in self.blocks)
        return rows, cols

    @property
    def windows(self) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
        """First pixel and one past the last of the blocks' windows on the data, along y and x."""
        rows, cols = (
            tuple(
                (max(end - size - margin, 0), min(end + margin, sum(sizes)))
                for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)
            )
            for sizes, margin in zip(self.blocks, self.margin, strict=True)
        )
        return rows, cols

    def task(
        self,
        *,
        probability: bool = False,
        uncertainty: bool = False,
        resources: Mapping[str, float] | None = None,
    ) -> Task:
        """Give what a block needs, and keep a checkpoint without a folder for it."""
        remember(self.checkpoint, self.path)
        return Task(
            self.path,
            self.checkpoint.identity,
            self.margin,
            self.halo,
            self.device,
            probability,
            uncertainty,
            self.blend if max(map(len, self.blocks)) > 1 else 0,
            tuple((resources or {}).items()),
        )

    def with_halo(self) -> xr.Dataset:
        """Overlap the blocks; row and column numbers travel along, -1 beyond the data's edge."""
        chunks = dict(zip(("y", "x"), self.blocks, strict=True))
        rows, cols = self.grid.shape
        numbered = self.inputs.assign(
            row=("y", da.arange(rows, chunks=(chunks["y"],))),
            col=("x", da.arange(cols, chunks=(chunks["x"],))),
        ).chunk({**dict.fromkeys(self.inputs.dims, -1), **chunks})
        around = dict(zip(("y", "x"), self.margin, strict=True))
        overlapped = {}
        for name, array in numbered.data_vars.items():
            depth = {i: around.get(str(d), 0) for i, d in enumerate(array.dims)}
            outside = -1 if array.dtype.kind == "i" else np.nan
            data = da.overlap.overlap(
                array.data, depth=depth, boundary=outside, allow_rechunk=False
            )
            overlapped[name] = (array.dims, data)
        return xr.Dataset(overlapped)


def make_plan(
    cube: xr.Dataset,
    model: str | Path | Checkpoint | None,
    *,
    block: int | None,
    halo: int | None,
    device: str,
    blend: int = 0,
) -> Plan:
    """Check the arguments of `classify` and cut the cube into blocks.

    Raises
    ------
    NoModelError, BandMismatchError, ModelError, ChecksumError, ConfigError
        As `classify` does.
    """
    checkpoint, path = _resolve(model)
    known = entry(checkpoint.model)
    block = known.block if block is None else block
    _require_multiple("block", block, smallest=STRIDE)
    halo = known.halo if halo is None else halo
    _require_multiple("halo", halo, smallest=0)
    _require_multiple("blend", blend, smallest=0)
    if blend > halo:
        raise ConfigError(f"blend={blend} is more than the halo of {halo} pixels: blend less.")
    if device not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"device={device!r}; expected 'auto', 'cpu' or 'cuda'.")
    grid = Grid.of(cube)
    inputs = _select(cube, checkpoint)
    return Plan(checkpoint, path, grid, inputs, cut(grid, block, halo), halo, blend, device)


def cut(grid: Grid, block: int, halo: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the sizes in pixels of the blocks of a grid along y and x."""
    rows, cols = (_block_sizes(length, max(block, halo), halo) for length in grid.shape)
    return rows, cols


def _resolve(model: str | Path | Checkpoint | None) -> tuple[Checkpoint, str | None]:
    if isinstance(model, Checkpoint):
        return model, None
    path = Path(model or _default()).resolve()
    return load(path), str(path)


def _default() -> str | Path:
    """Folder of the model that the user chose for all calls."""
    named = os.environ.get(MODEL_VARIABLE)
    if named:
        log.info("model: %s, which %s names", named, MODEL_VARIABLE)
        return named
    folder = installed()
    if folder is None:
        raise NoModelError(
            "no model: pass classify(cube, model=FOLDER), set the environment variable "
            f"{MODEL_VARIABLE} to the folder of a checkpoint, or install one "
            "(`deepforest-xr model install PATH|URL`). A model is never guessed."
        )
    log.info("model: %s, the one installed", folder)
    return folder


def _require_multiple(name: str, value: int, *, smallest: int) -> None:
    if value < smallest or value % STRIDE:
        raise ConfigError(
            f"{name}={value} is not a multiple of {STRIDE} pixels, the network's stride, "
            f"of at least {smallest}."
        )


def _select(cube: xr.Dataset, checkpoint: Checkpoint) -> xr.Dataset:
    """Take the model's bands and months by name, in the model's order."""
    if "s2" not in cube:
        raise BandMismatchError(
            f"the cube has {', '.join(map(str, cube.data_vars)) or 'no variables'}, expected `s2` "
            "(band, y, x) as open_cube makes it."
        )
    bands = [str(b) for b in cube["band"].to_numpy()]
    checkpoint.require_channels((*_radar_names(cube), *bands))
    wanted = [name for name in checkpoint.bands if name in bands]
    s2 = cube["s2"].sel(band=wanted).transpose("band", "y", "x")
    if COUNT in cube:
        s2 = s2.where(cube[COUNT].transpose("y", "x") > 0)
    inputs = xr.Dataset({"s2": s2})
    if checkpoint.months:
        radar = cube["s1"].sel(month=list(checkpoint.months), polarization=["vv", "vh"])
        inputs["s1"] = radar.transpose("month", "polarization", "y", "x")
    return inputs.drop_vars(list(inputs.coords))


def _radar_names(cube: xr.Dataset) -> list[str]:
    if "s1" not in cube:
        return []
    months = [int(m) for m in cube["month"].to_numpy()]
    there = {str(p) for p in cube["polarization"].to_numpy()}
    return [name for name in channel_names(months, ()) if name.split("_")[0] in there]


def _block_sizes(length: int, block: int, halo: int) -> tuple[int, ...]:
    """Whole blocks; a remainder shorter than the halo goes to the last one."""
    sizes = [block] * (length // block)
    rest = length - sum(sizes)
    if sizes and 0 < rest < max(halo, STRIDE):
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return tuple(sizes)
