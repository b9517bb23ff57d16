"""One block: its window of pixels to classes and percent. NumPy in, NumPy out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from deepforest_xr.classify.predict import Tile, predictor
from deepforest_xr.classify.workers import require_resources
from deepforest_xr.legend import NODATA
from deepforest_xr.models.network import STRIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Task:
    """What every block's function needs; small, it travels in the graph."""

    path: str | None
    """Folder of the checkpoint, None for one that lives in this process only."""

    identity: str
    """Of the checkpoint, its card included; verified when the folder is loaded."""

    margin: tuple[int, int]
    """Pixels around a block in its window along y and x: 0 on an axis of one block."""

    halo: int
    """Pixels around a tile, where a window does not fit into memory."""

    device: str
    """Torch device, "auto" decided where the block runs."""

    with_probability: bool
    """Whether the probability of every class is wanted."""

    with_uncertainty: bool
    """Whether entropy and margin are wanted."""

    blend: int = 0
    """Pixels beyond a block for which its logits are wanted, to blend them with its neighbours'."""

    resources: tuple[tuple[str, float], ...] = ()
    """Names and amounts that a Dask worker must declare to take a block."""


def classify_block(window: xr.Dataset, *, task: Task) -> xr.Dataset:
    """Classify one block from its window of pixels with halo, and trim."""
    share, valid = _predict(window, task)
    return _as_map(share, valid, task)


def logits_block(window: xr.Dataset, *, task: Task) -> xr.Dataset:
    """Give the logits of one block and of `blend` pixels around it, NaN without data."""
    logits, valid = _predict(window, task, logits=True)
    logits[:, ~valid] = np.nan
    return xr.Dataset({"logits": (("class", "y", "x"), logits)})


def classify_logits(window: xr.Dataset, *, task: Task) -> xr.Dataset:
    """Classify one block from its blended logits."""
    logits = window["logits"].to_numpy()
    valid = np.isfinite(logits).all(axis=0)
    share = np.exp(logits - logits.max(axis=0))
    share /= share.sum(axis=0)
    return _as_map(np.where(valid, share, np.float32(0)), valid, task)


def _predict(
    window: xr.Dataset, task: Task, *, logits: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Run the network on a window; probabilities or logits, and where there are data."""
    require_resources(dict(task.resources))
    rows = _Span.of(window["row"].to_numpy(), task.margin[0], task.blend)
    cols = _Span.of(window["col"].to_numpy(), task.margin[1], task.blend)
    window = window.isel(y=slice(*rows.inside), x=slice(*cols.inside))
    s2 = window["s2"].to_numpy()
    s1 = window["s1"].to_numpy() if "s1" in window else None
    loaded = predictor(task.path, task.identity)
    core = Tile(rows.core, cols.core)
    valid = np.isfinite(core.of(s2)).all(axis=0)
    if s1 is not None:
        valid &= np.isfinite(core.of(s1)).any(axis=(0, 1))
    if not valid.any():
        return np.zeros((len(loaded.codes), *valid.shape), dtype="float32"), valid
    padded = [_pad(a, rows.padding, cols.padding) for a in loaded.standardisation.apply(s2, s1)]
    found = loaded.predict(padded, core, halo=task.halo, device=task.device, logits=logits)
    return found, valid


def _as_map(share: NDArray[np.float32], valid: NDArray[np.bool_], task: Task) -> xr.Dataset:
    codes = predictor(task.path, task.identity).codes
    percent = _percent(share, valid)
    lulc = np.where(valid, codes[share.argmax(axis=0)], NODATA).astype("uint8")
    result = xr.Dataset(
        {"lulc": (("y", "x"), lulc), "confidence": (("y", "x"), percent.max(axis=0))}
    )
    if task.with_uncertainty:
        result["entropy"] = (("y", "x"), _percent(entropy(share), valid))
        result["margin"] = (("y", "x"), _percent(margin(share), valid))
    if task.with_probability:
        result["probability"] = (("class", "y", "x"), percent)
    return result


def _percent(share: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(valid, np.rint(share * 100), 0).astype("uint8")


def entropy(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shannon entropy of probabilities, as a share of that of equal ones.

    Parameters
    ----------
    share : ndarray[float32], dims (class, y, x)
        Probabilities that add up to 1.

    Returns
    -------
    ndarray[float32], dims (y, x)
        0 where one class is certain, 1 where all are alike; 0 with a single class.
    """
    if len(share) == 1:
        return np.zeros_like(share[0])
    tiny = np.finfo(share.dtype).tiny  # 0 log 0 is 0
    total = -(share * np.log(np.maximum(share, tiny))).sum(axis=0)
    relative: NDArray[np.float32] = np.clip(total / np.float32(np.log(len(share))), 0, 1)
    return relative


def margin(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Highest probability minus the second highest.

    Parameters
    ----------
    share : ndarray[float32], dims (class, y, x)
        Probabilities that add up to 1.

    Returns
    -------
    ndarray[float32], dims (y, x)
        0 where two classes are equally likely, 1 where one is certain; 1 with a single class.
    """
    if len(share) == 1:
        return np.ones_like(share[0])
    second, first = np.partition(share, len(share) - 2, axis=0)[-2:]
    difference: NDArray[np.float32] = first - second
    return difference


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a window lies along one axis."""

    inside: tuple[int, int]
    """The part of the window that lies on the data."""

    core: tuple[int, int]
    """The block and what is blended around it, within that part."""

    padding: int
    """Pixels to reflect at the end, up to a multiple of 32."""

    @classmethod
    def of(cls, numbers: NDArray[np.int64], margin: int, blend: int) -> _Span:
        on_data = np.flatnonzero(numbers >= 0)
        first, end = int(on_data[0]), int(on_data[-1]) + 1
        core = (
            max(margin - first - blend, 0),
            min(len(numbers) - margin - first + blend, end - first),
        )
        return cls((first, end), core, -(end - first) % STRIDE)


def _pad(array: NDArray[np.float32], rows: int, cols: int) -> NDArray[np.float32]:
    width = [(0, 0)] * (array.ndim - 2) + [(0, rows), (0, cols)]
    return np.pad(array, width, mode="symmetric") if rows or cols else array
