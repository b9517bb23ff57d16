"""Layers that compute what the networks' own layers compute in eval mode, in less time.

Nothing here is an approximation: each layer rewrites a linear map (or a first step from a
zero state) so that fewer multiplications, or fewer passes over memory, give the same
numbers up to rounding. Which layer takes whose place is decided in `optimize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import ACTIVATIONS, SameConvTranspose2d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepforest_xr.models.blocks import ConvLSTM
    from deepforest_xr.models.deepforest1 import AtrousPyramid
    from deepforest_xr.models.deepforest2 import FusedHead
    from deepforest_xr.models.resnet import ConvBlock

TILE = 32
"""Side of the tiles of `FourierConv2d` in pixels, the fastest of 16, 24, 32 and 48."""

TILES_AT_ONCE = 40
"""So many tiles of all channels are in memory at a time (some 90 MB with 256 channels): more
leave the cache, fewer read the spectrum of the kernel too often."""


@dataclass(frozen=True, slots=True)
class Enlargement:
    """A linear map from a coarse image to a fine one: transposed convolutions, composed.

    Coarse pixel i adds ``weight[..., k]`` to fine pixel ``stride * i + k - crop``.
    """

    weight: Tensor
    """Dims (in, out, k, k)."""

    bias: Tensor
    """What every coarse pixel adds to its own fine ones; dims (out, stride, stride)."""

    stride: int
    """Fine pixels per coarse pixel."""

    crop: int = 0
    """Fine pixels cut off before the first one."""

    @classmethod
    def of(cls, layer: nn.ConvTranspose2d | nn.Conv2d) -> Self:
        """Read a transposed convolution, or a 1 x 1 convolution."""
        weight, (stride, _) = layer.weight.detach(), layer.stride
        if isinstance(layer, nn.Conv2d):
            weight = weight.transpose(0, 1)
        bias = layer.weight.new_zeros(weight.shape[1]) if layer.bias is None else layer.bias
        patch = bias.detach()[:, None, None].expand(-1, stride, stride)
        return cls(weight, patch, stride, int(layer.padding[0]))

    def then(self, after: Enlargement) -> Enlargement:
        """Compose with a map of the fine image; exact where `after` mixes no pixels."""
        weight = F.conv_transpose2d(self.weight, after.weight, stride=after.stride)
        patch = F.conv_transpose2d(self.bias[None], after.weight, stride=after.stride)[0]
        stride = self.stride * after.stride
        bias = patch[:, :stride, :stride] + after.bias.repeat(1, self.stride, self.stride)
        return Enlargement(weight, bias, stride, self.crop * after.stride + after.crop)

    @property
    def cost(self) -> int:
        """Multiplications per coarse pixel."""
        return self.weight.numel()


def compose(chain: Sequence[Enlargement]) -> nn.Sequential:
    """Build the chain, neighbours made one wherever that takes fewer multiplications."""
    done = [chain[-1]]
    for before in reversed(chain[:-1]):
        joined = before.then(done[0])
        if joined.cost < before.cost + before.stride**2 * done[0].cost:
            done[0] = joined
        else:
            done.insert(0, before)
    return nn.Sequential(*map(PhaseUp, done))


class PhaseUp(nn.Module):
    """An `Enlargement` as one small convolution that makes all phases, then a shuffle.

    A transposed convolution of stride s is s x s convolutions on the coarse image, one for
    each position of a fine pixel in its coarse one.
    """

    def __init__(self, plan: Enlargement) -> None:
        super().__init__()
        inputs, outputs, size, _ = plan.weight.shape
        s = self.stride = plan.stride
        taps = -(-size // s)
        # Whole coarse pixels of the crop are never computed, the rest is cut off at the end.
        self.crop = plan.crop % s
        self.margin = (taps - 1 - plan.crop // s, -(-plan.crop // s))
        padded = F.pad(plan.weight, (0, taps * s - size, 0, taps * s - size))
        split = padded.reshape(inputs, outputs, taps, s, taps, s).flip(2, 4)
        kernel = split.permute(1, 3, 5, 0, 2, 4).reshape(outputs * s * s, inputs, taps, taps)
        self.kernel = nn.Parameter(kernel.contiguous())
        self.bias = nn.Parameter(plan.bias.flatten().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (n, in, y, x) to (n, out, stride * y, stride * x)."""
        return self.join(self.phases(x), *x.shape[2:])

    def phases(self, x: Tensor) -> Tensor:
        """Make all phases, (n, out * stride ** 2, y, x), one row and column more if cut."""
        before, after = self.margin
        if before != after:
            x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, self.kernel, self.bias, padding=before if before == after else 0)

    def join(self, phases: Tensor, rows: int, cols: int) -> Tensor:
        """Shuffle the phases of a (rows, cols) coarse image to its fine one."""
        s, c = self.stride, self.crop
        fine = F.pixel_shuffle(phases, s) if s > 1 else phases
        return fine[..., c : c + rows * s, c : c + cols * s] if c else fine


class BorderedUp(nn.Module):
    """Two overlapping transposed convolutions as one, and as two along the border.

    The first one's output ends with the image. What the composition adds from beyond is
    wrong within a few pixels of the border: there both are computed one after the other.
    """

    def __init__(self, first: SameConvTranspose2d, second: SameConvTranspose2d) -> None:
        super().__init__()
        one, two = Enlargement.of(first), Enlargement.of(second)
        joined = one.then(two)
        assert first.bias is not None  # noqa: S101  - every layer of these networks has one
        inside = torch.einsum("m,mokl->o", first.bias.detach(), two.weight)
        patch = (inside[:, None, None] + two.bias).expand_as(joined.bias)
        self.joined = PhaseUp(Enlargement(joined.weight, patch, joined.stride, joined.crop))
        self.plain = nn.Sequential(PhaseUp(one), PhaseUp(two))
        # A fine pixel less than `band` from the border meets what lies beyond it; computed
        # from `strip` coarse rows, those pixels do not meet the strip's inner end.
        size = second.kernel_size[0]
        self.band = size
        self.strip = -(-(3 * size) // one.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (n, in, y, x) to (n, out, stride * y, stride * x)."""
        out: Tensor = self.joined(x)
        b, s = self.band, self.strip
        out[..., :b, :] = self.plain(x[..., :s, :])[..., :b, :]
        out[..., -b:, :] = self.plain(x[..., -s:, :])[..., -b:, :]
        out[..., :b] = self.plain(x[..., :s])[..., :b]
        out[..., -b:] = self.plain(x[..., -s:])[..., -b:]
        return out


class FirstStep(nn.Module):
    """First step of a ConvLSTM, whose state is zero, with the enlargement before it.

    No recurrent convolution and no forget gate; what remains are the gates input, cell and
    output, computed phase by phase of the enlargement.
    """

    def __init__(self, lstm: ConvLSTM, up: nn.ConvTranspose2d | None) -> None:
        super().__init__()
        whole, _, whole_bias = _scaled(lstm)
        (i, _, c, o), (b_i, _, b_c, b_o) = whole.chunk(4), whole_bias.chunk(4)
        # A convolution is a transposed convolution of stride 1 with its kernel turned.
        kernel = torch.cat([i, c, o]).transpose(0, 1).flip(2, 3)
        bias = torch.cat([b_i, b_c, b_o])[:, None, None]
        plan = Enlargement(kernel, bias, 1, kernel.shape[-1] // 2)
        self.has_ones = up is not None
        if up is not None:
            # The enlargement's bias ends with the image, as the zeros around it begin: it is
            # the weight of an input that is 1 in the image.
            plain = Enlargement.of(up)
            weight = torch.cat([plain.weight, plain.bias[None]])
            plan = Enlargement(weight, torch.zeros_like(plain.bias), plain.stride).then(plan)
        self.up = PhaseUp(plan)
        self.act = ACTIVATIONS[lstm.activation]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform (n, inputs, y, x) to hidden and cell state, at the enlarged size."""
        if self.has_ones:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        i, c, o = self.up.phases(x).chunk(3, dim=1)
        cell = i.clamp_(0, 1) * self.act(c)
        hidden = o.clamp_(0, 1) * self.act(cell)
        return self.up.join(hidden, *x.shape[2:]), self.up.join(cell, *x.shape[2:])


class FastConvLSTM(nn.Module):
    """`ConvLSTM` in eval mode: a light first step, one convolution for every other.

    Parameters
    ----------
    lstm : ConvLSTM
        Its weights are copied.
    up : ConvTranspose2d, optional
        What enlarged the step that is seen first; the caller leaves it out.
    """

    def __init__(self, lstm: ConvLSTM, up: nn.ConvTranspose2d | None = None) -> None:
        super().__init__()
        self.go_backwards = lstm.go_backwards
        self.act = ACTIVATIONS[lstm.activation]
        self.first = FirstStep(lstm, up)
        kernel, recurrent, bias = _scaled(lstm)
        self.kernel = nn.Parameter(torch.cat([kernel, recurrent], dim=1))
        self.bias = nn.Parameter(bias)

    def forward(self, steps: Sequence[Tensor]) -> Tensor:
        """Run through the steps, each (n, inputs, y, x); returns (n, filters, y, x)."""
        ordered = list(reversed(steps)) if self.go_backwards else list(steps)
        hidden, cell = self.first(ordered[0])
        for x in ordered[1:]:
            gates = self._gates(x, hidden)
            i, f, c, o = gates.chunk(4, dim=1)
            cell = cell.mul_(f.clamp_(0, 1)).addcmul_(i.clamp_(0, 1), self.act(c))
            # A tensor of its own, not a part of the gates: they would all stay with it.
            hidden = self.act(cell).mul_(o.clamp_(0, 1))
            del gates, i, f, c, o
        state: Tensor = hidden
        return state

    def _gates(self, x: Tensor, hidden: Tensor) -> Tensor:
        both = torch.cat([x, hidden], dim=1)
        return F.conv2d(both, self.kernel, self.bias, padding=self.kernel.shape[-1] // 2)


def _scaled(lstm: ConvLSTM) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel, recurrent kernel and bias with the gates' ``0.2 x + 0.5`` worked in."""
    factor = torch.full_like(lstm.bias, 0.2)
    factor.chunk(4)[2].fill_(1.0)  # the candidate is no gate
    shift = torch.full_like(lstm.bias, 0.5)
    shift.chunk(4)[2].zero_()
    wide = factor[:, None, None, None]
    return (
        lstm.kernel.detach() * wide,
        lstm.recurrent_kernel.detach() * wide,
        lstm.bias.detach() * factor + shift,
    )


class SplitHead(nn.Module):
    """`FusedHead` whose Sentinel-2 half is composed with the enlargements before it."""

    def __init__(self, chain: Sequence[Enlargement], head: FusedHead) -> None:
        super().__init__()
        s2_weight = head.weight.detach()[:, : head.s2_channels].transpose(0, 1)
        assert head.bias is not None  # noqa: S101  - every layer of these networks has one
        self.s2 = compose([*chain, Enlargement(s2_weight, head.bias.detach()[:, None, None], 1)])
        self.s1 = nn.Parameter(head.weight.detach()[:, head.s2_channels :].clone())

    def forward(self, f: Tensor, s: Tensor) -> Tensor:
        """Join what comes before the enlargements and (n, s1_channels, y, x)."""
        logits: Tensor = self.s2(f) + F.conv2d(s, self.s1)
        return logits


class FourierConv2d(nn.Module):
    """A large `same` convolution by way of the frequencies of overlapping tiles.

    For 7 x 7 and 256 channels this takes a fifteenth of the multiplications, and rounds
    less than adding them up does.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        (outputs, _, size, _) = conv.weight.shape
        self.outputs, self.size = outputs, size
        self.useful = TILE - size + 1
        waves = torch.fft.rfft2(conv.weight.detach(), s=(TILE, TILE)).conj()
        waves = waves.permute(2, 3, 0, 1).flatten(0, 1)  # (frequency, outputs, inputs)
        # Kept as real numbers, real and imaginary parts in turns, in three dimensions: as any
        # other buffer it may be cast or laid out anew.
        real = torch.view_as_real(waves.resolve_conj()).flatten(2)
        self.register_buffer("spectrum", real.contiguous())
        assert conv.bias is not None  # noqa: S101  - every layer of these networks has one
        self.bias = nn.Parameter(conv.bias.detach()[:, None, None].clone())

    spectrum: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, inputs, y, x) to (n, outputs, y, x)."""
        n, _, rows, cols = x.shape
        down, along = -(-rows // self.useful), -(-cols // self.useful)
        step = max(1, TILES_AT_ONCE // (n * along))
        out = x.new_empty(n, self.outputs, rows, cols)
        for first in range(0, down, step):
            count = min(step, down - first)
            part = out[..., first * self.useful : (first + count) * self.useful, :]
            strip = self._strip(self._padded(x, first, count, along))
            part[...] = strip[..., : part.shape[2], :cols] + self.bias
        return out

    def _padded(self, x: Tensor, first: int, count: int, along: int) -> Tensor:
        """Cut what `count` rows of `along` tiles see, zeros beyond the image: no padded copy."""
        rows, cols = x.shape[2:]
        before = (self.size - 1) // 2
        top = first * self.useful - before
        bottom, right = (
            start + tiles * self.useful + self.size - 1
            for start, tiles in ((top, count), (-before, along))
        )
        seen = x[..., max(top, 0) : min(bottom, rows), :]
        return F.pad(seen, (before, right - cols, max(-top, 0), max(bottom - rows, 0)))

    def _strip(self, strip: Tensor) -> Tensor:
        """Rows of tiles, padded, to (n, outputs, count * useful, along * useful)."""
        n, channels = strip.shape[:2]
        tiles = strip.unfold(2, TILE, self.useful).unfold(3, TILE, self.useful)
        count, along = tiles.shape[2:4]
        waves = torch.fft.rfft2(tiles)  # (n, channels, count, along, TILE, TILE / 2 + 1)
        spectrum = torch.view_as_complex(self.spectrum.reshape(-1, self.outputs, channels, 2))
        waves = waves.permute(4, 5, 1, 0, 2, 3).reshape(len(spectrum), channels, -1)
        mixed = torch.bmm(spectrum, waves)  # (frequency, outputs, tile)
        mixed = mixed.reshape(TILE, -1, self.outputs, n, count, along).permute(3, 2, 4, 5, 0, 1)
        side = self.useful
        out: Tensor = torch.fft.irfft2(mixed, s=(TILE, TILE))[..., :side, :side]
        return out.transpose(3, 4).reshape(n, self.outputs, count * side, along * side)


class JoinedConvBlock(nn.Module):
    """`ConvBlock` without BatchNorm whose last convolution and shortcut are one."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.branch2a, self.branch2b = block.branch2a, block.branch2b
        self.stride = block.branch1.stride[0]
        last, shortcut = block.branch2c, block.branch1
        assert last.bias is not None  # noqa: S101  - every layer of these networks has one
        assert shortcut.bias is not None  # noqa: S101
        self.kernel = nn.Parameter(torch.cat([last.weight, shortcut.weight], dim=1).detach())
        self.bias = nn.Parameter((last.bias + shortcut.bias).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, inputs, y, x) to (n, f3, y / stride, x / stride), rounded up."""
        y = F.relu(self.branch2a(x), inplace=True)
        y = F.relu(self.branch2b(y), inplace=True)
        y = torch.cat([y, x[..., :: self.stride, :: self.stride]], dim=1)
        return F.relu(F.conv2d(y, self.kernel, self.bias), inplace=True)


class JoinedPyramid(nn.Module):
    """`AtrousPyramid` whose last 1 x 1 convolution is worked into the others; it takes it apart."""

    def __init__(self, pyramid: AtrousPyramid) -> None:
        super().__init__()
        parts = [pyramid.point, *pyramid.rings]
        head, bias = pyramid.head.weight.detach()[..., 0, 0], pyramid.head.bias
        mixes = torch.split(head, [part.out_channels for part in parts], dim=1)
        for part, mix in zip(parts, mixes, strict=True):
            part.weight = nn.Parameter(torch.einsum("om,mikl->oikl", mix, part.weight.detach()))
            part.bias = nn.Parameter(mix @ part.bias.detach())
            part.out_channels = mix.shape[0]
        parts[0].bias = nn.Parameter(parts[0].bias + bias)
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, inputs, y, x) to (n, classes, y, x)."""
        first, *others = self.parts
        out: Tensor = first(x)
        for part in others:
            out = out + part(x)
        return out
