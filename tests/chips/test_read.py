"""A store of chips is read chip by chip; what is none is refused."""

import numpy as np
import pytest
import xarray as xr
import zarr

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ReadError
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))


@pytest.fixture
def store(synthetic_cube, tmp_path):
    cube = synthetic_cube((101, 170), months=(6, 7, 9))
    rng = np.random.default_rng(2)
    codes = rng.choice(np.array([4, 9, 255], dtype="uint8"), (101, 170))
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    labels = xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())
    write_chips(cube, labels, tmp_path / "chips.zarr", spec=ChipSpec(size=32))
    return tmp_path / "chips.zarr", cube, labels


def test_what_was_written_is_described(store):
    path, cube, _ = store
    chips = open_chips(path)
    assert chips.bands == tuple(cube["band"].to_numpy())
    assert chips.months == (6, 7, 9)
    assert chips.legend == LEGEND
    splits = ("train", "validation", "test", "buffer")
    assert sorted(np.concatenate([chips.indices(s) for s in splits])) == [*range(15)]


def test_one_chip_has_all_its_arrays(store):
    path, cube, labels = store
    chip = open_chips(path).read(7)
    root = zarr.open_group(path, mode="r")
    row, col = int(root["row"][7]), int(root["col"][7])
    here = {"y": slice(row, row + 32), "x": slice(col, col + 32)}
    assert chip["s2"].dtype == chip["s1"].dtype == "float32"
    np.testing.assert_allclose(chip["s2"], cube["s2"].isel(here), atol=0.5001e-4, rtol=0)
    np.testing.assert_allclose(chip["s1"], cube["s1"].isel(here), atol=0.5001e-2, rtol=0)
    np.testing.assert_array_equal(chip["label"], labels.isel(here))


def test_class_counts_are_those_of_the_splits_labels(store):
    chips = open_chips(store[0])
    for split in ("train", "validation", "test"):
        labels = [chips.read(int(i))["label"] for i in chips.indices(split)]
        expected = [sum(int((label == code).sum()) for label in labels) for code in (4, 9)]
        assert chips.class_counts(split).tolist() == expected


def test_a_mask_holds_exactly_the_labelled_pixels_of_a_splits_chips(store):
    path, cube, _ = store
    chips = open_chips(path)
    masks = {s: chips.mask(s, (101, 170)) for s in ("train", "validation", "test")}
    assert (sum(m.astype(int) for m in masks.values()) <= 1).all()
    for split, mask in masks.items():
        read = [chips.read(int(i)) for i in chips.indices(split)]
        # Hardly two pixels are alike: the mask's pixels are the chips' labelled ones.
        there = np.concatenate([c["s2"][0][c["label"] != 255] for c in read])
        assert mask.sum() == len(there) > 0
        expected = np.sort(cube["s2"].to_numpy()[0][mask])
        np.testing.assert_allclose(np.sort(there), expected, atol=0.5001e-4, rtol=0)


def test_what_is_no_store_of_chips_is_refused_in_one_line(tmp_path):
    zarr.open_group(tmp_path / "other", mode="w")
    (tmp_path / "file").write_text("no store")
    for name in ("absent", "other", "file"):
        with pytest.raises(ReadError, match="is not a store of chips") as caught:
            open_chips(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_another_format_is_refused(store):
    zarr.open_group(store[0], mode="a").attrs["format"] = "deepforest_xr chips 99"
    with pytest.raises(ReadError, match="expected 'deepforest_xr chips 2'"):
        open_chips(store[0])


@pytest.mark.parametrize(("code", "name"), [(0, "training|train"), (1, "validation")])
def test_chips_without_a_split_are_refused(store, code, name):
    split = zarr.open_group(store[0], mode="a")["split"]
    values = split[:]
    split[:] = np.where(values == code, 2, values)
    with pytest.raises(ChipError, match=name):
        open_chips(store[0])


def test_a_store_of_the_first_format_holds_floats_and_still_opens(store):
    new = open_chips(store[0])
    expected = [new.read(chip) for chip in range(15)]
    root = zarr.open_group(store[0], mode="a")
    for name in ("s2", "s1"):
        values = np.stack([chip[name] for chip in expected])
        root.create_array(name, data=values, overwrite=True)
    root.attrs["format"] = "deepforest_xr chips 1"
    old = open_chips(store[0])
    for chip, arrays in enumerate(expected):
        for name, values in old.read(chip).items():
            np.testing.assert_array_equal(values, arrays[name])
