"""A network for inference: the same numbers as in eval mode, in less time.

What is rewritten, exactly and not approximately:

- BatchNorm is folded into the convolution before it;
- linear layers that follow each other with nothing but dropout between (`linear_chains` of
  a network: transposed convolutions, the last 1 x 1 convolution, the input of a ConvLSTM)
  are composed where that takes fewer multiplications;
- transposed convolutions become convolutions and a shuffle of their phases;
- the first step of a ConvLSTM, whose state is zero, leaves out what is multiplied by it, and
  every later step is one convolution over input and state;
- a bottleneck's projected shortcut becomes part of its last convolution;
- on a CPU the 7 x 7 convolution of the ResNets, up to half of their work, goes by way of
  frequencies.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deepforest_xr.errors import ConfigError, ModelError
from deepforest_xr.models.blocks import ConvLSTM, SameConv2d, SameConvTranspose2d
from deepforest_xr.models.deepforest1 import AtrousPyramid
from deepforest_xr.models.deepforest2 import FusedHead
from deepforest_xr.models.fast import (
    BorderedUp,
    Enlargement,
    FastConvLSTM,
    FourierConv2d,
    JoinedConvBlock,
    JoinedPyramid,
    PhaseUp,
    SplitHead,
    compose,
)
from deepforest_xr.models.network import Network
from deepforest_xr.models.resnet import ConvBlock

Precision = Literal["float32", "bf16", "auto"]

LARGE_KERNEL = 7
"""Side in pixels from which a convolution with many channels is cheaper by frequencies."""


def optimize_for_inference(
    module: nn.Module,
    *,
    precision: Precision = "float32",
    compile: bool = False,  # noqa: A002
) -> Network:
    """Copy a network and rewrite the copy for speed.

    Parameters
    ----------
    module : nn.Module
        From `models.build`, `Checkpoint.build` or `load_keras`, on the device where it will
        run. It is left as it is.
    precision : {"float32", "bf16", "auto"}
        "float32" differs from the plain forward by rounding only: for standardised inputs,
        logits by less than 1e-4, unless BatchNorm divides by deviations so small that the
        plain forward is itself farther than that from the exact result. "bf16" computes in
        bfloat16, with about two digits; "auto" does where the hardware has such arithmetic.
    compile : bool
        Also hand the copy to `torch.compile`, which takes a minute at its first call for
        each size of image and needs a C++ compiler on a CPU.

    Returns
    -------
    nn.Module
        Called like `module`, float32 in and out. It cannot be trained or saved.

    Raises
    ------
    ModelError
        If `module` is not a network of this library, or is one already rewritten.
    ConfigError
        If `precision` is unknown, or the hardware has no bfloat16.
    """
    if not isinstance(module, Network) or not module.build_arguments:
        raise ModelError(
            f"{type(module).__name__} was not made by models.build: pass such a network, neither "
            "a wrapper of it nor one that is optimized already."
        )
    device = next(module.parameters()).device
    dtype = _dtype(precision, device)
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    fast.build_arguments = {}  # its weights are no longer those of `build`
    _fold_batch_norms(fast)
    for part in (m for m in list(fast.modules()) if isinstance(m, Network)):
        for feeder, consumer in part.linear_chains:
            _compose(part, feeder, consumer)
    by_frequency = device.type == "cpu" and dtype == torch.float32
    _replace_layers(fast, by_frequency=by_frequency)
    fast.requires_grad_(False).to(dtype)
    for weight in (p for p in fast.parameters() if p.ndim == 4):
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    fast.register_forward_pre_hook(_prepare, with_kwargs=True)
    fast.register_forward_hook(_to_float32)
    if compile:
        fast.compile()
    return fast


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r}; expected {', '.join(get_args(Precision))}.")
    if precision == "float32":
        return torch.float32
    has_bf16 = _has_bf16(device)
    if precision == "bf16" and not has_bf16:
        raise ConfigError(
            f"precision='bf16' but {device.type} here has no bfloat16 arithmetic: use 'float32', "
            "or 'auto', which takes bfloat16 where there is some."
        )
    return torch.bfloat16 if has_bf16 else torch.float32


def _has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _fold_batch_norms(parent: nn.Module) -> None:
    """Work each BatchNorm into the convolution that is registered before it."""
    before: tuple[str, nn.Module] | None = None
    for name, child in list(parent.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            assert before is not None, name  # noqa: S101  - a convolution comes first
            conv: Any = before[1]
            is_transposed = isinstance(conv, nn.ConvTranspose2d)
            setattr(parent, before[0], fuse_conv_bn_eval(conv, child, transpose=is_transposed))
            setattr(parent, name, nn.Identity())
        _fold_batch_norms(child)
        before = (name, child)


def _compose(network: Network, feeder: str, consumer: str) -> None:
    """Make one of the consumer and as much of the chain before it as saves work."""
    chain, target = network.get_submodule(feeder), network.get_submodule(consumer)
    if isinstance(chain, nn.Identity):
        return  # the network around this one took it
    ups: list[Any] = list(chain) if isinstance(chain, nn.Sequential) else [chain]
    rest: nn.Module = nn.Identity()
    joined: nn.Module
    if isinstance(target, ConvLSTM):
        joined = FastConvLSTM(target, ups[-1])
        if ups[:-1]:
            rest = compose([Enlargement.of(up) for up in ups[:-1]])
    elif isinstance(target, SameConvTranspose2d):
        joined = BorderedUp(ups[0], target)
    elif isinstance(target, FusedHead):
        joined = SplitHead([Enlargement.of(up) for up in ups], target)
    else:
        joined = compose([Enlargement.of(layer) for layer in (*ups, target)])
    network.set_submodule(feeder, rest)
    network.set_submodule(consumer, joined)


def _replace_layers(parent: nn.Module, *, by_frequency: bool) -> None:
    for name, child in list(parent.named_children()):
        faster = _faster(child, by_frequency=by_frequency)
        if faster is None:
            _replace_layers(child, by_frequency=by_frequency)
        else:
            setattr(parent, name, faster)


def _faster(layer: nn.Module, *, by_frequency: bool) -> nn.Module | None:
    """What takes the place of a layer, None if it stays."""
    if isinstance(layer, ConvLSTM):
        return FastConvLSTM(layer)
    if isinstance(layer, ConvBlock):
        return JoinedConvBlock(layer)
    if isinstance(layer, AtrousPyramid):
        return JoinedPyramid(layer)
    if isinstance(layer, nn.ConvTranspose2d):
        return PhaseUp(Enlargement.of(layer))
    if isinstance(layer, nn.Sequential):
        ups = [part for part in layer if isinstance(part, nn.ConvTranspose2d)]
        if len(ups) == len(layer):
            return compose([Enlargement.of(up) for up in ups])
    if by_frequency and isinstance(layer, SameConv2d) and _is_large(layer):
        return FourierConv2d(layer)
    return None


def _is_large(conv: nn.Conv2d) -> bool:
    return conv.kernel_size[0] >= LARGE_KERNEL and conv.dilation == (1, 1)


def _prepare(
    network: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Cast and lay out the inputs as the weights are."""
    if network.training:
        raise ModelError(
            "a network optimized for inference was set to training: train the one it was made of."
        )
    dtype = next(network.parameters()).dtype

    def lay_out(x: Tensor) -> Tensor:
        if x.ndim != 4:
            return x.to(dtype)
        return x.to(dtype=dtype, memory_format=torch.channels_last)

    return tuple(map(lay_out, inputs)), {name: lay_out(x) for name, x in named.items()}


def _to_float32(_network: nn.Module, _inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return logits.float()
