"""What all steps share: what a map must be, blocks with a halo, and the record of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.overlap import ensure_minimum_chunksize, overlap, trim_internal

from deepforest_xr.errors import ConfigError, DtypeError, LabelError
from deepforest_xr.legend import NODATA, Legend

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ATTRIBUTE = "postprocess"
"""Attribute of the Dataset: the steps done, in their order, separated by "; "."""

FLOOR = 0.25
"""Percent that stands for 0 %: the middle of what was rounded to it. A logarithm needs it."""

ON_CLASSES = ("majority(", "minimum_mapping_unit(", "dense_crf(unary=labels")
"""Steps that change classes and leave the probability the network's."""


def require_map(result: xr.Dataset) -> Legend:
    """Check that a Dataset is a map as `classify` makes it; its legend.

    Raises
    ------
    LabelError, DtypeError
        If it has no ``lulc (y, x)``, or another dtype than uint8, or no legend.
    """
    if not isinstance(result, xr.Dataset) or "lulc" not in result:
        raise LabelError(
            "no variable `lulc`: post-processing takes the Dataset that `classify` gives."
        )
    lulc = result["lulc"]
    if lulc.dims != ("y", "x"):
        raise LabelError(f"`lulc` has dims {lulc.dims}, expected ('y', 'x'): transpose or select.")
    if lulc.dtype != np.uint8:
        raise DtypeError(f"`lulc` is {lulc.dtype}, expected uint8 codes with 0 for no data.")
    return Legend.from_attrs(lulc.attrs)


def require_probability(result: xr.Dataset, step: str) -> xr.DataArray:
    """Check and give the probability of every class, dims (class, y, x), one chunk of classes.

    Raises
    ------
    ConfigError
        If there is none, or classes were changed since without it.
    LabelError, DtypeError
        If it is no map, or the probability is not uint8 percent of the legend's classes.
    """
    legend = require_map(result)
    if "probability" not in result:
        raise ConfigError(
            f"{step} needs the probability of every class, which this map lacks: make it with "
            "classify(..., probability=True), or --probability."
        )
    probability = result["probability"].transpose("class", "y", "x")
    if probability.dtype != np.uint8:
        raise DtypeError(f"`probability` is {probability.dtype}, expected uint8 percent.")
    if probability.sizes["class"] != len(legend.classes):
        raise LabelError(
            f"`probability` has {probability.sizes['class']} classes, the legend of `lulc` "
            f"{len(legend.classes)}: they are of different maps."
        )
    done = [word for word in ON_CLASSES if word in result.attrs.get(ATTRIBUTE, "")]
    if done:
        raise ConfigError(
            f"{step} starts from probabilities and would undo {done[0].split('(')[0]}: do it "
            "before that, or take a step on classes."
        )
    return probability


def require_window(name: str, size: int) -> None:
    """Refuse the side of a window that has no middle."""
    if size < 1 or size % 2 == 0:
        raise ConfigError(f"{name}={size} is not an odd number of pixels; try 3, 5 or 7.")


def stacked(*arrays: xr.DataArray) -> xr.DataArray:
    """Lay arrays (y, x) and (..., y, x) of one dtype over each other, dims (plane, y, x)."""
    planes = [a.expand_dims("plane") if a.ndim == 2 else a for a in arrays]
    bare = [p.drop_vars(list(p.coords)).rename({p.dims[0]: "plane"}) for p in planes]
    whole: xr.DataArray = xr.concat(bare, "plane", coords="minimal", compat="override")
    return whole


def apply(
    kernel: Callable[..., NDArray[np.uint8]], *arrays: xr.DataArray, depth: int, planes: int
) -> Any:
    """Apply a kernel that looks `depth` pixels around to every block and its surroundings.

    Parameters
    ----------
    kernel : callable
        Takes an ndarray (plane, y, x) for each of `arrays`, a window of them that ends where
        the map ends, and gives ndarray[uint8] (`planes`, y, x) of the window. Of it, all that
        is nearer than `depth` to an edge within the map is thrown away.
    *arrays : DataArray, dims (plane, y, x)
        On one grid. The first one's chunks along y and x are kept.
    depth : int
        Pixels of the neighbours that a block sees.
    planes : int
        Length of the result's first axis.

    Returns
    -------
    dask.array.Array or ndarray[uint8], (planes, y, x)
        ndarray where no array is dask's.
    """
    if all(a.chunks is None for a in arrays):
        return kernel(*(a.to_numpy() for a in arrays))
    kept = _chunks_like(arrays)
    wide = tuple(_wide_enough(lengths, depth) for lengths in kept)
    around = {0: 0} | {i + 1: depth if len(n) > 1 else 0 for i, n in enumerate(wide)}
    windows = [_window(a, wide, around) for a in arrays]
    found = da.map_blocks(
        kernel,
        *windows,
        chunks=((planes,), *windows[0].chunks[1:]),
        dtype="uint8",
        meta=np.empty((0, 0, 0), dtype="uint8"),
    )
    trimmed = trim_internal(found, around, boundary="none")
    # Chunks narrower than the depth were merged on the way.
    return trimmed.rechunk({1: kept[0], 2: kept[1]})


def replaced(result: xr.Dataset, lulc: Any, step: str) -> xr.Dataset:
    """Put new classes into a map; the confidence is that of the class shown.

    Where the class is another one, the confidence is the class's own probability, if the map
    has probabilities, else 0: it is not known.
    """
    old = result["lulc"]
    new = old.copy(data=lulc)
    out = result.assign(lulc=new)
    if "confidence" in result:
        out["confidence"] = result["confidence"].copy(data=_confidence(result, new).data)
    return recorded(out, step)


def refilled(result: xr.Dataset, planes: Any, step: str) -> xr.Dataset:
    """Put new classes, confidence and probabilities (planes in this order) into a map.

    Entropy and margin are those of other probabilities now: they are left out.
    """
    probability = result["probability"].transpose("class", "y", "x")
    out = result.drop_vars(["entropy", "margin"], errors="ignore").assign(
        lulc=result["lulc"].copy(data=planes[0]), probability=probability.copy(data=planes[2:])
    )
    if "confidence" in result:
        out["confidence"] = result["confidence"].copy(data=planes[1])
    return recorded(out, step)


def recorded(result: xr.Dataset, step: str) -> xr.Dataset:
    """Add a step to what was done."""
    before = result.attrs.get(ATTRIBUTE)
    return result.assign_attrs({ATTRIBUTE: f"{before}; {step}" if before else step})


def as_planes(
    share: NDArray[np.floating[Any]], valid: NDArray[np.bool_], codes: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Classes, confidence and probability (2 + class, y, x) of shares that add up to 1."""
    percent = np.where(valid, np.rint(share * 100), 0).astype("uint8")
    lulc = np.where(valid, codes[share.argmax(axis=0)], NODATA).astype("uint8")
    return np.concatenate([lulc[None], percent.max(axis=0)[None], percent])


def _confidence(result: xr.Dataset, new: xr.DataArray) -> xr.DataArray:
    inputs = [result["lulc"], new, result["confidence"]]
    core: list[list[str]] = [[], [], []]
    codes = None
    if "probability" in result:
        share = result["probability"]
        inputs.append(share if share.chunks is None else share.chunk({"class": -1}))
        core.append(["class"])
        codes = np.array(Legend.from_attrs(new.attrs).codes)
    found: xr.DataArray = xr.apply_ufunc(
        _confidence_array,
        *inputs,
        kwargs={"codes": codes},
        input_core_dims=core,
        dask="parallelized",
        output_dtypes=["uint8"],
    )
    return found


def _confidence_array(
    old: NDArray[np.uint8],
    new: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    probability: NDArray[np.uint8] | None = None,
    *,
    codes: NDArray[np.int64] | None,
) -> NDArray[np.uint8]:
    own: Any = 0
    if probability is not None and codes is not None:
        own = np.where(new[..., None] == codes, probability, 0).max(axis=-1)
    return np.where(old == new, confidence, own).astype("uint8")


def _chunks_like(arrays: tuple[xr.DataArray, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first = next(a for a in arrays if a.chunks is not None)
    return first.chunksizes["y"], first.chunksizes["x"]


def _wide_enough(lengths: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Chunks of at least `depth`, merged where they are narrower."""
    if depth >= sum(lengths):
        return (sum(lengths),)
    return tuple(ensure_minimum_chunksize(max(depth, 1), lengths))


def _window(
    array: xr.DataArray, chunks: tuple[tuple[int, ...], ...], around: dict[int, int]
) -> Any:
    data = array.data if array.chunks is not None else da.from_array(array.to_numpy())
    whole = data.rechunk({0: -1, 1: chunks[0], 2: chunks[1]})
    return overlap(whole, depth=around, boundary="none", allow_rechunk=False)
