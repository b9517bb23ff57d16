"""Steps that look at one scene's pixels and their neighbours, for a reader to take.

A reader that is told a step's `reach` reads as much more around each window, so that the
result does not depend on how a grid is cut into chunks or tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import ConfigError
from deepforest_xr.sentinel import border
from deepforest_xr.sentinel.clouds import clear_mask_array, cloud_distance_array
from deepforest_xr.sentinel.speckle import FILTERS, GRD_LOOKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOUD_REACH = 64
"""Pixels at which a cloud is far enough away: beyond it all distances are the same."""


@dataclass(frozen=True, slots=True)
class ClearMask:
    """Scene classes to 1 where a pixel is clear, 0 elsewhere."""

    masked: tuple[int, ...]
    """Scene classes left out."""

    dilation: int
    """Pixels clouds and shadows are grown by."""

    dtype = "uint8"
    fill = 0.0

    @property
    def reach(self) -> int:
        """Pixels around a window that its result depends on."""
        return self.dilation

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Clear pixels of scene classes (..., y, x)."""
        return clear_mask_array(values, masked=self.masked, dilation=self.dilation)


@dataclass(frozen=True, slots=True)
class CloudDistance:
    """Scene classes to pixels from the nearest cloud, 0 where a pixel is not clear."""

    masked: tuple[int, ...]
    dilation: int

    dtype = "uint8"
    fill = 0.0

    @property
    def reach(self) -> int:
        """Pixels around a window that its result depends on."""
        return self.dilation + CLOUD_REACH

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Distance for scene classes (..., y, x), at most `CLOUD_REACH`."""
        clear = clear_mask_array(values, masked=self.masked, dilation=self.dilation)
        # The edge of the swath is no cloud: what lies beyond is not clear, but not near either.
        distance = cloud_distance_array(~clear & (values != 0), CLOUD_REACH)
        return np.where(clear, distance, np.float32(0))


@dataclass(frozen=True, slots=True)
class Clean:
    """Linear power with its border noise missing and its speckle filtered."""

    without_border: bool = False
    """Whether low values along the no-data area go, see `border.mask_border_noise`."""

    speckle: str | None = None
    """A filter of `FILTERS` for single scenes."""

    window: int = 7
    looks: float = GRD_LOOKS

    dtype = "float32"
    fill = float("nan")

    def __post_init__(self) -> None:
        if self.speckle is not None and self.speckle not in FILTERS:
            raise ConfigError(
                f"speckle={self.speckle!r}; expected one of {', '.join(FILTERS)}, or None."
            )
        if self.window < 3 or self.window % 2 == 0 or not self.looks > 0:
            raise ConfigError(
                f"window={self.window}, looks={self.looks}: a speckle window is odd and at "
                "least 3 pixels, looks are positive (Sentinel-1 GRD has 4.4)."
            )

    @property
    def reach(self) -> int:
        """Pixels around a window that its result depends on."""
        filtered = FILTERS[self.speckle].reach(self.window) if self.speckle else 0
        return filtered + (border.reach() if self.without_border else 0)

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Clean linear power (..., y, x); zero and negative become NaN."""
        power = np.where(values > 0, values, np.float32(np.nan))
        if self.without_border:
            power = border.mask_border_noise_array(power)
        if self.speckle is None:
            return power
        chosen = FILTERS[self.speckle]
        settings = {"window": self.window, "looks": self.looks}
        return chosen.kernel(power, **{name: settings[name] for name in chosen.settings})


def nothing_to_do(clean: Clean) -> bool:
    """Whether a scene's power goes on as it is."""
    return clean.speckle is None and not clean.without_border
