"""Overviews of the map in its own store, so that a notebook can open a whole basin at once.

    map.zarr/overviews/zarr.json   `multiscales`: the levels, and how each was made
    map.zarr/overviews/1, 2, ...   a group a level, each half as fine, with its own coordinates

Each level is a map like any: ``xarray.open_zarr("map.zarr", group="overviews/3")``. Of the map
itself one object changes: the consolidated metadata in ``map.zarr/zarr.json`` list the levels,
from when they are whole until they are removed. Classes are the mode of two by two pixels, of
equally frequent ones the lower code; confidence is the mean. Pixels without data count only
where all four have none. A level is made from the one before, shard by shard, so that no more
than two tiles are in memory.

References: zarr-conventions/multiscales, spatial and proj, version 0.1.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from deepforest_xr.basin import template
from deepforest_xr.basin.pixels import Described, Pixels, open_layers, open_pixels
from deepforest_xr.basin.results import to_json
from deepforest_xr.errors import ReadError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA, UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from deepforest_xr.basin.store import Objects
    from deepforest_xr.basin.tiling import Tile, Tiling

    Place = tuple[int, int]

NAME = "overviews"
GROUP, ROOT = f"{template.STORE}/{NAME}", f"{template.STORE}/zarr.json"
INPUTS = "deepforest:inputs"
LONGEST = 1024
"""Halving ends with the first level whose longer side is no longer than this, in pixels."""

STRIP = 512
"""Rows of a tile that are halved together; even."""

IN_ROOT = {"kind": "inline", "must_understand": False, "metadata": {}}
"""Consolidated metadata of a group as zarr writes them where the root lists what is below it."""

CONVENTIONS = (
    ("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "zarr-conventions/multiscales"),
    ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "zarr-conventions/proj"),
    ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "zarr-conventions/spatial"),
)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid."""

    number: int
    """How often the map was halved; 0 is the map itself."""

    grid: Grid
    """Its pixels; the last of a row or column may reach beyond the map."""

    places: tuple[Place, ...]
    """Row and column of every shard that holds pixels."""

    @property
    def path(self) -> str:
        """Of its group below the basin."""
        return f"{GROUP}/{self.number}" if self.number else template.STORE


def levels(tiling: Tiling, tiles: Iterable[Tile]) -> tuple[Level, ...]:
    """Lay out a pyramid, the map itself first.

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    tiles : iterable of Tile
        Those with pixels.
    """
    found = [Level(0, tiling.grid, tuple((tile.row, tile.col) for tile in tiles))]
    while max(found[-1].grid.shape) > LONGEST:
        last = found[-1]
        rows, cols = (math.ceil(n / 2) for n in last.grid.shape)
        grid = Grid(last.grid.crs, last.grid.transform @ Affine.scale(2), (rows, cols))
        places = dict.fromkeys((row // 2, col // 2) for row, col in last.places)
        found.append(Level(last.number + 1, grid, tuple(sorted(places))))
    return tuple(found)


def write_pyramid(
    objects: Objects,
    described: Described,
    pyramid: Sequence[Level],
    side: int,
    *,
    inputs: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write all levels of a pyramid but the map itself.

    Parameters
    ----------
    objects : Objects
        Of the basin.
    described : Described
        What the map says of itself.
    pyramid : sequence of Level
        From `levels`.
    side : int
        Of a shard in pixels.
    inputs : str
        Checksum of what it is made of; what an earlier go made of the same is kept, what stands
        there of other inputs is removed.
    progress : callable (done, total), optional
        Called after each shard.

    Returns
    -------
    dict
        Bytes by key, as `sizes` gives them.

    Raises
    ------
    ReadError
        If the map's metadata, or a shard, cannot be read.
    """
    keys: list[str] = []
    metadata: dict[str, bytes] = {}
    kept = _begin(objects, inputs) if len(pyramid) > 1 else frozenset()
    total, done = sum(len(level.places) for level in pyramid[1:]), 0
    for finer, level in pairwise(pyramid):
        metadata |= (begun := _metadata(described, level, side))
        for key, content in begun.items():
            objects.put(key, content)
            keys.append(key)
        sources = open_layers(objects, side, finer.path)
        for place in level.places:
            for name in template.VARIABLES:
                key = f"{level.path}/{name}/c/{place[0]}/{place[1]}"
                keys.append(key)
                if key not in kept:
                    made = _shard(sources[name], place, side, is_codes=name == "lulc")
                    objects.put(key, template.encode(made, side))
            done += 1
            if progress is not None:
                progress(done, total)
    if len(pyramid) > 1:
        key = f"{GROUP}/zarr.json"
        metadata[key] = to_json(_group(pyramid, inputs))
        objects.put(key, metadata[key])
        keys.append(key)
    there = {one.key: one.size for one in objects.listing(f"{GROUP}/")}
    wanted = set(keys)
    objects.delete(key for key in there if key not in wanted)
    # Last: what is listed is there.
    return {key: there[key] for key in keys} | {ROOT: _list_levels(objects, metadata)}


def sizes(objects: Objects) -> dict[str, int]:
    """Bytes by key of all objects of the pyramid, and of the map's metadata that list it."""
    found = {one.key: one.size for one in objects.listing(f"{GROUP}/")}
    return found | {ROOT: len(objects.get(ROOT) or b"")}


def read_level(objects: Objects, level: Level, side: int, name: str) -> NDArray[np.uint8]:
    """Read a whole level of one variable, 0 where it has no shard.

    Parameters
    ----------
    objects : Objects
        Of the basin.
    level : Level
        A coarse one.
    side : int
        Of a shard in pixels.
    name : str
        Of the variable.
    """
    pixels = open_pixels(objects, f"{level.path}/{name}", side)
    whole = np.zeros(level.grid.shape, dtype="uint8")
    for row, col in level.places:
        values = pixels.read(row, col)
        if values is not None:
            place = whole[row * side : (row + 1) * side, col * side : (col + 1) * side]
            place[...] = values
    return whole


def mode_of_four(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve a raster of classes.

    Parameters
    ----------
    codes : ndarray[uint8], dims (y, x)
        0 is no data. An odd last row or column counts as if no data followed it.

    Returns
    -------
    ndarray[uint8], dims (y, x)
        The most frequent code of each two by two pixels, the lower one of several; no data
        only where all four have none.
    """
    # No data becomes the highest number, so that it comes last when the four are sorted.
    a, b, c, d = _quarters(np.where(codes == NODATA, UNLABELLED, codes), UNLABELLED)
    a, b = np.minimum(a, b), np.maximum(a, b)
    c, d = np.minimum(c, d), np.maximum(c, d)
    a, c = np.minimum(a, c), np.maximum(a, c)
    b, d = np.minimum(b, d), np.maximum(b, d)
    b, c = np.minimum(b, c), np.maximum(b, c)
    pair_in_the_middle = (b == c) & (b != UNLABELLED)
    pair_at_the_end = (c == d) & (c != UNLABELLED)
    rarer = np.where(pair_in_the_middle, b, np.where(pair_at_the_end, c, a))
    mode: NDArray[np.uint8] = np.where(a == b, a, rarer)
    mode[mode == UNLABELLED] = NODATA
    return mode


def mean_of_four(percent: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve a raster of percent, 0 as no data.

    Parameters
    ----------
    percent : ndarray[uint8], dims (y, x)
        An odd last row or column counts as if no data followed it.

    Returns
    -------
    ndarray[uint8], dims (y, x)
        Mean of those of two by two pixels that have data, rounded half to even.
    """
    four = _quarters(percent, NODATA)
    total = np.zeros(four[0].shape, dtype="float32")
    count = np.zeros_like(four[0])
    for part in four:
        total += part
        count += part != NODATA
    # Half to even: always up would raise the mean with every level.
    mean: NDArray[np.uint8] = np.rint(total / np.maximum(count, 1)).astype("uint8")
    return mean


def _quarters(values: NDArray[Any], blank: int) -> tuple[NDArray[np.uint8], ...]:
    odd = [(0, n % 2) for n in values.shape]
    even = np.pad(values, odd, constant_values=blank).astype("uint8", copy=False)
    return even[::2, ::2], even[::2, 1::2], even[1::2, ::2], even[1::2, 1::2]


def _shard(source: Pixels, place: Place, side: int, *, is_codes: bool) -> NDArray[np.uint8]:
    """Make a shard of four shards of the finer level, one at a time."""
    made, half = np.zeros((side, side), dtype="uint8"), side // 2
    for row, col in np.ndindex(2, 2):
        finer = source.read(2 * place[0] + row, 2 * place[1] + col)
        if finer is not None:
            coarse = _halved(finer, mode_of_four if is_codes else mean_of_four)
            rows, cols = coarse.shape
            made[row * half : row * half + rows, col * half : col * half + cols] = coarse
    return made


def _halved(
    values: NDArray[np.uint8], halve: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Halve a tile in strips: what is needed on the way is then small beside it."""
    tops = range(0, values.shape[0], STRIP)
    return np.concatenate([halve(values[top : top + STRIP]) for top in tops])


def _metadata(described: Described, level: Level, side: int) -> dict[str, bytes]:
    """Objects of a level's group but shards, by key."""
    empty = np.broadcast_to(np.uint8(0), level.grid.shape)
    dataset = described.dataset(dict.fromkeys(template.VARIABLES, empty), level.grid)
    kept = template.empty_store(dataset, side)
    root = json.loads(kept["zarr.json"])
    root["attributes"] |= {"zarr_conventions": _conventions("proj", "spatial"), **_place(level)}
    kept["zarr.json"] = to_json(root)
    return {f"{level.path}/{key}": content for key, content in kept.items()}


def _list_levels(objects: Objects, metadata: Mapping[str, bytes]) -> int:
    """Let the map's consolidated metadata list levels by their objects, and no other level.

    They are put only if they change. Bytes of the object that holds them are given.
    """
    content = objects.get(ROOT)
    if content is None:
        raise ReadError(f"{objects.url}/{ROOT} is gone: plan the basin again, elsewhere.")
    root = json.loads(content)
    listed = root["consolidated_metadata"]["metadata"]
    wanted = {path: node for path, node in listed.items() if path.split("/")[0] != NAME}
    for key, text in metadata.items():
        path = key.removeprefix(f"{template.STORE}/")
        if path.endswith("/zarr.json"):
            node = json.loads(text)
            node |= {"consolidated_metadata": IN_ROOT} if node["node_type"] == "group" else {}
            wanted[path.removesuffix("/zarr.json")] = node
    if listed != wanted:
        root["consolidated_metadata"]["metadata"] = wanted
        content = to_json(root)
        objects.put(ROOT, content)
    return len(content)


def _begin(objects: Objects, inputs: str) -> frozenset[str]:
    """Give keys that an earlier go made of the same tiles; remove those made of others."""
    key = f"{GROUP}/zarr.json"
    there, root = objects.names(f"{GROUP}/"), objects.get(key)
    if root is not None and json.loads(root)["attributes"].get(INPUTS) == inputs:
        return frozenset(there)
    # A level that is listed and has lost its shards would be read as one without data.
    _list_levels(objects, {})
    objects.delete(there)
    group = {"attributes": {INPUTS: inputs}, "zarr_format": 3, "node_type": "group"}
    objects.put(key, to_json(group))
    return frozenset()


def _group(pyramid: Sequence[Level], inputs: str) -> dict[str, Any]:
    """Metadata of the group of all levels."""
    layout: list[dict[str, Any]] = []
    for level in pyramid[1:]:
        entry: dict[str, Any] = {"asset": str(level.number)}
        if level.number > 1:
            entry["derived_from"] = str(level.number - 1)
        # Of the first level, relative to the map, which a path may not name: it is above.
        entry["transform"] = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
        entry |= {k: v for k, v in _place(level).items() if k in {SHAPE, TRANSFORM}}
        layout.append(entry)
    attributes = {
        "zarr_conventions": _conventions("multiscales", "proj", "spatial"),
        "multiscales": {"layout": layout, "resampling_method": "mode"},
        INPUTS: inputs,
        "deepforest:resampling": {"lulc": "mode", "confidence": "average"},
        **{k: v for k, v in _place(pyramid[1]).items() if k not in {SHAPE, TRANSFORM}},
    }
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


SHAPE, TRANSFORM = "spatial:shape", "spatial:transform"


def _place(level: Level) -> dict[str, Any]:
    grid = level.grid
    authority = grid.crs.to_authority()
    crs = {"proj:code": ":".join(authority)} if authority else {"proj:wkt2": grid.crs.to_wkt()}
    return {
        **crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": list(grid.bounds),
        TRANSFORM: [float(v) for v in tuple(grid.transform)[:6]],
        SHAPE: list(grid.shape),
    }


def _conventions(*wanted: str) -> list[dict[str, str]]:
    return [
        {"name": name, "uuid": uuid, "spec_url": f"https://github.com/{place}/blob/v0.1/README.md"}
        for name, uuid, place in CONVENTIONS
        if name in wanted
    ]
