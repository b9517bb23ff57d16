"""What a map holds: its attributes, and the pixels of one tile at a time.

Nothing is asked of the store but whole objects, so that reading is as patient as writing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.addresses import one_line
from deepforest_xr.basin import template
from deepforest_xr.errors import ReadError
from deepforest_xr.legend import Legend

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from numpy.typing import NDArray

    from deepforest_xr.basin.store import Objects
    from deepforest_xr.grid import Grid

OF_THE_STORE = ("coordinates", "grid_mapping", "_FillValue")
"""Attributes of an array that say how it is stored, not what it is."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the map says of itself."""

    attrs: Mapping[str, Any]
    """Provenance."""

    layers: Mapping[str, Mapping[str, Any]]
    """Attributes by variable."""

    @property
    def legend(self) -> Legend:
        """The classes."""
        return Legend.from_attrs(dict(self.layers["lulc"]))

    def dataset(self, layers: Mapping[str, Any], grid: Grid) -> xr.Dataset:
        """Put pixels on a grid, described as in the map.

        Parameters
        ----------
        layers : mapping of array[uint8], dims (y, x)
            By variable.
        grid : Grid
            Their grid.
        """
        import xarray as xr

        described = {n: (("y", "x"), a, dict(self.layers[n])) for n, a in layers.items()}
        return xr.Dataset(described, coords=grid.coords(), attrs=dict(self.attrs))


@dataclass(frozen=True, slots=True)
class Pixels:
    """One array in shards of one tile each."""

    objects: Objects
    """Where it is."""

    path: str
    """Of the array below the basin: ``map.zarr/lulc``."""

    side: int
    """Of a shard in pixels."""

    metadata: bytes
    """Its ``zarr.json``."""

    def key(self, row: int, col: int) -> str:
        """Key of a shard."""
        return f"{self.path}/c/{row}/{col}"

    def read(self, row: int, col: int) -> NDArray[np.uint8] | None:
        """Read a shard, cut where the array ends; None if there is none.

        Raises
        ------
        ReadError
            If its bytes are not a shard.
        """
        content = self.objects.get(self.key(row, col))
        if content is None:
            return None
        from zarr import open_array
        from zarr.core.buffer import cpu
        from zarr.storage import MemoryStore

        kept: Any = {"zarr.json": self.metadata, f"c/{row}/{col}": content}
        store = MemoryStore({k: cpu.Buffer.from_bytes(v) for k, v in kept.items()})
        rows = slice(row * self.side, (row + 1) * self.side)
        cols = slice(col * self.side, (col + 1) * self.side)
        try:
            return np.asarray(open_array(store, mode="r")[rows, cols])
        except Exception as error:
            raise ReadError(
                f"{self.objects.url}/{self.key(row, col)} cannot be decoded: {one_line(error)}."
            ) from error


def read_description(objects: Objects) -> Described:
    """Read what the map says of itself.

    Raises
    ------
    ReadError
        If it has no metadata.
    """
    root = json.loads(_require(objects, f"{template.STORE}/zarr.json"))
    arrays = root["consolidated_metadata"]["metadata"]
    layers = {
        name: {k: v for k, v in arrays[name]["attributes"].items() if k not in OF_THE_STORE}
        for name in template.VARIABLES
    }
    return Described(root["attributes"], layers)


def open_pixels(objects: Objects, path: str, side: int) -> Pixels:
    """Open an array to read it shard by shard.

    Parameters
    ----------
    objects : Objects
        Of the basin.
    path : str
        Of the array below the basin.
    side : int
        Of a shard in pixels.

    Raises
    ------
    ReadError
        If there is none.
    """
    return Pixels(objects, path, side, _require(objects, f"{path}/zarr.json"))


def open_layers(objects: Objects, side: int, path: str = template.STORE) -> dict[str, Pixels]:
    """Open the variables of the map, or of another group."""
    return {n: open_pixels(objects, f"{path}/{n}", side) for n in template.VARIABLES}


def _require(objects: Objects, key: str) -> bytes:
    content = objects.get(key)
    if content is None:
        raise ReadError(f"{objects.url}/{key} is gone: plan the basin again, elsewhere.")
    return content
