"""What stands in a store of chips is what stood in the cube, and nothing half-written."""

import errno
import json
import subprocess
import sys
import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import ChipError, ConfigError, GridError, LabelError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import LandCoverClass, Legend

LEGEND = Legend("three", tuple(LandCoverClass(c, f"class {c}", "#00ff00") for c in (3, 7, 20)))
SPEC = ChipSpec(size=32)


def labels_of(cube, *, unlabelled=0.1, seed=1):
    """Codes of LEGEND in patches, some pixels without a label."""
    rng = np.random.default_rng(seed)
    shape = (cube.sizes["y"], cube.sizes["x"])
    codes = rng.choice(np.array(LEGEND.codes, dtype="uint8"), shape)
    codes[rng.random(shape) < unlabelled] = 255
    coords = {name: cube.coords[name] for name in ("y", "x", "spatial_ref")}
    return xr.DataArray(codes, dims=("y", "x"), coords=coords, attrs=LEGEND.attrs())


def with_gaps(cube):
    """NaN in one band of some pixels, and on the whole of one chip."""
    holes = cube["s2"].copy(deep=True)
    holes[2, 5:9, 40:47] = np.nan
    holes[:, 32:64, 64:96] = np.nan
    return cube.assign(s2=holes)


@pytest.fixture
def cut(synthetic_cube, tmp_path):
    """A cube of 3 x 5 chips and a rest, its labels, and the store."""
    cube = with_gaps(synthetic_cube((101, 170), months=(6, 7)))
    labels = labels_of(cube)
    path = write_chips(cube, labels, tmp_path / "chips.zarr", spec=SPEC)
    return cube, labels, zarr.open_group(path, mode="r")


def at(store, chip):
    row, col = int(store["row"][chip]), int(store["col"][chip])
    return {"y": slice(row, row + 32), "x": slice(col, col + 32)}


def steps(values, per_unit, lowest, missing):
    """What must stand on disk, one value after the other."""
    packed = [missing if np.isnan(v) else max(round(float(v) * per_unit), lowest)
              for v in values.to_numpy().ravel()]  # fmt: skip
    return np.array(packed).reshape(values.shape)


def test_chips_are_slices_of_the_cube_in_integers(cut):
    cube, labels, store = cut
    assert store["row"].shape[0] == 3 * 5 - 1  # one chip has no data
    assert (store["s2"].dtype, store["s1"].dtype) == ("uint16", "int16")
    for chip in range(store["row"].shape[0]):
        here = cube.isel(at(store, chip))
        # Ties and float32: the rounding may differ by one step where a value is half-way.
        s2 = store["s2"][chip].astype(int) - steps(here["s2"], 10_000, 1, 0)
        s1 = store["s1"][chip].astype(int) - steps(here["s1"], 100, -32_767, -32_768)
        assert max(np.abs(s2).max(), np.abs(s1).max()) <= 1
        assert max((s2 != 0).mean(), (s1 != 0).mean()) < 0.01
        seen = ~np.isnan(here["s2"].to_numpy()).any(axis=0)
        expected = np.where(seen, labels.isel(at(store, chip)), 255)
        np.testing.assert_array_equal(store["label"][chip], expected)


def test_chips_read_back_within_half_a_step(cut):
    cube, _, store = cut
    chips = open_chips(store.store.root)
    for chip in range(store["row"].shape[0]):
        here, arrays = cube.isel(at(store, chip)), chips.read(chip)
        lit = here["s2"].to_numpy().clip(1e-4)  # the lowest step
        np.testing.assert_allclose(arrays["s2"], lit, rtol=0, atol=0.5001e-4)
        np.testing.assert_allclose(arrays["s1"], here["s1"], rtol=0, atol=0.5001e-2)


def test_what_the_integers_cannot_hold_is_counted(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160), months=(6, 7))
    cube["s2"][:] = cube["s2"].clip(0.01)
    cube["s2"][1, 3:5, 7:10] = -0.02
    cube["s2"][0, 40, 50] = 9.0
    cube["s1"][1, 0, 70:72, 100] = -400.0
    store = open_chips(write_chips(cube, labels_of(cube), tmp_path / "c", spec=SPEC))
    assert store.attrs["clipped"] == 6 + 1 + 2
    places = zip(store.root["row"][:], store.root["col"][:], strict=True)
    counts = dict(zip(places, store.root["clipped"][:].tolist(), strict=True))
    assert {k: v for k, v in counts.items() if v} == {(0, 0): 6, (32, 32): 1, (64, 96): 2}
    first = next(chip for chip, place in enumerate(counts) if place == (0, 0))
    np.testing.assert_array_equal(store.read(first)["s2"][1, 3:5, 7:10], np.float32(1e-4))


def test_no_label_where_a_band_is_missing(cut):
    _, _, store = cut
    missing = (store["s2"][:] == 0).any(axis=1)
    assert missing.any()
    assert (store["label"][:][missing] == 255).all()


def test_histograms_count_the_labels(cut):
    _, _, store = cut
    for chip in range(store["row"].shape[0]):
        counts = [int((store["label"][chip] == code).sum()) for code in LEGEND.codes]
        assert store["histogram"][chip].tolist() == counts


def test_no_pixel_is_in_two_chips(cut):
    cube, _, store = cut
    taken = np.zeros((cube.sizes["y"], cube.sizes["x"]), dtype=int)
    for chip in range(store["row"].shape[0]):
        window = at(store, chip)
        taken[window["y"], window["x"]] += 1
    assert taken.max() == 1
    assert taken.sum() == store["row"].shape[0] * 32 * 32


def test_the_store_is_sharded_zarr_v3(cut):
    _, _, store = cut
    path = store.store.root
    for name, dims in {
        "s2": ["chip", "band", "y", "x"],
        "s1": ["chip", "month", "polarization", "y", "x"],
        "label": ["chip", "y", "x"],
    }.items():
        card = json.loads((path / name / "zarr.json").read_text())
        assert card["zarr_format"] == 3
        assert [codec["name"] for codec in card["codecs"]] == ["sharding_indexed"]
        inner = card["codecs"][0]["configuration"]["chunk_shape"]
        assert inner == [1, *card["shape"][1:]]  # a chip is read alone
        assert card["dimension_names"] == dims


def test_attributes_say_what_the_chips_are(cut):
    cube, _, store = cut
    attrs = dict(store.attrs)
    assert attrs["bands"] == cube["band"].to_numpy().tolist()
    assert attrs["months"] == [6, 7]
    assert attrs["size"] == 32
    assert Legend.from_dict(attrs["legend"]) == LEGEND
    assert attrs["cube"]["s2_period"] == "2018-06-01/2018-08-31"
    assert "simulated" not in attrs["cube"]


def test_simulated_chips_say_so(synthetic_cube, tmp_path):
    cube = synthetic_cube((64, 96)).assign_attrs(simulated="true")
    path = write_chips(cube, labels_of(cube), tmp_path / "c", spec=SPEC)
    assert zarr.open_group(path, mode="r").attrs["cube"]["simulated"] == "true"


def test_xarray_decodes_the_store(cut):
    _, _, store = cut
    chips = open_chips(store.store.root)
    with xr.open_zarr(store.store.root, consolidated=False) as opened:
        assert opened["s2"].dims == ("chip", "band", "y", "x")
        assert opened.sizes["month"] == 2
        for name in ("s2", "s1"):
            assert opened[name].dtype.kind == "f"
            read = np.stack([chips.read(chip)[name] for chip in range(len(chips.split))])
            np.testing.assert_allclose(opened[name], read, rtol=1e-6)


def test_blocks_of_chips_go_whole_to_a_split(cut):
    _, _, store = cut
    block, split = store["block"][:], store["split"][:]
    assert set(split.tolist()) >= {0, 1, 2}
    for name in np.unique(block):
        # The buffer is taken from training blocks.
        assert len({0 if code == 3 else code for code in split[block == name].tolist()}) == 1


def test_blocks_are_squares_of_the_landscape(synthetic_cube, tmp_path):
    cube = synthetic_cube((192, 288))
    spec = ChipSpec(size=32, block=3)
    store = zarr.open_group(write_chips(cube, labels_of(cube), tmp_path / "c", spec=spec), mode="r")
    squares = {(r // 96, c // 96) for r, c in zip(store["row"], store["col"], strict=True)}
    assert len(squares) == len(np.unique(store["block"])) == 2 * 3
    for name in np.unique(store["block"]):
        chips = np.flatnonzero(store["block"][:] == name)
        assert np.ptp(store["row"][:][chips]) < 96
        assert np.ptp(store["col"][:][chips]) < 96


def test_the_seed_decides_the_split(synthetic_cube, tmp_path):
    cube = synthetic_cube((160, 224))
    labels = labels_of(cube)
    splits = []
    for number, seed in enumerate((0, 0, 1)):
        spec = ChipSpec(size=32, seed=seed)
        path = write_chips(cube, labels, tmp_path / str(number), spec=spec)
        splits.append(zarr.open_group(path, mode="r")["split"][:].tolist())
    assert splits[0] == splits[1] != splits[2]


def test_a_lazy_cube_gives_the_same_chips(synthetic_cube, tmp_path):
    cube = with_gaps(synthetic_cube((101, 170), months=(6, 7)))
    labels = labels_of(cube)
    one = write_chips(cube, labels, tmp_path / "a", spec=SPEC)
    lazy = cube.chunk({"y": 37, "x": 50, "band": 3})
    two = write_chips(lazy, labels.chunk({"y": 23, "x": 41}), tmp_path / "b", spec=SPEC)
    a, b = zarr.open_group(one, mode="r"), zarr.open_group(two, mode="r")
    for name in a.array_keys():
        np.testing.assert_array_equal(a[name][:], b[name][:])


def test_many_shards_hold_what_one_holds(synthetic_cube, tmp_path, monkeypatch):
    cube = with_gaps(synthetic_cube((101, 170)))
    labels = labels_of(cube)
    one = zarr.open_group(write_chips(cube, labels, tmp_path / "a", spec=SPEC), mode="r")
    monkeypatch.setattr("deepforest_xr.chips.write.SHARD_BYTES", 4 * 2 * 10 * 32 * 32)
    many = zarr.open_group(write_chips(cube, labels, tmp_path / "b", spec=SPEC), mode="r")
    assert many["s2"].shards[0] == 4
    for name in ("s2", "label", "row", "histogram"):
        np.testing.assert_array_equal(one[name][:], many[name][:])


def test_progress_ends_with_all_strips(synthetic_cube, tmp_path):
    seen = []
    cube = synthetic_cube((101, 170))
    write_chips(
        cube, labels_of(cube), tmp_path / "c", spec=SPEC, progress=lambda *n: seen.append(n)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def refused(error, match, *arguments, **options):
    with pytest.raises(error, match=match) as caught:
        write_chips(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_cut_is_refused_in_one_line(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160))
    labels = labels_of(cube)
    out = tmp_path / "c"
    refused(ChipError, "no whole chip of 128 pixels", cube, labels, out, spec=ChipSpec(size=128))
    refused(ChipError, "2 blocks of labelled chips", cube.isel(y=slice(0, 32), x=slice(0, 64)),
            labels.isel(y=slice(0, 32), x=slice(0, 64)), out, spec=SPEC)  # fmt: skip
    empty = labels.copy(data=np.full(labels.shape, 255, dtype="uint8"))
    refused(ChipError, "no chip has labelled pixels", cube, empty, out, spec=SPEC)
    refused(GridError, "label raster", cube, labels.isel(x=slice(1, None)), out, spec=SPEC)
    refused(LabelError, r"codes \[9\]", cube, labels.where(labels != 7, 9), out, spec=SPEC)
    bare = labels.copy()
    bare.attrs = {}
    refused(LabelError, "flag_values", cube, bare, out, spec=SPEC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, -32, 48, 31])
def test_a_chip_is_a_multiple_of_32(size):
    with pytest.raises(ConfigError, match="multiple of 32"):
        ChipSpec(size=size)


def test_a_task_that_fails_in_the_first_strip_leaves_nothing(synthetic_cube, tmp_path):
    cube = synthetic_cube((128, 160)).chunk({"y": 32})

    def block(values, block_info=None):
        if block_info[0]["chunk-location"][1] == 0:
            raise RuntimeError("scene\nis gone")
        return values

    broken = da.map_blocks(block, cube["s2"].data, dtype="float32")
    cube["s2"] = cube["s2"].copy(data=broken)
    refused(WriteError, "scene is gone", cube, labels_of(cube), tmp_path / "c", spec=SPEC)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_replaced_only_when_asked_and_only_by_a_whole_one(
    synthetic_cube, tmp_path
):
    cube = synthetic_cube((96, 160))
    labels = labels_of(cube)
    path = write_chips(cube, labels, tmp_path / "c", spec=SPEC)
    refused(WriteError, "c exists", cube, labels, path, spec=SPEC)
    bad = labels.where(labels != 7, 9)
    refused(LabelError, "9", cube, bad, path, spec=SPEC, overwrite=True)
    before = zarr.open_group(path, mode="r")["s2"][:]
    cut = before[0] / 1e4
    np.testing.assert_allclose(cut, cube["s2"][:, :32, :32].clip(1e-4), rtol=0, atol=0.5001e-4)
    write_chips(1 - cube, labels, path, spec=SPEC, overwrite=True)
    turned = zarr.open_group(path, mode="r")["s2"][:].astype(int)
    is_lit = before > 1
    np.testing.assert_allclose(turned[is_lit], 10_000 - before[is_lit].astype(int), atol=1)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


LIMITED = """
import resource, signal, sys
import numpy as np, xarray as xr
from deepforest_xr.chips import ChipSpec, open_chips, write_chips
from deepforest_xr.errors import WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13
grid = Grid.from_bounds((0, 0, 1600, 960), crs="EPSG:32721")
rng = np.random.default_rng(0)
s2 = rng.random((3, *grid.shape), dtype="float32")
bands = ["B02", "B03", "B04"]
cube = xr.Dataset({"s2": (("band", "y", "x"), s2)}, coords={"band": bands, **grid.coords()})
codes = rng.integers(1, 14, grid.shape).astype("uint8")
labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=amazon13().attrs())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
try:
    write_chips(cube, labels, sys.argv[1], spec=ChipSpec(size=32))
except WriteError as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write_chips(cube, labels, sys.argv[1], spec=ChipSpec(size=32))
"""


def test_a_file_that_cannot_grow_is_one_line_and_the_same_call_goes_on(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("\n") == 1
    assert "File too large" in run.stdout
    assert "2 strips of chips are kept: the same call goes on." in run.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert len(open_chips(tmp_path / "c").split) == 15


def test_a_full_disk_under_what_is_pending_is_one_line_and_the_same_call_goes_on(
    synthetic_cube, tmp_path, monkeypatch
):
    cube = synthetic_cube((101, 170))
    labels = labels_of(cube)
    save, calls = np.savez, []

    def full(path, **arrays):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, **arrays)

    monkeypatch.setattr(np, "savez", full)
    refused(WriteError, "No space left on device.* 1 strips of chips are kept: the same call",
            cube, labels, tmp_path / "c", spec=SPEC)  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == [".c.unfinished"]
    write_chips(cube, labels, tmp_path / "c", spec=SPEC)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    monkeypatch.undo()
    straight = open_chips(write_chips(cube, labels, tmp_path / "d", spec=SPEC))
    found = open_chips(tmp_path / "c")
    assert found.fingerprint == straight.fingerprint
    for chip in range(len(found.split)):
        for name, values in straight.read(chip).items():
            np.testing.assert_array_equal(found.read(chip)[name], values)


@pytest.mark.parametrize("spec", [SPEC, ChipSpec(size=32, cell=8)])
def test_labels_that_are_none_or_unknown_far_down_leave_nothing(synthetic_cube, tmp_path, spec):
    cube = synthetic_cube((101, 170))
    labels = labels_of(cube)
    empty = labels.copy(data=np.full(labels.shape, 255, dtype="uint8"))
    refused(ChipError, "labelled", cube, empty, tmp_path / "c", spec=spec)
    labels[95, 3] = 44  # in the last strip
    refused(LabelError, r"codes \[44\] that legend 'three' does not know", cube, labels,
            tmp_path / "c", spec=spec)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_codes_of_a_wider_type_are_not_taken_for_others(synthetic_cube, tmp_path):
    cube = synthetic_cube((101, 170))
    labels = labels_of(cube).astype("int16")
    same = open_chips(write_chips(cube, labels_of(cube), tmp_path / "a", spec=SPEC))
    wide = open_chips(write_chips(cube, labels, tmp_path / "b", spec=SPEC))
    assert wide.fingerprint == same.fingerprint
    labels[40, 70] = 256 + 7  # 7 in eight bits, a code of the legend
    refused(LabelError, r"codes \[263\] that legend 'three'", cube, labels, tmp_path / "c",
            spec=SPEC)  # fmt: skip
    labels[40, 70] = -1
    refused(LabelError, r"codes \[-1\]", cube, labels, tmp_path / "c", spec=SPEC)
    holes = labels_of(cube).astype("float32").where(labels != -1)
    refused(LabelError, "labels are float32, expected whole numbers, 255 where", cube, holes,
            tmp_path / "c", spec=SPEC)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "other", "match"),
    [
        ("s2", lambda s2: 1e4 * s2, r"\d+% of the values of 's2' .* above 6.5535, expected refl"),
        ("s1", lambda s1: 400 + s1, r"100% of the values of 's1' .* above 327.67, expected backsc"),
    ],
)
def test_a_cube_in_other_units_is_refused(synthetic_cube, tmp_path, name, other, match):
    cube = synthetic_cube((96, 160), months=(6,))
    cube = cube.assign({name: other(cube[name])})
    refused(ChipError, match, cube, labels_of(cube), tmp_path / "c", spec=SPEC)


def test_glint_is_clipped_and_counted_not_refused(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160), bands=("B02",))
    bright = cube["s2"].copy(deep=True)
    bright[:, 3:40, 5:60] = 7.0
    path = write_chips(cube.assign(s2=bright), labels_of(cube), tmp_path / "c", spec=SPEC)
    assert zarr.open_group(path, mode="r").attrs["clipped"] >= 37 * 55


def test_no_training_pixel_lies_within_a_chip_of_a_test_pixel(synthetic_cube, tmp_path):
    cube = synthetic_cube((13 * 32, 11 * 32), bands=("B02",))
    spec = ChipSpec(size=32, buffer=1)
    store = open_chips(write_chips(cube, labels_of(cube), tmp_path / "c", spec=spec))
    train, test = (store.mask(name, store.grid.shape) for name in ("train", "test"))
    assert train.any()
    assert test.any()
    near = np.zeros_like(test)
    for row, col in np.argwhere(test):
        near[max(row - 32, 0) : row + 33, max(col - 32, 0) : col + 33] = True
    assert not (near & train).any()


def test_cells_deal_the_labels_of_one_chip_to_all_splits(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160), months=(6, 7))
    labels = labels_of(cube)
    spec = ChipSpec(size=96, cell=24)
    store = open_chips(write_chips(cube, labels, tmp_path / "c.zarr", spec=spec))
    assert sorted(store.split) == [0, 1, 2]
    codes = labels.to_numpy()[:, :96]
    seen = np.zeros((96, 96), dtype=int)
    for chip in range(3):
        arrays = store.read(chip)
        lit = cube["s2"].to_numpy()[..., :96].clip(1e-4)
        np.testing.assert_allclose(arrays["s2"], lit, rtol=0, atol=0.5001e-4)
        assert arrays["s1"].shape == (2, 2, 96, 96)
        mine = arrays["label"] != 255
        np.testing.assert_array_equal(arrays["label"][mine], codes[mine])
        split = ("train", "validation", "test")[store.split[chip]]
        np.testing.assert_array_equal(store.mask(split, (96, 160))[:, :96], mine)
        squares = mine.reshape(4, 24, 4, 24).any(axis=(1, 3))
        seen += squares.repeat(24, axis=0).repeat(24, axis=1)
    assert (seen == 1).all()  # every cell in one split, and in one only


def test_a_cell_divides_a_chip():
    with pytest.raises(ConfigError, match="cell=30 does not divide a chip of 64"):
        ChipSpec(size=64, cell=30)


def test_channels_are_taken_by_name_whatever_their_order(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160), months=(6, 7))
    turned = cube.isel(polarization=[1, 0]).transpose("x", "y", ...)
    labels = labels_of(cube)
    stores = [
        open_chips(write_chips(c, x, tmp_path / name, spec=SPEC))
        for c, x, name in ((cube, labels, "a.zarr"), (turned, labels.T, "b.zarr"))
    ]
    for chip in range(len(stores[0].split)):
        for name, values in stores[0].read(chip).items():
            np.testing.assert_array_equal(stores[1].read(chip)[name], values)


def test_a_pixel_the_radar_never_saw_has_no_label(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160), months=(6, 7))
    radar = cube["s1"].copy(deep=True)
    radar[:, :, :32, :32] = np.nan
    labels = labels_of(cube, unlabelled=0)
    store = open_chips(write_chips(cube.assign(s1=radar), labels, tmp_path / "c.zarr", spec=SPEC))
    corners = zip(np.asarray(store.root["row"]), np.asarray(store.root["col"]), strict=True)
    assert (0, 0) not in set(corners)
    assert len(store.split) == 14


def test_chips_know_the_grid_they_were_cut_from(synthetic_cube, tmp_path):
    cube = synthetic_cube((96, 160))
    store = open_chips(write_chips(cube, labels_of(cube), tmp_path / "c.zarr", spec=SPEC))
    assert store.grid == Grid.of(cube)


@pytest.mark.parametrize("cell", [None, 32])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, cell):
    monkeypatch.setattr("deepforest_xr.chips.write.SHARD_BYTES", 200_000)  # less than both areas

    def peak(rows):
        grid = Grid.from_bounds((500_000, 9e6, 500_000 + 10 * 224, 9e6 + 10 * rows), crs=32721)
        seeds = da.random.RandomState(3)
        s2 = seeds.random_sample((4, rows, 224), chunks=(4, 32, 224)).astype("float32")
        cube = xr.Dataset(
            {"s2": (("band", "y", "x"), s2)},
            coords={"band": ["B02", "B03", "B04", "B08"], **grid.coords()},
        )
        codes = seeds.choice(LEGEND.codes, (rows, 224), chunks=(32, 224)).astype("uint8")
        labels = xr.DataArray(codes, dims=("y", "x"), coords=grid.coords(), attrs=LEGEND.attrs())
        spec = ChipSpec(size=32, block=1, buffer=0, cell=cell)
        with dask.config.set(scheduler="synchronous"):
            tracemalloc.start()
            write_chips(cube, labels, tmp_path / f"{rows}", spec=spec)
            reached = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return reached

    peak(64)  # what is imported and kept once
    small, large = peak(512), peak(2048)
    assert large - small < 1.5e6  # of 7.3 MB in the cube
