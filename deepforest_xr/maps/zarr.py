"""Cubes and maps to Zarr v3: shards as large as dask chunks, CF attributes, zstd.

A shard is the unit of writing: one dask task writes one shard and no two tasks touch the
same file. Irregular dask chunks are made regular first. Nothing is read back or scaled:
`xarray.open_zarr` gives the same values, dtypes and coordinates. A long run can be written
in several goes (`deepforest_xr.maps.resume`).
"""

from __future__ import annotations

import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr import consolidate_metadata, open_group
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from deepforest_xr.atomic import staged
from deepforest_xr.errors import ConfigError, DtypeError
from deepforest_xr.grid import Grid
from deepforest_xr.maps.resume import (
    lay_out,
    not_numbers,
    store_missing,
    unfinished_path,
    write_missing,
)
from deepforest_xr.reader import ATTRIBUTE as READ_FAILURES
from deepforest_xr.reader import read_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager

    import xarray as xr
    from zarr.core.buffer import Buffer

INNER = 256
SHARD = 2048
ZSTD_LEVEL = 3
SPATIAL = ("y", "x")


def write_zarr(
    dataset: xr.Dataset,
    path: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cube or a map as a sharded Zarr v3 store, whole or not at all.

    Parameters
    ----------
    dataset : Dataset on one grid, dims (..., y, x), with CF ``spatial_ref``
        Any dtype. Dask-backed variables are computed and written shard by shard, in strips of
        16 rows of shards: what all of a tall map depends on, as a mean, compute beforehand.
    path : str or Path
        Folder to write, on a local or shared file system.
    overwrite : bool
        Replace an existing store, after the new one is complete.
    resume : bool
        Keep what is finished when the run stops, in ``.<name>.unfinished`` beside `path`, and
        go on from it when called again with the same map. Only numbers can be written so.
    progress : callable (done, total), optional
        Called as dask tasks finish. With a distributed client, which has its own
        dashboard, it is not called.

    Returns
    -------
    Path
        The store: along y and x a shard is one dask chunk, an inner chunk about 256 pixels.

    Raises
    ------
    GridError
        If `dataset` has no readable grid.
    ConfigError
        If what is unfinished there has another model, grid, chunks or attributes.
    WriteError
        If `path` exists, or the store could not be written whole. Errors of this library
        raised by dask tasks pass unchanged.

    References
    ----------
    Zarr v3 specification, sharding codec (ZEP 2). CF conventions 1.11, section 5.6.
    """
    grid = Grid.of(dataset)
    with staged(path, overwrite=overwrite) as partial:
        prepared = _prepare(dataset, grid)
        encoding = {name: _encoding(prepared[name]) for name in prepared.data_vars}
        store = partial
        with _Watch(progress) as watch, _annotated(prepared):
            if resume:
                store = _write_in_goes(prepared, Path(path), encoding, watch.started)
            elif not_numbers(prepared):
                prepared.to_zarr(
                    _StagedStore(store),
                    mode="w-",
                    zarr_format=3,
                    consolidated=False,
                    encoding=encoding,
                )
            else:
                lay_out(prepared, store, encoding, _StagedStore)
                store_missing(prepared, store, _StagedStore, watch.started)
        _keep_failures(store, dataset)
        _consolidate(store)
        if resume:
            store.rename(partial)
            shutil.rmtree(store.parent, ignore_errors=True)
    return partial.parent.parent / partial.name


def shard_layout(chunks: tuple[int, ...]) -> tuple[int, int]:
    """Choose shard and inner chunk along one axis for dask chunks of any sizes.

    Parameters
    ----------
    chunks : tuple of int
        Dask chunk lengths along y or x, in pixels.

    Returns
    -------
    (shard, inner) : tuple of int
        The shard is the longest chunk, rounded up to a multiple of 256 only where it has no
        divisor near 256; `inner` divides it.
    """
    longest = max(chunks)
    if longest <= INNER:
        return longest, longest
    divisors = [n for n in range(INNER // 2, 2 * INNER + 1) if longest % n == 0]
    if divisors:
        return longest, min(divisors, key=lambda n: abs(n - INNER))
    return -(-longest // INNER) * INNER, INNER


class _StagedStore(LocalStore):
    """Refuses to write once its folder is gone.

    After a failure other tasks are still running; the plain store would bring the removed
    folder back to life for them.
    """

    async def set(self, key: str, value: Buffer) -> None:
        if not self.root.parent.is_dir():
            raise FileNotFoundError(f"{self.root.parent} was removed after a failure")
        await super().set(key, value)


def _prepare(dataset: xr.Dataset, grid: Grid) -> xr.Dataset:
    """Drop what an earlier file dictated, regularise chunks, set the CF grid mapping."""
    prepared = dataset.drop_encoding().assign_coords(spatial_ref=grid.spatial_ref())
    prepared = prepared.assign_attrs(Conventions="CF-1.11")
    # Zarr v3 specifies strings of any length ("string"), numpy's fixed width not at all.
    words = {n: c.astype(object) for n, c in prepared.coords.items() if c.dtype.kind == "U"}
    prepared = prepared.assign_coords(words)
    for name, array in prepared.data_vars.items():
        regular = array.chunk(_regular_chunks(array))
        regular.attrs.pop("coordinates", None)
        if set(SPATIAL) <= set(array.dims):
            # An attribute, because to_zarr(encoding=...) discards a variable's own encoding.
            regular.attrs["grid_mapping"] = "spatial_ref"
        prepared[name] = regular
    return prepared


def _regular_chunks(array: xr.DataArray) -> dict[Hashable, int]:
    """Equal chunks along every axis: whole shards along y and x, the longest elsewhere."""
    if array.chunks is None:
        return {d: min(SHARD, n) if d in SPATIAL else n for d, n in array.sizes.items()}
    sizes = dict(zip(array.dims, array.chunks, strict=True))
    return {d: shard_layout(c)[0] if d in SPATIAL else max(c) for d, c in sizes.items()}


def _encoding(array: xr.DataArray) -> dict[str, Any]:
    inner, shards = [], []
    for dim, lengths in zip(array.dims, array.chunks or (), strict=True):
        shard, chunk = shard_layout(lengths) if dim in SPATIAL else (max(lengths),) * 2
        shards.append(shard)
        inner.append(chunk)
    codec = ZstdCodec(level=ZSTD_LEVEL)
    return {"chunks": tuple(inner), "shards": tuple(shards), "compressors": (codec,)}


def _write_in_goes(
    prepared: xr.Dataset,
    path: Path,
    encoding: dict[Any, dict[str, Any]],
    started: Callable[[int, int], None],
) -> Path:
    try:
        return write_missing(
            prepared,
            path,
            encoding=encoding,
            open_store=_StagedStore,
            ignored=frozenset({READ_FAILURES}),
            started=started,
        )
    except (ConfigError, DtypeError):
        raise  # what is there is another map's, or nothing
    except BaseException:
        # The next go does not read these scenes again and would not know.
        _keep_failures(unfinished_path(path) / path.name, prepared)
        raise


def _keep_failures(store: Path, dataset: xr.Dataset) -> None:
    """Add what could not be read, known only after the reading, to what earlier goes met."""
    if READ_FAILURES in dataset.attrs and (store / "zarr.json").is_file():
        attrs = open_group(str(store), mode="r+", zarr_format=3).attrs
        earlier: Any = attrs.get(READ_FAILURES, [])
        attrs[READ_FAILURES] = list(dict.fromkeys([*earlier, *read_failures(dataset)]))


def _consolidate(store: Path) -> None:
    """One file for all metadata: `xarray.open_zarr` looks for it, and warns without."""
    with warnings.catch_warnings():
        # zarr warns that version 3 has not standardised it yet; a reader that does not know
        # it ignores it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        consolidate_metadata(str(store), zarr_format=3)


def _annotated(dataset: xr.Dataset) -> AbstractContextManager[Any]:
    """Keep what layers of the graph are annotated with, as the resources of a worker.

    Dask drops it where it fuses tasks, so that a block may run anywhere.
    """
    import dask

    graph: Any = dataset.__dask_graph__()  # type: ignore[no-untyped-call]
    if graph is None or not any(layer.annotations for layer in graph.layers.values()):
        return nullcontext()
    setting: AbstractContextManager[Any] = dask.config.set({"optimization.fuse.active": False})
    return setting


class _Watch:
    """Reports finished tasks of dask's local schedulers, over all strips of a map."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self.progress = progress
        self.strip, self.strips, self.told = 0, 1, 0
        self.callback: Any = nullcontext()

    def __enter__(self) -> _Watch:
        if self.progress is not None:
            import dask.callbacks

            callback: Any = dask.callbacks.Callback  # ships incomplete types
            self.callback = callback(posttask=self._posttask)
        self.callback.__enter__()
        return self

    def __exit__(self, *failed: object) -> None:
        self.callback.__exit__(*failed)

    def started(self, strip: int, strips: int) -> None:
        """Count on from a strip's first task."""
        self.strip, self.strips = strip, strips

    def _posttask(self, _key: Any, _result: Any, _dsk: Any, state: Any, _worker: Any) -> None:
        done = len(state["finished"])
        total = done + sum(len(state[kind]) for kind in ("ready", "waiting", "running"))
        # Strips have about as many tasks each; what was told is never taken back.
        self.told = max(self.told, self.strip * total + done)
        if self.progress is not None:
            self.progress(self.told, max(self.strips * total, self.told))
