"""DeepForest-2: a Sentinel-1 series and a Sentinel-2 image, each in its own branch, fused.

Both branches keep a head of their own, which only the training loss looks at.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import ConvLSTM, SameConv2d, batch_norm, init_kernels, up
from deepforest_xr.models.deepforest1 import DeepForest1b
from deepforest_xr.models.network import Heads, LinearChains, Network, TwoBranchNetwork
from deepforest_xr.models.resnet import Encoder, stage4, stage5
from deepforest_xr.models.unet import UNet

S1_FILTERS = 64


class ReleasedBranch(Network):
    """Sentinel-2 branch of the published code, which is not the one the paper draws.

    Its stage 5 runs on the upsampled 1/4 map instead of the 1/16 one.
    """

    feature_channels = 64
    """Channels of `features`."""

    linear_chains: LinearChains = (("up1", "head"),)

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.encoder = Encoder(bands)
        self.stage4 = stage4()
        self.up_x16 = nn.Sequential(up(1024, 256), up(256, 256))
        self.stage5 = stage5(256)
        self.up_x8 = up(2048, 256)
        self.bn_x8 = batch_norm(256)
        self.lstm = ConvLSTM(256, 128, go_backwards=True)
        self.conv1 = SameConv2d(128, 256, 3)
        self.up1 = nn.Sequential(up(256, 128), up(128, self.feature_channels))
        self.head = nn.Conv2d(self.feature_channels, classes, 1)
        self.dropout = nn.Dropout(0.5)
        init_kernels("glorot_uniform", self.encoder, self.stage4, self.stage5, self.head)
        init_kernels("he_normal", self.up_x16, self.up_x8, self.conv1, self.up1)

    def features(self, x: Tensor) -> Tensor:
        """Everything but the head: (n, bands, y, x) to (n, 64, y, x)."""
        x16 = self.stage4(self.encoder(x))  # (n, 1024, 16, 16)
        a = self.dropout(self.up_x16(x16))  # (n, 256, 64, 64)
        b = self.stage5(a)  # (n, 2048, 32, 32)
        b = F.relu(self.bn_x8(self.dropout(self.up_x8(b))), inplace=True)  # (n, 256, 64, 64)
        x = self.lstm([a, b])  # (n, 128, 64, 64): b first, then a
        x = F.relu(self.conv1(x), inplace=True)  # (n, 256, 64, 64)
        features: Tensor = self.up1(x)  # (n, 64, 256, 256)
        return features


class UNetBranch(Network):
    """Sentinel-2 branch of DeepForest-2a: the features are the U-Net's own logits."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.feature_channels = classes
        self.unet = UNet(bands, classes)
        self.head = nn.Conv2d(classes, classes, 1)
        init_kernels("glorot_uniform", self.head)

    def features(self, x: Tensor) -> Tensor:
        """Everything but the head: (n, bands, y, x) to (n, classes, y, x)."""
        features: Tensor = self.unet(x)
        return features


class DeepForest2(TwoBranchNetwork):
    """What both networks share: the Sentinel-1 branch, its head, and the fusion."""

    def __init__(self, months: int, s2_branch: UNetBranch | DeepForest1b | ReleasedBranch) -> None:
        bands, classes = s2_branch.bands, s2_branch.classes
        super().__init__(bands, classes, months)
        self.s1_lstm = ConvLSTM(
            2, S1_FILTERS, activation="relu", dropout=0.2, recurrent_dropout=0.2
        )
        self.s2_branch = s2_branch
        self.s1_head = nn.Conv2d(S1_FILTERS, classes, 1)
        self.fused_head = FusedHead(s2_branch.feature_channels, S1_FILTERS, classes)
        init_kernels("glorot_uniform", self.s1_head, self.fused_head)
        self.linear_chains = tuple(
            (f"s2_branch.{feeder}", "fused_head")
            for feeder, consumer in s2_branch.linear_chains
            if consumer == "head"
        )

    def forward(self, s2: Tensor, s1: Tensor) -> Tensor | Heads:
        """Classify an image and a series of one place.

        Parameters
        ----------
        s2 : Tensor[float32], dims (n, bands, y, x)
            Standardised; sides are multiples of 32.
        s1 : Tensor[float32], dims (n, months, 2, y, x)
            Standardised, in calendar order.

        Returns
        -------
        Tensor[float32], dims (n, classes, y, x), or Heads
            Fused logits in eval mode; the logits of all three heads in training mode.

        Raises
        ------
        BandMismatchError, ConfigError
            If channels, months or sides do not fit.
        """
        self.check_pair(s2, s1)  # (n, bands, 256, 256), (n, months, 2, 256, 256)
        s = self.s1_lstm(s1.unbind(dim=1))  # (n, 64, 256, 256)
        f = self.s2_branch.features(s2)  # (n, 128 in 2b, 64 if released, K in 2a, 256, 256)
        fused: Tensor = self.fused_head(f, s)  # (n, classes, 256, 256)
        if not self.training:
            return fused
        return Heads(s1=self.s1_head(s), s2=self.s2_branch.head(f), fused=fused)


class FusedHead(nn.Conv2d):
    """1 x 1 convolution over the features of both branches, Sentinel-2 first."""

    def __init__(self, s2_channels: int, s1_channels: int, classes: int) -> None:
        super().__init__(s2_channels + s1_channels, classes, 1)
        self.s2_channels = s2_channels

    def forward(self, f: Tensor, s: Tensor) -> Tensor:  # type: ignore[override]
        """Join (n, s2_channels, y, x) and (n, s1_channels, y, x) to (n, classes, y, x)."""
        return super().forward(torch.cat([f, s], dim=1))


class DeepForest2a(DeepForest2):
    """DeepForest-2a: ConvLSTM over the Sentinel-1 months beside the U-Net.

    Parameters
    ----------
    bands, classes : int
        Sentinel-2 channels in, classes out.
    months : int
        Length of the Sentinel-1 series.

    References
    ----------
    Cherif, Hell & Brandmeier 2022, Remote Sensing 14(19), 5000.
    """

    def __init__(self, bands: int, classes: int, months: int) -> None:
        super().__init__(months, UNetBranch(bands, classes))


class DeepForest2b(DeepForest2):
    """DeepForest-2b: ConvLSTM over the Sentinel-1 months beside DeepForest-1b.

    Parameters
    ----------
    bands, classes : int
        Sentinel-2 channels in, classes out.
    months : int
        Length of the Sentinel-1 series.
    s2_branch : {None, "released"}
        None for DeepForest-1b, as the paper says; "released" for what its code trains.

    References
    ----------
    Cherif, Hell & Brandmeier 2022, Remote Sensing 14(19), 5000.
    """

    def __init__(
        self,
        bands: int,
        classes: int,
        months: int,
        s2_branch: Literal["released"] | None = None,
    ) -> None:
        branch = ReleasedBranch if s2_branch == "released" else DeepForest1b
        super().__init__(months, branch(bands, classes))
