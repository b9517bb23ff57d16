"""The command ``coverage``, and the cube's options for error and composite."""

import pytest
import xarray as xr

from deepforest_xr.catalogs import read_items, write_items
from deepforest_xr.cube import open_cube

from .conftest import call


def grid_words(scene):
    return ("--crs", "EPSG:32721", "--bounds", *scene.grid.bounds)


def test_coverage_is_printed_and_drawn(scene, tmp_path, capsys):
    words = (scene.items, *grid_words(scene), "--picture", tmp_path / "c.png", "--read")
    assert call("coverage", *words) == 0
    said = capsys.readouterr()
    assert "| 2018-07 | 3 |" in said.out
    assert "without Sentinel-1: 2018-07" in said.out
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert call("coverage", *words) == 1
    assert "exists" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The 'shapely:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_cube_takes_the_options_of_open_cube(scene, tmp_path, capsys):
    items = [i.clone() for i in read_items(scene.items)]
    gone = next(i for i in items if i.collection_id == "sentinel-2-l2a")
    gone.assets["B08"].href = str(tmp_path / "gone.tif")
    path = write_items(items, tmp_path / "items.json")
    words = (
        path, "--out", tmp_path / "cube.zarr", *grid_words(scene), "--composite", "medoid",
        "--scl-dilation", 1, "--engine", "odc-stac", "--on-error", "nodata",
    )  # fmt: skip
    assert call("cube", *words) == 0
    assert f"not read: {tmp_path / 'gone.tif'}" in capsys.readouterr().err
    cube = open_cube(items, grid=scene.grid, composite="medoid", scl_dilation=1, on_error="nodata")
    stored = xr.open_zarr(tmp_path / "cube.zarr")
    xr.testing.assert_equal(stored["s2"].compute(), cube["s2"].compute())
    assert stored.attrs["read_failures"][0].startswith(str(tmp_path / "gone.tif"))
