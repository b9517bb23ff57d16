"""ResNet50 as the DeepForest networks use it: a full-resolution stem, then four stages.

Unlike the ResNet50 of torchvision, a bottleneck block runs before the 7 x 7 convolution,
that convolution has stride 1, the stride of a block is in its first 1 x 1, every
convolution has a bias, and the pooling is *valid*. Parts are named after the published
layers: ``res3b_branch2a`` is ``stage3.b.branch2a``, ``bn3b_branch2a`` is ``stage3.b.bn2a``.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import SameConv2d, batch_norm

Filters = tuple[int, int, int]


class IdentityBlock(nn.Module):
    """Bottleneck whose shortcut is its input; `filters` are those of its convolutions."""

    def __init__(
        self, inputs: int, filters: Filters, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        f1, f2, f3 = filters
        self.branch2a = nn.Conv2d(inputs, f1, 1, stride=stride)
        self.bn2a = batch_norm(f1)
        self.branch2b = SameConv2d(f1, f2, 3, dilation=dilation)
        self.bn2b = batch_norm(f2)
        self.branch2c = nn.Conv2d(f2, f3, 1)
        self.bn2c = batch_norm(f3)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, inputs, y, x) to (n, f3, y / stride, x / stride), rounded up."""
        y = F.relu(self.bn2a(self.branch2a(x)), inplace=True)
        y = F.relu(self.bn2b(self.branch2b(y)), inplace=True)
        y = self.bn2c(self.branch2c(y))
        return F.relu(y + self.shortcut(x), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """Carry the input past the block, unchanged here."""
        return x


class ConvBlock(IdentityBlock):
    """Bottleneck whose shortcut is a 1 x 1 convolution: for a change of size or channels."""

    def __init__(self, inputs: int, filters: Filters, *, stride: int, dilation: int = 1) -> None:
        super().__init__(inputs, filters, stride=stride, dilation=dilation)
        self.branch1 = nn.Conv2d(inputs, filters[2], 1, stride=stride)
        self.bn1 = batch_norm(filters[2])

    def shortcut(self, x: Tensor) -> Tensor:
        """Carry the input past the block at the block's stride and channels."""
        y: Tensor = self.bn1(self.branch1(x))
        return y


def stage(
    inputs: int, filters: Filters, *, stride: int, identities: int, dilation: int = 1
) -> nn.Sequential:
    """Build one stage: a conv block "a", then identity blocks "b", "c", ..."""
    first = ConvBlock(inputs, filters, stride=stride, dilation=dilation)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(a=first)
    for letter in "bcdefgh"[:identities]:
        blocks[letter] = IdentityBlock(filters[2], filters, dilation=dilation)
    return nn.Sequential(blocks)


class Encoder(nn.Module):
    """Stages 1 to 3; the networks differ from stage 4 on and build the rest themselves."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.stage1 = stage(bands, (64, 64, 256), stride=1, identities=0)
        self.conv1 = SameConv2d(256, 64, 7)
        self.bn_conv1 = batch_norm(64)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)  # valid: 256 -> 127
        self.stage2 = stage(64, (64, 64, 256), stride=2, identities=2)
        self.stage3 = stage(256, (128, 128, 512), stride=2, identities=3)

    def forward(self, x: Tensor) -> Tensor:
        """Encode (n, bands, y, x) to (n, 512, y / 8, x / 8)."""
        x = self.stage1(x)  # (n, 256, 256, 256)
        x = F.relu(self.bn_conv1(self.conv1(x)), inplace=True)  # (n, 64, 256, 256)
        x = self.pool(x)  # (n, 64, 127, 127)
        x = self.stage2(x)  # (n, 256, 64, 64)
        x32: Tensor = self.stage3(x)  # (n, 512, 32, 32)
        return x32


def stage4() -> nn.Sequential:
    """Build stage 4 of the plain ResNet50: (n, 512, y, x) to (n, 1024, y / 2, x / 2)."""
    return stage(512, (256, 256, 1024), stride=2, identities=5)


def stage5(inputs: int) -> nn.Sequential:
    """Build stage 5 of the plain ResNet50: (n, inputs, y, x) to (n, 2048, y / 2, x / 2)."""
    return stage(inputs, (512, 512, 2048), stride=2, identities=2)
