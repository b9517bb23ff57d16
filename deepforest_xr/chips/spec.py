"""How a cube is cut into chips: plain values, checked when made."""

from __future__ import annotations

from dataclasses import dataclass

from deepforest_xr.errors import ConfigError

STRIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSpec:
    """How a cube is cut into chips and how the chips are split."""

    size: int = 256
    """Side of a chip in pixels, a multiple of 32 (five halvings in the encoders)."""

    cell: int | None = None
    """Side in pixels of the squares that are dealt to the splits inside the chips, a divisor of
    `size`; for areas that hold only a few chips of the side a network needs. A chip is then kept
    once a split, with the labels of that split's cells only: labels are held out, pixels are
    not, and there is no buffer. Default: blocks of whole chips are dealt."""

    block: int | None = None
    """Side of a block in chips; blocks go whole to one split. Default: with a buffer 4 where
    that gives 24 blocks or more; otherwise 2 where that gives 12 or more, and else 1."""

    buffer: int | None = None
    """Chips between training and what is held out: training chips nearer to a validation or
    test chip are not used (split ``buffer``). Default: 1, unless that would leave fewer than a
    third of the chips for training or take a class from a split; then 0, with a warning."""

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of training, validation and test, before the buffer is taken from training. Test may
    be 0, for areas that are tested elsewhere: the paper's are 0.8 and 0.2."""

    seed: int = 0
    """Of the split."""

    min_labelled: float = 0.01
    """Chips with a smaller share of labelled pixels are left out."""

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % STRIDE:
            raise ConfigError(f"chip size {self.size} is not a positive multiple of 32; try 256.")
        if self.cell is not None and (self.cell < 1 or self.size % self.cell):
            raise ConfigError(
                f"cell={self.cell} does not divide a chip of {self.size} pixels; try "
                f"{self.size // 4}."
            )
        if self.block is not None and self.block < 1:
            raise ConfigError(f"block={self.block} chips is not positive; try 2.")
        if self.buffer is not None and self.buffer < 0:
            raise ConfigError(f"buffer={self.buffer} chips is negative; try 1, or 0 for none.")
        if self.cell is not None and self.buffer:
            raise ConfigError(
                f"cell={self.cell} and buffer={self.buffer} exclude each other: cells share their "
                "chips' pixels. Leave one out."
            )
        train, validation, test = self.fractions
        if min(train, validation) <= 0 or test < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(
                f"fractions={self.fractions} are not shares of training, validation and test that "
                "sum to 1; try (0.7, 0.15, 0.15), or (0.8, 0.2, 0) without a test."
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} is negative; try 0.")
