"""Maps as `classify` makes them; no two axes share a length, codes are not in their order."""

import sys
from types import ModuleType

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend

from . import exact_field

CODES = (3, 1, 200, 7)
LEGEND = Legend("four", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in CODES))


def grid_of(shape, *, crs=32721, resolution=10.0):
    left, top = (-54, -8) if crs == 4326 else (717_729.8352, 9_000_003.3)
    bounds = (left, top - resolution * shape[0], left + resolution * shape[1], top)
    return Grid.from_bounds(bounds, crs=crs, resolution=resolution)


def map_of(lulc=None, *, percent=None, chunks=None, **place):
    """A map of codes, or of percent (class, y, x), whose highest is the class."""
    if lulc is None:
        lulc = np.where(percent.any(0), np.array(CODES)[percent.argmax(0)], 0)
    lulc = np.asarray(lulc, "uint8")
    confidence = np.where(lulc > 0, 60, 0) if percent is None else percent.max(0)
    data = {
        "lulc": (("y", "x"), lulc, {**LEGEND.attrs(), "nodata": 0}),
        "confidence": (("y", "x"), confidence.astype("uint8"), {"units": "percent"}),
    }
    if percent is not None:
        data["probability"] = (("class", "y", "x"), percent.astype("uint8"), {"units": "percent"})
    result = xr.Dataset(data, coords=grid_of(lulc.shape, **place).coords(), attrs={"model": "m"})
    if percent is not None:
        result = result.assign_coords({"class": LEGEND.names})
    if chunks is None:
        return result
    lazy = {
        name: array.copy(data=da.from_array(array.to_numpy(), chunks=(-1, *chunks)[-array.ndim :]))
        for name, array in result.data_vars.items()
    }
    return result.assign(lazy)


def percent_of(shape, *, seed=0, patches=4.0, noise=1.0):
    """Probabilities of noisy patches of land, some pixels without data; and the truth."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = rng.standard_normal((len(CODES), *shape))
    land = np.stack([gaussian_filter(f, patches) for f in fields]).argmax(0)
    logits = 1.5 * np.eye(len(CODES))[land].transpose(2, 0, 1)
    logits += noise * rng.standard_normal(logits.shape)
    share = np.exp(logits)
    percent = np.rint(100 * share / share.sum(0)).astype("uint8")
    percent[:, rng.random(shape) < 0.03] = 0
    return percent, np.array(CODES, "uint8")[land]


def cube_of(truth, *, bands=3, noise=0.01, seed=1):
    """Reflectance that tells the classes apart."""
    rng = np.random.default_rng(seed)
    spectra = np.zeros((256, bands), "float32")
    spectra[list(CODES)] = rng.uniform(0.05, 0.4, (len(CODES), bands))
    s2 = spectra[truth].transpose(2, 0, 1) + rng.normal(0, noise, (bands, *truth.shape))
    coords = {"band": [f"B{i:02}" for i in range(bands)], **grid_of(truth.shape).coords()}
    return xr.Dataset({"s2": (("band", "y", "x"), s2.astype("float32"))}, coords=coords)


@pytest.fixture
def exact_library(monkeypatch):
    """Instead of pydensecrf, the same field computed exactly: small images only."""
    package, module = ModuleType("pydensecrf"), ModuleType("pydensecrf.densecrf")
    module.DenseCRF = exact_field.DenseCRF
    monkeypatch.setitem(sys.modules, "pydensecrf", package)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)
