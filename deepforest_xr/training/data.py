"""Chips to tensors: statistics of the training split, augmentation, batches.

What a batch holds follows from seed, epoch and place in the epoch alone: neither the number
of workers nor an interruption changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deepforest_xr.chips import balanced_weights
from deepforest_xr.errors import ChipError, ConfigError
from deepforest_xr.legend import UNLABELLED
from deepforest_xr.models.inputs import Standardisation, stack_channels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from deepforest_xr.chips import Chips
    from deepforest_xr.training.settings import TrainSettings

IGNORED = 255
"""Target of pixels without a label; never an output channel, there are at most 254."""

MIN_STD = 1e-6


class Batch(NamedTuple):
    """What a step of training sees."""

    inputs: tuple[torch.Tensor, ...]
    """As the network takes them, dims (n, channel, y, x) or (n, month, polarization, y, x)."""

    target: torch.Tensor
    """Class indices, 255 without a label; dims (n, y, x), int64."""

    weight: torch.Tensor | None
    """Confidence in each label, 0 to 1, dims (n, y, x); None where all count alike."""

    chip: torch.Tensor
    """Where in the store each chip stands, dims (n,), int64."""


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


class Draw(NamedTuple):
    """One chip of an epoch, as a sampler asks for it."""

    epoch: int
    """From 0."""

    number: int
    """What augmentation is drawn by: another number, another turn of the same chip."""

    position: int
    """Of the chip in its split."""


class ChipTensors(Dataset[Batch]):
    """Chips of one split as standardised tensors and class indices.

    Parameters
    ----------
    chips : Chips
        From `open_chips`.
    split : str
        train, validation or test.
    standardisation : Standardisation
        Of the training split.
    augment_seed : int or None
        Turns and mirrors chips; None leaves them as they are.
    month_dropout : float
        Probability that a Sentinel-1 month is missing, both polarizations; at least one of
        a chip's months stays. A network then learns to do without any of them.
    dropout_seed : int
        Which months go.
    """

    def __init__(
        self,
        chips: Chips,
        split: str,
        standardisation: Standardisation,
        *,
        augment_seed: int | None,
        month_dropout: float = 0.0,
        dropout_seed: int = 0,
    ) -> None:
        if not 0 <= month_dropout < 1:
            raise ConfigError(f"month_dropout={month_dropout} is not in [0, 1); try 0.1.")
        self.chips = chips
        self.indices = chips.indices(split)
        self.standardisation = standardisation
        self.augment_seed = augment_seed
        self.month_dropout = month_dropout
        self.dropout_seed = dropout_seed
        self.epoch = 0
        self.index_of_code = np.full(UNLABELLED + 1, IGNORED, dtype="int64")
        self.index_of_code[chips.legend.codes] = np.arange(len(chips.legend.codes))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int | Draw) -> Batch:
        batch = self.__getitems__([place])
        return Batch(tuple(t[0] for t in batch.inputs), batch.target[0], None, batch.chip[0])

    def __getitems__(self, places: Sequence[int | Draw]) -> Batch:
        """Read a batch; every chip is turned on its way into the batch's memory."""
        draws = [p if isinstance(p, Draw) else Draw(self.epoch, p, p) for p in places]
        blocks: list[NDArray[Any]] = []
        for slot, draw in enumerate(draws):
            found = self._read(draw)
            if not blocks:
                blocks = [np.empty((len(draws), *a.shape), dtype=a.dtype) for a in found]
            for block, array in zip(blocks, found, strict=True):
                block[slot] = array
        tensors = [torch.from_numpy(block) for block in blocks]
        chips = torch.from_numpy(self.indices[[draw.position for draw in draws]])
        return Batch(tuple(tensors[:-1]), tensors[-1], None, chips)

    def _read(self, draw: Draw) -> list[NDArray[Any]]:
        """Inputs and target of one chip, turned but not copied."""
        arrays = self.chips.read(int(self.indices[draw.position]))
        if self.month_dropout and "s1" in arrays:
            seed = (self.dropout_seed, draw.epoch, draw.number, 1)
            is_gone = dropped_months(len(arrays["s1"]), self.month_dropout, seed=seed)
            arrays["s1"][is_gone] = np.nan
        inputs = self.standardisation.apply(arrays["s2"], arrays.get("s1"))
        found = [*inputs, self.index_of_code[arrays["label"]]]
        if self.augment_seed is None:
            return found
        return _turn(found, (self.augment_seed, draw.epoch, draw.number))


class EpochOrder(Sampler[Draw]):
    """An order of the chips that seed and epoch alone decide: a resumed run goes on alike.

    Every chip comes once an epoch; a balanced order draws as many chips as there are, with
    replacement and by `balanced_weights`, so that rare classes are seen as often as common
    ones.
    """

    def __init__(self, data: ChipTensors, seed: int, *, is_balanced: bool = False) -> None:
        self.data = data
        self.seed = seed
        self.weights = None
        if is_balanced:
            self.weights = balanced_weights(data.chips.histogram[data.indices])

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Draw]:
        epoch, count = self.data.epoch, len(self.data)
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is None:
            return (Draw(epoch, p, p) for p in rng.permutation(count).tolist())
        drawn = rng.choice(count, count, p=self.weights)
        return (Draw(epoch, n, p) for n, p in enumerate(drawn.tolist()))


def loader(
    chips: Chips,
    split: str,
    standardisation: Standardisation,
    settings: TrainSettings,
    *,
    training: bool,
    is_balanced: bool = False,
    month_dropout: float = 0.0,
    workers: int = 0,
) -> DataLoader[Batch]:
    """Batches of a split, shuffled and augmented for training, in order otherwise.

    Parameters
    ----------
    chips, split, standardisation
        As `ChipTensors` takes them.
    settings : TrainSettings
        Its batch, seed and augmentation.
    training : bool
        Shuffle, augment and drop months; otherwise `is_balanced` and `month_dropout` are
        passed over.
    is_balanced : bool
        Draw chips by class, see `EpochOrder`.
    month_dropout : float
        Probability that a Sentinel-1 month is missing.
    workers : int
        Processes that read ahead; 0 reads in this one. They are forked from a server that
        has neither threads nor CUDA, and live through all epochs.

    Returns
    -------
    DataLoader
        In pinned memory where there is CUDA.
    """
    seed = settings.seed if training and settings.augment else None
    data = ChipTensors(
        chips,
        split,
        standardisation,
        augment_seed=seed,
        month_dropout=month_dropout if training else 0.0,
        dropout_seed=settings.seed,
    )
    # A last batch of one small chip is one pixel at the bottom: BatchNorm refuses it.
    is_one_left = len(data) > settings.batch and len(data) % settings.batch == 1
    order = EpochOrder(data, settings.seed, is_balanced=is_balanced) if training else None
    return DataLoader(
        data,
        batch_size=settings.batch,
        sampler=order,
        drop_last=training and is_one_left,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def dropped_months(months: int, probability: float, *, seed: tuple[int, ...]) -> NDArray[np.bool_]:
    """Draw the months that go missing, each alike and on its own, but never all of them."""
    rng = np.random.default_rng(seed)
    is_gone = rng.random(months) < probability
    if is_gone.all():
        is_gone[rng.integers(months)] = False
    return is_gone


def _as_it_is(batch: Any) -> Any:
    """Pass on what `ChipTensors` has made a batch of already."""
    return batch


def _turn(arrays: list[NDArray[Any]], seed: tuple[int, int, int]) -> list[NDArray[Any]]:
    """One of the eight turns and mirrorings, the same for inputs and target; views."""
    draw = int(np.random.default_rng(seed).integers(8))
    turned = [np.rot90(a, draw % 4, axes=(-2, -1)) for a in arrays]
    return [a[..., ::-1] for a in turned] if draw >= 4 else turned
