"""Tiles: a lattice that neighbours share, every place of the area in one, none beside it."""

import numpy as np
import pyproj
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from deepforest_xr.basin.tiling import Tile, cut

ALBERS = "ESRI:102033"


@settings(max_examples=25, deadline=None)
@given(
    west=st.floats(-72, -50),
    south=st.floats(-14, 2),
    width=st.floats(0.05, 1.5),
    height=st.floats(0.05, 1.1),
)
def test_every_place_of_the_area_is_in_exactly_one_tile(west, south, width, height):
    area = shapely.box(west, south, west + width, south + height)
    tiling = cut(area, crs=ALBERS, resolution=30, tile=512)
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(west, west + width, 40), rng.uniform(south, south + height, 40)
    x, y = pyproj.Transformer.from_crs(4326, ALBERS, always_xy=True).transform(lon, lat)
    boxes = [tiling.grid_of(tile).bounds for tile in tiling.tiles]
    for px, py in zip(x, y, strict=True):
        assert sum(left <= px < right and low < py <= top for left, low, right, top in boxes) == 1
    side = 512 * 30
    assert all(edge % side == 0 for box in boxes for edge in box)


def test_tiles_that_only_touch_the_area_are_left_out():
    # In a CRS of degrees nothing is bent: two boxes that meet at a corner of the lattice.
    boxes = shapely.box(0.5, -1.5, 1.0, -1.0), shapely.box(1.0, -2.0, 2.0, -1.5)
    tiling = cut(shapely.union_all(boxes), crs="EPSG:4326", resolution=0.5 / 32, tile=32)
    assert [t.id for t in tiling.tiles] == ["r0000c0000", "r0001c0001", "r0001c0002"]
    assert tiling.grid.shape == (64, 96)


def test_holes_and_gaps_have_no_tiles():
    area = shapely.union_all([shapely.box(0.1, 0.1, 0.2, 0.2), shapely.box(1.0, 0.7, 1.1, 0.8)])
    tiling = cut(area, crs="EPSG:4326", resolution=0.01, tile=32)
    assert tiling.tiles == (Tile(0, 3), Tile(2, 0))
    assert tiling.grid.shape == (3 * 32, 4 * 32)


def test_a_halo_widens_a_tile_by_whole_pixels():
    tiling = cut(shapely.box(0.1, 0.1, 0.2, 0.2), crs="EPSG:4326", resolution=0.01, tile=32)
    inner, outer = tiling.grid_of(Tile(0, 0)), tiling.grid_of(Tile(0, 0), 5)
    assert outer.shape == (42, 42)
    corner = outer.transform @ (5, 5)
    np.testing.assert_allclose(corner, (inner.transform.c, inner.transform.f))


def test_the_outline_bends_with_the_projection():
    tiling = cut(shapely.box(-70, -10, -69, -9), crs=ALBERS, resolution=100, tile=1024)
    tile = tiling.tiles[0]
    grid = tiling.grid_of(tile)
    outline = tiling.outline(tile)
    middle = (grid.bounds[0] + grid.bounds[2]) / 2, grid.bounds[3]
    lonlat = pyproj.Transformer.from_crs(ALBERS, 4326, always_xy=True).transform(*middle)
    corners = shapely.Polygon(
        pyproj.Transformer.from_crs(ALBERS, 4326, always_xy=True).transform(x, y)
        for x, y in shapely.box(*grid.bounds).exterior.coords
    )
    point = shapely.Point(lonlat)
    assert outline.exterior.distance(point) < corners.exterior.distance(point) / 20
