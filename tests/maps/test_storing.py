"""What is written needs few chunks in memory, however large the map."""

import weakref

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.grid import Grid
from deepforest_xr.maps import storing, write_cog, write_zarr
from deepforest_xr.maps.storing import STRIP, strips

SIDE = 4


class Chunks:
    """Chunks that are made when they are asked for, and counted while anything holds them."""

    def __init__(self):
        self.made = self.now = self.most = 0

    def make(self, block_info=None):
        (rows, cols) = block_info[None]["array-location"]
        self.made += 1
        self.now += 1
        self.most = max(self.most, self.now)
        chunk = np.add.outer(np.arange(*rows), np.arange(*cols)).astype("uint8")
        weakref.finalize(chunk, self._gone)
        return chunk

    def _gone(self):
        self.now -= 1

    def blurred(self, rows, cols):
        """A map in which a pixel depends on those around it, two layers as `classify` gives."""
        sides = ((SIDE,) * rows, (SIDE,) * cols)
        plain = da.map_blocks(
            self.make, chunks=sides, dtype="uint8", meta=np.empty((0, 0), "uint8")
        )
        halo = da.overlap.overlap(plain, depth=1, boundary=0)
        lulc = halo.map_blocks(lambda a: a[1:-1, 1:-1] + a[2:, 2:], chunks=sides, dtype="uint8")
        grid = Grid.from_bounds((0, 0, 10 * SIDE * cols, 10 * SIDE * rows), crs="EPSG:32721")
        data = {"lulc": (("y", "x"), lulc), "confidence": (("y", "x"), lulc // 2)}
        return xr.Dataset(data, coords=grid.coords()).assign_coords(spatial_ref=grid.spatial_ref())


def by_hand(rows, cols):
    whole = np.add.outer(np.arange(rows * SIDE), np.arange(cols * SIDE)).astype("uint8")
    after = np.pad(whole, ((0, 1), (0, 1)))[1:, 1:]
    return whole + after


@pytest.mark.parametrize(
    ("rows", "cols", "resume"), [(66, 5, False), (5, 66, False), (34, 17, True)]
)
def test_few_chunks_are_in_memory_at_once(tmp_path, rows, cols, resume):
    chunks = Chunks()
    made = chunks.blurred(rows, cols)
    with _one_thread():
        write_zarr(made, tmp_path / "map.zarr", resume=resume)
    assert chunks.most < 60 < rows * cols / 5
    assert chunks.made <= rows * cols * (STRIP + 2) / STRIP
    written = xr.open_zarr(tmp_path / "map.zarr")
    np.testing.assert_array_equal(written["lulc"], by_hand(rows, cols))
    np.testing.assert_array_equal(written["confidence"], by_hand(rows, cols) // 2)


def test_a_geotiff_needs_no_more(tmp_path):
    import rasterio

    chunks = Chunks()
    made = chunks.blurred(66, 5)
    with _one_thread():
        write_cog(made, tmp_path / "map.tif", variable="confidence")
    assert chunks.most < 60
    with rasterio.open(tmp_path / "map_confidence.tif") as file:
        np.testing.assert_array_equal(file.read(1), by_hand(66, 5) // 2)


def test_progress_goes_on_from_strip_to_strip(tmp_path):
    told = []
    made = Chunks().blurred(2 * STRIP + 3, 3)
    with _one_thread():
        write_zarr(made, tmp_path / "map.zarr", progress=lambda *pair: told.append(pair))
    done = [pair[0] for pair in told]
    assert done == sorted(done)
    assert all(0 < finished <= total for finished, total in told)
    assert told[-1][0] == told[-1][1]
    assert told[len(told) // 2][0] < 0.7 * told[-1][1]


def test_regions_go_where_they_belong():
    target = np.zeros((5, 7), dtype="uint8")
    array = da.arange(35, chunks=5, dtype="uint8").reshape(5, 7)
    storing.store([array[1:3, 2:5]], [target], [(slice(1, 3), slice(2, 5))])
    expected = np.zeros((5, 7), dtype="uint8")
    expected[1:3, 2:5] = np.arange(35).reshape(5, 7)[1:3, 2:5]
    np.testing.assert_array_equal(target, expected)
    storing.store([], [])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=70))
def test_strips_are_whole_chunks_and_cover_each_pixel_once(lengths):
    found = list(strips(lengths))
    assert [n for s in found for n in range(s.start, s.stop)] == list(range(sum(lengths)))
    edges = {0, *np.cumsum(lengths).tolist()}
    assert all({s.start, s.stop} <= edges for s in found)
    assert len(found) == -(-len(lengths) // STRIP)


def _one_thread():
    import dask

    return dask.config.set(scheduler="synchronous")
