"""What could not be read, when the user asked to go on."""

import copy
import json
import logging
import pickle

import numpy as np
import pytest
import xarray as xr
from rasterio.windows import Window

from deepforest_xr.reader import ATTRIBUTE, Failures, read_failures

from .conftest import reader, write


def test_a_file_that_cannot_be_read_is_missing_pixels_and_one_line(tmp_path, caplog):
    failures = Failures()
    url = str(tmp_path / "absent.tif")
    grid = reader(url, (4, 5), dtype="float32", fill=np.nan, failures=failures.name)
    with caplog.at_level(logging.WARNING):
        found = grid.read(Window(0, 0, 5, 2))
        grid.read(Window(0, 2, 5, 2))
    assert found.shape == (2, 5)
    assert np.isnan(found).all()
    assert len(failures) == 1
    assert failures[0].startswith(f"{url}: ")
    assert "absent.tif" in caplog.text


def test_a_token_is_not_listed(server, impatient):
    failures = Failures()
    server.faults = [403] * 100
    url = f"{server.url}/a.tif"
    reader(f"{url}?sig=SECRET", (4, 5), failures=failures.name).read(Window(0, 0, 5, 2))
    assert "SECRET" not in failures[0]


def test_what_can_be_read_is_not_listed(tmp_path, numbers):
    failures = Failures()
    url = write(tmp_path / "a.tif", numbers)
    reader(url, (21, 34), failures=failures.name).read(Window(0, 0, 34, 21))
    assert failures == []


def test_a_copy_of_a_cube_has_the_same_list():
    cube = xr.Dataset(attrs={ATTRIBUTE: Failures()})
    for other in (cube.copy(deep=True), copy.deepcopy(cube), cube.assign(a=1), cube * 1):
        if ATTRIBUTE in other.attrs:
            assert other.attrs[ATTRIBUTE] is cube.attrs[ATTRIBUTE]
    restored = pickle.loads(pickle.dumps(cube.attrs[ATTRIBUTE]))
    assert restored is cube.attrs[ATTRIBUTE]


def test_it_is_written_as_a_list():
    failures = Failures()
    failures.add("a.tif: gone")
    failures.add("a.tif: gone")
    assert json.loads(json.dumps({ATTRIBUTE: failures})) == {ATTRIBUTE: ["a.tif: gone"]}


def test_a_cube_that_stops_at_errors_has_none():
    assert read_failures(xr.Dataset()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_fails_in_another_process_is_collected(tmp_path):
    from distributed import Client, LocalCluster

    failures = Failures()
    grid = reader(str(tmp_path / "absent.tif"), (4, 5), failures=failures.name)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.submit(grid.read, Window(0, 0, 5, 2)).result()
        assert failures == []
        cube = xr.Dataset(attrs={ATTRIBUTE: failures})
        assert len(read_failures(cube)) == 1
    assert "absent.tif" in failures[0]
