"""Chips to tensors: statistics of the training split alone, turns that keep pixel and label."""

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError
from deepforest_xr.legend import LandCoverClass, Legend
from deepforest_xr.models.inputs import Standardisation
from deepforest_xr.training import TrainSettings
from deepforest_xr.training.data import ChipTensors, loader, statistics

LEGEND = Legend("three", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (20, 3, 7)))


@pytest.fixture
def store(synthetic_cube, tmp_path):
    """15 chips, band 0 a copy of the label, gaps in Sentinel-2 and Sentinel-1."""
    cube = synthetic_cube((101, 170), months=(6, 7))
    rng = np.random.default_rng(2)
    codes = rng.choice(np.array([20, 3, 7, 255], dtype="uint8"), (101, 170))
    cube["s2"][0] = codes
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
    s1, s2 = root["s1"][:][train].astype("float64"), root["s2"][:][train].astype("float64")
    values = [s1[:, month, p] for month in range(2) for p in range(2)]
    values += [s2[:, band] for band in range(s2.shape[1])]
    mean, std = statistics(open_chips(store))
    np.testing.assert_allclose(mean, [np.nanmean(v) for v in values], rtol=1e-9)
    np.testing.assert_allclose(std, [np.nanstd(v) for v in values], rtol=1e-6)


def test_chips_of_validation_and_test_do_not_leak(store):
    before = statistics(open_chips(store))
    root = zarr.open_group(store, mode="a")
    held_out = root["split"][:] != 0
    s2 = root["s2"][:]
    s2[held_out] = 1e3
    root["s2"][:] = s2
    after = statistics(open_chips(store))
    np.testing.assert_array_equal(before, after)
    s2[~held_out] = 1e3
    root["s2"][:] = s2
    assert statistics(open_chips(store))[0][-1] == pytest.approx(1e3)


def test_a_constant_channel_is_not_divided_by_zero(store):
    root = zarr.open_group(store, mode="a")
    s2 = root["s2"][:]
    s2[:, 5] = 0.25
    root["s2"][:] = s2
    mean, std = statistics(open_chips(store))
    assert (mean[4 + 5], std[4 + 5]) == (pytest.approx(0.25), 1.0)


def test_a_channel_without_a_value_is_named(store):
    root = zarr.open_group(store, mode="a")
    s1 = root["s1"][:]
    s1[:, 1, 0] = np.nan
    root["s1"][:] = s1
    with pytest.raises(ChipError, match=r"channels \[2\] .* have no value") as caught:
        statistics(open_chips(store))
    assert "\n" not in str(caught.value)


def test_targets_are_positions_in_the_legend(store):
    chips = open_chips(store)
    data = ChipTensors(chips, "train", plain(chips), augment_seed=None)
    assert len(data) == len(chips.indices("train"))
    for position, chip in enumerate(chips.indices("train")):
        (x,), target = data[position]
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
            (x,), target = turned[position]
            # Band 0 is the label's own code: after any turn it must lie under its label.
            index = torch.full((256,), 255)
            index[[20, 3, 7]] = torch.arange(3)
            labelled = target != 255
            assert torch.equal(index[x[4].long()][labelled], target[labelled])
            (original,), _ = still[position]
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
    return [target for _, target in loaded]


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
