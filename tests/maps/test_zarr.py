import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rioxarray  # noqa: F401  registers `.rio`
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.errors import ConfigError, DtypeError, ReadError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import Legend, amazon13
from deepforest_xr.maps import write_zarr
from deepforest_xr.maps.zarr import shard_layout
from deepforest_xr.reader import Failures


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def make_cube(make_map):
    def make(chunks):
        grid = Grid.of(make_map())
        rng = np.random.default_rng(1)
        months = np.array(["2018-01-01", "2018-02-01"], dtype="datetime64[ns]")
        s1 = rng.normal(size=(2, 5, *grid.shape)).astype("float32")
        s1[0, 0, :3, :2] = np.nan
        cube = xr.Dataset(
            {
                "s2": (("band", "y", "x"), rng.random((3, *grid.shape), dtype="float32")),
                "s1": (("month", "polarization", "y", "x"), s1),
                "s2_count": (("y", "x"), rng.integers(0, 9, grid.shape).astype("uint16")),
            },
            coords={**grid.coords(), "band": ["B02", "B03", "B04"], "month": months},
            attrs={"simulated": "true"},
        )
        return cube.assign_coords(wavelength=("band", [490.0, 560.0, 665.0])).chunk(chunks)

    return make


@pytest.mark.parametrize(
    "chunks", [{}, {"y": 16, "x": 20}, {"y": (5, 20, 12), "x": (30, 23), "band": (2, 1)}]
)
def test_what_is_read_is_what_was_written(make_cube, tmp_path, chunks):
    cube = make_cube(chunks)
    assert write_zarr(cube, tmp_path / "cube.zarr") == tmp_path / "cube.zarr"
    with xr.open_zarr(tmp_path / "cube.zarr") as read:
        for name in cube.variables:
            np.testing.assert_array_equal(read[name].to_numpy(), cube[name].to_numpy())
        assert {n: read[n].dtype for n in read.data_vars} == {n: cube[n].dtype for n in cube}
        assert set(read.coords) == set(cube.coords)
        assert read.attrs["simulated"] == "true"


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
@pytest.mark.parametrize("crs", ["EPSG:32721", "ESRI:102033", "EPSG:4326"])
def test_rioxarray_reads_crs_and_transform(make_map, tmp_path, crs):
    dataset = make_map(crs=crs)
    grid = Grid.of(dataset)
    write_zarr(dataset, tmp_path / "map.zarr")
    with xr.open_zarr(tmp_path / "map.zarr") as read:
        assert Grid.of(read) == grid
        for data in (read, read.lulc):
            assert data.rio.crs.to_wkt() == type(data.rio.crs).from_user_input(grid.crs).to_wkt()
            assert data.rio.transform().almost_equals(grid.transform, precision=1e-9)
    stored = json.loads((tmp_path / "map.zarr" / "lulc" / "zarr.json").read_text())
    assert stored["attributes"]["grid_mapping"] == "spatial_ref"


def test_the_legend_comes_back(make_map, tmp_path):
    write_zarr(make_map(chunks={"y": 20}), tmp_path / "map.zarr")
    with xr.open_zarr(tmp_path / "map.zarr") as read:
        assert Legend.from_attrs(read.lulc.attrs) == amazon13()


def test_a_shard_is_a_dask_chunk_and_compressed_with_zstd(make_map, tmp_path):
    write_zarr(make_map((700, 1100), chunks={"y": 300, "x": 512}), tmp_path / "map.zarr")
    lulc = zarr.open_group(tmp_path / "map.zarr", mode="r")["lulc"]
    assert (lulc.shards, lulc.chunks) == ((300, 512), (300, 256))
    assert [type(c).__name__ for c in lulc.compressors] == ["ZstdCodec"]
    assert len(list((tmp_path / "map.zarr" / "lulc" / "c").rglob("*/*"))) == 3 * 3


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5))
def test_inner_chunks_divide_shards_that_hold_the_longest_chunk(chunks):
    shard, inner = shard_layout(tuple(chunks))
    assert shard % inner == 0
    assert max(chunks) <= shard < max(chunks) + 256
    assert inner <= 512
    assert inner >= min(shard, 128)


def test_a_map_that_was_read_can_be_written_with_other_chunks(make_map, tmp_path):
    write_zarr(make_map(chunks={"y": 16, "x": 20}), tmp_path / "a.zarr")
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        write_zarr(read.chunk({"y": 11, "x": 53}), tmp_path / "b.zarr")
        with xr.open_zarr(tmp_path / "b.zarr") as again:
            xr.testing.assert_equal(again.load(), read.load())


def test_a_store_can_replace_the_one_it_is_computed_from(make_map, tmp_path):
    dataset = make_map(chunks={"y": 16})
    write_zarr(dataset, tmp_path / "a.zarr")
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        write_zarr(read.assign(confidence=read.confidence + 1), tmp_path / "a.zarr", overwrite=True)
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        np.testing.assert_array_equal(read.confidence, dataset.confidence + 1)
    assert names(tmp_path) == ["a.zarr"]


def test_progress_ends_with_all_done(make_map, tmp_path):
    seen = []
    dataset = make_map(chunks={"y": 16, "x": 20})
    write_zarr(
        dataset, tmp_path / "a.zarr", progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] >= 2 * 3 * 3
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_existing_store_is_refused_before_anything_is_computed(make_map, failing, tmp_path):
    dataset = make_map(chunks={"y": 16})
    write_zarr(dataset, tmp_path / "a.zarr")
    with pytest.raises(WriteError, match=r"a\.zarr exists"):
        write_zarr(failing(dataset, AssertionError("computed")), tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), WriteError),
        (RuntimeError("CUDA\nout of memory"), WriteError),
        (ReadError("scene 7 is gone"), ReadError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_task_that_fails_half_way_leaves_the_old_store(
    make_map, failing, tmp_path, error, expected
):
    dataset = make_map(chunks={"y": 16, "x": 20})
    write_zarr(dataset, tmp_path / "a.zarr")
    with pytest.raises(expected) as caught:
        write_zarr(failing(dataset * 1, error), tmp_path / "a.zarr", overwrite=True)
    assert "\n" not in str(caught.value)
    if isinstance(error, OSError) and expected is WriteError:
        assert "free disk space" in str(caught.value)
    assert names(tmp_path) == ["a.zarr"]
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        np.testing.assert_array_equal(read.lulc, dataset.lulc)


LIMITED = """
import resource, signal, sys
import numpy as np, xarray as xr
from deepforest_xr.errors import WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.maps import write_zarr
grid = Grid.from_bounds((0, 0, 5000, 3000), crs="EPSG:32721")
noise = np.random.default_rng(0).integers(0, 255, grid.shape).astype("uint8")
cube = xr.Dataset({"noise": (("y", "x"), noise)}, coords=grid.coords()).chunk(y=100, x=500)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    write_zarr(cube, sys.argv[1], overwrite=True)
except WriteError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_one_line_and_leaves_nothing(make_map, tmp_path):
    """The kernel refuses the write itself, as it does on a full disk."""
    write_zarr(make_map(), tmp_path / "a.zarr")
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.zarr")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("\n") == 1
    assert "File too large" in run.stdout
    assert "ulimit -f" in run.stdout
    assert names(tmp_path) == ["a.zarr"]
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        assert "lulc" in read


def test_tasks_that_outlive_a_failure_do_not_bring_the_folder_back(make_map, tmp_path):
    """One block fails at once while another still computes, and then tries to write."""
    import threading

    dataset = make_map(chunks={"y": 20})
    failed = threading.Event()
    finished = threading.Event()

    def block(values, block_info=None):
        if block_info[0]["chunk-location"][0] == 0:
            failed.set()
            raise RuntimeError("first")
        failed.wait(10)
        finished.wait(0.5)
        return values

    dataset["lulc"] = dataset.lulc.copy(data=dataset.lulc.data.map_blocks(block, dtype="uint8"))
    with pytest.raises(WriteError, match="first"):
        write_zarr(dataset[["lulc"]], tmp_path / "a.zarr")
    finished.wait(1.0)
    assert names(tmp_path) == []


def test_percent_layers_stay_bytes_with_their_units(make_percent, tmp_path):
    dataset = make_percent(chunks={"y": 20})
    write_zarr(dataset, tmp_path / "map.zarr")
    with xr.open_zarr(tmp_path / "map.zarr") as read:
        for name in ("entropy", "margin", "probability"):
            assert read[name].dtype == "uint8"
            assert "_FillValue" not in {*read[name].attrs, *read[name].encoding}  # 0 % is a value
            stored = read[name].attrs
            assert (stored["units"], stored["long_name"]) == ("percent", f"{name} of the map")
            np.testing.assert_array_equal(read[name], dataset[name])
        assert read["class"].to_numpy().tolist() == amazon13().names


@pytest.fixture
def interrupted(make_percent, tmp_path):
    """A map of nine blocks that stops, as Ctrl+C stops it, and keeps count; six are empty."""
    chunks = {"y": 16, "x": 20}

    def make(calls=None, *, stop_after=None, model="a" * 64):
        calls = [] if calls is None else calls
        dataset = make_percent(chunks=chunks).drop_vars("probability")
        dataset.attrs["model_sha256"] = model

        def block(values, block_info=None):
            place = block_info[0]["chunk-location"]
            if len(calls) == stop_after:
                raise KeyboardInterrupt
            calls.append(place)
            return values

        codes = dataset.lulc.to_numpy().copy()
        codes[:32] = 0  # zarr leaves out shards of zeros where it may
        lazy = dataset.lulc.copy(data=codes).chunk(chunks).data.map_blocks(block, dtype="uint8")
        return dataset.assign(lulc=dataset.lulc.copy(data=lazy))

    return make


def test_a_run_that_was_stopped_goes_on_where_it_was(interrupted, tmp_path):
    import dask

    path, first, second = tmp_path / "map.zarr", [], []
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        write_zarr(interrupted(first, stop_after=5), path, resume=True)
    assert names(tmp_path) == [".map.zarr.unfinished"]
    written = {
        tuple(map(int, p.parts[-2:]))
        for p in (tmp_path / ".map.zarr.unfinished/map.zarr/lulc/c").glob("*/*")
    }
    assert len(first) == 5
    assert written == set(first)
    write_zarr(interrupted(second), path, resume=True)
    assert set(second) == {(y, x) for y in range(3) for x in range(3)} - written
    assert names(tmp_path) == ["map.zarr"]
    whole = interrupted()
    with xr.open_zarr(path) as read:
        for name in ("lulc", "confidence", "entropy", "margin"):
            np.testing.assert_array_equal(read[name], whole[name])
        assert Grid.of(read) == Grid.of(whole)
        assert Legend.from_attrs(read.lulc.attrs) == amazon13()
    write_zarr(whole, tmp_path / "once.zarr")
    for name in ("zarr.json", "lulc/zarr.json"):
        once = json.loads((tmp_path / "once.zarr" / name).read_text())
        assert json.loads((path / name).read_text()) == once


@pytest.mark.parametrize("other", ["model", "legend", "grid", "names", "chunks", "layers"])
def test_an_unfinished_map_is_never_mixed_with_another(interrupted, make_map, tmp_path, other):
    path = tmp_path / "map.zarr"
    with pytest.raises(KeyboardInterrupt):
        write_zarr(interrupted(stop_after=0), path, resume=True)
    changed = interrupted(model="b" * 64 if other == "model" else "a" * 64)
    if other == "legend":
        changed.lulc.attrs["flag_colors"] = changed.lulc.attrs["flag_colors"].swapcase()
    elif other == "grid":
        changed = changed.assign_coords(x=changed.x + 10)
    elif other == "names":
        changed = changed.assign_coords({"class": changed["class"].to_numpy()[::-1]})
    elif other == "chunks":
        changed = changed.chunk(y=12)
    elif other == "layers":
        changed = changed.drop_vars("margin")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="is another map: ") as caught:
        write_zarr(changed, path, resume=True, overwrite=True)
    assert "\n" not in str(caught.value)
    if other == "model":
        assert "model_sha256 was aaaa" in str(caught.value)
        assert "is now bbbb" in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_an_earlier_go_could_not_read_is_not_forgotten(interrupted, tmp_path):
    for line, stop_after in (("a.tif: gone", 5), ("b.tif: gone", None)):
        dataset = interrupted(stop_after=stop_after)
        dataset.attrs["read_failures"] = Failures([line])
        try:
            write_zarr(dataset, tmp_path / "map.zarr", resume=True)
        except KeyboardInterrupt:
            assert stop_after
    with xr.open_zarr(tmp_path / "map.zarr") as read:
        assert read.attrs["read_failures"] == ["a.tif: gone", "b.tif: gone"]


def test_a_store_that_was_hardly_begun_is_begun_anew(interrupted, tmp_path):
    folder = tmp_path / ".map.zarr.unfinished"
    (folder / "map.zarr" / "lulc").mkdir(parents=True)
    (folder / "begun.json").write_text("{")
    write_zarr(interrupted(), tmp_path / "map.zarr", resume=True)
    with xr.open_zarr(tmp_path / "map.zarr") as read:
        np.testing.assert_array_equal(read.lulc, interrupted().lulc)
    assert names(tmp_path) == ["map.zarr"]


def test_lazy_coordinates_are_written_in_several_goes_too(make_map, tmp_path):
    dataset = make_map(chunks={"y": 16})
    slope = xr.DataArray(np.arange(37 * 53.0).reshape(37, 53), dims=("y", "x")).chunk(y=16)
    write_zarr(dataset.assign_coords(slope=slope), tmp_path / "a.zarr", resume=True)
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        np.testing.assert_array_equal(read.slope, slope)


def test_times_are_not_written_in_several_goes(make_map, tmp_path):
    dataset = make_map()
    dataset["seen"] = dataset.lulc.astype("datetime64[s]")
    with pytest.raises(DtypeError, match="'seen'"):
        write_zarr(dataset, tmp_path / "a.zarr", resume=True)
    assert names(tmp_path) == []
