"""Scenes behind HTTP are read in ranges: a small window costs a small part of each file."""

import pytest
import xarray as xr
from affine import Affine

import deepforest_xr as dfx
from deepforest_xr.catalogs import read_items
from deepforest_xr.grid import Grid
from deepforest_xr.testing import simulate_scene

from .ranges import served

BANDS = ("B02", "B8A")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Files of half a megabyte and more: several blocks each."""
    return simulate_scene(tmp_path_factory.mktemp("wide"), shape=(768, 1024), months=(6,))


def test_a_cube_over_http_is_the_cube_from_disk_and_no_file_is_fetched_whole(wide, moved):
    whole = wide.grid
    grid = Grid(whole.crs, whole.transform @ Affine.translation(40, 60), (24, 32))
    question = {"grid": grid, "months": [6], "bands": BANDS}
    with served(wide.folder) as server:
        there = moved(wide.items, wide.folder, server.url)
        cube = dfx.open_cube(there, **question)
        assert server.asked == []
        cube.load()
    here = dfx.open_cube(read_items(wide.items), **question).compute()
    assert float(here["s2_count"].min()) > 0
    xr.testing.assert_identical(cube, here)
    gets = [request for request in server.asked if request.method == "GET"]
    assert {request.status for request in gets} == {206}
    sent, size = {}, {}
    for request in gets:
        sent[request.path] = sent.get(request.path, 0) + request.sent
        size[request.path] = request.size
    large = [path for path in sent if size[path] > 400_000]
    assert len(large) >= 3
    for path in large:
        assert sent[path] < size[path] / 2, (path, sent[path], size[path])
    assert len(gets) <= 4 * len(sent)


def test_a_file_that_is_not_there_is_named(wide, moved):
    from deepforest_xr.errors import DeepForestError

    with served(wide.folder) as server:
        there = moved(wide.items, wide.folder, f"{server.url}/gone")
        with pytest.raises(DeepForestError, match="gone") as caught:
            dfx.open_cube(there, grid=wide.grid, bands=BANDS).compute()
    assert "\n" not in str(caught.value)
