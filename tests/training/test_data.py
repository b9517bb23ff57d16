"""Chips to tensors: statistics of the training split alone, turns that keep pixel and label."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ConfigError
from deepforest_xr.legend import LandCoverClass, Legend
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training import TrainSettings
from deepforest_xr.training.data import (
    ChipTensors,
    EpochOrder,
    _turn,
    dropped_months,
    loader,
    statistics,
)

LEGEND = Legend("three", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (20, 3, 7)))


@pytest.fixture
def store(synthetic_cube, tmp_path):
    """15 chips, band 0 a hundredth of the label, gaps in Sentinel-2 and Sentinel-1."""
    cube = synthetic_cube((101, 170), months=(6, 7))
    rng = np.random.default_rng(2)
    codes = rng.choice(np.array([20, 3, 7, 255], dtype="uint8"), (101, 170))
    cube["s2"][0] = codes / 100
    cube["s2"][3, 40:44, 3:90] = np.nan
    cube["s1"][1, 0, 10:15, 3:90] = np.nan
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    labels = xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())
    return write_chips(cube, labels, tmp_path / "chips.zarr", spec=ChipSpec(size=32))


def plain(chips):
    """Statistics that leave every value as it is."""
    channels = 2 * len(chips.months) + len(chips.bands)
    return Standardisation(np.zeros(channels, "float32"), np.ones(channels, "float32"), 2, False)


def test_statistics_are_numpys_over_the_training_chips(store):
    root = zarr.open_group(store, mode="r")
    train = root["split"][:] == 0
    s1, s2 = root["s1"][:][train] / 100, root["s2"][:][train] / 1e4
    s1[s1 == -327.68], s2[s2 == 0] = np.nan, np.nan
    values = [s1[:, month, p] for month in range(2) for p in range(2)]
    values += [s2[:, band] for band in range(s2.shape[1])]
    mean, std = statistics(open_chips(store))
    np.testing.assert_allclose(mean, [np.nanmean(v) for v in values], rtol=1e-6)
    np.testing.assert_allclose(std, [np.nanstd(v) for v in values], rtol=1e-6)


def test_chips_of_validation_and_test_do_not_leak(store):
    before = statistics(open_chips(store))
    root = zarr.open_group(store, mode="a")
    held_out = root["split"][:] != 0
    s2 = root["s2"][:]
    s2[held_out] = 60_000
    root["s2"][:] = s2
    after = statistics(open_chips(store))
    np.testing.assert_array_equal(before, after)
    s2[~held_out] = 60_000
    root["s2"][:] = s2
    assert statistics(open_chips(store))[0][-1] == pytest.approx(6)


def test_a_constant_channel_is_not_divided_by_zero(store):
    root = zarr.open_group(store, mode="a")
    s2 = root["s2"][:]
    s2[:, 5] = 2_500
    root["s2"][:] = s2
    mean, std = statistics(open_chips(store))
    assert (mean[4 + 5], std[4 + 5]) == (pytest.approx(0.25), 1.0)


def test_a_channel_without_a_value_is_named(store):
    root = zarr.open_group(store, mode="a")
    s1 = root["s1"][:]
    s1[:, 1, 0] = -32_768
    root["s1"][:] = s1
    with pytest.raises(ChipError, match=r"channels \[2\] .* have no value") as caught:
        statistics(open_chips(store))
    assert "\n" not in str(caught.value)


def test_targets_are_positions_in_the_legend(store):
    chips = open_chips(store)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=None)
    assert len(data) == len(chips.indices("train"))
    for position, chip in enumerate(chips.indices("train")):
        (x,), target, *_ = data[position]
        label = chips.read(int(chip))["label"]
        expected = np.select([label == 20, label == 3, label == 7], [0, 1, 2], 255)
        np.testing.assert_array_equal(target, expected)
        assert target.dtype == torch.int64
        assert x.shape == (14, 32, 32)


def test_a_turn_moves_pixels_and_labels_alike(store):
    chips = open_chips(store)
    still = ChipTensors(chips, "train", plain(chips), augment_seed=None)
    turned = ChipTensors(chips, "train", plain(chips), augment_seed=0)
    seen = set()
    for epoch in range(8):
        turned.epoch = epoch
        for position in range(len(turned)):
            (x,), target, *_ = turned[position]
            # Band 0 is the label's own code: after any turn it must lie under its label.
            index = torch.full((256,), 255)
            index[[20, 3, 7]] = torch.arange(3)
            labelled = target != 255
            assert torch.equal(index[(100 * x[4]).round().long()][labelled], target[labelled])
            (original,), *_ = still[position]
            for name, way in {
                (turns, mirrored): torch.rot90(original.flip(-1) if mirrored else original,
                                               turns, (-2, -1))
                for turns in range(4) for mirrored in (False, True)
            }.items():  # fmt: skip
                if torch.equal(way, x):
                    seen.add(name)
                    break
            else:
                pytest.fail("not one of the eight turns and mirrorings")
    assert len(seen) == 8


def batches(chips, epoch, *, training=True, **changes):
    """Targets of an epoch's batches."""
    settings = TrainSettings(**({"batch": 2} | changes))
    loaded = loader(chips, "train", plain(chips), settings, training=training)
    loaded.dataset.epoch = epoch
    return [batch.target for batch in loaded]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_seed_and_epoch_alone_decide_order_and_turns(store):
    chips = open_chips(store)
    assert same(batches(chips, 3), batches(chips, 3))
    assert not same(batches(chips, 3), batches(chips, 4))
    assert not same(batches(chips, 3), batches(chips, 3, seed=1))


def test_every_chip_comes_once_an_epoch(store):
    chips = open_chips(store)
    shuffled = torch.cat(batches(chips, 0, augment=False))
    ordered = torch.cat(batches(chips, 0, training=False))
    assert not torch.equal(shuffled, ordered)
    assert sorted(t.sum().item() for t in shuffled) == sorted(t.sum().item() for t in ordered)


def test_no_batch_of_training_is_a_single_chip(store):
    chips = open_chips(store)
    count = len(chips.indices("train"))
    sizes = [len(t) for t in batches(chips, 0, batch=count - 1)]
    assert sizes == [count - 1]
    assert sum(len(t) for t in batches(chips, 0, batch=count - 2)) == count
    assert sum(len(t) for t in batches(chips, 0, batch=count - 1, training=False)) == count


def loaded(chips, *, epochs=2, **options):
    """Inputs and targets of some epochs, as the training module asks for them."""
    settings = TrainSettings(batch=4)
    batches = loader(chips, "train", plain(chips), settings, training=True, **options)
    found = []
    for epoch in range(epochs):
        batches.dataset.epoch = epoch
        found += [torch.cat([x[0].flatten(), target.flatten()]) for x, target, *_ in batches]
    return found


def test_workers_change_nothing(store):
    chips = open_chips(store)
    options = {"is_balanced": True, "month_dropout": 0.4}
    alone = loaded(chips, **options)
    assert same(alone, loaded(chips, workers=2, **options))
    assert not same(alone[: len(alone) // 2], alone[len(alone) // 2 :])


def test_memory_is_pinned_where_there_is_cuda_and_workers_are_no_forks(store, monkeypatch):
    chips = open_chips(store)
    for has_cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        made = loader(chips, "train", plain(chips), TrainSettings(), training=True, workers=1)
        assert made.pin_memory is has_cuda
        assert made.multiprocessing_context.get_start_method() == "forkserver"


def test_all_eight_turns_occur_alike(store):
    chips = open_chips(store)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=5)
    corner = torch.arange(9.0).reshape(1, 3, 3)
    ways = [torch.rot90(t, k, (-2, -1)) for k in range(4) for t in (corner, corner.flip(-1))]
    counts = np.zeros(8, dtype=int)
    # The turn is drawn by what the dataset passes on: epoch and number.
    for epoch, number in itertools.product(range(40), range(80)):
        (turned,) = _turn([corner.numpy()], (data.augment_seed, epoch, number))
        counts[[i for i, way in enumerate(ways) if np.array_equal(way, turned)]] += 1
    assert counts.sum() == 3200
    assert ((counts - 400) ** 2 / 400).sum() < 24.3  # chi-squared, 7 degrees, 0.1 %


def test_a_balanced_order_draws_chips_by_their_weight(store):
    chips = open_chips(store)
    rare = np.zeros_like(chips.histogram)
    train = chips.indices("train")
    rare[train, 0] = 1000
    rare[train[2]] = [0, 10, 0]  # all there is of the second class
    chips = dataclasses.replace(chips, histogram=rare)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=0)
    order = EpochOrder(data, 7, is_balanced=True)
    counts = np.zeros(len(train))
    for epoch in range(200):
        data.epoch = epoch
        drawn = list(order)
        assert len(drawn) == len(order) == len(train)
        assert [d.number for d in drawn] == list(range(len(train)))
        assert {d.epoch for d in drawn} == {epoch}
        assert drawn == list(order)  # seed and epoch alone decide
        np.add.at(counts, [d.position for d in drawn], 1)
    assert counts[2] / counts.sum() == pytest.approx(0.5, abs=0.05)
    others = np.delete(counts, 2) / counts.sum()
    np.testing.assert_allclose(others, 0.5 / len(others), atol=0.03)


def test_a_chip_drawn_twice_in_an_epoch_is_turned_anew(store):
    chips = open_chips(store)
    one = np.zeros_like(chips.histogram)
    one[chips.indices("train")[3], 1] = 5
    chips = dataclasses.replace(chips, histogram=one)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=0)
    seen = [data[draw] for draw in EpochOrder(data, 0, is_balanced=True)]
    assert len({tuple(target.flatten().tolist()) for _, target, *_ in seen}) > 2


@given(st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 10**6))
def test_never_are_all_months_gone(months, probability, seed):
    is_gone = dropped_months(months, probability, seed=(seed, 1))
    assert is_gone.shape == (months,)
    assert not is_gone.all()


def test_months_go_as_often_as_asked():
    gone = np.array([dropped_months(12, 0.3, seed=(0, n)) for n in range(3000)])
    np.testing.assert_allclose(gone.mean(axis=0), 0.3, atol=0.04)
    pairs = np.corrcoef(gone.T)[np.triu_indices(12, 1)]
    assert np.abs(pairs).max() < 0.1  # each on its own


def test_a_month_that_goes_is_missing_in_both_polarizations_and_nothing_else(store):
    chips = open_chips(store)
    kept = ChipTensors(chips, "train", plain(chips), augment_seed=None)
    data = ChipTensors(
        chips, "train", plain(chips), augment_seed=None, month_dropout=0.5, dropout_seed=3
    )
    counts = {(False, False): 0, (True, False): 0, (False, True): 0}
    for epoch, position in itertools.product(range(6), range(len(data))):
        data.epoch = epoch
        ((x,), target, *_), ((whole,), expected, *_) = data[position], kept[position]
        assert torch.equal(target, expected)
        assert torch.equal(x[4:], whole[4:])
        gone = tuple(not x[2 * month : 2 * month + 2].any() for month in range(2))
        for month in range(2):
            if not gone[month]:
                channels = slice(2 * month, 2 * month + 2)
                assert torch.equal(x[channels], whole[channels])
        counts[gone] += 1
    assert min(counts.values()) > 0


def test_validation_keeps_its_months_and_its_order(store):
    chips = open_chips(store)
    settings = TrainSettings(batch=2)
    usual = loader(chips, "validation", plain(chips), settings, training=False)
    other = loader(
        chips, "validation", plain(chips), settings, training=False, is_balanced=True,
        month_dropout=0.9,
    )  # fmt: skip
    for ((a,), b, *_), ((c,), d, *_) in zip(usual, other, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_dropout_that_leaves_nothing_is_refused(store, probability):
    chips = open_chips(store)
    with pytest.raises(ConfigError, match="is not in") as caught:
        ChipTensors(chips, "train", plain(chips), augment_seed=None, month_dropout=probability)
    assert "\n" not in str(caught.value)
