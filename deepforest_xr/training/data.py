"""Chips to tensors: statistics of the training split, augmentation, batches.

What a batch holds follows from seed, epoch and place in the epoch alone: neither the number
of workers nor of processes nor an interruption changes it.

Chips are read one by one from their shards, so a process holds the batches it is asked for
and no more. Where there are more chips than the shuffle buffer holds, they come shard after
shard: the files of one buffer are what the system's file cache should have room for.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deepforest_xr.chips import balanced_weights
from deepforest_xr.chips.pack import PACKINGS, WEIGHT
from deepforest_xr.chips.sample import streamed_order
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

SHUFFLE_BUFFER = 4096
"""Chips that are shuffled among each other; a store of no more is shuffled as a whole."""

AUGMENTS: dict[str, str | None] = {
    "eight": "eight",
    "paper": "paper",
    "none": None,
}
"""What `TrainSettings.augment` may be, and how chips are then turned."""

SMALLEST = 32
"""Side in pixels of chips of which BatchNorm cannot take a single one."""


class Batch(NamedTuple):
    """What a step of training sees."""

    inputs: tuple[torch.Tensor, ...]
    """As the network takes them, dims (n, channel, y, x) or (n, month, polarization, y, x)."""

    target: torch.Tensor
    """Class indices, 255 without a label; dims (n, y, x), int64."""

    weight: torch.Tensor | None
    """Confidence in each label, 0 to 1, dims (n, y, x); None where all count alike."""

    chip: torch.Tensor
    """Position of each chip in the set, see `Chips.origin`; dims (n,), int64."""


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
    count = total = squares = np.zeros(1)
    for done, chip in enumerate(train, start=1):
        part, number = chips.find(int(chip))
        arrays = part.read(number)
        values = stack_channels(arrays["s2"], arrays.get("s1")).astype("float64")
        if part.attrs["cell"] is not None:
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
            f"channels {np.flatnonzero(count == 0).tolist()} of {chips.path!r} have no value "
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
    augment : str
        ``"eight"``: one of the eight turns and mirrorings, each alike. ``"paper"``: turned by
        90 degrees with probability 1/2 and mirrored left to right with probability 1/2.
    month_dropout : float
        Probability that a Sentinel-1 month is missing, both polarizations; at least one of
        the months in which a chip has a value stays. A network then learns to do without any
        of them.
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
        augment: str = "eight",
        month_dropout: float = 0.0,
        dropout_seed: int = 0,
    ) -> None:
        if not 0 <= month_dropout < 1:
            raise ConfigError(f"month_dropout={month_dropout} is not in [0, 1); try 0.1.")
        self.chips = chips
        self.size = chips.parts[0].size
        self.months = len(chips.months or ())
        self.indices = chips.indices(split)
        self.standardisation = standardisation
        self.augment_seed = augment_seed
        self.augment = augment
        self.has_weight = any("weight" in part.arrays for part in chips.parts)
        self.month_dropout = month_dropout
        self.dropout_seed = dropout_seed
        self.epoch = 0
        self.index_of_code = np.full(UNLABELLED + 1, IGNORED, dtype="int64")
        self.index_of_code[chips.legend.codes] = np.arange(len(chips.legend.codes))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int | Draw) -> Batch:
        batch = self.__getitems__([place])
        weight = None if batch.weight is None else batch.weight[0]
        return Batch(tuple(t[0] for t in batch.inputs), batch.target[0], weight, batch.chip[0])

    def __getitems__(self, places: Sequence[int | Draw]) -> Batch:
        """Read a batch: every chip is turned and standardised into the batch's memory.

        The values are those of `Standardisation.apply` to `Chips.read`.
        """
        draws = [p if isinstance(p, Draw) else Draw(self.epoch, p, p) for p in places]
        inputs, s2, s1 = self._empty(len(draws))
        shape = (len(draws), self.size, self.size)
        target = np.empty(shape, dtype="int64")
        # A store without weights beside one that has them counts in full.
        weight = np.ones(shape, dtype="float32") if self.has_weight else None
        for slot, draw in enumerate(draws):
            stored = self._stored(draw)
            self._standardise(s2[slot], "s2", stored["s2"])
            if len(s1[slot]):
                self._standardise(s1[slot], "s1", stored["s1"])
                s1[slot][self._is_gone(draw, stored["s1"]).repeat(2)] = 0
            self.index_of_code.take(stored["label"], out=target[slot], mode="clip")
            if weight is not None and "weight" in stored:
                WEIGHT.unpack_into(weight[slot], stored["weight"])
        return Batch(
            tuple(torch.from_numpy(block) for block in inputs),
            torch.from_numpy(target),
            None if weight is None else torch.from_numpy(weight),
            torch.from_numpy(self.indices[[draw.position for draw in draws]]),
        )

    def _empty(
        self, count: int
    ) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32], NDArray[np.float32]]:
        """Memory of a batch's inputs, and its parts: channels of Sentinel-2 and Sentinel-1."""
        bands, months, pixels = len(self.chips.bands), self.months, (self.size, self.size)
        if not self.standardisation.is_two_branch:
            both = np.empty((count, 2 * months + bands, *pixels), dtype="float32")
            return (both,), both[:, 2 * months :], both[:, : 2 * months]
        s2 = np.empty((count, bands, *pixels), dtype="float32")
        s1 = np.empty((count, 2 * months, *pixels), dtype="float32")
        return (s2, s1.reshape(count, months, 2, *pixels)), s2, s1

    def _stored(self, draw: Draw) -> dict[str, NDArray[Any]]:
        """Arrays of a chip as they stand on disk, turned; views."""
        part, number = self.chips.find(int(self.indices[draw.position]))
        stored = part.stored(number)
        if self.augment_seed is None:
            return stored
        seed = (self.augment_seed, draw.epoch, draw.number)
        turned = _turn(list(stored.values()), seed, self.augment)
        return dict(zip(stored, turned, strict=True))

    def _standardise(self, out: NDArray[np.float32], name: str, stored: NDArray[Any]) -> None:
        """Values of ``s1`` or ``s2`` in the units of the training chips, 0 where missing."""
        channels = slice(len(out)) if name == "s1" else slice(-len(out), None)
        is_missing = PACKINGS[name].unpack_into(out, stored.reshape(out.shape))
        out -= self.standardisation.mean[channels, None, None]
        out /= self.standardisation.std[channels, None, None]
        if is_missing.any():
            np.copyto(out, np.float32(0), where=is_missing)

    def _is_gone(self, draw: Draw, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Months that a chip is to do without, of those in which it has a value."""
        is_gone = np.zeros(len(stored), dtype=bool)
        if self.month_dropout:
            is_missing = stored == PACKINGS["s1"].missing
            seen = np.flatnonzero(~is_missing.all(axis=(1, 2, 3)))
            seed = (self.dropout_seed, draw.epoch, draw.number, 1)
            is_gone[seen] = dropped_months(len(seen), self.month_dropout, seed=seed)
        return is_gone


class EpochOrder(Sampler[Draw]):
    """An order of the chips that seed and epoch alone decide: a resumed run goes on alike.

    Every chip comes once an epoch; a balanced order draws as many chips as there are, with
    replacement and by `balanced_weights`, so that rare classes are seen as often as common
    ones. More chips than `shuffle_buffer` come shard after shard, see `streamed_order`.
    """

    def __init__(
        self,
        data: ChipTensors,
        seed: int,
        *,
        is_balanced: bool = False,
        shuffle_buffer: int = SHUFFLE_BUFFER,
    ) -> None:
        if shuffle_buffer < 1:
            raise ConfigError(f"shuffle_buffer={shuffle_buffer} chips is not positive; try 4096.")
        self.data = data
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.shards = data.chips.shard[data.indices]
        self.weights = None
        if is_balanced:
            self.weights = balanced_weights(data.chips.histogram[data.indices])

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Draw]:
        epoch, count, buffer = self.data.epoch, len(self.data), self.shuffle_buffer
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is None:
            order = streamed_order(self.shards, buffer=buffer, rng=rng)
            return (Draw(epoch, p, p) for p in order.tolist())
        drawn = rng.choice(count, count, p=self.weights)
        if count > buffer:
            drawn = drawn[streamed_order(self.shards[drawn], buffer=buffer, rng=rng)]
        return (Draw(epoch, n, p) for n, p in enumerate(drawn.tolist()))


class RankBatches(Sampler[list[Draw]]):
    """One process's part of every batch: the parts of all together are one process's batches.

    Parameters
    ----------
    order : iterable of Draw or int
        The chips of an epoch, the same in every process.
    batch : int
        Chips of all processes together.
    rank, world : int
        Which of how many processes this is. A last batch that is not full is shared as
        evenly as can be, the first processes taking one chip more.
    least : int
        A last batch is left out, by all processes, where it gives one of them fewer chips.
    """

    def __init__(
        self,
        order: EpochOrder | range,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        least: int = 0,
    ) -> None:
        if not 0 <= rank < world:
            raise ConfigError(f"rank={rank} is not one of world={world} processes, from 0 on.")
        if batch % world:
            raise ConfigError(
                f"a batch of {batch} chips cannot be shared by {world} processes: take a multiple "
                f"of {world}, {-(-batch // world) * world} for instance."
            )
        self.order, self.batch, self.rank, self.world = order, batch, rank, world
        count = len(order)
        rest = count % batch
        self.count = count - rest if rest // world < least else count

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.batch)
        return full + (rest > self.rank)

    def __iter__(self) -> Iterator[list[Any]]:
        draws = islice(self.order, self.count)
        while whole := list(islice(draws, self.batch)):
            each, more = divmod(len(whole), self.world)
            begin = self.rank * each + min(self.rank, more)
            if part := whole[begin : begin + each + (self.rank < more)]:
                yield part


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
    shuffle_buffer: int = SHUFFLE_BUFFER,
    rank: int = 0,
    world: int = 1,
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
    shuffle_buffer : int
        Chips that are shuffled among each other, see `streamed_order`. It costs no memory
        of the process.
    rank, world : int
        Which of how many processes that train together this is: it gets its part of every
        batch of ``settings.batch`` chips, see `RankBatches`. In training all get equally many
        batches; of a split without training one may get a batch less than another.

    Returns
    -------
    DataLoader
        In pinned memory where there is CUDA. It brings its own batches: Lightning must not
        put a distributed sampler in their place.

    Raises
    ------
    ConfigError
        If a batch cannot be shared by all processes.
    """
    how = AUGMENTS[settings.augment]
    data = ChipTensors(
        chips,
        split,
        standardisation,
        augment_seed=settings.seed if training and how else None,
        augment=how or "eight",
        month_dropout=month_dropout if training else 0.0,
        dropout_seed=settings.seed,
    )
    order: EpochOrder | range = range(len(data))
    if training:
        order = EpochOrder(
            data, settings.seed, is_balanced=is_balanced, shuffle_buffer=shuffle_buffer
        )
    batches = RankBatches(
        order,
        settings.batch,
        rank=rank,
        world=world,
        least=_least(data, settings.batch, world) if training else 0,
    )
    if training and not len(batches):
        raise ConfigError(
            f"{len(data)} training chips are too few for {world} processes: train with fewer, or "
            "cut more chips."
        )
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _least(data: ChipTensors, batch: int, world: int) -> int:
    """Chips that a process needs of a last batch to train on it."""
    if len(data) < batch and world == 1:
        return 0  # all there is
    # One small chip is one pixel at the bottom: BatchNorm refuses it.
    is_small = data.size == SMALLEST
    return 2 if batch > world and (world == 1 or is_small) else 1


def dropped_months(months: int, probability: float, *, seed: tuple[int, ...]) -> NDArray[np.bool_]:
    """Draw the months that go missing, each alike and on its own, but never all of them."""
    rng = np.random.default_rng(seed)
    is_gone = rng.random(months) < probability
    if months and is_gone.all():
        is_gone[rng.integers(months)] = False
    return is_gone


def _as_it_is(batch: Any) -> Any:
    """Pass on what `ChipTensors` has made a batch of already."""
    return batch


def _turn(
    arrays: list[NDArray[Any]], seed: tuple[int, int, int], how: str = "eight"
) -> list[NDArray[Any]]:
    """Turn and mirror inputs, target and weights alike, as `ChipTensors` says; views."""
    rng = np.random.default_rng(seed)
    if how == "paper":
        turns, is_mirrored = rng.integers(2, size=2).tolist()
    else:
        is_mirrored, turns = divmod(int(rng.integers(8)), 4)
    turned = [np.rot90(a, turns, axes=(-2, -1)) for a in arrays]
    return [a[..., ::-1] for a in turned] if is_mirrored else turned
