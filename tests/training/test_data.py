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
    Draw,
    EpochOrder,
    RankBatches,
    _turn,
    dropped_months,
    loader,
    statistics,
)

LEGEND = Legend("three", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (20, 3, 7)))


def scene(synthetic_cube):
    """A cube with gaps, band 0 a hundredth of the label, and its labels."""
    cube = synthetic_cube((101, 170), months=(6, 7))
    rng = np.random.default_rng(2)
    codes = rng.choice(np.array([20, 3, 7, 255], dtype="uint8"), (101, 170))
    cube["s2"][0] = codes / 100
    cube["s2"][3, 40:44, 3:90] = np.nan
    cube["s1"][1, 0, 10:15, 3:90] = np.nan
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    return cube, xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())


@pytest.fixture
def store(synthetic_cube, tmp_path):
    """15 chips."""
    return write_chips(*scene(synthetic_cube), tmp_path / "chips.zarr", spec=ChipSpec(size=32))


@pytest.fixture
def sharded(synthetic_cube, tmp_path, monkeypatch):
    """The same in shards of two, with weights: a label's code in percent."""
    monkeypatch.setattr("deepforest_xr.chips.write.SHARD_BYTES", 2 * 2 * 14 * 32 * 32)
    cube, labels = scene(synthetic_cube)
    weights = labels.where(labels != 255, 0).astype("float32") / 100
    path = tmp_path / "sharded.zarr"
    return write_chips(cube, labels, path, weights=weights, spec=ChipSpec(size=32))


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


@pytest.mark.parametrize(
    ("how", "turns", "limit"),
    [("eight", range(4), 24.3), ("paper", range(2), 16.3)],  # chi-squared, 0.1 %
)
def test_all_turns_of_an_augmentation_occur_alike(store, how, turns, limit):
    chips = open_chips(store)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=5, augment=how)
    corner = torch.arange(9.0).reshape(1, 3, 3)
    ways = [w for k in turns for t in [torch.rot90(corner, k, (-2, -1))] for w in (t, t.flip(-1))]
    counts = np.zeros(len(ways), dtype=int)
    # The turn is drawn by what the dataset passes on: epoch and number.
    for epoch, number in itertools.product(range(40), range(80)):
        (turned,) = _turn([corner.numpy()], (data.augment_seed, epoch, number), data.augment)
        counts[[i for i, way in enumerate(ways) if np.array_equal(way, turned)]] += 1
    assert counts.sum() == 3200
    assert ((counts - 3200 / len(ways)) ** 2 / (3200 / len(ways))).sum() < limit


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


@pytest.mark.parametrize("is_two_branch", [True, False])
@pytest.mark.parametrize("how", ["eight", "paper"])
def test_a_batch_is_the_chips_as_the_standardisation_sees_a_scene(sharded, is_two_branch, how):
    chips = open_chips(sharded)
    rng = np.random.default_rng(4)
    moments = rng.uniform(0.5, 3, (2, 14)).astype("float32")
    standard = Standardisation(*moments, 2, is_two_branch)
    data = ChipTensors(
        chips, "train", standard, augment_seed=3, augment=how, month_dropout=0.4, dropout_seed=2
    )
    draws = [Draw(5, number, position) for number, position in enumerate((3, 0, 2, 3))]
    batch = data.__getitems__(draws)
    assert batch.chip.tolist() == chips.indices("train")[[3, 0, 2, 3]].tolist()
    is_missing = False
    for slot, draw in enumerate(draws):
        arrays = chips.read(int(chips.indices("train")[draw.position]))
        arrays["s1"][dropped_months(2, 0.4, seed=(2, 5, draw.number, 1))] = np.nan
        is_missing |= np.isnan(arrays["s2"]).any()
        index = data.index_of_code[arrays["label"]]
        found = [*standard.apply(arrays["s2"], arrays["s1"]), index, arrays["weight"]]
        expected = _turn(found, (3, 5, draw.number), how)
        given = [*(x[slot] for x in batch.inputs), batch.target[slot], batch.weight[slot]]
        for one, other in zip(given, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert is_missing


def test_weights_stay_with_their_labels(sharded):
    chips = open_chips(sharded)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=0)
    code = torch.tensor([0.2, 0.03, 0.07])
    for position in range(len(data)):
        _, target, weight, _ = data[position]
        assert torch.allclose(weight[target != 255], code[target[target != 255]])


def test_a_store_without_weights_counts_in_full_beside_one_that_has_them(store, sharded):
    alone = open_chips(store)
    assert ChipTensors(alone, "train", plain(alone), augment_seed=0)[0].weight is None
    chips = open_chips([store, sharded])
    data = ChipTensors(chips, "train", plain(chips), augment_seed=0)
    for position in range(len(data)):
        batch = data[position]
        assert (batch.weight == 1).all() == (int(batch.chip) < 15)


def runs_of(shards):
    return [name for name, _ in itertools.groupby(shards.tolist())]


def test_more_chips_than_the_buffer_come_shard_after_shard(sharded):
    chips = open_chips(sharded)
    shard = chips.shard
    assert shard.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    seen = set()
    for epoch in range(4):
        batches = loader(
            chips, "train", plain(chips), TrainSettings(batch=4), training=True, shuffle_buffer=2
        )
        batches.dataset.epoch = epoch
        order = torch.cat([batch.chip for batch in batches]).tolist()
        assert sorted(order) == chips.indices("train").tolist()
        assert len(runs_of(shard[order])) == len(set(shard[order]))  # a shard is left for good
        seen.add(tuple(order))
    assert len(seen) > 1


def test_workers_change_nothing_where_shards_are_streamed(sharded):
    chips = open_chips(sharded)
    options = {"is_balanced": True, "month_dropout": 0.4, "shuffle_buffer": 3}
    assert same(loaded(chips, **options), loaded(chips, workers=2, **options))


def test_a_balanced_order_draws_the_same_chips_whatever_the_buffer(sharded):
    chips = open_chips(sharded)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=0)
    whole, streamed = (
        list(EpochOrder(data, 7, is_balanced=True, shuffle_buffer=n)) for n in (4096, 2)
    )
    assert [d.number for d in streamed] == list(range(len(data)))
    assert sorted(d.position for d in whole) == sorted(d.position for d in streamed)
    shards = chips.shard[data.indices[[d.position for d in streamed]]]
    assert len(runs_of(shards)) == len(set(shards))
    with pytest.raises(ConfigError, match="shuffle_buffer=0 chips is not positive"):
        EpochOrder(data, 7, shuffle_buffer=0)


@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_processes_together_see_the_batches_of_one(count, each, world, least):
    batch = each * world
    shares = [
        RankBatches(range(count), batch, rank=rank, world=world, least=least)
        for rank in range(world)
    ]
    parts = [list(share) for share in shares]
    assert [len(share) for share in shares] == [len(part) for part in parts]
    together = [list(itertools.chain(*b)) for b in itertools.zip_longest(*parts, fillvalue=[])]
    kept = count - count % batch if count % batch // world < least else count
    assert together == [list(range(b, min(b + batch, kept))) for b in range(0, kept, batch)]
    assert all(len(b) == each for part in parts for b in part[: count // batch])
    if least:
        assert len({len(part) for part in parts}) == 1


def of_ranks(chips, split, world, *, training, epoch=1, batch=4):
    """Batches of every process, and those of one alone: positions and targets."""
    settings, found = TrainSettings(batch=batch), []
    for rank, size in ((0, 1), *((rank, world) for rank in range(world))):
        batches = loader(
            chips, split, plain(chips), settings, training=training, rank=rank, world=size
        )
        batches.dataset.epoch = epoch
        found.append([(b.chip, b.target) for b in batches])
    return found[0], found[1:]


def test_processes_that_train_together_see_the_batches_of_one_turned_alike(store):
    chips = open_chips(store)
    whole, ranks = of_ranks(chips, "train", 2, training=True)
    assert len({len(part) for part in ranks}) == 1
    for position, (chip, target) in enumerate(whole[: len(ranks[0])]):
        assert torch.equal(torch.cat([part[position][0] for part in ranks]), chip)
        assert torch.equal(torch.cat([part[position][1] for part in ranks]), target)
    assert len(whole) - len(ranks[0]) <= 1


def test_validation_is_shared_without_a_chip_twice(store):
    split = zarr.open_group(store, mode="a")["split"]
    split[:] = np.arange(15) % 3 % 2  # five of validation
    chips = open_chips(store)
    for world in (2, 4):
        ranks = of_ranks(chips, "validation", world, training=False)[1]
        seen = torch.cat([chip for part in ranks for chip, _ in part]).tolist()
        assert sorted(seen) == chips.indices("validation").tolist()


@pytest.mark.parametrize(
    ("settings", "ranks", "match"),
    [
        ({"batch": 5}, {"world": 2}, "a batch of 5 chips cannot be shared by 2 .* 6 for instance"),
        ({"batch": 4}, {"rank": 2, "world": 2}, "rank=2 is not one of world=2 processes"),
        ({"batch": 64}, {"world": 32}, "training chips are too few for 32 processes"),
    ],
)
def test_processes_that_cannot_share_are_refused_in_one_line(store, settings, ranks, match):
    chips = open_chips(store)
    with pytest.raises(ConfigError, match=match) as caught:
        loader(chips, "train", plain(chips), TrainSettings(**settings), training=True, **ranks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "how"),
    [("eight", "eight"), (True, "eight"), ("paper", "paper"), ("none", None), (False, None)],
)
def test_augmentation_is_the_one_that_the_settings_name(store, given, how):
    chips = open_chips(store)
    settings = TrainSettings(augment=given)
    made = loader(chips, "train", plain(chips), settings, training=True).dataset
    assert (made.augment if made.augment_seed is not None else None) == how
    made = loader(chips, "validation", plain(chips), settings, training=False)
    assert made.dataset.augment_seed is None


def test_statistics_of_several_stores_are_those_of_all_their_training_chips(store, sharded):
    chips = open_chips([store, sharded])
    mean, std = statistics(chips)
    np.testing.assert_allclose((mean, std), statistics(open_chips(store)), rtol=1e-12)
    root = zarr.open_group(sharded, mode="a")
    root["split"][:] = np.where(root["split"][:] == 0, 3, 0)
    a, b, west, *others = root.attrs["transform"]
    root.attrs["transform"] = [a, b, west + 50_000, *others]  # on other ground
    mean, _ = statistics(open_chips([store, sharded]))
    # Together the two train on every chip once.
    every = np.stack([open_chips(store).read(chip)["s2"] for chip in range(15)])
    np.testing.assert_allclose(mean[4:], np.nanmean(every, axis=(0, 2, 3)), rtol=1e-5)
