"""How a network is trained: plain values, checked when made, kept beside the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deepforest_xr.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of a training run; the defaults are the paper's, but for patience."""

    epochs: int = 100
    """At most; early stopping usually ends a run before."""

    batch: int = 10
    """Chips a step."""

    learning_rate: float = 1e-4
    """Of Adam."""

    patience: int = 10
    """Epochs without a better validation accuracy before training stops (the paper's is 1)."""

    loss: str = "cross-entropy"
    """Name of one of `training.losses.LOSSES`; others bear wrong labels better."""

    class_weights: str = "share"
    """Name of one of `training.losses.CLASS_WEIGHTS`; the paper's is 100 - share in percent."""

    augment: bool = True
    """Turn chips by multiples of 90 degrees and mirror them."""

    balanced: bool = False
    """Draw chips so that each class is seen as often as the others."""

    month_dropout: float = 0.0
    """Probability that a Sentinel-1 month is missing in a training chip; never all are."""

    seed: int = 0
    """Of weights, order and augmentation."""

    device: str = "auto"
    """``"auto"`` takes CUDA where there is one; ``"cpu"``, ``"cuda"``."""

    workers: int = 0
    """Processes that read ahead; 0 reads between the steps. Results are the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.month_dropout < 1 or self.workers < 0:
            raise ConfigError(
                f"month_dropout={self.month_dropout} must be 0 to below 1, workers={self.workers} "
                "0 or more."
            )
        if self.epochs < 1 or self.batch < 1 or self.patience < 1:
            raise ConfigError(
                f"epochs={self.epochs}, batch={self.batch} and patience={self.patience} "
                "must be at least 1."
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} is negative; try 0.")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate={self.learning_rate} is not positive; try 1e-4.")
        if self.device not in {"auto", "cpu", "cuda"}:
            raise ConfigError(f"device={self.device!r}; expected 'auto', 'cpu' or 'cuda'.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
