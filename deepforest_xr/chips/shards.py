"""Single chips straight from the bytes of a shard, without zarr's machinery in between.

A shard is what the Zarr v3 sharding codec writes: the compressed chips one after the other,
then for each its place and length as two little-endian uint64 (all ones: no value was
written, the chip is the fill value), then four bytes of checksum. To read a chip takes two
short reads of one file and one decompression; zarr takes several times as long, almost all
of it in Python.

Only stores that `write_chips` could have written are read this way; `Shards.of` is None for
any other, and zarr reads it. A shard that is not there is an error here, while zarr takes it
for fill values: `write_chips` leaves none out, every chip has labels and values.

References
----------
Zarr extension ``sharding_indexed``, binary shard format.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import zstd  # type: ignore[import-untyped]
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from io import FileIO

    import zarr
    from numpy.typing import NDArray

ENTRY = struct.Struct("<QQ")
CHECKSUM_BYTES = 4
ABSENT = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Shards:
    """The shard files of one array whose first dimension counts chips."""

    folder: Path
    """Of the array."""

    chips: int
    """A shard."""

    shape: tuple[int, ...]
    """Of one chip."""

    dtype: str
    """Of the values."""

    fill: int
    """Value of a chip that was not written."""

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Shards | None:
        """Give the shards of an array; None where zarr must read it."""
        store, shape = array.store, array.shape[1:]
        if not isinstance(store, LocalStore) or sys.byteorder != "little":
            return None
        card: dict[str, Any] = array.metadata.to_dict()
        shards = array.shards
        if shards is None or shards[1:] != shape or array.chunks != (1, *shape):
            return None
        is_known = (
            card["zarr_format"] == 3
            and card["chunk_key_encoding"] == _codec("default", separator="/")
            and len(card["codecs"]) == 1
            and _is_known(card["codecs"][0])
        )
        if not is_known or array.dtype.kind not in "iu":
            return None
        folder = Path(store.root) / array.path
        return cls(folder, int(shards[0]), shape, array.dtype.str, int(array.fill_value))

    def read(self, chip: int) -> NDArray[Any]:
        """Read one chip; the memory cannot be written to.

        Raises
        ------
        OSError, ValueError, RuntimeError
            If the file cannot be read, or its bytes are not a chip's.
        """
        shard, number = divmod(chip, self.chips)
        path = self.folder.joinpath("c", str(shard), *["0"] * len(self.shape))
        with path.open("rb", buffering=0) as file:
            packed = self._packed(file, number)
        if packed is None:
            return np.broadcast_to(np.asarray(self.fill, dtype=self.dtype), self.shape)
        return np.frombuffer(zstd.decompress(packed), dtype=self.dtype).reshape(self.shape)

    def _packed(self, file: FileIO, number: int) -> bytes | None:
        """Bytes of a chip as they stand in its shard, None where there are none."""
        begin = file.seek(0, os.SEEK_END) - CHECKSUM_BYTES - self.chips * ENTRY.size
        if begin < 0:
            raise ValueError("its shard is shorter than an index")
        file.seek(begin)
        index = file.read()
        checksum = int.from_bytes(index[-CHECKSUM_BYTES:], "little")
        if google_crc32c.value(index[:-CHECKSUM_BYTES]) != checksum:
            raise ValueError("its shard's index is damaged")
        place, length = ENTRY.unpack_from(index, number * ENTRY.size)
        if place == length == ABSENT:
            return None
        if place + length > begin:
            raise ValueError("its shard's index points behind the last chip")
        file.seek(place)
        return file.read(length)


def _codec(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _is_known(codec: dict[str, Any]) -> bool:
    """Whether a sharding codec is as `write_chips` sets it, at any level of compression."""
    settings = codec.get("configuration", {})
    little = _codec("bytes", endian="little")
    first, *rest = settings.get("codecs", ({},))
    return (
        codec["name"] == "sharding_indexed"
        and settings["index_location"] == "end"
        and [_plain(c) for c in settings["index_codecs"]] == [little, {"name": "crc32c"}]
        and _plain(first) in (little, {"name": "bytes"})
        and [c["name"] for c in rest] == ["zstd"]
    )


def _plain(codec: Any) -> dict[str, Any]:
    """Name and settings of a codec, without empty ones."""
    return {name: value for name, value in codec.items() if value}
