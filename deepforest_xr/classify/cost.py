"""What a forward pass takes: operations and bytes, counted on tensors without data.

A network on torch's device "meta" runs through all its steps and computes nothing, whatever
the size of the image.
"""

from __future__ import annotations

import copy
import math
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepforest_xr.models.network import Network


def on_meta(network: Network) -> Network:
    """Copy a network without its weights; the original keeps them.

    Parameters
    ----------
    network : Network
        Plain or optimized.

    Returns
    -------
    Network
        On the device "meta"; no memory is taken for its weights.
    """
    tensors = [*network.parameters(), *network.buffers()]
    # What deepcopy finds in its memo it does not copy: weights go over one by one, without data.
    memo: dict[int, Any] = {id(t): _without_data(t) for t in tensors}
    bare: Network = copy.deepcopy(network, memo)
    return bare


def _without_data(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=False)
    return empty


def forward_cost(network: Network, shapes: Sequence[tuple[int, ...]]) -> tuple[float, int]:
    """Count what a forward pass of one window takes, logits and softmax included.

    Parameters
    ----------
    network : Network
        From `on_meta`.
    shapes : sequence of tuple
        Of the network's inputs, the batch's dimension first.

    Returns
    -------
    float
        GFLOP: convolutions, matrix products and Fourier transforms, a multiplication and an
        addition being two.
    int
        Bytes of all tensors that are there at once, inputs included and weights not. What an
        operation takes for itself while it runs is not seen.
    """
    mapping = {
        torch.ops.aten.bmm: _bmm,
        torch.ops.aten._fft_r2c: _fft,
        torch.ops.aten._fft_c2r: _fft,
        torch.ops.aten._fft_c2c: _fft,
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with torch.no_grad(), counter, _LiveBytes() as live:
        inputs = [torch.empty(shape, device="meta") for shape in shapes]
        logits = network(*inputs)[0] / 1.0
        torch.softmax(logits, dim=0)
    return counter.get_total_flops() / 1e9, live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, and takes off those that are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.now = 0
        self.known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self.known[key] = weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.now -= size
        del self.known[key]


def _bmm(a: Tensor, b: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return int(bmm_flop(a.shape, b.shape)) * (4 if a.is_complex() else 1)


def _fft(x: Tensor, dims: Sequence[int], *_args: Any, out_val: Tensor, **_kwargs: Any) -> int:
    size = math.prod(max(x.shape[d], out_val.shape[d]) for d in dims)
    count = max(x.numel(), out_val.numel())
    return int(2.5 * count * math.log2(size))


# The counter is to give them tensors, not shapes.
setattr(_bmm, "_get_raw", True)  # noqa: B010  - a function has no such attribute for mypy
setattr(_fft, "_get_raw", True)  # noqa: B010
