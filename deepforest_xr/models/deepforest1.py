"""DeepForest-1: ResNet50 whose scales are fused by ConvLSTMs, as if depth were time.

A ConvLSTM sees a short sequence of maps of one place from different depths, the deepest
first: coarse context sets the state, fine detail corrects it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import ConvLSTM, SameConv2d, enlarge, init_kernels, up
from deepforest_xr.models.network import LinearChains, Network
from deepforest_xr.models.resnet import Encoder, stage4, stage5


class DeepForest1a(Network):
    """DeepForest-1a: one ConvLSTM over the two deepest scales.

    Parameters
    ----------
    bands, classes : int
        Channels in and out.

    References
    ----------
    Cherif, Hell & Brandmeier 2022, Remote Sensing 14(19), 5000.
    """

    linear_chains: LinearChains = (("up_x8", "lstm"), ("up1", "head"))

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.encoder = Encoder(bands)
        self.stage4 = stage4()
        self.stage5 = stage5(1024)
        self.up_x16 = nn.Sequential(up(1024, 256), up(256, 256))
        self.up_x8 = nn.Sequential(up(2048, 256), up(256, 256), up(256, 256))
        self.lstm = ConvLSTM(256, 128, go_backwards=True)
        self.conv1 = SameConv2d(128, 256, 3)
        self.up1 = nn.Sequential(up(256, 128), up(128, 128))
        self.head = nn.Conv2d(128, classes, 1)
        self.dropout = nn.Dropout(0.5)
        init_kernels("glorot_uniform", self.encoder, self.stage4, self.stage5, self.head)
        init_kernels("he_normal", self.up_x16, self.up_x8, self.conv1, self.up1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify an image.

        Parameters
        ----------
        x : Tensor[float32], dims (n, bands, y, x)
            Standardised; sides are multiples of 32.

        Returns
        -------
        Tensor[float32], dims (n, classes, y, x)
            Logits.

        Raises
        ------
        BandMismatchError, ConfigError
            If channels or sides do not fit.
        """
        self.check_image(x)  # (n, bands, 256, 256)
        x16 = self.stage4(self.encoder(x))  # (n, 1024, 16, 16)
        x8 = self.stage5(x16)  # (n, 2048, 8, 8)
        a = self.dropout(self.up_x16(x16))  # (n, 256, 64, 64)
        b = self.dropout(self.up_x8(x8))  # (n, 256, 64, 64)
        x = self.lstm([a, b])  # (n, 128, 64, 64): b first, then a
        x = F.relu(self.conv1(x), inplace=True)  # (n, 256, 64, 64)
        logits: Tensor = self.head(self.up1(x))  # (n, classes, 256, 256)
        return logits


class TwoScaleFusion(Network):
    """What DeepForest-1b and 1c share: the input to the second ConvLSTM's output."""

    linear_chains: LinearChains = (("up_x16", "lstm1"), ("up_x8", "lstm2"))

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.encoder = Encoder(bands)
        self.stage4 = stage4()
        self.stage5 = stage5(1024)
        self.up_x32 = up(512, 256)
        self.up_x16 = nn.Sequential(up(1024, 256), up(256, 256))
        self.lstm1 = ConvLSTM(256, 128, go_backwards=True)
        self.conv1 = SameConv2d(128, 256, 3)
        self.up1 = up(256, 128)
        self.up_x8 = nn.Sequential(up(2048, 128), up(128, 128), up(128, 128), up(128, 128))
        self.lstm2 = ConvLSTM(128, 128, go_backwards=True)
        self.dropout = nn.Dropout(0.5)
        init_kernels("glorot_uniform", self.encoder, self.stage4, self.stage5)
        init_kernels("he_normal", self.up_x32, self.up_x16, self.conv1, self.up1, self.up_x8)

    def fuse(self, x: Tensor) -> Tensor:
        """Fuse three scales of (n, bands, y, x) to (n, 128, y / 2, x / 2)."""
        x32 = self.encoder(x)  # (n, 512, 32, 32)
        x16 = self.stage4(x32)  # (n, 1024, 16, 16)
        x8 = self.stage5(x16)  # (n, 2048, 8, 8)
        a = self.dropout(self.up_x32(x32))  # (n, 256, 64, 64)
        b = self.dropout(self.up_x16(x16))  # (n, 256, 64, 64)
        m = self.lstm1([a, b])  # (n, 128, 64, 64): b first, then a
        m = F.relu(self.conv1(m), inplace=True)  # (n, 256, 64, 64)
        m = self.dropout(self.up1(m))  # (n, 128, 128, 128)
        c = self.dropout(self.up_x8(x8))  # (n, 128, 128, 128)
        fused: Tensor = self.lstm2([m, c])  # (n, 128, 128, 128): c first, then m
        return fused


class DeepForest1b(TwoScaleFusion):
    """DeepForest-1b: two ConvLSTMs over three scales.

    Parameters
    ----------
    bands, classes : int
        Channels in and out.

    References
    ----------
    Cherif, Hell & Brandmeier 2022, Remote Sensing 14(19), 5000.
    """

    feature_channels = 128
    """Channels of `features`."""

    linear_chains: LinearChains = (*TwoScaleFusion.linear_chains, ("up2", "head"))

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.conv2 = SameConv2d(128, 128, 3)
        self.up2 = up(128, self.feature_channels)
        self.head = nn.Conv2d(self.feature_channels, classes, 1)
        init_kernels("he_normal", self.conv2, self.up2)
        init_kernels("glorot_uniform", self.head)

    def features(self, x: Tensor) -> Tensor:
        """Everything but the head: (n, bands, y, x) to (n, 128, y, x)."""
        x = self.fuse(x)  # (n, 128, 128, 128)
        x = F.relu(self.conv2(x), inplace=True)  # (n, 128, 128, 128)
        features: Tensor = self.up2(x)  # (n, 128, 256, 256)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Classify an image.

        Parameters
        ----------
        x : Tensor[float32], dims (n, bands, y, x)
            Standardised; sides are multiples of 32.

        Returns
        -------
        Tensor[float32], dims (n, classes, y, x)
            Logits.

        Raises
        ------
        BandMismatchError, ConfigError
            If channels or sides do not fit.
        """
        self.check_image(x)  # (n, bands, 256, 256)
        logits: Tensor = self.head(self.features(x))  # (n, classes, 256, 256)
        return logits


class DeepForest1c(TwoScaleFusion):
    """DeepForest-1c: DeepForest-1b with an atrous pyramid as its head, at half resolution.

    Parameters
    ----------
    bands, classes : int
        Channels in and out.

    References
    ----------
    Cherif, Hell & Brandmeier 2022, Remote Sensing 14(19), 5000.
    """

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.pyramid = AtrousPyramid(128, 128, classes)
        init_kernels("glorot_uniform", self.pyramid)

    def forward(self, x: Tensor) -> Tensor:
        """Classify an image.

        Parameters
        ----------
        x : Tensor[float32], dims (n, bands, y, x)
            Standardised; sides are multiples of 32.

        Returns
        -------
        Tensor[float32], dims (n, classes, y, x)
            Logits.

        Raises
        ------
        BandMismatchError, ConfigError
            If channels or sides do not fit.
        """
        self.check_image(x)  # (n, bands, 256, 256)
        x = self.pyramid(self.fuse(x))  # (n, classes, 128, 128)
        return enlarge(x, 2)  # (n, classes, 256, 256)


class AtrousPyramid(nn.Module):
    """One 1 x 1 and three dilated 3 x 3 convolutions side by side, joined by a 1 x 1."""

    def __init__(self, inputs: int, filters: int, classes: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(inputs, classes, 1)
        self.rings = nn.ModuleList(
            SameConv2d(inputs, filters, 3, dilation=dilation) for dilation in (6, 12, 18)
        )
        self.head = nn.Conv2d(classes + 3 * filters, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, inputs, y, x) to (n, classes, y, x)."""
        parts = [self.point(x), *(ring(x) for ring in self.rings)]
        logits: Tensor = self.head(torch.cat(parts, dim=1))
        return logits
