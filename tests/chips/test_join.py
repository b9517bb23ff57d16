"""Several stores are one set of chips: positions count through, unlike chips are refused."""

import shutil

import numpy as np
import pyproj
import pytest
import xarray as xr
import zarr

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ReadError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("two", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (4, 9)))
BANDS = ("B02", "B03", "B04")


def tile(
    path, *, seed=0, shape=(101, 170), crs=32721, bands=BANDS, months=(6, 7), legend=LEGEND, **spec
):
    """Write a tile of 3 x 5 chips."""
    grid = Grid.from_bounds((500_000, 9e6, 500_000 + 10 * shape[1], 9e6 + 10 * shape[0]), crs=crs)
    rng = np.random.default_rng(seed)
    data = {"s2": (("band", "y", "x"), rng.random((len(bands), *shape), dtype="float32"))}
    coords = {"band": list(bands), **grid.coords()}
    if months:
        s1 = rng.uniform(-20, 0, (len(months), 2, *shape)).astype("float32")
        data["s1"] = (("month", "polarization", "y", "x"), s1)
        coords |= {"month": list(months), "polarization": ["vv", "vh"]}
    codes = rng.choice(np.array([*legend.codes, 255], dtype="uint8"), shape)
    labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=legend.attrs())
    cube = xr.Dataset(data, coords=coords, attrs={"year": 2018 + seed})
    return write_chips(cube, labels, path, spec=ChipSpec(**{"size": 32, "seed": seed} | spec))


@pytest.fixture
def tiles(tmp_path):
    """Two tiles in two zones, of 15 and of 21 chips."""
    return [
        tile(tmp_path / "west.zarr"),
        tile(tmp_path / "east.zarr", seed=1, shape=(97, 230), crs=32722),
    ]


def all_but(path, *codes):
    """Give the chips of some splits to the buffer."""
    split = zarr.open_group(path, mode="a")["split"]
    split[:] = np.where(np.isin(split[:], codes), 3, split[:])


def test_a_copy_of_a_store_is_refused(tiles, tmp_path):
    shutil.copytree(tiles[0], tmp_path / "copy.zarr")
    with pytest.raises(ChipError, match=r"west.zarr.*copy.zarr.*hold the same chips") as caught:
        open_chips([*tiles, tmp_path / "copy.zarr"])
    assert "\n" not in str(caught.value)


def test_gamma0_and_sigma0_are_not_mixed(tiles):
    root = zarr.open_group(tiles[1], mode="a")
    root.attrs["cube"] = root.attrs["cube"] | {"s1_quantity": "sigma0, not terrain-corrected"}
    with pytest.raises(ChipError, match=r"quantities mixed: only .*west.* has gamma0.*sigma0"):
        open_chips(tiles)


@pytest.mark.parametrize("array", ["s2", "s1", "label"])
def test_a_store_that_lacks_an_array_is_refused(tiles, array):
    shutil.rmtree(tiles[0] / array)
    with pytest.raises(ReadError, match=f"lacks its array '{array}'") as caught:
        open_chips(tiles[0])
    assert "\n" not in str(caught.value)


def test_positions_count_through_the_stores(tiles):
    joined, alone = open_chips(tiles), [open_chips(path) for path in tiles]
    whole = [(chips, chip) for chips in alone for chip in range(len(chips.split))]
    assert len(joined.split) == len(whole) == 15 + 21
    for position, (chips, chip) in enumerate(whole):
        assert joined.split[position] == chips.split[chip]
        np.testing.assert_array_equal(joined.histogram[position], chips.histogram[chip])
        expected, found = chips.read(chip), joined.read(position)
        assert list(found) == ["s2", "s1", "label"]
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    with pytest.raises(IndexError, match="no chip 36: it holds 36"):
        joined.read(36)


def test_a_joined_set_is_described_by_what_its_stores_share(tiles):
    joined, west = open_chips(tiles), open_chips(tiles[0])
    assert (joined.bands, joined.months, joined.legend) == (BANDS, (6, 7), LEGEND)
    assert joined.attrs["size"] == 32
    assert joined.attrs["seed"] == [0, 1]
    assert joined.attrs["cube"] == {"year": [2018, 2019]}
    assert joined.path == f"{tiles[0]} and 1 more"
    assert west.path == str(tiles[0])
    assert (west.attrs["seed"], west.attrs["cube"]) == (0, {"year": 2018})
    counts = [open_chips(path).class_counts("train") for path in tiles]
    np.testing.assert_array_equal(joined.class_counts("train"), sum(counts))


def test_one_path_in_a_list_is_that_store(tiles):
    one, same = open_chips(tiles[:1]), open_chips(tiles[0])
    assert (one.path, one.grid, one.attrs) == (same.path, same.grid, same.attrs)
    np.testing.assert_array_equal(one.split, same.split)


def test_each_store_has_its_own_grid_and_mask(tiles):
    joined = open_chips(tiles)
    for ask in (lambda: joined.grid, lambda: joined.mask("test", (101, 170)), lambda: joined.root):
        with pytest.raises(ChipError, match=r"are 2 stores, .* ask each of Chips\.parts") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert [part.grid.crs.to_epsg() for part in joined.parts] == [32721, 32722]
    for part, path in zip(joined.parts, tiles, strict=True):
        np.testing.assert_array_equal(
            part.mask("test", part.grid.shape), open_chips(path).mask("test", part.grid.shape)
        )


def test_the_origin_of_a_chip_is_where_its_first_pixel_lies(tiles):
    joined = open_chips(tiles)
    east = zarr.open_group(tiles[1], mode="r")
    row, col = int(east["row"][10]), int(east["col"][10])
    assert min(row, col) > 0
    assert row != col
    said = joined.origin(15 + 10)
    assert said.startswith(f"chip 10 of {str(tiles[1])!r} (row {row}, col {col}: ")
    assert f"x={500_000 + 10 * col}, y={9_000_970 - 10 * row} in WGS 84 / UTM zone 22S" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"bands": ("B02", "B08", "B11", "B04")},
            r"band sets mixed: only '\S*west\.zarr' has B03 and only '\S*other\S* has B08, B11;",
        ),
        ({"bands": BANDS[:2]}, r"only '\S*west\.zarr' has B04 and '\S*other\.zarr' has nothing"),
        (
            {"bands": BANDS[::-1]},
            r"'\S*west\S* has them in the order B02, B03, B04, '\S*other\S* in the order B04, B03,",
        ),
        ({"months": (6, 8)}, r"months mixed: only '\S*west\S* has 7 and only '\S*other\S* has 8;"),
        ({"months": ()}, r"months mixed: only '\S*west\S* has 6, 7 and '\S*other\S* has nothing"),
        (
            {"size": 64, "shape": (195, 260)},
            r"sizes mixed: only '\S*west\S* has 32 pixels and only '\S*other\S* has 64 pixels;",
        ),
        (
            {"legend": Legend("x", (*LEGEND.classes, LandCoverClass(7, "mine", "#00ff00")))},
            r"legends mixed: only '\S*other\S* has 7 mine and '\S*west\S* has nothing more;",
        ),
    ],
)
def test_chips_that_make_no_batch_together_are_refused_in_one_line(tiles, changes, match):
    other = tile(tiles[0].with_name("other.zarr"), **changes)
    with pytest.raises(ChipError, match=match) as caught:
        open_chips([*tiles, other])
    assert "\n" not in str(caught.value)


def test_a_store_counts_once_and_none_is_no_set(tiles, tmp_path):
    with pytest.raises(ChipError, match="hold the same chips"):
        open_chips([tiles[0], tiles[1], tmp_path / "." / "west.zarr"])
    with pytest.raises(ChipError, match="no store of chips given"):
        open_chips([])
    with pytest.raises(ReadError, match=r"absent\.zarr' is not a store of chips"):
        open_chips([tiles[0], tmp_path / "absent.zarr"])


def test_a_split_may_stand_in_one_store_alone_but_not_in_none(tiles):
    all_but(tiles[0], 1, 2)
    all_but(tiles[1], 0)
    with pytest.raises(ChipError, match="no validation chip"):
        open_chips(tiles[0])
    joined = open_chips(tiles)
    assert joined.indices("train").max() < 15 <= joined.indices("validation").min()
    all_but(tiles[1], 1)
    with pytest.raises(ChipError, match="and 1 more' has no validation chip"):
        open_chips(tiles)


def beside(path, *, seed, corner=(500_000, 9_000_000), crs=32721, side=352, **spec):
    """Write a square of 11 x 11 chips whose lower left corner is given."""
    west, south = corner
    grid = Grid.from_bounds((west, south, west + 10 * side, south + 10 * side), crs=crs)
    rng = np.random.default_rng(seed)
    s2 = rng.random((1, side, side), dtype="float32")
    cube = xr.Dataset({"s2": (("band", "y", "x"), s2)}, coords={"band": ["B02"], **grid.coords()})
    codes = rng.choice(np.array(LEGEND.codes, dtype="uint8"), (side, side))
    labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=LEGEND.attrs())
    return write_chips(cube, labels, path, spec=ChipSpec(size=32, seed=seed, **spec))


def distances(chips):
    """Gap in metres between each training chip and the nearest held-out one, by brute force."""
    boxes = []
    for part in chips.parts:
        left, _, _, top = part.grid.bounds
        x, y = left + 10.0 * part.col, top - 10.0 * part.row
        if part.grid.crs.to_epsg() != 32721:
            to = pyproj.Transformer.from_crs(part.grid.crs, 32721, always_xy=True)
            x, y = to.transform(x, y)
        boxes.append(np.stack([x, y], axis=1))
    corner = np.concatenate(boxes)
    train, held = corner[chips.split == 0], corner[np.isin(chips.split, (1, 2))]
    apart = np.abs(train[:, None] - held[None]).max(axis=2) - 320
    return apart.min(axis=1)


def test_tiles_side_by_side_keep_the_buffer_across_their_border(tmp_path, caplog):
    paths = [
        beside(tmp_path / "west.zarr", seed=0, buffer=1),
        beside(tmp_path / "east.zarr", seed=1, corner=(503_520, 9_000_000), buffer=1),
    ]
    alone = np.concatenate([open_chips(path).split for path in paths])
    joined = open_chips(paths)
    assert distances(joined).min() >= 320
    lost = joined.split != alone
    assert lost.any()
    assert set(alone[lost]) == {0}
    assert set(joined.split[lost]) == {3}
    assert (joined.split == 0).sum() > 60
    assert "training chips of" in caplog.text
    # What is left out had to be: put back, each breaks the buffer.
    object.__setattr__(joined, "split", alone)
    assert (distances(joined)[lost[alone == 0]] < 320).all()


def test_the_same_ground_cut_twice_does_not_test_what_it_trains(tmp_path):
    paths = [beside(tmp_path / f"{seed}.zarr", seed=seed, buffer=0) for seed in (0, 5)]
    joined = open_chips(paths)
    assert distances(joined).min() >= 0
    assert (joined.split == 0).any()


def test_stores_in_two_zones_are_compared_on_the_ground(tmp_path):
    to = pyproj.Transformer.from_crs(32721, 32722, always_xy=True)
    corner = [round(v, -1) for v in to.transform(500_000, 9_000_000)]
    paths = [
        beside(tmp_path / "west.zarr", seed=0, buffer=0),
        beside(tmp_path / "east.zarr", seed=1, corner=corner, crs=32722, buffer=0),
    ]
    alone = np.concatenate([open_chips(path).split for path in paths])
    joined = open_chips(paths)
    assert (joined.split != alone).any()
    assert distances(joined).min() > -40  # boxes of turned squares


def test_dealt_cells_share_their_pixels_and_stay(tmp_path):
    paths = [
        beside(tmp_path / f"{seed}.zarr", seed=seed, side=96, cell=8, block=1) for seed in (0, 5)
    ]
    alone = np.concatenate([open_chips(path).split for path in paths])
    np.testing.assert_array_equal(open_chips(paths).split, alone)
