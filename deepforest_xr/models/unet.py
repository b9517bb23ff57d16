"""U-Net of the paper: 6 x 6 convolutions at six scales, every second one dilated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepforest_xr.models.blocks import SameConv2d, SameConvTranspose2d, batch_norm, init_kernels
from deepforest_xr.models.network import LinearChains, Network

ENCODER_FILTERS = (8, 32, 32, 64, 64, 128)
DECODER_FILTERS = (32, 32, 64, 64, 128)


class EncoderStep(nn.Module):
    """Two 6 x 6 convolutions, the second dilated by 2, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.conv1 = SameConv2d(inputs, filters, 6)
        self.bn1 = batch_norm(filters, momentum=0.1)
        self.conv2 = SameConv2d(filters, filters, 6, dilation=2)
        self.bn2 = batch_norm(filters, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, inputs, y, x) to (n, filters, y, x)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class DecoderStep(nn.Module):
    """6 x 6 convolution with ReLU, then a transposed 6 x 6 that doubles the size."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.conv = SameConv2d(inputs, filters, 6)
        self.up = SameConvTranspose2d(filters, filters, 6, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (n, inputs, y, x) to (n, filters, 2 y, 2 x)."""
        y: Tensor = self.up(F.relu(self.conv(x), inplace=True))
        return y


class UNet(Network):
    """U-Net with 6 x 6 kernels.

    Parameters
    ----------
    bands, classes : int
        Channels in and out.

    References
    ----------
    Cherif, Hell & Brandmeier 2022, Remote Sensing 14(19), 5000.
    """

    linear_chains: LinearChains = ((f"decoder.{len(DECODER_FILTERS) - 1}.up", "head"),)

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        inputs = (bands, *ENCODER_FILTERS[:-1])
        self.encoder = nn.ModuleList(map(EncoderStep, inputs, ENCODER_FILTERS))
        # A decoder step takes the running map and the encoder's map of the same size.
        skips = ENCODER_FILTERS[:0:-1]  # 128, 64, 64, 32, 32: the shallowest is not used
        running = (ENCODER_FILTERS[-1], *DECODER_FILTERS[:-1])
        joined = [r + s for r, s in zip(running, skips, strict=True)]
        self.decoder = nn.ModuleList(map(DecoderStep, joined, DECODER_FILTERS))
        self.head = SameConvTranspose2d(DECODER_FILTERS[-1], classes, 6, stride=1)
        init_kernels("lecun_normal", self)
        init_kernels("glorot_normal", self.head)

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
        maps = self.encode(x)
        x = maps[-1]  # (n, 128, 8, 8)
        # To (n, 32, 16, 16), (n, 32, 32, 32), (n, 64, 64, 64), (n, 64, 128, 128) and
        # (n, 128, 256, 256); the first step joins the bottom map with itself.
        for step, skip in zip(self.decoder, reversed(maps), strict=True):
            x = step(torch.cat([x, skip], dim=1))
        logits: Tensor = self.head(x)  # (n, classes, 256, 256)
        return logits

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the five maps that the decoder takes, from half the size to 1/32."""
        x = self.encoder[0](x)  # (n, 8, 256, 256)
        maps = []
        # To (n, 32, 128, 128), (n, 32, 64, 64), (n, 64, 32, 32), (n, 64, 16, 16) and
        # (n, 128, 8, 8).
        for step in list(self.encoder)[1:]:
            x = step(F.max_pool2d(x, kernel_size=2))
            maps.append(x)
        return maps
