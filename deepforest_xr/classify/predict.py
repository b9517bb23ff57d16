"""A network in this process: loaded once, run on a window, in pieces if memory is short.

A window that does not fit is computed as two, each with the halo that blocks have, and these
as two again: the result is that of smaller blocks. Cuts are at multiples of 32, as blocks'.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.classify.workers import share_cores
from deepforest_xr.errors import ModelError
from deepforest_xr.models import Checkpoint, entry
from deepforest_xr.models.checkpoint import load
from deepforest_xr.models.network import STRIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepforest_xr.models.inputs import Standardisation
    from deepforest_xr.models.network import Network

log = logging.getLogger(__name__)

# What allocators say that raise a plain RuntimeError: torch's on a CPU (Linux, then Windows),
# and the libraries of a GPU.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "ALLOC_FAILED",
)

_Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels of a window that are wanted, first and one past the last."""

    rows: _Range
    """Along y; the first is a multiple of 32."""

    cols: _Range
    """Along x; the first is a multiple of 32."""

    def around(self, halo: int, shape: tuple[int, int]) -> Tile:
        """Widen by a halo within a window of `shape`, sides multiples of 32."""
        rows, cols = (
            (max(first - halo, 0), min(-(-(last + halo) // STRIDE) * STRIDE, length))
            for (first, last), length in zip((self.rows, self.cols), shape, strict=True)
        )
        return Tile(rows, cols)

    def halves(self) -> tuple[Tile, Tile] | None:
        """Cut the longer side at a multiple of 32; None if both are 32 or less."""
        height, width = self.shape
        if max(height, width) <= STRIDE:
            return None
        if height > width:
            middle = self.rows[0] + _half(height)
            return (
                Tile((self.rows[0], middle), self.cols),
                Tile((middle, self.rows[1]), self.cols),
            )
        middle = self.cols[0] + _half(width)
        return Tile(self.rows, (self.cols[0], middle)), Tile(self.rows, (middle, self.cols[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Sides in pixels."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut an array (..., y, x)."""
        return array[..., slice(*self.rows), slice(*self.cols)]


def _half(length: int) -> int:
    return max(length // 2 // STRIDE, 1) * STRIDE


def torch_device(device: str) -> str:
    """Decide "auto" here: "cuda" or "cpu".

    Raises
    ------
    ModelError
        If "cuda" is asked for and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device='cuda' but this worker sees no GPU: use 'auto' or 'cpu'.")
    return device


class Predictor:
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
        self.too_large: dict[str, int] = {}
        """By device, the pixels of the smallest window that did not fit."""
        # One forward at a time: torch uses all cores itself, memory stays that of one block.
        self.lock = threading.Lock()

    def predict(
        self,
        arrays: Sequence[NDArray[np.float32]],
        core: Tile,
        *,
        halo: int,
        device: str,
        logits: bool = False,
    ) -> NDArray[np.float32]:
        """Give class probabilities (class, y, x) of the core of one padded window.

        Parameters
        ----------
        arrays : sequence of ndarray[float32], dims (..., y, x)
            The network's inputs, sides multiples of 32.
        core : Tile
            Pixels that are wanted.
        halo : int
            Pixels around a tile, where the window is computed in tiles.
        device : {"auto", "cpu", "cuda"}
            "auto" takes CUDA if there is one.
        logits : bool
            Give what the softmax takes instead: logits divided by the temperature.

        Raises
        ------
        ModelError
            If there is no such device, or not even a tile of 32 x 32 pixels fits into memory.
        """
        device = torch_device(device)
        shape = arrays[0].shape[-2:]
        share = np.empty((len(self.codes), *core.shape), dtype="float32")
        waiting = [core]
        with self.lock:
            while waiting:
                tile = waiting.pop()
                window = tile.around(halo, (shape[0], shape[1]))
                done = self._try(arrays, window, device, logits=logits)
                if done is None:
                    waiting += self._halves(tile, window, device)
                    continue
                at = _shifted(tile, core)
                at.of(share)[:] = _shifted(tile, window).of(done)
        return share

    def _try(
        self, arrays: Sequence[NDArray[np.float32]], window: Tile, device: str, *, logits: bool
    ) -> NDArray[np.float32] | None:
        """Predict a window in one piece; None if memory is too short for it."""
        import torch

        pixels = window.shape[0] * window.shape[1]
        if pixels >= self.too_large.get(device, pixels + 1):
            return None
        try:
            return self._forward([window.of(a) for a in arrays], device, logits=logits)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Out of the handler: the error held the frames, and they the tensors.
        if device == "cuda":
            torch.cuda.empty_cache()
        if device not in self.too_large:
            log.warning(
                "%s has too little memory for a window of %d x %d pixels, which is computed in "
                "halves instead: set a smaller block= or halo= to save pixels computed twice",
                device, *window.shape,
            )  # fmt: skip
        self.too_large[device] = pixels
        return None

    def _halves(self, tile: Tile, window: Tile, device: str) -> tuple[Tile, Tile]:
        halves = tile.halves()
        if halves is None:
            raise ModelError(
                f"{device} has too little memory for {self.checkpoint.model}: the smallest tile "
                f"with its halo is {window.shape[0]} x {window.shape[1]} pixels and does not fit; "
                "set a smaller halo=, free memory, or take another device."
            )
        return halves

    def _forward(
        self, arrays: Sequence[NDArray[np.float32]], device: str, *, logits: bool
    ) -> NDArray[np.float32]:
        import torch

        share_cores()
        with torch.inference_mode():
            network = self.network(device)
            inputs = [torch.from_numpy(np.ascontiguousarray(a))[None].to(device) for a in arrays]
            output = network(*inputs)[0] / self.checkpoint.temperature
            if not logits:
                output = torch.softmax(output, dim=0)
            result: NDArray[np.float32] = output.cpu().numpy()
        return result

    def network(self, device: str) -> Network:
        """Give the network on a device, optimized there at its first use."""
        from deepforest_xr.models import optimize_for_inference

        if device not in self.networks:
            plain = self.checkpoint.build().to(device)
            self.networks[device] = optimize_for_inference(plain)
        return self.networks[device]


def _shifted(tile: Tile, origin: Tile) -> Tile:
    """Count a tile's pixels from another's first ones."""
    y, x = origin.rows[0], origin.cols[0]
    return Tile((tile.rows[0] - y, tile.rows[1] - y), (tile.cols[0] - x, tile.cols[1] - x))


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


_PREDICTORS: dict[str, Predictor] = {}
_CHECKPOINTS: dict[str, Checkpoint] = {}
_LOCK = threading.Lock()


def remember(checkpoint: Checkpoint, path: str | None) -> None:
    """Keep a checkpoint without a folder where this process's blocks find it."""
    if path is None:
        _CHECKPOINTS[checkpoint.identity] = checkpoint


def predictor(path: str | None, identity: str) -> Predictor:
    """Give this process's predictor of a checkpoint, loading it at its first use.

    Parameters
    ----------
    path : str or None
        Folder of the checkpoint, None for one that lives in this process only.
    identity : str
        Of the checkpoint, its card included; verified when the folder is loaded.

    Raises
    ------
    ModelError
        If the checkpoint is in another process, or its folder holds another one now.
    """
    with _LOCK:
        if identity not in _PREDICTORS:
            _PREDICTORS[identity] = Predictor(_find(path, identity))
        return _PREDICTORS[identity]


def _find(path: str | None, identity: str) -> Checkpoint:
    if path is None:
        try:
            return _CHECKPOINTS[identity]
        except KeyError:
            raise ModelError(
                "the checkpoint lives in another process: save it and classify with its folder, "
                "which this worker must be able to read."
            ) from None
    checkpoint = load(path)
    if checkpoint.identity != identity:
        raise ModelError(
            f"{path} was replaced since the map was planned: the checkpoint is "
            f"{checkpoint.identity[:12]}, expected {identity[:12]}. Classify again."
        )
    return checkpoint
