"""Losses of a segmentation: the paper's weighted cross-entropy, and those that bear label noise.

A loss is its settings and a formula per labelled pixel (`pixels`); what all share stands once
in `Loss`: pixels without a label are left out, classes and pixels weigh, heads are summed.
`LOSSES` names them with the settings of their papers; `dataclasses.replace` changes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from deepforest_xr.errors import ConfigError
from deepforest_xr.models.network import Heads
from deepforest_xr.training.data import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HEAD_WEIGHTS = Heads(0.3, 0.7, 1.0)  # type: ignore[arg-type]
"""Weights of the heads' losses: Sentinel-1, Sentinel-2, fused."""

# Below this, 1 - p counts as 0: a power of it below 1 has no finite gradient at 0.
CERTAIN = 1e-12


# ---- weights of classes


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


def inverse_frequency_weights(counts: NDArray[np.int64]) -> torch.Tensor:
    """Weights proportional to 1 / pixels: all classes together weigh alike.

    Parameters
    ----------
    counts : ndarray[int], dims (class,)
        Labelled training pixels.

    Returns
    -------
    Tensor[float32], dims (class,)
        1 on average over the classes that occur. A class without a pixel weighs as much as
        the rarest that occurs.
    """
    return _inverse(np.asarray(counts, dtype="float64"))


def square_root_weights(counts: NDArray[np.int64]) -> torch.Tensor:
    """Weights proportional to 1 / sqrt(pixels): half way between uniform and inverse frequency.

    Parameters
    ----------
    counts : ndarray[int], dims (class,)
        Labelled training pixels.

    Returns
    -------
    Tensor[float32], dims (class,)
        As of `inverse_frequency_weights`.
    """
    return _inverse(np.sqrt(np.asarray(counts, dtype="float64")))


def effective_number_weights(counts: NDArray[np.int64], *, beta: float = 0.999999) -> torch.Tensor:
    """Weights proportional to 1 / effective number of pixels, (1 - beta^n) / (1 - beta).

    Parameters
    ----------
    counts : ndarray[int], dims (class,)
        Labelled training pixels.
    beta : float
        From 0 (all classes alike) to below 1 (towards inverse frequency). A class has at
        most 1 / (1 - beta) effective pixels: the paper's 0.9999 is for thousands of
        images a class, not for millions of pixels.

    Returns
    -------
    Tensor[float32], dims (class,)
        As of `inverse_frequency_weights`.

    Raises
    ------
    ConfigError
        If `beta` is not from 0 to below 1.

    References
    ----------
    Cui, Jia, Lin, Song & Belongie, Class-balanced loss based on effective number of
    samples, CVPR 2019.
    """
    _require_range("beta", beta, 0 <= beta < 1, "from 0 to below 1; try 0.9999")
    pixels = np.asarray(counts, dtype="float64")
    if beta == 0:
        return _inverse((pixels > 0).astype("float64"))
    return _inverse(-np.expm1(pixels * np.log(beta)) / (1 - beta))


def uniform_weights(counts: NDArray[np.int64]) -> torch.Tensor:
    """1 for every class."""
    return torch.ones(len(counts), dtype=torch.float32)


def _inverse(numbers: NDArray[np.float64]) -> torch.Tensor:
    occurs = numbers > 0
    if not occurs.any():
        return torch.ones(len(numbers), dtype=torch.float32)
    weights = 1 / np.where(occurs, numbers, numbers[occurs].min())
    return torch.tensor(weights / weights[occurs].mean(), dtype=torch.float32)


CLASS_WEIGHTS: dict[str, Callable[[NDArray[np.int64]], torch.Tensor]] = {
    "share": class_weights,
    "inverse-frequency": inverse_frequency_weights,
    "square-root": square_root_weights,
    "effective-number": effective_number_weights,
    "uniform": uniform_weights,
}
"""From labelled training pixels a class to the classes' weights, by name."""


# ---- losses


def _of_label(log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return log_p.gather(1, target[:, None])[:, 0]


def _require_range(name: str, value: float, is_inside: bool, expected: str) -> None:
    if not is_inside:
        raise ConfigError(f"{name}={value} is out of range; expected {expected}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(ABC):
    """Settings of a loss, called with logits and labels."""

    @abstractmethod
    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of each pixel.

        Parameters
        ----------
        log_p : Tensor[float32 or float64], dims (pixel, class)
            Logarithms of the classes' probabilities.
        target : Tensor[int64], dims (pixel,)
            Class indices.

        Returns
        -------
        Tensor, dims (pixel,)
        """

    def __call__(
        self,
        output: torch.Tensor | Heads,
        target: torch.Tensor,
        weights: torch.Tensor | None = None,
        pixel_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted mean over the labelled pixels, of one head or summed over three.

        Parameters
        ----------
        output : Tensor (n, class, y, x) or Heads of three
            Logits.
        target : Tensor[int64], dims (n, y, x)
            Class indices; 255 is left out and has no gradient.
        weights : Tensor, dims (class,), optional
            Weight of a pixel by its label.
        pixel_weights : Tensor, dims (n, y, x), optional
            Confidence in each label, 0 or more; multiplies the class's weight.

        Returns
        -------
        Tensor, scalar
            0 where nothing weighs, as in a batch without a label.
        """
        if isinstance(output, Heads):
            parts = [
                share * self(head, target, weights, pixel_weights)
                for share, head in zip(HEAD_WEIGHTS, output, strict=True)
            ]
            return torch.stack(parts).sum()
        known = target != IGNORED
        logits, labels = output.movedim(1, -1)[known], target[known]
        if logits.dtype in {torch.float16, torch.bfloat16}:
            logits = logits.float()
        weight = torch.ones_like(logits[:, 0]) if weights is None else weights.to(logits)[labels]
        if pixel_weights is not None:
            weight = weight * pixel_weights.to(logits)[known]
        counts = weight > 0
        if not counts.any():
            return logits[:0].sum()
        logits, labels, weight = logits[counts], labels[counts], weight[counts]
        losses = self.pixels(F.log_softmax(logits, dim=1), labels)
        return (losses * weight).sum() / weight.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(Loss):
    """-log p of the label; with `class_weights`, the paper's loss.

    References
    ----------
    Cherif, Hell & Brandmeier, Remote Sensing 2022, 14(19), 5000.
    """

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-log p."""
        return -_of_label(log_p, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Focal(Loss):
    """Cross-entropy times (1 - p)^gamma: pixels that are right already count less.

    References
    ----------
    Lin, Goyal, Girshick, He & Dollar, Focal loss for dense object detection, ICCV 2017,
    equation 4; its alpha are the classes' weights.
    """

    gamma: float = 2.0
    """0 is cross-entropy."""

    def __post_init__(self) -> None:
        _require_range("gamma", self.gamma, 0 <= self.gamma < np.inf, "0 or more; try 2")

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-(1 - p)^gamma log p."""
        own = _of_label(log_p, target)
        return -((-torch.expm1(own)).clamp(min=CERTAIN) ** self.gamma) * own


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralisedCrossEntropy(Loss):
    """(1 - p^q) / q: bounded by 1 / q, so that a wrong label pulls no harder than that.

    References
    ----------
    Zhang & Sabuncu, Generalized cross entropy loss for training deep neural networks with
    noisy labels, NeurIPS 2018.
    """

    q: float = 0.7
    """Towards 0 it is cross-entropy, 1 is the mean absolute error (halved)."""

    def __post_init__(self) -> None:
        _require_range("q", self.q, 0 < self.q <= 1, "above 0 to 1; try 0.7")

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(1 - p^q) / q."""
        return -torch.expm1(self.q * _of_label(log_p, target)) / self.q


@dataclass(frozen=True, slots=True, kw_only=True)
class SymmetricCrossEntropy(Loss):
    """alpha times cross-entropy plus beta times reverse cross-entropy.

    The reverse has the labels' distribution inside of the logarithm, whose log 0 is a
    constant: it comes to (1 - p) times that constant's size.

    References
    ----------
    Wang, Ma, Chen, Luo, Yi & Bailey, Symmetric cross entropy for robust learning with
    noisy labels, ICCV 2019.
    """

    alpha: float = 0.1
    """Of cross-entropy; 1 with beta 0 is cross-entropy."""

    beta: float = 1.0
    """Of reverse cross-entropy."""

    log_zero: float = -4.0
    """What log 0 counts as."""

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            _require_range(name, value, 0 <= value < np.inf, "0 or more")
        _require_range("log_zero", self.log_zero, -np.inf < self.log_zero < 0, "below 0; try -4")

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-alpha log p - beta A (1 - p)."""
        own = _of_label(log_p, target)
        return -self.alpha * own + self.beta * self.log_zero * torch.expm1(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSmoothing(Loss):
    """Cross-entropy with a share of every label spread evenly over all classes.

    References
    ----------
    Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, Rethinking the Inception architecture for
    computer vision, CVPR 2016, section 7.
    """

    smoothing: float = 0.1
    """Share that is spread; 0 is cross-entropy."""

    def __post_init__(self) -> None:
        _require_range("smoothing", self.smoothing, 0 <= self.smoothing < 1, "from 0 to below 1")

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-(1 - smoothing) log p - smoothing times the mean of all log p."""
        spread = log_p.mean(dim=1)
        return -(1 - self.smoothing) * _of_label(log_p, target) - self.smoothing * spread


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftBootstrapping(Loss):
    """Cross-entropy towards a mixture of the label and the network's own probabilities.

    References
    ----------
    Reed, Lee, Anguelov, Szegedy, Erhan & Rabinovich, Training deep neural networks on
    noisy labels with bootstrapping, ICLR 2015 (workshop).
    """

    beta: float = 0.95
    """Share of the label; 1 is cross-entropy."""

    def __post_init__(self) -> None:
        _require_range("beta", self.beta, 0 < self.beta <= 1, "above 0 to 1; try 0.95")

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-beta log p - (1 - beta) times the sum of all p log p."""
        entropy = -(log_p.exp() * log_p).sum(dim=1)
        return -self.beta * _of_label(log_p, target) + (1 - self.beta) * entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class HardBootstrapping(Loss):
    """Cross-entropy towards a mixture of the label and the network's most likely class.

    References
    ----------
    Reed et al. 2015, as for `SoftBootstrapping`.
    """

    beta: float = 0.8
    """Share of the label; 1 is cross-entropy."""

    def __post_init__(self) -> None:
        _require_range("beta", self.beta, 0 < self.beta <= 1, "above 0 to 1; try 0.8")

    def pixels(self, log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-beta log p - (1 - beta) log of the largest p."""
        likeliest = log_p.max(dim=1).values
        return -self.beta * _of_label(log_p, target) - (1 - self.beta) * likeliest


LOSSES: dict[str, Loss] = {
    "cross-entropy": CrossEntropy(),
    "focal": Focal(),
    "generalised-cross-entropy": GeneralisedCrossEntropy(),
    "symmetric-cross-entropy": SymmetricCrossEntropy(),
    "label-smoothing": LabelSmoothing(),
    "bootstrapping-soft": SoftBootstrapping(),
    "bootstrapping-hard": HardBootstrapping(),
}
"""Losses by name; other settings: ``dataclasses.replace(LOSSES["focal"], gamma=1.0)``."""


def loss_of(name: str) -> Loss:
    """Loss of that name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in LOSSES:
        raise ConfigError(f"loss {name!r} is unknown; known: {', '.join(LOSSES)}.")
    return LOSSES[name]


def weights_of(name: str, counts: NDArray[np.int64]) -> torch.Tensor:
    """Classes' weights of that name, from labelled training pixels a class.

    Raises
    ------
    ConfigError
        If there are none.
    """
    if name not in CLASS_WEIGHTS:
        raise ConfigError(f"class weights {name!r} are unknown; known: {', '.join(CLASS_WEIGHTS)}.")
    return CLASS_WEIGHTS[name](counts)
