"""Scenes in an S3 store read as scenes on disk do, with the address and keys of the environment."""

import pytest
import xarray as xr

import deepforest_xr as dfx
from deepforest_xr.catalogs import read_items
from deepforest_xr.errors import DeepForestError

pytestmark = pytest.mark.services


@pytest.fixture
def keys(s3, monkeypatch):
    """What GDAL is told of an S3 store that is not Amazon's."""
    told = {
        "AWS_S3_ENDPOINT": s3.endpoint,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)


def cube(items, scene):
    return dfx.open_cube(items, grid=scene.grid, months=[6, 8]).compute()


def test_a_cube_from_s3_is_the_cube_from_disk(s3, keys, scene, moved):
    there = moved(scene.items, scene.folder, f"s3://{s3.bucket}")
    xr.testing.assert_identical(cube(there, scene), cube(read_items(scene.items), scene))


def test_a_key_that_is_not_there_is_named(s3, keys, scene, moved):
    there = moved(scene.items, scene.folder, f"s3://{s3.bucket}/elsewhere")
    with pytest.raises(DeepForestError, match="elsewhere") as caught:
        cube(there, scene)
    assert "\n" not in str(caught.value)
