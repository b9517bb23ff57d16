"""What every network of this library has in common: where it came from, what it accepts.

A network takes images whose sides are multiples of 32 and returns logits. Nothing is
padded or resized in silence: an input of another size or with other channels is refused
by an error that names both sides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from deepforest_xr.errors import BandMismatchError, ConfigError

STRIDE = 32

LinearChains = tuple[tuple[str, str], ...]


class Heads(NamedTuple):
    """Logits of a two-branch network in training, each (n, classes, y, x)."""

    s1: Tensor
    """From Sentinel-1 alone."""

    s2: Tensor
    """From Sentinel-2 alone."""

    fused: Tensor
    """From both: the prediction."""


class Network(nn.Module):
    """Base of all networks: (n, bands, y, x) to logits (n, classes, y, x)."""

    model_name: str
    """Name in the registry, set by `build`."""

    build_arguments: dict[str, Any]
    """Keyword arguments that make `build` return the same network, set by `build`."""

    linear_chains: LinearChains = ()
    """(feeder, consumer): linear layers with nothing but dropout between, and the consumer has
    no other input from them; a ConvLSTM's is the step it sees first. For `optimize`."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.model_name = type(self).__name__
        self.build_arguments = {}
        self.bands = bands
        self.classes = classes

    def check_image(self, x: Tensor) -> None:
        """Refuse anything but (n, bands, y, x) with sides that are multiples of 32.

        Raises
        ------
        BandMismatchError
            If the channels are not the network's.
        ConfigError
            If the dimensions or the sides do not fit.
        """
        if x.ndim != 4:
            raise ConfigError(
                f"{self.model_name} takes images (n, {self.bands}, y, x), got shape "
                f"{tuple(x.shape)}: add or drop a dimension."
            )
        if x.shape[1] != self.bands:
            raise BandMismatchError(
                f"{self.model_name} was built for {self.bands} bands, got {x.shape[1]} (shape "
                f"{tuple(x.shape)}): select its bands, or build it with bands={x.shape[1]}."
            )
        rows, cols = x.shape[2:]
        if rows % STRIDE or cols % STRIDE or not rows * cols:
            up_rows, up_cols = (max(-(-side // STRIDE), 1) * STRIDE for side in (rows, cols))
            raise ConfigError(
                f"{self.model_name} takes sides that are multiples of {STRIDE} pixels, got "
                f"{rows} x {cols}: pad to {up_rows} x {up_cols}."
            )


class TwoBranchNetwork(Network):
    """Base of the networks that see Sentinel-2 and a Sentinel-1 series apart."""

    def __init__(self, bands: int, classes: int, months: int) -> None:
        super().__init__(bands, classes)
        self.months = months

    def check_pair(self, s2: Tensor, s1: Tensor) -> None:
        """Refuse anything but s2 (n, bands, y, x) with s1 (n, months, 2, y, x) of its size.

        Raises
        ------
        BandMismatchError
            If bands, months or polarizations are not the network's.
        ConfigError
            If the dimensions or the sides do not fit.
        """
        self.check_image(s2)
        count, _, rows, cols = s2.shape
        expected = (count, self.months, 2, rows, cols)
        if s1.ndim == 5 and tuple(s1.shape[1:3]) != expected[1:3]:
            raise BandMismatchError(
                f"{self.model_name} was built for {self.months} Sentinel-1 months of 2 "
                f"polarizations, got {s1.shape[1]} of {s1.shape[2]} (shape {tuple(s1.shape)}): "
                f"select its months, or build it with months={s1.shape[1]}."
            )
        if tuple(s1.shape) != expected:
            raise ConfigError(
                f"{self.model_name} takes s1 (n, months, 2, y, x) = {expected} beside s2 "
                f"{tuple(s2.shape)}, got {tuple(s1.shape)}: cut both from one grid."
            )
