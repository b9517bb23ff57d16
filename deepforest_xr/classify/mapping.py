"""The map as a lazy Dataset: one function call a block in the graph, never a weight.

In the graph stand a path and a checksum: each process loads a model once.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import dask
import dask.array as da
import xarray as xr

from deepforest_xr.classify.blend import blended, extended_sizes
from deepforest_xr.classify.block import Task, classify_block, classify_logits, logits_block
from deepforest_xr.classify.plan import Plan, make_plan
from deepforest_xr.legend import NODATA
from deepforest_xr.reader import ATTRIBUTE as READ_FAILURES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deepforest_xr.models import Checkpoint

MISSING = "0 where lulc is 0, where nothing was classified; elsewhere 0 % is a result"


def classify(
    cube: xr.Dataset,
    model: str | Path | Checkpoint | None = None,
    *,
    block: int | None = None,
    halo: int | None = None,
    device: str = "auto",
    probability: bool = False,
    uncertainty: bool = False,
    blend: int = 0,
    resources: Mapping[str, float] | None = None,
) -> xr.Dataset:
    """Map land cover; lazy, nothing is read or computed.

    A block that does not fit into the memory of its device is computed in halves, which a
    warning tells once a process; `explain` prices a map beforehand.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`, or opened from its Zarr. Bands and months are taken by name. Where
        its ``s2_count`` is 0 nothing was seen, whatever ``s2`` holds there. A month of
        ``s1`` that was filled from others (``s1_count`` 0) is used as it was in training.
    model : path or Checkpoint, optional
        Folder of a checkpoint, or a loaded one. Default: the folder that the environment
        variable ``DEEPFOREST_XR_MODEL`` names, else the checkpoint that was installed
        (`deepforest_xr.models.install`). A model is never guessed.
    block : int, optional
        Side of a block in pixels, a multiple of 32; the halo's if that is more. Default: the
        network's, 1024 where a block takes at most 7 GB. The pixels of the halo are computed
        once for each block around: larger blocks take less work, and memory that grows with
        the square of block and twice the halo. `explain` tells both, for other sizes too.
    halo : int, optional
        Pixels around a block, a multiple of 32; default: the network's, measured so that
        its edge does not show.
    device : {"auto", "cpu", "cuda"}
        "auto" takes CUDA where the block runs if there is one.
    probability : bool
        Also give the probability of every class.
    uncertainty : bool
        Also give entropy and margin of the probabilities.
    blend : int
        Pixels on each side of a border between blocks over which their logits fade into one
        another, a multiple of 32, at most the halo. For a halo that is smaller than the
        network's field; at the default halo there is nothing to blend. Logits are kept until
        the blocks beside are done; `write_zarr` computes those along its strips twice.
    resources : mapping of name to amount, optional
        What a Dask worker must declare to classify a block, as ``{"GPU": 1}``. Dask forgets
        it when it fuses a graph, `write_zarr` does not let it; a block that comes to another
        worker is an error.

    Returns
    -------
    Dataset
        ``lulc (y, x)`` uint8, codes of the model's legend, 0 where a Sentinel-2 band is
        missing or the Sentinel-1 series is empty; ``confidence (y, x)`` uint8, highest
        probability in percent, 0 where `lulc` is; with `probability` ``probability (class,
        y, x)`` uint8 percent. With `uncertainty` ``entropy (y, x)`` uint8, Shannon entropy in
        percent of that of equal probabilities, and ``margin (y, x)`` uint8, highest minus
        second highest probability in percent. All are 0 where `lulc` is; there 0 is missing,
        elsewhere 0 % is a result.

    Raises
    ------
    NoModelError
        If no model is given, named in the environment or installed.
    BandMismatchError
        If the cube lacks a channel of the model.
    ModelError, ChecksumError
        If the checkpoint cannot be used; when computed, if a worker lacks a resource.
    ConfigError
        If `block`, `halo` or `blend` is not a multiple of 32, or `blend` more than the halo.
    """
    plan = make_plan(cube, model, block=block, halo=halo, device=device, blend=blend)
    task = plan.task(probability=probability, uncertainty=uncertainty, resources=resources)
    function, windows = classify_block, plan.with_halo()
    with dask.annotate(resources=dict(resources)) if resources else nullcontext():
        if task.blend:
            function, windows = classify_logits, _blended(plan, windows, task)
        result = xr.map_blocks(
            function,
            windows,
            kwargs={"task": task},
            template=_template(plan, probability=probability, uncertainty=uncertainty),
        )
    return _describe(result.assign_coords(plan.grid.coords()), cube, plan)


def _blended(plan: Plan, windows: xr.Dataset, task: Task) -> xr.Dataset:
    """Logits of the blocks, those of their neighbours faded in."""
    classes = (len(plan.checkpoint.legend.classes),)
    rows, cols = (extended_sizes(sizes, task.blend) for sizes in plan.blocks)
    shape = (*classes, sum(rows), sum(cols))
    empty = da.zeros(shape, chunks=(classes, rows, cols), dtype="float32")
    dims = ("class", "y", "x")
    template = xr.Dataset({"logits": (dims, empty)})
    extended = xr.map_blocks(logits_block, windows, kwargs={"task": task}, template=template)
    faded = blended(extended["logits"].data, plan.blocks, task.blend)
    return xr.Dataset({"logits": (dims, faded)})


def _template(plan: Plan, *, probability: bool, uncertainty: bool) -> xr.Dataset:
    names = ["lulc", "confidence", *(("entropy", "margin") if uncertainty else ())]
    empty = da.zeros(plan.grid.shape, chunks=plan.blocks, dtype="uint8")
    template = xr.Dataset(dict.fromkeys(names, (("y", "x"), empty)))
    if probability:
        classes = len(plan.checkpoint.legend.classes)
        stack = da.zeros(
            (classes, *plan.grid.shape), chunks=((classes,), *plan.blocks), dtype="uint8"
        )
        template["probability"] = (("class", "y", "x"), stack)
    return template


def _describe(result: xr.Dataset, cube: xr.Dataset, plan: Plan) -> xr.Dataset:
    checkpoint = plan.checkpoint
    result["lulc"].attrs = {
        "long_name": "land use and land cover",
        **checkpoint.legend.attrs(),
        "nodata": NODATA,
        "grid_mapping": "spatial_ref",
    }
    result["confidence"].attrs = {
        "long_name": "highest class probability",
        "units": "percent",
        "temperature": checkpoint.temperature,
        "grid_mapping": "spatial_ref",
    }
    for name, title in (
        ("entropy", "entropy of the class probabilities, 100 where all are equal"),
        ("margin", "highest minus second highest class probability"),
    ):
        if name in result:
            result[name].attrs = {
                "long_name": title,
                "units": "percent",
                "temperature": checkpoint.temperature,
                "comment": MISSING,
                "grid_mapping": "spatial_ref",
            }
    if "probability" in result:
        result = result.assign_coords({"class": checkpoint.legend.names})
        result["probability"].attrs = {"long_name": "class probability", "units": "percent"}
    kept = {
        k: v
        for k, v in cube.attrs.items()
        if isinstance(v, str | int | float) or k == READ_FAILURES
    }
    made = {"model": checkpoint.model, "model_sha256": checkpoint.sha256}
    result.attrs = {**kept, **made, "halo": plan.halo, "blend": plan.blend}
    if checkpoint.cube_attrs.get("simulated"):
        result.attrs["simulated"] = "true"
    return result
