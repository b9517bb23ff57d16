"""The empty map: what `write_zarr` would make of the whole map, without its pixels.

A tile is one shard of each variable and one put. Shards are encoded in memory, so that their
bytes depend on their pixels alone and are known before they are stored.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from deepforest_xr.classify import classify
from deepforest_xr.cube import open_cube
from deepforest_xr.maps.zarr import ZSTD_LEVEL, shard_layout
from deepforest_xr.models.network import STRIDE
from deepforest_xr.reader import ATTRIBUTE as READ_FAILURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pystac
    import xarray as xr
    from numpy.typing import NDArray

    from deepforest_xr.grid import Grid
    from deepforest_xr.models import Checkpoint

STORE = "map.zarr"
VARIABLES = ("lulc", "confidence")
INNER = 512


def layout(tile: int) -> tuple[int, int]:
    """Give the sides of shard and inner chunk for a tile, in pixels."""
    return (tile, INNER) if tile > INNER and tile % INNER == 0 else shard_layout((tile,))


def describe(
    items: Sequence[pystac.Item],
    grid: Grid,
    model: Checkpoint,
    *,
    halo: int,
    cube: Mapping[str, Any],
) -> xr.Dataset:
    """Give the whole map, lazy, as `classify` would, for its attributes and coordinates.

    Cube and map are one chunk, so that the graph stays small however large the basin is; it is
    never computed.

    Parameters
    ----------
    items : sequence of pystac.Item
        All scenes of the basin.
    grid : Grid
        Of the whole map.
    model : Checkpoint
        The model.
    halo : int
        Pixels around a block.
    cube : mapping
        Arguments of `open_cube`.
    """
    longest = max(grid.shape)
    whole = open_cube(items, grid=grid, chunk=longest, **cube)
    one_block = -(-longest // STRIDE) * STRIDE
    return classify(whole, model, block=one_block, halo=halo)


def empty_store(described: xr.Dataset, tile: int) -> dict[str, bytes]:
    """Lay out the map's store.

    Parameters
    ----------
    described : Dataset
        From `describe`.
    tile : int
        Side of a tile in pixels.

    Returns
    -------
    dict of bytes
        Content of its objects by key below the store: metadata, coordinates, and consolidated
        metadata, but no pixels.
    """
    import dask.array
    from zarr import consolidate_metadata
    from zarr.storage import MemoryStore

    shard, inner = layout(tile)
    zeros: Any = dask.array.zeros
    template = described.drop_encoding().assign_attrs(Conventions="CF-1.11")
    template.attrs.pop(READ_FAILURES, None)
    for name in VARIABLES:
        array = template[name]
        template[name] = array.copy(data=zeros(array.shape, chunks=shard, dtype=array.dtype))
    kept: dict[str, Any] = {}
    store = MemoryStore(kept)
    encoding = {name: _encoding(shard, inner) for name in VARIABLES}
    template.to_zarr(
        store, mode="w-", zarr_format=3, consolidated=False, encoding=encoding, compute=False
    )
    with warnings.catch_warnings():
        # As in write_zarr: zarr version 3 has not standardised it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        consolidate_metadata(store, zarr_format=3)
    return {key: bytes(value.to_bytes()) for key, value in kept.items()}


def shard_key(name: str, row: int, col: int) -> str:
    """Key of a tile's shard below the basin's address."""
    return f"{STORE}/{name}/c/{row}/{col}"


def encode(values: NDArray[Any], tile: int) -> bytes:
    """Encode a tile's pixels as its shard.

    Parameters
    ----------
    values : ndarray, dims (y, x)
        Pixels of a tile.
    tile : int
        Side of a tile in pixels.
    """
    from zarr import create_array
    from zarr.storage import MemoryStore

    kept: dict[str, Any] = {}
    shard, inner = layout(tile)
    options = _encoding(shard, inner)
    # A shard of zeros must be an object too, or it would count as not yet written.
    array = create_array(
        MemoryStore(kept),
        shape=values.shape,
        dtype=values.dtype,
        fill_value=0,
        config={"write_empty_chunks": True},
        **options,
    )
    array[...] = values
    return bytes(kept["c/0/0"].to_bytes())


def _encoding(shard: int, inner: int) -> dict[str, Any]:
    from zarr.codecs import ZstdCodec

    codec = ZstdCodec(level=ZSTD_LEVEL)
    return {"chunks": (inner, inner), "shards": (shard, shard), "compressors": (codec,)}
