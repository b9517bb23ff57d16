"""A cube and a checkpoint to a lazy land-cover map.

The cube is cut into blocks; each block is read with a halo of its neighbours' pixels, run
through the network in one piece and trimmed. Blocks and halos are multiples of the
network's stride of 32 and count from the cube's corner, so a pixel meets the same
convolution grid whatever the blocks are, and a block at the edge of the data ends where
the data end: the map is that of one pass over the whole cube. Pixels are reflected only
to fill up the last 32. No statistic is taken from the scene: the normalisation is the
checkpoint's.

In the graph stand a path and a checksum, never weights: each process loads a model once.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from deepforest_xr.errors import BandMismatchError, ConfigError, ModelError, NoModelError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import NODATA
from deepforest_xr.models import Checkpoint, channel_names, entry
from deepforest_xr.models.checkpoint import load
from deepforest_xr.models.install import installed
from deepforest_xr.reader import ATTRIBUTE as READ_FAILURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepforest_xr.models.inputs import Standardisation
    from deepforest_xr.models.network import Network

log = logging.getLogger(__name__)

MODEL_VARIABLE = "DEEPFOREST_XR_MODEL"
STRIDE = 32


@dataclass(frozen=True, slots=True)
class _Task:
    """What every block's function needs; small, it travels in the graph."""

    path: str | None
    """Folder of the checkpoint, None for one that lives in this process only."""

    identity: str
    """Of the checkpoint, its card included; verified when the folder is loaded."""

    margin: tuple[int, int]
    """Pixels around a block in its window along y and x: 0 on an axis of one block."""

    device: str
    """Torch device, "auto" decided where the block runs."""

    with_probability: bool
    """Whether the probability of every class is wanted."""


def classify(
    cube: xr.Dataset,
    model: str | Path | Checkpoint | None = None,
    *,
    block: int = 512,
    halo: int | None = None,
    device: str = "auto",
    probability: bool = False,
) -> xr.Dataset:
    """Map land cover; lazy, nothing is read or computed.

    Parameters
    ----------
    cube : Dataset
        From `open_cube`, or opened from its Zarr. Bands and months are taken by name.
    model : path or Checkpoint, optional
        Folder of a checkpoint, or a loaded one. Default: the folder that the environment
        variable ``DEEPFOREST_XR_MODEL`` names, else the checkpoint that was installed
        (`deepforest_xr.models.install`). A model is never guessed.
    block : int
        Side of a block in pixels, a multiple of 32, at least the halo. Memory grows with the
        square of block and twice the halo.
    halo : int, optional
        Pixels around a block, a multiple of 32; default: the network's, measured so that
        its edge does not show.
    device : {"auto", "cpu", "cuda"}
        "auto" takes CUDA where the block runs if there is one.
    probability : bool
        Also give the probability of every class.

    Returns
    -------
    Dataset
        ``lulc (y, x)`` uint8, codes of the model's legend, 0 where a Sentinel-2 band is
        missing or the Sentinel-1 series is empty; ``confidence (y, x)`` uint8, highest
        probability in percent, 0 where `lulc` is; with `probability` ``probability (class,
        y, x)`` uint8 percent.

    Raises
    ------
    NoModelError
        If no model is given, named in the environment or installed.
    BandMismatchError
        If the cube lacks a channel of the model.
    ModelError, ChecksumError
        If the checkpoint cannot be used.
    ConfigError
        If `block` or `halo` is not a multiple of 32.
    """
    checkpoint, path = _resolve(model)
    _require_multiple("block", block, smallest=STRIDE)
    halo = entry(checkpoint.model).halo if halo is None else halo
    _require_multiple("halo", halo, smallest=0)
    if device not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"device={device!r}; expected 'auto', 'cpu' or 'cuda'.")
    grid = Grid.of(cube)
    inputs = _select(cube, checkpoint)
    chunks = {
        "y": _block_sizes(grid.shape[0], max(block, halo), halo),
        "x": _block_sizes(grid.shape[1], max(block, halo), halo),
    }
    _remember(checkpoint, path)
    margin = (halo if len(chunks["y"]) > 1 else 0, halo if len(chunks["x"]) > 1 else 0)
    task = _Task(path, checkpoint.identity, margin, device, probability)
    template = _template(checkpoint, chunks, probability=probability)
    result = xr.map_blocks(
        _classify_block,
        _with_halo(inputs, chunks, margin),
        kwargs={"task": task},
        template=template,
    )
    return _describe(result.assign_coords(grid.coords()), cube, checkpoint)


def _resolve(model: str | Path | Checkpoint | None) -> tuple[Checkpoint, str | None]:
    if isinstance(model, Checkpoint):
        return model, None
    path = Path(model or _default()).resolve()
    return load(path), str(path)


def _default() -> str | Path:
    """Folder of the model that the user chose for all calls."""
    named = os.environ.get(MODEL_VARIABLE)
    if named:
        log.info("model: %s, which %s names", named, MODEL_VARIABLE)
        return named
    folder = installed()
    if folder is None:
        raise NoModelError(
            "no model: pass classify(cube, model=FOLDER), set the environment variable "
            f"{MODEL_VARIABLE} to the folder of a checkpoint, or install one "
            "(`deepforest-xr model install PATH|URL`). A model is never guessed."
        )
    log.info("model: %s, the one installed", folder)
    return folder


def _require_multiple(name: str, value: int, *, smallest: int) -> None:
    if value < smallest or value % STRIDE:
        raise ConfigError(
            f"{name}={value} is not a multiple of {STRIDE} pixels, the network's stride, "
            f"of at least {smallest}."
        )


def _select(cube: xr.Dataset, checkpoint: Checkpoint) -> xr.Dataset:
    """Take the model's bands and months by name, in the model's order."""
    if "s2" not in cube:
        raise BandMismatchError(
            f"the cube has {', '.join(map(str, cube.data_vars)) or 'no variables'}, expected `s2` "
            "(band, y, x) as open_cube makes it."
        )
    bands = [str(b) for b in cube["band"].to_numpy()]
    checkpoint.require_channels((*_radar_names(cube), *bands))
    wanted = [name for name in checkpoint.bands if name in bands]
    inputs = xr.Dataset({"s2": cube["s2"].sel(band=wanted).transpose("band", "y", "x")})
    if checkpoint.months:
        radar = cube["s1"].sel(month=list(checkpoint.months), polarization=["vv", "vh"])
        inputs["s1"] = radar.transpose("month", "polarization", "y", "x")
    return inputs.drop_vars(list(inputs.coords))


def _radar_names(cube: xr.Dataset) -> list[str]:
    if "s1" not in cube:
        return []
    months = [int(m) for m in cube["month"].to_numpy()]
    there = {str(p) for p in cube["polarization"].to_numpy()}
    return [name for name in channel_names(months, ()) if name.split("_")[0] in there]


def _block_sizes(length: int, block: int, halo: int) -> tuple[int, ...]:
    """Whole blocks; a remainder shorter than the halo goes to the last one."""
    sizes = [block] * (length // block)
    rest = length - sum(sizes)
    if sizes and 0 < rest < max(halo, STRIDE):
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return tuple(sizes)


def _with_halo(
    inputs: xr.Dataset, chunks: dict[str, tuple[int, ...]], margin: tuple[int, int]
) -> xr.Dataset:
    """Overlap the blocks; row and column numbers travel along, -1 beyond the data's edge."""
    rows, cols = sum(chunks["y"]), sum(chunks["x"])
    numbered = inputs.assign(
        row=("y", da.arange(rows, chunks=(chunks["y"],))),
        col=("x", da.arange(cols, chunks=(chunks["x"],))),
    ).chunk({**dict.fromkeys(inputs.dims, -1), **chunks})
    around = dict(zip(("y", "x"), margin, strict=True))
    overlapped = {}
    for name, array in numbered.data_vars.items():
        depth = {i: around.get(str(d), 0) for i, d in enumerate(array.dims)}
        outside = -1 if array.dtype.kind == "i" else np.nan
        data = da.overlap.overlap(array.data, depth=depth, boundary=outside, allow_rechunk=False)
        overlapped[name] = (array.dims, data)
    return xr.Dataset(overlapped)


def _template(
    checkpoint: Checkpoint, chunks: dict[str, tuple[int, ...]], *, probability: bool
) -> xr.Dataset:
    plane = (chunks["y"], chunks["x"])
    shape = tuple(map(sum, plane))
    empty = da.zeros(shape, chunks=plane, dtype="uint8")
    template = xr.Dataset({"lulc": (("y", "x"), empty), "confidence": (("y", "x"), empty)})
    if probability:
        classes = len(checkpoint.legend.classes)
        stack = da.zeros((classes, *shape), chunks=((classes,), *plane), dtype="uint8")
        template["probability"] = (("class", "y", "x"), stack)
    return template


def _classify_block(window: xr.Dataset, *, task: _Task) -> xr.Dataset:
    """Classify one block from its window of pixels with halo, and trim."""
    rows = _Span.of(window["row"].to_numpy(), task.margin[0])
    cols = _Span.of(window["col"].to_numpy(), task.margin[1])
    window = window.isel(y=slice(*rows.inside), x=slice(*cols.inside))
    s2 = window["s2"].to_numpy()
    s1 = window["s1"].to_numpy() if "s1" in window else None
    loaded = _loaded(task)
    core = (slice(*rows.core), slice(*cols.core))
    valid = np.isfinite(s2[:, core[0], core[1]]).all(axis=0)
    if s1 is not None:
        valid &= np.isfinite(s1[..., core[0], core[1]]).any(axis=(0, 1))
    if valid.any():
        padded = [_pad(a, rows.padding, cols.padding) for a in loaded.standardisation.apply(s2, s1)]
        share = loaded.predict(padded, task.device)
        share = share[:, core[0], core[1]]
    else:
        share = np.zeros((len(loaded.codes), *valid.shape), dtype="float32")
    return _as_map(share, valid, loaded.codes, with_probability=task.with_probability)


def _as_map(
    share: NDArray[np.float32],
    valid: NDArray[np.bool_],
    codes: NDArray[np.uint8],
    *,
    with_probability: bool,
) -> xr.Dataset:
    percent = np.where(valid, np.rint(share * 100), 0).astype("uint8")
    lulc = np.where(valid, codes[share.argmax(axis=0)], NODATA).astype("uint8")
    result = xr.Dataset(
        {"lulc": (("y", "x"), lulc), "confidence": (("y", "x"), percent.max(axis=0))}
    )
    if with_probability:
        result["probability"] = (("class", "y", "x"), percent)
    return result


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a window lies along one axis."""

    inside: tuple[int, int]
    """The part of the window that lies on the data."""

    core: tuple[int, int]
    """The block, within that part."""

    padding: int
    """Pixels to reflect at the end, up to a multiple of 32."""

    @classmethod
    def of(cls, numbers: NDArray[np.int64], margin: int) -> _Span:
        on_data = np.flatnonzero(numbers >= 0)
        first, end = int(on_data[0]), int(on_data[-1]) + 1
        core = (margin - first, len(numbers) - margin - first)
        return cls((first, end), core, -(end - first) % STRIDE)


def _pad(array: NDArray[np.float32], rows: int, cols: int) -> NDArray[np.float32]:
    width = [(0, 0)] * (array.ndim - 2) + [(0, rows), (0, cols)]
    return np.pad(array, width, mode="symmetric") if rows or cols else array


class _Loaded:
    """A network ready to predict, once a process."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from deepforest_xr.models.inputs import Standardisation

        self.checkpoint = checkpoint
        self.networks: dict[str, Network] = {}
        self.codes = np.array(checkpoint.legend.codes, dtype="uint8")
        self.standardisation: Standardisation = Standardisation(
            np.array(checkpoint.mean, dtype="float32"),
            np.array(checkpoint.std, dtype="float32"),
            len(checkpoint.months or ()),
            entry(checkpoint.model).is_two_branch,
        )
        # One forward at a time: torch uses all cores itself, memory stays that of one block.
        self.lock = threading.Lock()

    def predict(self, arrays: list[Any], device: str) -> NDArray[np.float32]:
        """Class probabilities (class, y, x) of one padded window."""
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError("device='cuda' but this worker sees no GPU: use 'auto' or 'cpu'.")
        with self.lock, torch.inference_mode():
            network = self._on(device)
            inputs = [torch.from_numpy(np.ascontiguousarray(a))[None].to(device) for a in arrays]
            logits = network(*inputs)[0]
            logits = logits / self.checkpoint.temperature
            share: NDArray[np.float32] = torch.softmax(logits, dim=0).cpu().numpy()
        return share

    def _on(self, device: str) -> Network:
        """The network on a device, optimized there at its first use."""
        from deepforest_xr.models import optimize_for_inference

        if device not in self.networks:
            plain = self.checkpoint.build().to(device)
            self.networks[device] = optimize_for_inference(plain)
        return self.networks[device]


_MODELS: dict[str, _Loaded] = {}
_CHECKPOINTS: dict[str, Checkpoint] = {}
_LOCK = threading.Lock()


def _remember(checkpoint: Checkpoint, path: str | None) -> None:
    """Keep a checkpoint without a folder where this process's blocks find it."""
    if path is None:
        _CHECKPOINTS[checkpoint.identity] = checkpoint


def _loaded(task: _Task) -> _Loaded:
    with _LOCK:
        if task.identity not in _MODELS:
            _MODELS[task.identity] = _Loaded(_find(task))
        return _MODELS[task.identity]


def _find(task: _Task) -> Checkpoint:
    if task.path is None:
        try:
            return _CHECKPOINTS[task.identity]
        except KeyError:
            raise ModelError(
                "the checkpoint lives in another process: save it and classify with its folder, "
                "which this worker must be able to read."
            ) from None
    checkpoint = load(task.path)
    if checkpoint.identity != task.identity:
        raise ModelError(
            f"{task.path} was replaced since the map was planned: the checkpoint is "
            f"{checkpoint.identity[:12]}, expected {task.identity[:12]}. Classify again."
        )
    return checkpoint


def _describe(result: xr.Dataset, cube: xr.Dataset, checkpoint: Checkpoint) -> xr.Dataset:
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
    if "probability" in result:
        result = result.assign_coords({"class": checkpoint.legend.names})
        result["probability"].attrs = {"long_name": "class probability", "units": "percent"}
    kept = {
        k: v
        for k, v in cube.attrs.items()
        if isinstance(v, str | int | float) or k == READ_FAILURES
    }
    result.attrs = {**kept, "model": checkpoint.model, "model_sha256": checkpoint.sha256}
    if checkpoint.cube_attrs.get("simulated"):
        result.attrs["simulated"] = "true"
    return result
