"""One tile: its scenes to two shards and a record of them. Done twice, it gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.basin import template
from deepforest_xr.basin.card import AREA, Plan
from deepforest_xr.basin.plan import software
from deepforest_xr.basin.scenes import thaw
from deepforest_xr.classify import classify
from deepforest_xr.cube import open_cube
from deepforest_xr.errors import ReadError, StoreError
from deepforest_xr.legend import NODATA
from deepforest_xr.maps import storing
from deepforest_xr.reader import read_failures

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from deepforest_xr.basin.ledger import Lease, Ledger
    from deepforest_xr.basin.store import Objects
    from deepforest_xr.basin.tiling import Tile

    Layers = Mapping[str, NDArray[np.uint8]]

BLOCKS = "classify_block"
"""What the names of tasks that classify begin with."""


def make_tile(
    plan: Plan, tile: Tile, ledger: Ledger, lease: Lease, *, model: str | Path | None = None
) -> dict[str, Any]:
    """Map a tile, store its shards, and record it as done.

    Parameters
    ----------
    plan : Plan
        The basin.
    tile : Tile
        One of its tiles.
    ledger : Ledger
        Where it is recorded.
    lease : Lease
        The claim under which this is done; nothing is written once another has the tile.
    model : path, optional
        Folder of the checkpoint here, if it is not where it was when the basin was planned.

    Returns
    -------
    dict
        What stands in ``done/<tile>.json``.

    Raises
    ------
    LostLeaseError
        If another runner took the tile over.
    ReadError, CatalogError, ModelError, StoreError
        If a scene, the model or the store fails.
    """
    watch, begin = Watch(), time.perf_counter()
    failures: list[str] = []
    if tile.id in plan.empty:
        side = plan.tiling.tile
        layers: Layers = {n: np.zeros((side, side), dtype="uint8") for n in template.VARIABLES}
    else:
        layers, failures = _mapped(plan, tile, ledger.objects, model or plan.model.path, watch)
    with watch.stage("write"):
        shards = _store(plan, tile, layers, ledger, lease)
    record = {
        "tile": tile.id,
        "run_id": plan.run_id,
        **_counts(layers["lulc"]),
        "seconds": {
            **{name: round(value, 3) for name, value in watch.seconds.items()},
            "tile": round(time.perf_counter() - begin, 3),
        },
        "peak_memory": _peak_memory(),
        "items": plan.items.get(tile.id, 0),
        "shards": shards,
        "read_failures": failures,
        "versions": software(),
        "owner": ledger.owner.card(),
    }
    ledger.require(lease)
    ledger.finish(lease, record)
    return record


class Watch:
    """Seconds by stage.

    Reading and classifying overlap in threads: theirs are seconds of threads, while "map" is
    the time that both took together.
    """

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "classify": 0.0, "map": 0.0, "write": 0.0}
        self._started: dict[Hashable, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that a block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @property
    def callbacks(self) -> tuple[Any, ...]:
        """What dask calls before and after each task of one computation."""

        def pretask(key: Hashable, _dsk: Any, _state: Any) -> None:
            self._started[key] = time.perf_counter()

        def posttask(key: Hashable, _result: Any, _dsk: Any, _state: Any, _worker: Any) -> None:
            spent = time.perf_counter() - self._started.pop(key, time.perf_counter())
            name = str(key[0] if isinstance(key, tuple) else key)
            self.seconds["classify" if BLOCKS in name else "read"] += spent

        return (None, None, pretask, posttask, None)


def shard_keys(tile: Tile) -> dict[str, str]:
    """Keys of a tile's shards by variable."""
    return {n: template.shard_key(n, tile.row, tile.col) for n in template.VARIABLES}


def _mapped(
    plan: Plan, tile: Tile, objects: Objects, model: str | Path, watch: Watch
) -> tuple[Layers, list[str]]:
    """Read and classify a tile with its halo, and keep the tile; what could not be read."""
    with watch.stage("read"):
        content = objects.get(f"items/{tile.id}.parquet")
        if content is None:
            raise ReadError(f"the scenes of tile {tile.id} are gone: plan the basin again.")
        cube = open_cube(
            thaw(content), grid=plan.tiling.grid_of(tile, plan.halo), **dict(plan.cube)
        )
    lulc = classify(cube, model, block=plan.config.block, halo=plan.halo, device=plan.config.device)
    inner = slice(plan.halo, plan.halo + plan.tiling.tile)
    wanted = lulc[list(template.VARIABLES)].isel(y=inner, x=inner)
    with watch.stage("map"):
        # Inside a Dask worker dask would send each of these tasks to its scheduler.
        layers = {n: np.zeros(wanted[n].shape, dtype="uint8") for n in template.VARIABLES}
        for rows in storing.strips(wanted.chunksizes["y"]):
            strip = [wanted[name].data[rows] for name in layers]
            regions = [(rows, slice(0, plan.tiling.tile))] * len(layers)
            storing.store(
                strip,
                list(layers.values()),
                regions,
                scheduler="threads",
                callbacks=(watch.callbacks,),
            )
    if plan.config.mask:
        inside = _inside(plan, tile, objects)
        layers = {name: np.where(inside, a, a.dtype.type(0)) for name, a in layers.items()}
    return layers, read_failures(cube)


def _inside(plan: Plan, tile: Tile, objects: Objects) -> NDArray[np.bool_]:
    """Which pixels have their centre in the area."""
    from rasterio.features import geometry_mask
    from shapely.geometry import mapping, shape

    from deepforest_xr.basin.tiling import on_crs

    content = objects.get(AREA)
    if content is None:
        raise ReadError(f"{objects.url}/{AREA} is gone: plan the basin again.")
    grid = plan.tiling.grid_of(tile)
    area = on_crs(shape(json.loads(content)["geometry"]), grid.crs)
    found: NDArray[np.bool_] = geometry_mask(
        [mapping(area)], out_shape=grid.shape, transform=grid.transform, invert=True
    )
    return found


def _store(
    plan: Plan, tile: Tile, layers: Layers, ledger: Ledger, lease: Lease
) -> dict[str, dict[str, Any]]:
    """Put both shards, read them back, and give their checksums."""
    objects, keys = ledger.objects, shard_keys(tile)
    encoded = {name: template.encode(layers[name], plan.tiling.tile) for name in keys}
    ledger.require(lease)
    if lease.number > 1:
        for path in objects.staging(f"{key}#" for key in keys.values()):
            path.unlink(missing_ok=True)
    described = {}
    for name, key in keys.items():
        digest = hashlib.sha256(encoded[name]).hexdigest()
        objects.put(key, encoded[name])
        stored = objects.get(key) or b""
        if hashlib.sha256(stored).hexdigest() != digest:
            raise StoreError(
                f"{objects.url}/{key} was written with {len(encoded[name])} bytes and is read "
                f"back otherwise, with {len(stored)}: the store is damaged."
            )
        described[name] = {"key": key, "sha256": digest, "size": len(stored)}
    return described


def _counts(lulc: NDArray[np.uint8]) -> dict[str, Any]:
    counts = np.bincount(lulc.ravel(), minlength=256)
    classes = {str(code): int(counts[code]) for code in np.flatnonzero(counts) if code != NODATA}
    return {"pixels": lulc.size, "classes": classes, "nodata": int(counts[NODATA]) / lulc.size}


def _peak_memory() -> int:
    """Bytes that this process held at most since it began."""
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
