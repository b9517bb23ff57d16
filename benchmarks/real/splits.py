"""One experiment as chips for networks and as masks for everybody.

The masks are read back from the chips: what the forest and the scores use is what the
networks were given.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.real.sites import select
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.legend import UNLABELLED

LEFT = 0.6
"""Share of the columns that train, as in the reference scores of ../shared/data."""

LARGEST_CHIP = 256
STRIDE = 32

DEALT = (0.6, 0.2, 0.2)
HELD_OUT = (0.8, 0.2, 0.0)
"""Shares where the test pixels lie elsewhere."""


@dataclass(frozen=True)
class Part:
    """What one site gives to training."""

    site: str
    chips: Path
    train: np.ndarray
    """Labelled pixels that train, dims (y, x)."""

    validation: np.ndarray
    """Labelled pixels that choose the epoch, dims (y, x)."""


@dataclass(frozen=True)
class Split:
    """What trains and what tests."""

    parts: tuple[Part, ...]
    test: np.ndarray
    """Labelled pixels of the test site that count, dims (y, x)."""


def split(experiment, sites, work):
    """Write an experiment's chips, unless they are there, and read back the masks."""
    by_name = {s.name: s for s in sites}
    test = by_name[experiment.test]
    labelled = (test.labels != UNLABELLED).to_numpy()
    parts = []
    for name in experiment.train:
        site, folder = by_name[name], Path(work) / "chips" / experiment.name
        cube = select(site, experiment)
        labels = site.labels
        if experiment.family in {"A2", "C2"}:
            cube, labels = left_part(cube, labels)
        parts.append(_cut(name, cube, labels, folder / f"{name}.zarr", experiment.family == "A1"))
    if experiment.family == "A1":
        held_out = open_chips(parts[0].chips).mask("test", labelled.shape)
    elif experiment.is_within:
        held_out = labelled & (np.arange(labelled.shape[1]) >= cut_column(labelled.shape[1]))
    else:
        held_out = labelled
    return Split(tuple(parts), held_out)


def cut_column(columns):
    """First column that tests."""
    return int(LEFT * columns)


def left_part(cube, labels):
    """Cube and labels without a pixel of the right part: the left one, mirrored, fills it.

    A network of one tile needs chips of the whole tile's size, and blanks would be a texture
    of their own. Mirrored pixels have no label.
    """
    columns = cube.sizes["x"]
    cut = cut_column(columns)
    source = np.pad(np.arange(cut), (0, columns - cut), mode="symmetric")
    mirrored = cube.isel(x=source).assign_coords(x=cube["x"])
    is_left = xr.DataArray(np.arange(columns) < cut, dims="x")
    return mirrored, labels.where(is_left, labels.dtype.type(UNLABELLED)).assign_attrs(labels.attrs)


def _cut(name, cube, labels, path, is_dealt):
    size = min(min(labels.shape) // STRIDE * STRIDE, LARGEST_CHIP)
    spec = ChipSpec(
        size=size,
        cell=size // next(n for n in (7, 6, 5, 4) if size % n == 0),
        fractions=DEALT if is_dealt else HELD_OUT,
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_chips(cube, labels, path, spec=spec, overwrite=True)
    chips = open_chips(path)
    masks = (chips.mask(s, labels.shape) for s in ("train", "validation"))
    return Part(name, path, *masks)
