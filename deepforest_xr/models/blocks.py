"""Layers shared by the networks: Keras' padding, its ConvLSTM and its initialisers.

The published networks were written in Keras 2.2 and torch differs from it in silence:
`same` padding of an even kernel, the hard sigmoid's slope, BatchNorm's epsilon and the way
its momentum counts. These layers compute what Keras computes, so published weights keep
their meaning. Nothing here knows a whole network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

Activation = Literal["tanh", "relu"]
Scheme = Literal["glorot_uniform", "glorot_normal", "he_normal", "lecun_normal", "orthogonal"]

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}

BATCH_NORM_EPSILON = 1e-3

# Standard deviation of a unit normal cut at +-2: Keras divides by it so that the variance
# left after cutting is the one asked for.
_CUT_NORMAL_STD = 0.87962566103423978


class SameConv2d(nn.Conv2d):
    """Convolution of stride 1 whose output has the input's size, as Keras pads it.

    Parameters
    ----------
    inputs, outputs : int
        Channels in and out.
    kernel : int
        Side of the kernel. An even one pads one pixel more after than before: 6 pads 2 and 3.
    dilation : int
        Step between the kernel's taps.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1) -> None:
        total = dilation * (kernel - 1)
        super().__init__(inputs, outputs, kernel, dilation=dilation, padding=total // 2)
        self.extra = total % 2

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, inputs, y, x) to (n, outputs, y, x)."""
        if self.extra:
            x = F.pad(x, (0, self.extra, 0, self.extra))
        return super().forward(x)


class SameConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution to exactly `stride` times the input's size, as Keras crops it.

    Parameters
    ----------
    inputs, outputs : int
        Channels in and out.
    kernel : int
        Side of the kernel, at least `stride`. The full output is `kernel - stride` pixels too
        long; half of them come off the start, the rest off the end.
    stride : int
        Factor of enlargement.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int) -> None:
        total = kernel - stride
        super().__init__(inputs, outputs, kernel, stride=stride, padding=total // 2)
        self.extra = total % 2

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Enlarge (n, inputs, y, x) to (n, outputs, stride * y, stride * x)."""
        x = super().forward(x, output_size)
        return x[..., : -self.extra, : -self.extra] if self.extra else x


def up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """Double the size: transposed convolution 2 x 2, stride 2, no activation."""
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Resize (n, c, y, x) bilinearly to `factor` times the size, as TensorFlow 1 does.

    Output pixel i is read at i / factor, where torch puts pixel centres at half steps; past
    the last source pixel its value is repeated.
    """
    rows, cols = x.shape[-2:]
    size = (rows * factor + 1, cols * factor + 1)
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    # Corners aligned, source pixel k lands on output pixel k * factor exactly.
    larger = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    return larger[..., :-1, :-1]


def batch_norm(channels: int, *, momentum: float = 0.01) -> nn.BatchNorm2d:
    """BatchNorm with Keras' epsilon; `momentum` 0.01 is what Keras calls 0.99."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON, momentum=momentum)


def hard_sigmoid(x: Tensor) -> Tensor:
    """``clip(0.2 x + 0.5, 0, 1)``, Keras' form; torch's own has a slope of 1/6."""
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


class ConvLSTM(nn.Module):
    """Convolutional LSTM that returns the last hidden state.

    Parameters
    ----------
    inputs, filters : int
        Channels of a step and of the state.
    kernel : int
        Odd side of both kernels, `same` padding.
    activation : {"tanh", "relu"}
        Of the candidate and of the cell; the gates use the hard sigmoid.
    go_backwards : bool
        See the last step first.
    dropout, recurrent_dropout : float
        Share of inputs and of hidden states set to zero, in training only. Each gate has its
        own mask, the same for all steps of one call.

    References
    ----------
    Shi et al. 2015, arXiv:1506.04214, without peepholes; Keras 2.2.4 ``ConvLSTM2D``.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        *,
        kernel: int = 3,
        activation: Activation = "tanh",
        go_backwards: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.go_backwards = go_backwards
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        # Gates are stacked in the order input, forget, cell, output.
        self.kernel = nn.Parameter(torch.empty(4 * filters, inputs, kernel, kernel))
        self.recurrent_kernel = nn.Parameter(torch.empty(4 * filters, filters, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(4 * filters))
        _draw(self.kernel, "he_normal")
        _draw(self.recurrent_kernel, "orthogonal")
        nn.init.ones_(self.bias.chunk(4)[1])  # forget nothing at first

    def forward(self, steps: Sequence[Tensor]) -> Tensor:
        """Run through the steps, each (n, inputs, y, x); returns (n, filters, y, x)."""
        act = ACTIVATIONS[self.activation]
        ordered = list(reversed(steps)) if self.go_backwards else list(steps)
        x_mask = self._mask(ordered[0], self.kernel.shape[1], self.dropout)
        h_mask = self._mask(ordered[0], self.recurrent_kernel.shape[1], self.recurrent_dropout)
        hidden = cell = None
        for x in ordered:
            gates = _convolve(x, self.kernel, self.bias, x_mask)  # (n, 4 * filters, y, x)
            if hidden is not None:  # the first state is zero, and so is its convolution
                gates = gates + _convolve(hidden, self.recurrent_kernel, None, h_mask)
            i, f, c, o = gates.chunk(4, dim=1)  # (n, filters, y, x) each
            new = hard_sigmoid(i) * act(c)
            cell = new if cell is None else hard_sigmoid(f) * cell + new
            hidden = hard_sigmoid(o) * act(cell)
        assert hidden is not None, "a ConvLSTM needs at least one step"  # noqa: S101
        return hidden

    def _mask(self, like: Tensor, channels: int, rate: float) -> Tensor | None:
        """Scaled keep-mask (n, 4 * channels, y, x), or None where nothing is dropped."""
        if not self.training or rate == 0.0:
            return None
        ones = like.new_ones(like.shape[0], 4 * channels, *like.shape[2:])
        return F.dropout(ones, rate, training=True)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """Convolve for all four gates; with a mask, each gate sees its own masked copy of `x`."""
    padding = kernel.shape[-1] // 2
    if mask is None:
        return F.conv2d(x, kernel, bias, padding=padding)
    return F.conv2d(x.repeat(1, 4, 1, 1) * mask, kernel, bias, padding=padding, groups=4)


def init_kernels(scheme: Scheme, *modules: nn.Module) -> None:
    """Draw every convolution inside `modules` by one Keras initialiser and zero the biases.

    A ConvLSTM is left alone: it draws its own kernels, he-normal and orthogonal.
    """
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            _draw(part.weight, scheme)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _draw(kernel: Tensor, scheme: Scheme) -> None:
    if kernel.is_meta:  # weights come later, from a checkpoint
        return
    if scheme == "orthogonal":
        nn.init.orthogonal_(kernel)
        return
    # A transposed kernel is (in, out, y, x): its "fan in" counts the outputs, in torch as in
    # Keras, so both agree without a special case.
    fan_in = kernel[0].numel()
    fan_out = kernel.shape[0] * kernel[0, 0].numel()
    if scheme == "glorot_uniform":
        limit = math.sqrt(6.0 / (fan_in + fan_out))
        nn.init.uniform_(kernel, -limit, limit)
        return
    variance = {
        "glorot_normal": 2.0 / (fan_in + fan_out),
        "he_normal": 2.0 / fan_in,
        "lecun_normal": 1.0 / fan_in,
    }[scheme]
    std = math.sqrt(variance) / _CUT_NORMAL_STD
    # A normal cut at +-2 by its inverse distribution: ten times faster than trunc_normal_.
    edge = math.erf(math.sqrt(2.0))
    with torch.no_grad():
        kernel.uniform_(-edge, edge).erfinv_().mul_(math.sqrt(2.0) * std)
