"""Chips to tensors: statistics of the training split, augmentation, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deepforest_xr.errors import ChipError
from deepforest_xr.legend import UNLABELLED
from deepforest_xr.models.inputs import Standardisation, stack_channels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from deepforest_xr.chips import Chips
    from deepforest_xr.training.settings import TrainSettings

IGNORED = 255
"""Target of pixels without a label; never an output channel, there are at most 254."""

MIN_STD = 1e-6

Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]


def statistics(
    chips: Chips, *, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every channel over the training chips.

    Where chips are shared between the splits (`ChipSpec.cell`) only pixels with a training
    label count.

    Returns
    -------
    (mean, std) : ndarray[float64], dims (channel,)
        Sentinel-1 first; missing values left out; a constant channel has a std of 1.

    Raises
    ------
    ChipError
        If a channel has no value at all.
    """
    train = chips.indices("train")
    is_shared = chips.attrs["cell"] is not None
    count = total = squares = np.zeros(1)
    for done, chip in enumerate(train, start=1):
        arrays = chips.read(int(chip))
        values = stack_channels(arrays["s2"], arrays.get("s1")).astype("float64")
        if is_shared:
            values = np.where(arrays["label"] != UNLABELLED, values, np.nan)
        valid = np.isfinite(values)
        values = np.where(valid, values, 0)
        count = count + valid.sum(axis=(1, 2))
        total = total + values.sum(axis=(1, 2))
        squares = squares + (values**2).sum(axis=(1, 2))
        if progress is not None:
            progress(done, len(train))
    if (count == 0).any():
        raise ChipError(
            f"channels {np.flatnonzero(count == 0).tolist()} of {str(chips.path)!r} have no value "
            "in any training chip: open the cube without them."
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean, np.where(std > MIN_STD, std, 1.0)


class ChipTensors(Dataset[Batch]):
    """Chips of one split as standardised tensors and class indices."""

    def __init__(
        self,
        chips: Chips,
        split: str,
        standardisation: Standardisation,
        *,
        augment_seed: int | None,
    ) -> None:
        self.chips = chips
        self.indices = chips.indices(split)
        self.standardisation = standardisation
        self.augment_seed = augment_seed
        self.epoch = 0
        self.index_of_code = np.full(UNLABELLED + 1, IGNORED, dtype="int64")
        self.index_of_code[chips.legend.codes] = np.arange(len(chips.legend.codes))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        arrays = self.chips.read(int(self.indices[position]))
        inputs = self.standardisation.apply(arrays["s2"], arrays.get("s1"))
        target = self.index_of_code[arrays["label"]]
        tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (*inputs, target)]
        if self.augment_seed is not None:
            tensors = _turn(tensors, (self.augment_seed, self.epoch, position))
        return tuple(tensors[:-1]), tensors[-1]


class EpochOrder(Sampler[int]):
    """An order of the chips that seed and epoch alone decide: a resumed run goes on alike."""

    def __init__(self, data: ChipTensors, seed: int) -> None:
        self.data = data
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.data.epoch)).permutation(len(self.data))
        return iter(order.tolist())


def loader(
    chips: Chips,
    split: str,
    standardisation: Standardisation,
    settings: TrainSettings,
    *,
    training: bool,
) -> DataLoader[Batch]:
    """Batches of a split, shuffled and augmented for training, in order otherwise."""
    seed = settings.seed if training and settings.augment else None
    data = ChipTensors(chips, split, standardisation, augment_seed=seed)
    # A last batch of one small chip is one pixel at the bottom: BatchNorm refuses it.
    is_one_left = len(data) > settings.batch and len(data) % settings.batch == 1
    return DataLoader(
        data,
        batch_size=settings.batch,
        sampler=EpochOrder(data, settings.seed) if training else None,
        drop_last=training and is_one_left,
    )


def _turn(tensors: list[torch.Tensor], seed: tuple[int, int, int]) -> list[torch.Tensor]:
    """One of the eight turns and mirrorings, the same for inputs and target."""
    draw = int(np.random.default_rng(seed).integers(8))
    turned = [torch.rot90(t, draw % 4, dims=(-2, -1)) for t in tensors]
    if draw >= 4:
        turned = [t.flip(-1) for t in turned]
    return [t.contiguous() for t in turned]
