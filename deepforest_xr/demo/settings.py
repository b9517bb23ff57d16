"""What a demo runs on and how: plain values, kept beside its results."""

from __future__ import annotations

from dataclasses import dataclass

from deepforest_xr.cube import DATASETS
from deepforest_xr.errors import ConfigError
from deepforest_xr.models import entry


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What a demo runs on and how."""

    items: str | None = None
    """STAC items on disk; None simulates scenes."""

    labels: str | None = None
    """Label raster; default: ``labels/<site>.tif`` beside the items."""

    legend: str | None = None
    """CSV of the label codes; default: ``legend.csv`` beside the label raster."""

    collection: int | None = None
    """MapBiomas collection of the label raster, instead of a legend."""

    site: str | None = None
    """Value of the items' property ``site``; default: the first that has labels."""

    datetime: str | None = None
    """Period; default: the last twelve months of the items."""

    dataset: str | None = None
    """S2, S1TsS2_7 or S1TsS2_12; default: S1TsS2_7 on simulated scenes, on others Sentinel-2
    with the Sentinel-1 months that exist."""

    model: str = "u-net"
    """Network; the small one learns most in minutes on a CPU."""

    size: int = 512
    """Side of the simulated scene in pixels."""

    chip: int = 64
    """Side of a chip in pixels. Areas below 320 pixels are one chip, dealt to the splits in
    squares."""

    epochs: int | None = None
    """Epochs at most; default: as many as show some four million pixels."""

    batch: int = 4
    """Chips a step; few, because a small area has few chips."""

    learning_rate: float = 1e-3
    """Of Adam; ten times the paper's, because a demo has few steps."""

    seed: int = 0
    """Of simulation, split and training."""

    def __post_init__(self) -> None:
        entry(self.model)
        if self.collection is not None and self.legend is not None:
            raise ConfigError("legend and collection were both given: codes mean one thing.")
        if self.dataset is not None and self.dataset not in DATASETS:
            raise ConfigError(f"dataset={self.dataset!r} is unknown; known: {', '.join(DATASETS)}.")
