"""DeepLab of the paper: ResNet50 that stops shrinking at 1/8, three dilated branches on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepforest_xr.models.blocks import enlarge, init_kernels
from deepforest_xr.models.network import Network
from deepforest_xr.models.resnet import Encoder, stage


class DeepLab(Network):
    """DeepLab with three parallel atrous branches of bottleneck blocks.

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
        self.encoder = Encoder(bands)
        self.stage4 = stage(512, (256, 256, 1024), stride=1, identities=5, dilation=2)
        # The published layers of the branches are named as stages of their own.
        self.stage5 = stage(1024, (512, 512, 2048), stride=1, identities=2, dilation=6)
        self.stage6 = stage(1024, (512, 512, 2048), stride=1, identities=2, dilation=12)
        self.stage7 = stage(1024, (512, 512, 2048), stride=1, identities=2, dilation=18)
        self.point = nn.Conv2d(1024, classes, 1)
        self.head = nn.Conv2d(classes + 3 * 2048, classes, 1)
        self.dropout = nn.Dropout(0.5)
        init_kernels("glorot_uniform", self)

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
        x = self.stage4(self.encoder(x))  # (n, 1024, 32, 32)
        branches = (self.stage5, self.stage6, self.stage7)
        wide = [self.dropout(branch(x)) for branch in branches]  # three of (n, 2048, 32, 32)
        x = self.head(torch.cat([self.point(x), *wide], dim=1))  # (n, classes, 32, 32)
        return enlarge(x, 8)  # (n, classes, 256, 256)
