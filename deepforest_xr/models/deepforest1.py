"""DeepForest-1: ResNet50 whose scales are fused by ConvLSTMs, as if depth were time.

A ConvLSTM sees a short sequence of maps of one place from different depths, the deepest
first: coarse context sets the state, fine detail corrects it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import ConvLSTM, SameConv2d, init_kernels, up
from deepforest_xr.models.network import Network
from deepforest_xr.models.resnet import Encoder, stage


class TwoScaleFusion(Network):
    """Input to the second ConvLSTM's output, at half the input's size."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.encoder = Encoder(bands)
        self.stage5 = stage(1024, (512, 512, 2048), stride=2, identities=2)
        self.up_x32 = up(512, 256)
        self.up_x16 = nn.Sequential(up(1024, 256), up(256, 256))
        self.lstm1 = ConvLSTM(256, 128, go_backwards=True)
        self.conv1 = SameConv2d(128, 256, 3)
        self.up1 = up(256, 128)
        self.up_x8 = nn.Sequential(up(2048, 128), up(128, 128), up(128, 128), up(128, 128))
        self.lstm2 = ConvLSTM(128, 128, go_backwards=True)
        self.dropout = nn.Dropout(0.5)
        init_kernels("glorot_uniform", self.encoder, self.stage5)
        init_kernels("he_normal", self.up_x32, self.up_x16, self.conv1, self.up1, self.up_x8)

    def fuse(self, x: Tensor) -> Tensor:
        """Fuse three scales of (n, bands, y, x) to (n, 128, y / 2, x / 2)."""
        x32, x16 = self.encoder(x)  # (n, 512, 32, 32), (n, 1024, 16, 16)
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
