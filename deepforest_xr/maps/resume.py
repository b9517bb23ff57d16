"""A store that is written in several goes: what is there stays, only what lacks is computed.

An unfinished store grows in ``.<name>.unfinished`` beside its target, with a record of what
it was begun with. A shard is a file that appears whole or not at all, so the files
themselves say what is done. Whatever differs from the record - the model, the grid, a
chunk - is refused: a store never holds blocks of two maps.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import ConfigError, DtypeError
from deepforest_xr.maps import storing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from pathlib import Path

    import xarray as xr
    from zarr.storage import LocalStore

RECORD = "begun.json"
SHOWN = 40


def unfinished_path(path: Path) -> Path:
    """Where the store at `path` grows until it is whole."""
    return path.with_name(f".{path.name}.unfinished")


def write_missing(
    prepared: xr.Dataset,
    path: Path,
    *,
    encoding: Mapping[Hashable, Mapping[str, Any]],
    open_store: Callable[[Path], LocalStore],
    ignored: frozenset[str],
    started: Callable[[int, int], None],
) -> Path:
    """Write the shards that an unfinished store lacks; begin one where there is none.

    Parameters
    ----------
    prepared : Dataset of numbers, dask-backed, a dask chunk being a shard
        The whole map.
    path : Path
        Where the store will be in the end.
    encoding : mapping of name to dict
        Chunks and shards of each variable.
    open_store : callable
        Makes the Zarr store of a folder.
    ignored : frozenset of str
        Attributes of the map that may differ from one go to the next.
    started : callable (strip, strips)
        Called before each strip of rows.

    Returns
    -------
    Path
        The store, every shard in it, still in its hidden folder.

    Raises
    ------
    DtypeError
        If a variable holds no numbers.
    ConfigError
        If the unfinished store is that of another map.
    """
    import zarr

    if odd := not_numbers(prepared):
        raise DtypeError(f"resume=True writes numbers only, {odd[0]!r} is none: leave it out.")
    store = unfinished_path(path) / path.name
    record = _record(prepared, encoding, ignored)
    if not _is_begun(path, record):
        _begin(prepared, store, record, encoding, open_store)
    # A shard of zeros must be a file too, or it would count as not yet written.
    with zarr.config.set({"array.write_empty_chunks": True}):
        store_missing(prepared, store, open_store, started)
    return store


def not_numbers(prepared: xr.Dataset) -> list[str]:
    """Names of the variables that are encoded before they are written."""
    return [str(n) for n, a in prepared.data_vars.items() if a.dtype.kind not in "iuf"]


def _record(
    prepared: xr.Dataset,
    encoding: Mapping[Hashable, Mapping[str, Any]],
    ignored: frozenset[str],
) -> dict[str, str]:
    """What must be the same for two goes to belong to one map."""
    attrs = {f"attribute {k}": _plain(v) for k, v in prepared.attrs.items() if k not in ignored}
    record = {k: v if len(v) <= 2 * SHOWN else _digest(v.encode()) for k, v in attrs.items()}
    for name, array in prepared.variables.items():
        layout = {k: encoding[name][k] for k in ("chunks", "shards")} if name in encoding else {}
        described = {str(k): _plain(v) for k, v in array.attrs.items()}
        form = [array.dims, array.shape, str(array.dtype), layout, described]
        values = b"" if name in prepared.data_vars else _plain(array.to_numpy()).encode()
        record[f"variable {name}"] = _digest(json.dumps(form).encode() + values)
    return record


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_begun(path: Path, record: dict[str, str]) -> bool:
    """Whether there is something to go on with; refuse what is another map's."""
    folder = unfinished_path(path)
    try:
        begun: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    for key in dict.fromkeys((*sorted(begun), *record)):
        old, new = begun.get(key, "absent"), record.get(key, "absent")
        if old != new:
            raise ConfigError(
                f"the unfinished {path} is another map: {key} was {old[:SHOWN]}, is now "
                f"{new[:SHOWN]}. Go on with what it was begun with, or remove {folder}."
            )
    return True


def _begin(
    prepared: xr.Dataset,
    store: Path,
    record: dict[str, str],
    encoding: Mapping[Hashable, Mapping[str, Any]],
    open_store: Callable[[Path], LocalStore],
) -> None:
    """Lay out all arrays, write the coordinates, and last the record."""
    shutil.rmtree(store.parent, ignore_errors=True)
    store.parent.mkdir(parents=True)
    lay_out(prepared, store, encoding, open_store)
    partial = store.parent / f"{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    partial.replace(store.parent / RECORD)


def lay_out(
    prepared: xr.Dataset,
    store: Path,
    encoding: Mapping[Hashable, Mapping[str, Any]],
    open_store: Callable[[Path], LocalStore],
) -> None:
    """Write all metadata and the coordinates, no variable yet."""
    loaded = {name: c.compute() for name, c in prepared.coords.items() if c.chunks}
    prepared.assign_coords(loaded).to_zarr(
        open_store(store),
        mode="w-",
        zarr_format=3,
        consolidated=False,
        encoding={str(name): dict(options) for name, options in encoding.items()},
        compute=False,
    )


def store_missing(
    prepared: xr.Dataset,
    store: Path,
    open_store: Callable[[Path], LocalStore],
    started: Callable[[int, int], None],
) -> None:
    """Write the shards without a file, strip by strip; `started` hears (strip, strips)."""
    import zarr

    group = zarr.open_group(open_store(store), mode="r+", zarr_format=3)
    targets = {name: group[str(name)] for name in prepared.data_vars}
    wanted = {name: list(_missing(a, store / str(name))) for name, a in prepared.data_vars.items()}
    cuts = _strips(prepared)
    for number, cut in enumerate(cuts):
        started(number, len(cuts))
        work = [
            (array.data[region], targets[name], region)
            for name, array in prepared.data_vars.items()
            for region in _within(wanted[name], array.dims, cut)
        ]
        if work:
            arrays, into, regions = zip(*work, strict=True)
            storing.store(arrays, into, regions)


def _strips(prepared: xr.Dataset) -> list[slice]:
    """Rows that are written one after another: all at once where chunks are not alike."""
    chunks = {a.chunksizes["y"] for a in prepared.data_vars.values() if "y" in a.dims}
    return list(storing.strips(chunks.pop())) if len(chunks) == 1 else [slice(None)]


def _within(
    regions: list[storing.Region], dims: tuple[Hashable, ...], cut: slice
) -> Iterator[storing.Region]:
    """The parts of regions in a strip; what has no rows belongs to the first strip."""
    if cut == slice(None):
        yield from regions
        return
    for region in regions:
        if "y" not in dims:
            if cut.start == 0:
                yield region
            continue
        axis = dims.index("y")
        first, end = max(region[axis].start, cut.start), min(region[axis].stop, cut.stop)
        if first < end:
            yield (*region[:axis], slice(first, end), *region[axis + 1 :])


def _missing(array: xr.DataArray, folder: Path) -> Iterator[tuple[slice, ...]]:
    """Regions without a file, neighbours along the last axis as one."""
    chunks = array.chunks or ()
    blocks = [range(len(lengths)) for lengths in chunks]
    names = ["/".join(("c", *map(str, index))) for index in product(*blocks)]
    done = np.array([(folder / name).is_file() for name in names])
    done = done.reshape([len(b) for b in blocks])
    if not done.any():
        yield tuple(slice(0, length) for length in array.shape)
        return
    starts = [np.cumsum((0, *lengths)).tolist() for lengths in chunks]
    for row in np.ndindex(done.shape[:-1]):
        if not blocks or done[row].all():
            continue
        above = [slice(s[i], s[i + 1]) for s, i in zip(starts, row, strict=False)]
        steps = np.diff(np.concatenate(([0], ~done[row], [0])).astype("int8"))
        edges = np.flatnonzero(steps).tolist()
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            yield (*above, slice(starts[-1][first], starts[-1][last]))
