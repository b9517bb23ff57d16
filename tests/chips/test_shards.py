"""A chip read straight from its shard's bytes is the chip that zarr reads; damage is named."""

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import GzipCodec

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.chips.shards import Shards
from deepforest_xr.errors import ReadError
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))
NAMES = ("s2", "s1", "label", "weight")


@pytest.fixture
def store(synthetic_cube, tmp_path, monkeypatch):
    """15 chips in shards of four, with gaps and weights."""
    cube = synthetic_cube((101, 170), months=(6, 7, 9), bands=("B02", "B04"))
    monkeypatch.setattr("deepforest_xr.chips.write.SHARD_BYTES", 4 * 2 * 8 * 32 * 32)
    cube["s2"][1, 3:9, 4:50] = np.nan
    cube["s1"][0, 1, 30:60, 4:50] = np.nan
    rng = np.random.default_rng(2)
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    codes = rng.choice(np.array([4, 9, 255], dtype="uint8"), (101, 170))
    labels = xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())
    weights = labels.copy(data=rng.random((101, 170), dtype="float32"))
    path = tmp_path / "chips.zarr"
    return write_chips(cube, labels, path, weights=weights, spec=ChipSpec(size=32))


def test_every_chip_is_what_zarr_reads(store):
    root, (part,) = zarr.open_group(store, mode="r"), open_chips(store).parts
    assert root["s1"].shards[0] == 4
    assert [part.shards[name].chips for name in NAMES] == [4] * 4
    assert part.shard.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 3
    for chip in range(15):
        stored = part.stored(chip)
        assert list(stored) == [*NAMES]
        for name, values in stored.items():
            expected = root[name][chip]
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected)


def test_a_chip_of_nothing_but_the_fill_value_is_not_on_disk_and_is_read(store):
    root = zarr.open_group(store, mode="a")
    root["s2"][5] = 0
    found = open_chips(store).read(5)["s2"]
    assert np.isnan(found).all()
    assert found.shape == (2, 32, 32)
    assert not np.isnan(open_chips(store).read(6)["s2"]).all()


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (1, 2, 32, 32), "shards": (4, 2, 32, 32), "compressors": (GzipCodec(),)},
        {"chunks": (1, 2, 32, 32), "shards": (4, 2, 32, 32), "compressors": None},
        {"chunks": (2, 2, 32, 32), "shards": (4, 2, 32, 32)},
        {"chunks": (1, 2, 16, 32), "shards": (4, 2, 32, 32)},
        {"chunks": (3, 2, 32, 32)},
    ],
)
def test_what_write_chips_does_not_write_is_read_by_zarr(store, layout):
    root = zarr.open_group(store, mode="a")
    values = root["s2"][:]
    expected = [open_chips(store).read(chip)["s2"] for chip in range(15)]
    root.create_array("s2", data=values, overwrite=True, **layout)
    chips = open_chips(store)
    assert Shards.of(chips.root["s2"]) is None
    assert Shards.of(chips.root["s1"]) is not None
    for chip in range(15):
        np.testing.assert_array_equal(chips.read(chip)["s2"], expected[chip])


def cut_off(shard):
    shard.write_bytes(shard.read_bytes()[:-3000])


def too_short(shard):
    shard.write_bytes(b"gone")


def no_zstd(shard):
    content = bytearray(shard.read_bytes())
    content[:2000] = bytes(2000)
    shard.write_bytes(content)


def points_behind(shard):
    content = bytearray(shard.read_bytes())
    content[-4 - 4 * 16 : -4 - 4 * 16 + 8] = (2**40).to_bytes(8, "little")
    shard.write_bytes(content)


def another_chip(shard):
    """The first chip's bytes are those of a smaller one."""
    from numcodecs import zstd

    content = bytearray(shard.read_bytes())
    small = zstd.compress(np.zeros(10, dtype="uint16"))
    content[: len(small)] = small
    content[-4 - 4 * 16 + 8 : -4 - 4 * 16 + 16] = len(small).to_bytes(8, "little")
    shard.write_bytes(content)


def swapped(shard):
    """Two chips' entries in the index change places."""
    content = bytearray(shard.read_bytes())
    first, second = content[-68:-52], content[-52:-36]
    content[-68:-36] = second + first
    shard.write_bytes(content)


def one_bit(shard):
    content = bytearray(shard.read_bytes())
    content[1000] ^= 8
    shard.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [cut_off, too_short, no_zstd, points_behind, another_chip, swapped, one_bit,
     lambda s: s.unlink()],
)  # fmt: skip
def test_a_damaged_shard_is_one_line_that_names_the_chip(store, damage):
    chips = open_chips(store)
    damage(store / "s2" / "c" / "1" / "0" / "0" / "0")
    with pytest.raises(ReadError, match=r"^'s2' of chip 4 of '\S*chips.zarr' \(row ") as caught:
        chips.read(4)
    assert "cannot be read: " in str(caught.value)
    assert "\n" not in str(caught.value)
    chips.read(3)
