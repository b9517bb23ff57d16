"""A moving average of a network's weights: what is validated and saved, never what is trained.

Lightning's `EMAWeightAveraging` puts the average into full states only: a checkpoint of the
weights alone, as the best epoch's is, would hold the raw ones that nobody validated. It also
averages the weights of classes, and begins with a long memory of the untrained network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn


class Average:
    """Moving average of parameters and of BatchNorm's statistics.

    The running statistics are means over the recent steps' activations. Those of the newest
    step belong to the newest weights; averaged alike, they stay near to what the averaged
    weights produce, without another pass over the data. Counters of batches are copied.

    Parameters
    ----------
    network : nn.Module
        Whose weights are averaged.
    decay : float
        Share that stays in a step, from 0 to below 1. The first steps forget faster,
        ``(1 + step) / (10 + step)``, so that the initial weights do not last.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.is_in_use = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, which counts from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, new in self.network.state_dict().items():
            mean = self.values[name] = self.values[name].to(new.device)
            if mean.is_floating_point():
                mean.lerp_(new, 1 - decay)
            else:
                mean.copy_(new)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights and the average, in place."""
        for name, own in self.network.state_dict().items():
            raw = own.clone()
            own.copy_(self.values[name])
            self.values[name] = raw
        self.is_in_use = not self.is_in_use

    def load(self, average: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.values = {k: v.detach().clone() for k, v in average.items()}
        self.is_in_use = False
