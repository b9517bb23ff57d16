"""Tiles: a lattice that neighbours share, every place of the area in one, none beside it."""

import json

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping

from deepforest_xr.basin.tiling import Tile, cut, read_area
from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import Grid

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


@pytest.mark.parametrize("kind", ["geometry", "Feature", "FeatureCollection"])
def test_all_kinds_of_geojson_are_read(tmp_path, kind):
    box = shapely.box(-60, -5, -59, -4)
    feature = {"type": "Feature", "properties": {}, "geometry": mapping(box)}
    found = {
        "geometry": mapping(box),
        "Feature": feature,
        "FeatureCollection": {"type": "FeatureCollection", "features": [feature]},
    }[kind]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(found))
    assert read_area(path).equals(box)


def test_polygons_in_collections_count_and_features_without_a_place_do_not(tmp_path):
    west, east = shapely.box(-60, -5, -59, -4), shapely.box(-50, -5, -49, -4)
    bow = shapely.Polygon([(-40, 0), (-39, 1), (-39, 0), (-40, 1)])  # crosses itself
    parts = [
        shapely.GeometryCollection([shapely.Point(0, 0), shapely.GeometryCollection([west])]),
        east,
        bow,
    ]
    features = [{"type": "Feature", "properties": {}, "geometry": mapping(g)} for g in parts]
    features.append({"type": "Feature", "properties": {}, "geometry": None})
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    area = read_area(path)
    assert area.area == pytest.approx(1 + 1 + 0.5)
    assert area.geom_type == "MultiPolygon"


def test_a_geopackage_of_any_crs_is_read(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    pytest.importorskip("pyogrio")
    box = Grid.from_bounds((700_000, 9_000_000, 710_000, 9_020_000), crs=32721)
    table = geopandas.GeoDataFrame(geometry=[shapely.box(*box.bounds)], crs=32721)
    table.to_file(tmp_path / "a.gpkg", engine="pyogrio")
    found = read_area(tmp_path / "a.gpkg")
    np.testing.assert_allclose(found.bounds, box.bbox_lonlat, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not GeoJSON"),
        ('{"type": "Nothing"}', "not GeoJSON"),
        ('{"type": "Point", "coordinates": [0, 0]}', "no polygon"),
        (json.dumps(mapping(shapely.box(5e5, 9e6, 6e5, 9.1e6))), "degrees"),
    ],
)
def test_what_is_no_area_is_refused(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_area(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no file"):
        read_area(tmp_path / "b.json")
