"""The map as Cloud Optimized GeoTIFFs, one a tile or one a degree, each with its STAC item.

The item is put last and knows what its files were made of: where it is, they are whole.
"""

from __future__ import annotations

import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from affine import Affine

from deepforest_xr.basin.cells import Cell, cells_of, inside
from deepforest_xr.basin.collection import Catalogued, finish_item
from deepforest_xr.basin.pixels import open_layers
from deepforest_xr.grid import Grid
from deepforest_xr.maps import write_cog, write_stac_item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from deepforest_xr.basin.pixels import Pixels
    from deepforest_xr.basin.results import Results
    from deepforest_xr.basin.store import Objects
    from deepforest_xr.basin.tiling import Tile, Tiling
    from deepforest_xr.basin.verify import Verified

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

KINDS = ("tile", "degree")
INPUTS = "deepforest:inputs"
COGS, ITEMS = "cog/", "stac/items/"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one GeoTIFF is cut from."""

    id: str
    """Its name without ending."""

    tiles: tuple[Tile, ...]
    """Tiles that it may hold pixels of."""

    cell: Cell | None = None
    """Of one by one degree; without, it is a whole tile."""


@dataclass(frozen=True, slots=True)
class Cog:
    """A GeoTIFF of the map's classes, and one of its confidence."""

    item: dict[str, Any]
    """Its STAC item."""

    files: tuple[str, ...]
    """Names of all its files, the item first."""

    @property
    def id(self) -> str:
        """Its name without ending."""
        return str(self.item["id"])

    @property
    def transform(self) -> Affine:
        """Pixel corner to coordinates of the map."""
        return Affine(*self.item["properties"]["proj:transform"])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        rows, cols = self.item["properties"]["proj:shape"]
        return int(rows), int(cols)


def pieces(tiling: Tiling, tiles: tuple[Tile, ...], kind: str) -> list[Piece]:
    """Cut a map into pieces of one GeoTIFF each.

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    tiles : tuple of Tile
        Those that are done.
    kind : str
        ``tile`` or ``degree``.
    """
    if kind == "tile":
        return [Piece(tile.id, (tile,)) for tile in tiles]
    found: dict[Cell, list[Tile]] = {}
    for tile in tiles:
        for cell in cells_of(tiling.grid_of(tile)):
            found.setdefault(cell, []).append(tile)
    return [Piece(cell.id, tuple(found[cell]), cell) for cell in sorted(found)]


def write_cogs(
    objects: Objects,
    results: Results,
    verified: Verified,
    catalogued: Catalogued,
    kind: str,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Cog]:
    """Write the GeoTIFFs that are not there yet, with their items.

    After an error, or Ctrl-C, no piece is begun; those in hand are ended, and kept.

    Parameters
    ----------
    objects : Objects
        Of the basin.
    results : Results
        Where they go.
    verified : Verified
        Tiles to show.
    catalogued : Catalogued
        What their items say.
    kind : str
        ``tile`` or ``degree``.
    workers : int
        Pieces made at once, in threads.
    progress : callable (done, total), optional
        Called after each piece, by the caller's thread.

    Returns
    -------
    list of Cog
        All of the map, in its order; pieces without a pixel of data have none.
    """
    tiling = catalogued.plan.tiling
    layers = open_layers(objects, tiling.tile)
    there, nodata = results.sizes(), verified.nodata

    def make(piece: Piece) -> Cog | None:
        inputs = verified.checksum(piece.tiles, catalogued.plan.run_id, kind)
        cog = _known(results, piece, inputs, there)
        if cog is None and any(nodata[tile.id] < 1 for tile in piece.tiles):
            cog = _make(results, piece, layers, catalogued, inputs)
        return cog

    made = _in_threads(make, pieces(tiling, verified.tiles, kind), workers, progress)
    return [cog for cog in made if cog is not None]


def _in_threads(
    call: Callable[[T], R],
    values: Sequence[T],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[R]:
    """Call for every value, and give what came of it in the order of values."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="piece")
    try:
        futures = [pool.submit(call, value) for value in values]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if progress is not None:
                progress(done, len(futures))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _known(results: Results, piece: Piece, inputs: str, there: Mapping[str, int]) -> Cog | None:
    """Give what an earlier go has made of the same tiles, if all of it is there."""
    name = f"{ITEMS}{piece.id}.json"
    item = results.get_json(name) if name in there else None
    if item is None or item["properties"].get(INPUTS) != inputs:
        return None
    sizes = {_beside(a["href"]): a["file:size"] for a in item["assets"].values()}
    if any(there.get(file) != size for file, size in sizes.items()):
        return None
    return Cog(item, (name, *sizes))


def _make(
    results: Results,
    piece: Piece,
    layers: Mapping[str, Pixels],
    catalogued: Catalogued,
    inputs: str,
) -> Cog | None:
    """Cut a piece, write its files here, and put them where they belong, the item last."""
    grid, pixels = _cut(catalogued.plan.tiling, piece, layers)
    if grid is None or not pixels["lulc"].any():
        return None
    dataset = catalogued.described.dataset(pixels, grid)
    with tempfile.TemporaryDirectory(prefix="deepforest-cog-") as folder:
        path = Path(folder, COGS, f"{piece.id}.tif")
        assets = {name: write_cog(dataset, path, variable=name) for name in layers}
        start, end = catalogued.period
        card = write_stac_item(
            dataset, Path(folder, ITEMS, f"{piece.id}.json"), assets=assets, start=start, end=end
        )
        item = finish_item(card, catalogued, {INPUTS: inputs})
        files = [_beside(asset["href"]) for asset in item["assets"].values()]
        for file in files:
            results.put(file, Path(folder, file).read_bytes())
    name = f"{ITEMS}{piece.id}.json"
    results.put_json(name, item)
    log.info("%s: %d files", piece.id, len(files))
    return Cog(item, (name, *files))


def _beside(href: str) -> str:
    """Name of a file that an item links to."""
    return href.removeprefix("./").removeprefix("../../")


def _cut(
    tiling: Tiling, piece: Piece, layers: Mapping[str, Pixels]
) -> tuple[Grid | None, dict[str, NDArray[np.uint8]]]:
    """Grid and pixels of a piece; no grid where no pixel lies in its cell."""
    if piece.cell is None:
        (tile,) = piece.tiles
        read = {name: array.read(tile.row, tile.col) for name, array in layers.items()}
        return tiling.grid_of(tile), {n: a for n, a in read.items() if a is not None}
    parts = [part for tile in piece.tiles if (part := _part(tiling, tile, piece.cell))]
    if not parts:
        return None, {}
    top, left = (min(part.corner[axis] for part in parts) for axis in (0, 1))
    bottom, right = (max(p.corner[i] + p.mask.shape[i] for p in parts) for i in (0, 1))
    shape = (bottom - top, right - left)
    whole = {name: np.zeros(shape, dtype="uint8") for name in layers}
    for part in parts:
        row, col = part.corner[0] - top, part.corner[1] - left
        rows, cols = part.mask.shape
        window = (slice(row, row + rows), slice(col, col + cols))
        for name, array in layers.items():
            values = array.read(part.tile.row, part.tile.col)
            if values is not None:
                np.copyto(whole[name][window], values[part.window], where=part.mask)
    origin = Affine.translation(left, top)
    return Grid(tiling.grid.crs, tiling.grid.transform @ origin, shape), whole


@dataclass(frozen=True, slots=True)
class _Part:
    """What lies in a cell of one tile."""

    tile: Tile
    """The tile."""

    window: tuple[slice, slice]
    """Rows and columns of the tile that have pixels in the cell."""

    corner: tuple[int, int]
    """Row and column of the window in the map."""

    mask: NDArray[np.bool_]
    """Which pixels of the window lie in the cell."""


def _part(tiling: Tiling, tile: Tile, cell: Cell) -> _Part | None:
    mask = inside(cell, tiling.grid_of(tile))
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return None
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1))
    corner = (tile.row * tiling.tile + window[0].start, tile.col * tiling.tile + window[1].start)
    return _Part(tile, window, corner, mask[window])
