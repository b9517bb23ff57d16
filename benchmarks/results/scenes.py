"""Simulated scenes to train on and others to test on, as cubes, labels and truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr

import deepforest_xr as dfx
from deepforest_xr.labels import border_ignore, temporal_agreement
from deepforest_xr.legend import amazon13
from deepforest_xr.testing import mapbiomas, open_scene, simulate_scene, tiles
from deepforest_xr.testing.landscape import build

SIDE = 256
TRAIN = (1, 2, 3, 4, 5, 6)
TEST = (101, 102, 103)
CHIP = 64
YEARS = 3


@dataclass(frozen=True)
class Area:
    """One simulated scene."""

    folder: Path
    seed: int

    @classmethod
    def made(cls, out, seed):
        """Simulate the scene, unless it is there."""
        folder = out / "scenes" / f"{seed}"
        if not (folder / "items.json").exists():
            simulate_scene(folder, shape=(SIDE, SIDE), seed=seed)
        return cls(folder, seed)

    def cube(self, dataset):
        """The cube of a dataset; written once."""
        path = self.folder / f"{dataset}.zarr"
        if not path.exists():
            scene = open_scene(self.folder)
            lazy = dfx.open_cube(dfx.read_items(scene.items), grid=scene.grid, dataset=dataset)
            dfx.write_zarr(lazy, path)
        return xr.open_zarr(path)

    def truth(self, like):
        """Classes without an error."""
        return dfx.align_labels(self.folder / "truth.tif", like=like, legend=amazon13())

    def labels(self, like, *, year=0):
        """MapBiomas-like labels of 30 m; in other years the same land and other errors."""
        path = self.folder / ("mapbiomas.tif" if year == 0 else f"mapbiomas_{year}.tif")
        if not path.exists():
            on = tiles.canvas((SIDE, SIDE))
            land = build(on.shape, seed=self.seed)
            to = mapbiomas.label_grid(on)
            codes = mapbiomas.labels(land.codes, on=on, to=to, seed=self.seed + 1000 * year)
            with rasterio.open(self.folder / "mapbiomas.tif") as first:
                profile = first.profile
            with rasterio.open(path, "w", **profile) as out:
                out.write(codes, 1)
        return dfx.align_labels(path, like=like, collection=8)

    def given(self, kind, like):
        """Labels to train on, and the confidence in them or None."""
        if kind == "truth":
            return self.truth(like), None
        if kind.startswith("border"):
            return border_ignore(self.labels(like), float(kind.split()[1])), None
        if kind == "30 m":
            return self.labels(like), None
        years = [self.labels(like, year=year) for year in range(YEARS)]
        label, weight = temporal_agreement(xr.concat(years, "year", combine_attrs="override"))
        return label, weight if kind == "years weighted" else None


def apart(data, seed):
    """Scenes are all simulated in one place; as training data each lies in one of its own.

    Stores that are joined must not train on ground that another one holds out.
    """
    return None if data is None else data.assign_coords(x=data["x"] + 100_000.0 * seed)


def stores(out, dataset, kind):
    """Stores of chips of all training scenes."""
    paths = []
    for seed in TRAIN:
        area = Area.made(out, seed)
        path = area.folder / f"chips {dataset} {kind}.zarr"
        if not path.exists():
            cube = area.cube(dataset)
            given = (cube, *area.given(kind, cube))
            cube, labels, weight = (apart(part, seed) for part in given)
            spec = dfx.ChipSpec(size=CHIP, buffer=0, block=1, fractions=(0.8, 0.2, 0.0))
            options = {} if weight is None else {"weights": weight}
            dfx.write_chips(cube.compute(), labels.compute(), path, spec=spec, **options)
        paths.append(path)
    return paths


def counts(out, dataset, checkpoint):
    """Confusion matrices over all test scenes, rows map, columns truth and noisy labels."""
    truth, labels = np.zeros((2, 13, 13), dtype="int64")
    for seed in TEST:
        area = Area.made(out, seed)
        cube = area.cube(dataset).compute()
        lulc = dfx.classify(cube, checkpoint).compute()
        truth += dfx.assess(lulc, area.truth(cube)).confusion
        labels += dfx.assess(lulc, area.labels(cube)).confusion
    return truth, labels


def shares(out):
    """Share of each class in the truth of the training and the test scenes."""
    found = []
    for seeds in (TRAIN, TEST):
        codes = np.concatenate(
            [rasterio.open(Area.made(out, s).folder / "truth.tif").read(1).ravel() for s in seeds]
        )
        found.append(np.bincount(codes, minlength=14)[1:] / codes.size)
    return found
