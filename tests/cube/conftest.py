"""The simulated scene as items, a grid inside it and its cube; what reads files plainly."""

import pytest
import rasterio

from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.grid import Grid


def read(item, key):
    with rasterio.open(item.assets[key].href) as source:
        return source.read(1)


def grid_of(item, key):
    with rasterio.open(item.assets[key].href) as source:
        return Grid.from_bounds(tuple(source.bounds), crs=source.crs.to_wkt())


def optical(items):
    return [i for i in items if i.collection_id == "sentinel-2-l2a"]


def radar(items):
    return [i for i in items if i.collection_id != "sentinel-2-l2a"]


def repeat(values, factor):
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


@pytest.fixture(scope="module")
def items(scene):
    return list(read_items(scene.items))


@pytest.fixture(scope="module")
def small(scene):
    """A part of the scene across both borders of its granules."""
    left, bottom, right, top = scene.grid.bounds
    return Grid.from_bounds((left + 300, bottom + 320, right - 250, top - 310), crs=32721)


@pytest.fixture(scope="module")
def whole(items, scene):
    """Three months of the scene, July without radar, in memory."""
    return open_cube(items, grid=scene.grid, months=(6, 7, 8)).compute()
