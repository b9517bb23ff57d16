"""How a network is trained: plain values, checked when made, kept beside the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deepforest_xr.errors import ConfigError

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Names of precisions, and Lightning's for them."""

SCHEDULES = ("constant", "cosine")
"""How the learning rate goes, see `training.schedule`."""

AUGMENTATIONS = ("eight", "paper", "none")
"""How training chips are turned, see `TrainSettings.augment`."""

ELSEWHERE = frozenset({"device", "devices", "workers", "tensorboard"})
"""Settings that are no part of what a run is: interrupted, it may go on with others."""

_AUGMENT_OF_FLAG: dict[Any, str] = {True: "eight", False: "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of a training run; `training.recipes` has named ones, among them the paper's."""

    recipe: str = "default"
    """Name of the recipe that these settings began as, see `training.recipe_of`."""

    epochs: int = 100
    """At most; early stopping usually ends a run before."""

    batch: int = 10
    """Chips a step, over all processes together: each of `devices` takes its even share."""

    learning_rate: float = 1e-3
    """Of Adam; with a schedule, the highest."""

    schedule: str = "constant"
    """``"constant"``, or ``"cosine"``: a rise in a line, then half a cosine to almost 0 at the
    end of `epochs`. A run that stops early never sees the low rates: take a long patience."""

    warmup: float = 0.05
    """Share of all steps in which the rate of ``"cosine"`` rises."""

    patience: int = 30
    """Epochs without a better validation accuracy before training stops (the paper's is 1)."""

    loss: str = "cross-entropy"
    """Name of one of `training.losses.LOSSES`; others bear wrong labels better."""

    class_weights: str = "square-root"
    """Name of one of `training.losses.CLASS_WEIGHTS`; the paper's ``"share"`` is 100 - share in
    percent, which weighs classes of a percent and of a thousandth alike."""

    gradient_clip: float = 0.0
    """Longest gradient (2-norm over all weights) that a step follows; 0 clips none."""

    ema: float = 0.98
    """Decay of the weights' moving average; 0 keeps none. The average is
    what is validated and what checkpoints hold, see `training.average`."""

    batchnorm_warmup: bool = True
    """Let BatchNorm's statistics follow the weights from the first step on, which short runs
    need; otherwise its momenta are the network's own, as in the paper."""

    precision: str = "32"
    """``"32"``; ``"bf16"`` or ``"16"`` multiply in 16 bits where that is safe, ``"16"`` on a
    GPU only."""

    augment: str = "eight"
    """``"eight"``: each of the eight turns and mirrorings of a chip alike; ``"paper"``: turned
    by 90 degrees or not, mirrored left to right or not; ``"none"``. True and False are
    ``"eight"`` and ``"none"``."""

    balanced: bool = False
    """Draw chips so that each class is seen as often as the others."""

    month_dropout: float = 0.0
    """Probability that a Sentinel-1 month is missing in a training chip; never all are."""

    seed: int = 0
    """Of weights, order and augmentation."""

    device: str = "auto"
    """``"auto"`` takes CUDA where there is one; ``"cpu"``, ``"cuda"``."""

    devices: int = 1
    """Processes that share each batch, on a GPU each with ``"cuda"``. BatchNorm sees a process's
    share of a batch, its statistics are averaged over the processes; all else is as with one."""

    workers: int = 0
    """Processes that read ahead, for each of `devices`; 0 reads between the steps. Results are
    the same. A script needs ``if __name__ == "__main__":`` around its call then."""

    tensorboard: bool = False
    """Write the log for TensorBoard too, into ``tensorboard/``."""

    def __post_init__(self) -> None:
        is_flag = isinstance(self.augment, (bool, int))
        augment = _AUGMENT_OF_FLAG.get(self.augment) if is_flag else self.augment
        object.__setattr__(self, "augment", augment)
        for name, known in (
            ("precision", tuple(PRECISIONS)),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("device", ("auto", "cpu", "cuda")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is unknown; known: {', '.join(known)}."
                )
        self._require_counts()
        self._require_numbers()

    def _require_counts(self) -> None:
        for name in ("epochs", "batch", "patience", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} is negative; try 0.")
        if self.batch % self.devices:
            raise ConfigError(
                f"batch={self.batch} is not a multiple of devices={self.devices}, which share "
                f"each batch: try batch={-(-self.batch // self.devices) * self.devices}."
            )

    def _require_numbers(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate={self.learning_rate} is not positive; try 1e-4.")
        if not 0 <= self.gradient_clip < float("inf"):
            raise ConfigError(
                f"gradient_clip={self.gradient_clip} must be 0 (none) or a length; try 1."
            )
        for name in ("month_dropout", "warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 to below 1.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
