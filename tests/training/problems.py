"""A problem that a narrow network learns in seconds, and how it is trained."""

import numpy as np
import pandas as pd
import torch
import xarray as xr

from deepforest_xr.chips import open_chips
from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training import TrainSettings, train

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))
BANDS = ("B02", "B04", "B08")
QUICK = {"class_weights": "share", "epochs": 3, "batch": 8, "learning_rate": 1e-2, "device": "cpu"}


def easy_cube(shape=(160, 192), *, months=(), seed=0):
    """Class 9 where band B08 is bright, class 4 elsewhere (three pixels in five)."""
    grid = Grid.from_bounds((0, 0, 10 * shape[1], 10 * shape[0]), crs="EPSG:32721")
    rng = np.random.default_rng(seed)
    s2 = rng.normal(0.2, 0.05, (3, *shape)).astype("float32")
    patches = np.kron(rng.random((shape[0] // 8, shape[1] // 8)) > 0.6, np.ones((8, 8), bool))
    s2[2] += 0.3 * patches
    data = {"s2": (("band", "y", "x"), s2)}
    coords = {"band": list(BANDS), **grid.coords()}
    if months:
        s1 = rng.normal(-10, 2, (len(months), 2, *shape)).astype("float32")
        data["s1"] = (("month", "polarization", "y", "x"), s1)
        coords |= {"month": list(months), "polarization": ["vv", "vh"]}
    cube = xr.Dataset(data, coords=coords, attrs={"dataset": "S2"})
    codes = np.where(patches, 9, 4).astype("uint8")
    labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=LEGEND.attrs())
    return cube, labels


def run(store, out, *, model="u-net", s2_branch=None, **changes):
    settings = TrainSettings(**(QUICK | changes))
    return train(
        store, model=model, out=out, settings=settings, s2_branch=s2_branch, progress=False
    )


def metrics(out):
    """One row an epoch."""
    return pd.read_csv(out / "metrics.csv").groupby("epoch").first()


def hits(checkpoint, store):
    """Right and labelled pixels of a one-branch checkpoint over the validation chips."""
    chips, network = open_chips(store), checkpoint.build()
    mean, std = (np.array(a, "float32") for a in (checkpoint.mean, checkpoint.std))
    scaling = Standardisation(mean, std, len(chips.months or ()), is_two_branch=False)
    codes = np.array([c.code for c in chips.legend.classes])
    right = seen = 0
    for chip in chips.indices("validation"):
        arrays = chips.read(int(chip))
        (x,) = scaling.apply(arrays["s2"], arrays.get("s1"))
        with torch.no_grad():
            found = codes[network(torch.from_numpy(x)[None]).argmax(1)[0]]
        right += int((found == arrays["label"]).sum())
        seen += found.size
    return right, seen
