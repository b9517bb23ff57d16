"""Vector files of any CRS come as polygons in degrees; GDAL wrote the GeoPackages."""

import json
import re

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from shapely.geometry import mapping

from deepforest_xr.basin.polygons import PolygonLayer, read_zones
from deepforest_xr.basin.vector import read_area
from deepforest_xr.errors import ConfigError

ALBERS = "ESRI:102033"
BOX = shapely.box(-60, -5, -59, -4)


def geopackage(path, layers, *, crs=ALBERS, kind="MultiPolygon"):
    """Write layers of name, geometry pairs with GDAL."""
    for layer, parts in layers.items():
        pyogrio.raw.write(
            path,
            geometry=np.array([None if g is None else shapely.to_wkb(g) for _, g in parts], object),
            field_data=[np.array([name for name, _ in parts], object)],
            fields=["NM_UF"],
            layer=layer,
            driver="GPKG",
            crs=crs,
            geometry_type=kind,
            append=path.exists(),
        )
    return path


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


@pytest.mark.parametrize("crs", [ALBERS, "EPSG:5880", "EPSG:4674", "EPSG:4326"])
def test_a_geopackage_of_any_crs_is_read(tmp_path, crs):
    """Areas on the ellipsoid, by pyproj, of what was drawn in the file's own CRS."""
    to = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    left, bottom, right, top = to.transform_bounds(-60, -5, -59, -4)
    drawn = shapely.MultiPolygon([shapely.box(left, bottom, right, top)])
    path = geopackage(tmp_path / "a.gpkg", {"area": [("Amazonas", drawn)]}, crs=crs)
    dense = shapely.segmentize(drawn, (right - left) / 1000)
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    exact = shapely.transform(dense, back.transform, interleaved=False)
    area = read_area(path)
    geod = pyproj.Geod(ellps="WGS84")
    edges = shapely.segmentize([area, exact], 0.001)  # pyproj takes edges for geodesics
    hectares = [abs(geod.geometry_area_perimeter(g)[0]) / 1e4 for g in edges]
    assert hectares[0] == pytest.approx(hectares[1], rel=1e-6)
    assert shapely.hausdorff_distance(area, exact) < 1e-4


def test_zones_of_a_geopackage_are_named_by_a_column(tmp_path):
    to = pyproj.Transformer.from_crs("EPSG:4326", ALBERS, always_xy=True)
    east = shapely.box(-58, -5, -57, -4)
    drawn = [
        shapely.transform(shapely.segmentize(b, 0.01), to.transform, interleaved=False)
        for b in (BOX, east)
    ]
    pairs = [("Pará", drawn[0]), ("Pará", drawn[1]), ("Acre", drawn[1]), ("Nada", None)]
    path = geopackage(tmp_path / "a.gpkg", {"states": pairs}, kind="Polygon")
    zones = read_zones(PolygonLayer(path, "NM_UF"))
    assert [zone.name for zone in zones] == ["Acre", "Pará"]
    assert [zone.geometry.area for zone in zones] == pytest.approx([1, 2], rel=1e-6)
    with pytest.raises(ConfigError, match="no property 'name'; it has NM_UF: give one with"):
        read_zones(PolygonLayer(path))


def test_one_of_several_layers_is_named(tmp_path):
    layers = {"rivers": [("x", shapely.box(0, 0, 1, 1))], "states": [("y", BOX)]}
    path = geopackage(tmp_path / "a.gpkg", layers, crs="EPSG:4326", kind="Polygon")
    assert read_area(f"{path}|layername=states").equals(BOX)
    several = "several layers; there are rivers, states: name one at the end, as |layername=rivers"
    with pytest.raises(ConfigError, match=re.escape(several)):
        read_area(path)
    with pytest.raises(ConfigError, match="no layer 'basins'; there are rivers, states"):
        read_area(f"{path}|layername=basins")


def test_geojson_of_before_2016_may_be_of_another_crs(tmp_path):
    to = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32721", always_xy=True)
    box = shapely.transform(shapely.segmentize(BOX, 0.01), to.transform, interleaved=False)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32721"}}
    feature = {"type": "Feature", "properties": {"name": 3}, "geometry": mapping(box)}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    assert read_area(path).area == pytest.approx(1, rel=1e-6)
    (zone,) = read_zones(PolygonLayer(path))
    assert zone.name == "3"


def test_zones_are_polygons_inside_collections_too_and_heights_are_left_out(tmp_path):
    west = shapely.force_3d(BOX, 100.0)
    parts = [
        ("a", shapely.GeometryCollection([shapely.Point(0, 0), shapely.GeometryCollection([BOX])])),
        ("b", west),
        (7, shapely.box(-50, -5, -49, -4)),
        (None, shapely.Point(3, 3)),
    ]
    features = [
        {"type": "Feature", "properties": {"name": n}, "geometry": mapping(g)} for n, g in parts
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    zones = read_zones(PolygonLayer(path))
    assert [zone.name for zone in zones] == ["7", "a", "b"]
    assert all(zone.geometry.area == pytest.approx(1) for zone in zones)
    assert not zones[2].geometry.has_z


def test_rings_that_are_open_are_closed_and_spikes_are_no_area(tmp_path):
    square = [[-55, -9], [-54, -9], [-54, -8], [-55, -8]]
    spiked = [*square[:3], [-50, -8], [-54, -8], *square[3:], square[0]]
    for ring in (square, spiked):
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
        area = read_area(path)
        assert area.area == pytest.approx(1)
        assert area.bounds == (-55, -9, -54, -8)


def test_a_date_that_is_missing_is_no_name(tmp_path):
    features = [
        {"type": "Feature", "properties": {"name": date}, "geometry": mapping(BOX)}
        for date in ("2020-01-01", None)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(ConfigError, match="has no 'name': name it"):
        read_zones(PolygonLayer(path))


def test_a_file_without_a_crs_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        path = geopackage(tmp_path / "a.gpkg", {"a": [("x", BOX)]}, crs=None, kind="Polygon")
    with pytest.raises(ConfigError, match="states no CRS"):
        read_area(path)


def test_a_table_without_places_is_no_layer(tmp_path):
    path = tmp_path / "a.gpkg"
    columns = {"field_data": [np.array([1, 2])], "fields": ["n"]}
    pyogrio.raw.write(path, None, **columns, layer="t", driver="GPKG", geometry_type=None)
    with pytest.raises(ConfigError, match="no layer with geometries"):
        read_area(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "neither GeoJSON nor GeoPackage"),
        ('{"type": "Nothing"}', "neither GeoJSON"),
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
