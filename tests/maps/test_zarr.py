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

from deepforest_xr.errors import ReadError, WriteError
from deepforest_xr.grid import Grid
from deepforest_xr.legend import Legend, amazon13
from deepforest_xr.maps import write_zarr
from deepforest_xr.maps.zarr import shard_layout


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
