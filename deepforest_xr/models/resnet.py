"""ResNet50 as the DeepForest networks use it: a full-resolution stem, then four stages.

Unlike the ResNet50 of torchvision, a bottleneck block runs before the 7 x 7 convolution,
that convolution has stride 1, the stride of a block is in its first 1 x 1, every
convolution has a bias, and the pooling is *valid*. Parts are named after the published
layers: ``res3b_branch2a`` is ``stage3.b.branch2a``, ``bn3b_branch2a`` is ``stage3.b.bn2a``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import SameConv2d, batch_norm

if TYPE_CHECKING:
    from collections.abc import Callable

Filters = tuple[int, int, int]


class IdentityBlock(nn.Module):
    """Bottleneck whose shortcut is its input; `filters` are those of its convolutions."""

    def __init__(self, inputs: int, filters: Filters, *, stride: int = 1) -> None:
        super().__init__()
        f1, f2, f3 = filters
        self.branch2a = nn.Conv2d(inputs, f1, 1, stride=stride)
        self.bn2a = batch_norm(f1)
        self.branch2b = SameConv2d(f1, f2, 3)
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

    def __init__(self, inputs: int, filters: Filters, *, stride: int) -> None:
        super().__init__(inputs, filters, stride=stride)
        self.branch1 = nn.Conv2d(inputs, filters[2], 1, stride=stride)
        self.bn1 = batch_norm(filters[2])

    def shortcut(self, x: Tensor) -> Tensor:
        """Carry the input past the block at the block's stride and channels."""
        y: Tensor = self.bn1(self.branch1(x))
        return y


def stage(inputs: int, filters: Filters, *, stride: int, identities: int) -> nn.Sequential:
    """Build one stage: a conv block "a", then identity blocks "b", "c", ..."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict(a=ConvBlock(inputs, filters, stride=stride))
    for letter in "bcdefgh"[:identities]:
        blocks[letter] = IdentityBlock(filters[2], filters)
    return nn.Sequential(blocks)


class Encoder(nn.Module):
    """Stages 1 to 4; the networks differ in what stage 5 runs on and build it themselves."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.stage1 = stage(bands, (64, 64, 256), stride=1, identities=0)
        self.conv1 = SameConv2d(256, 64, 7)
        self.bn_conv1 = batch_norm(64)
        self.stage2 = stage(64, (64, 64, 256), stride=2, identities=2)
        self.stage3 = stage(256, (128, 128, 512), stride=2, identities=3)
        self.stage4 = stage(512, (256, 256, 1024), stride=2, identities=5)

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (n, bands, y, x); returns 512 channels at 1/8 and 1024 at 1/16."""
        x = self.stage1(x)  # (n, 256, 256, 256)
        x = F.relu(self.bn_conv1(self.conv1(x)), inplace=True)  # (n, 64, 256, 256)
        x = F.max_pool2d(x, kernel_size=3, stride=2)  # (n, 64, 127, 127): valid
        x = self.stage2(x)  # (n, 256, 64, 64)
        x32: Tensor = self.stage3(x)  # (n, 512, 32, 32)
        x16: Tensor = self.stage4(x32)  # (n, 1024, 16, 16)
        return x32, x16
