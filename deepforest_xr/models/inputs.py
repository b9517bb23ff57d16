"""Arrays of a cube or a chip to what a network takes: stacked, standardised, without NaN.

The same function serves training and classification, so that a model sees a scene as it
saw its chips. No statistic is ever taken from the scene that is classified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Standardisation:
    """Frozen statistics of the training chips, and how the network wants its channels."""

    mean: NDArray[np.float32]
    """Per channel, Sentinel-1 first; dims (channel,)."""

    std: NDArray[np.float32]
    """Per channel; dims (channel,)."""

    months: int
    """Sentinel-1 months among the channels, 0 without Sentinel-1."""

    is_two_branch: bool
    """Whether the network takes Sentinel-2 and Sentinel-1 apart."""

    def apply(
        self, s2: NDArray[np.float32], s1: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], ...]:
        """Stack, standardise and fill the inputs of one image.

        Parameters
        ----------
        s2 : ndarray[float32], dims (band, y, x)
            Reflectance.
        s1 : ndarray[float32] or None, dims (month, polarization, y, x)
            Backscatter in dB.

        Returns
        -------
        tuple of ndarray[float32]
            ``(x,)`` with x (channel, y, x), or ``(s2, s1)`` for a two-branch network.
            Missing values stand at the mean, 0.
        """
        filled = stack_channels(s2, s1).astype("float32", copy=s1 is None)
        filled -= self.mean[:, None, None]
        filled /= self.std[:, None, None]
        np.copyto(filled, np.float32(0), where=~np.isfinite(filled))
        if not self.is_two_branch:
            return (filled,)
        radar = 2 * self.months
        return filled[radar:], filled[:radar].reshape(self.months, 2, *filled.shape[1:])


def stack_channels(s2: NDArray[np.float32], s1: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Put the Sentinel-1 months, both polarizations each, before the Sentinel-2 bands.

    Parameters
    ----------
    s2 : ndarray[float32], dims (band, y, x)
    s1 : ndarray[float32] or None, dims (month, polarization, y, x)

    Returns
    -------
    ndarray[float32], dims (channel, y, x)
    """
    if s1 is None:
        return s2
    return np.concatenate([s1.reshape(-1, *s1.shape[2:]), s2])
