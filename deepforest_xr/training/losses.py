"""Weighted cross-entropy of the paper, for one head and for three."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from deepforest_xr.models.network import Heads
from deepforest_xr.training.data import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_WEIGHTS = Heads(0.3, 0.7, 1.0)  # type: ignore[arg-type]
"""Weights of the heads' losses: Sentinel-1, Sentinel-2, fused."""


def class_weights(counts: NDArray[np.int64]) -> torch.Tensor:
    """100 minus the class's share in percent, as in the paper.

    Parameters
    ----------
    counts : ndarray[int], dims (class,)
        Labelled training pixels.

    Returns
    -------
    Tensor[float32], dims (class,)
        At least 1, so that a class that covers everything still counts.

    References
    ----------
    Cherif, Hell & Brandmeier, Remote Sensing 2022, 14(19), 5000.
    """
    shares = 100 * counts / max(int(counts.sum()), 1)
    return torch.tensor(np.maximum(100 - shares, 1.0), dtype=torch.float32)


def cross_entropy(
    output: torch.Tensor | Heads, target: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy weighted by class, of one head or summed over three.

    Parameters
    ----------
    output : Tensor (n, class, y, x) or Heads of three
        Logits.
    target : Tensor[int64], dims (n, y, x)
        Class indices; 255 is left out.
    weights : Tensor, dims (class,)

    Returns
    -------
    Tensor, scalar
        0 where no pixel has a label.
    """
    if isinstance(output, Heads):
        parts = [
            share * cross_entropy(head, target, weights)
            for share, head in zip(HEAD_WEIGHTS, output, strict=True)
        ]
        return torch.stack(parts).sum()
    if not (target != IGNORED).any():
        return output.sum() * 0
    return F.cross_entropy(output, target, weight=weights, ignore_index=IGNORED)
