"""Hectares against closed formulas, geodesics, and counting."""

import csv
import io
import json

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Geod
from shapely.geometry import mapping

from deepforest_xr.basin import areas as areas_module
from deepforest_xr.basin import plan_basin
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.ground import is_equal_area, pixel_areas
from deepforest_xr.basin.polygons import PolygonLayer, read_zones
from deepforest_xr.basin.store import open_objects
from deepforest_xr.basin.tiling import on_crs
from deepforest_xr.errors import ConfigError, GridError
from deepforest_xr.grid import Grid

from .conftest import PARTS, area_file
from .finished import fill, pixels


def layer(folder, boxes, crs="EPSG:32721", field="name"):
    """Boxes of a CRS by name, as GeoJSON in degrees."""
    to = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    features = [
        {
            "type": "Feature",
            "properties": {field: name, "other": 1},
            "geometry": mapping(
                shapely.transform(
                    shapely.segmentize(shapely.box(*box), 100), to.transform, interleaved=False
                )
            ),
        }
        for name, box in boxes
    ]
    path = folder / "states.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def table(plan):
    content = open_objects(plan.url).get("finish/areas.csv").decode()
    return list(csv.DictReader(io.StringIO(content)))


def totals(rows, zone, column="hectares"):
    return sum(float(row[column]) for row in rows if row["zone"] == zone)


ALBERS = "ESRI:102033"


@pytest.fixture
def albers(config, tmp_path, scene):
    """A basin on an equal-area CRS whose area is a rectangle of whole pixels there."""
    to = pyproj.Transformer.from_crs("EPSG:32721", ALBERS, always_xy=True)
    x, y = (round(float(v), -1) for v in to.transform(830_600, 9_109_000))
    rectangle = (x - 430, y - 270, x + 510, y + 380)
    area = area_file(tmp_path / "albers", [rectangle], crs=ALBERS)
    return plan_basin(config(aoi=str(area), crs=ALBERS)), rectangle


def test_a_rectangle_of_an_equal_area_crs_is_width_times_height(albers):
    plan, (left, bottom, right, top) = albers
    layers = fill(plan, pixels(plan))
    finish_basin(plan, cogs=None)
    rows = table(plan)
    assert totals(rows, "whole area") == pytest.approx((right - left) * (top - bottom) / 1e4)
    assert totals(rows, "whole area", "pixels") == 94 * 65
    grid = plan.tiling.grid
    col, row = (round(v) for v in ~grid.transform @ (left, top))
    within = layers["lulc"][row : row + 65, col : col + 94]
    for one in rows:
        assert int(one["pixels"]) == (within == int(one["code"])).sum()
        assert float(one["hectares"]) == pytest.approx(int(one["pixels"]) * 0.01)
    shares = [float(r["percent_of_classified"]) for r in rows if r["percent_of_classified"]]
    assert sum(shares) == pytest.approx(100)
    assert len(shares) == 13


def test_an_area_of_whole_tiles_is_their_number_times_their_size(config, tmp_path, albers):
    plan, (left, bottom, *_) = albers
    wide = (left - 3000, bottom - 3000, left + 3000, bottom + 3000)
    fill(plan, pixels(plan))
    objects = open_objects(plan.url)
    area_file(tmp_path / "wide", [wide], crs=ALBERS)
    polygon = json.loads((tmp_path / "wide" / "area.geojson").read_text())
    objects.put("aoi.json", json.dumps({"type": "Feature", "geometry": polygon}).encode())
    finish_basin(plan, cogs=None)
    rows = table(plan)
    assert totals(rows, "whole area") == pytest.approx(len(plan.tiles) * 640**2 / 1e4, rel=1e-12)
    card = json.loads(objects.get("finish/areas.json"))
    assert "keeps areas" in card["method"]


def test_polygons_that_divide_the_area_add_up_to_it_and_nothing_beyond_counts(plan, tmp_path):
    fill(plan, pixels(plan))
    path = layer(
        tmp_path,
        [("west", (820_000, 9_100_000, 830_500, 9_120_000)),
         ("east", (830_500, 9_100_000, 840_000, 9_109_300)),
         ("east", (830_500, 9_109_300, 840_000, 9_120_000)),
         ("far", (700_000, 9_100_000, 700_100, 9_100_100))],
    )  # fmt: skip
    finish_basin(plan, cogs=None, polygons=path)
    rows = table(plan)
    assert {row["zone"] for row in rows} == {"whole area", "west", "east", "far"}
    for code in range(14):
        counts = {r["zone"]: int(r["pixels"]) for r in rows if int(r["code"]) == code}
        assert counts["west"] + counts["east"] == counts["whole area"]
        assert counts["far"] == 0
    assert totals(rows, "west", "pixels") > 500
    assert totals(rows, "east", "pixels") > 500
    card = json.loads(open_objects(plan.url).get("finish/areas.json"))
    assert "areal scale" in card["method"]


def test_on_utm_the_area_is_that_of_the_geodesic(plan):
    fill(plan, pixels(plan))
    finish_basin(plan, cogs=None)
    rows = table(plan)
    area = shapely.union_all([shapely.box(*part) for part in PARTS])
    to = pyproj.Transformer.from_crs("EPSG:32721", "EPSG:4326", always_xy=True)
    expected = sum(
        abs(Geod(ellps="WGS84").polygon_area_perimeter(*to.transform(*part.exterior.xy))[0])
        for part in area.geoms
    )
    grid_area = totals(rows, "whole area", "pixels") * 100
    assert totals(rows, "whole area") * 1e4 == pytest.approx(
        expected * grid_area / area.area, rel=1e-6
    )
    # The map is 0.1 % larger than the ground here: that is more than rounding.
    assert grid_area / (totals(rows, "whole area") * 1e4) - 1 == pytest.approx(0.00191, abs=2e-5)


GRIDS = {
    "utm, far from its meridian": (CRS("EPSG:32721"), Affine(90, 0, 820_000, 0, -90, 9_109_000)),
    "degrees": (CRS("EPSG:4326"), Affine(0.001, 0, -54.0, 0, -0.001, 0.1)),
    "degrees, south": (CRS("EPSG:4326"), Affine(0.001, 0, -54.0, 0, -0.001, -14.0)),
    "degrees, a sphere": (
        CRS("+proj=longlat +R=6371000 +type=crs"),
        Affine(0.001, 0, -54.0, 0, -0.001, -30),
    ),
    "albers": (CRS(ALBERS), Affine(90, 0, 120_000, 0, -90, 3_000_000)),
    "feet": (CRS("EPSG:2263"), Affine(300, 0, 900_000, 0, -300, 250_000)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_pixels_add_up_to_what_geodesics_enclose(name):
    crs, transform = GRIDS[name]
    grid = Grid(crs, transform, (171, 230))
    found = np.broadcast_to(pixel_areas(grid), grid.shape).sum()
    outline = shapely.segmentize(shapely.box(*grid.bounds), grid.resolution[0])
    to = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = to.transform(*np.array(outline.exterior.coords).T)
    expected = abs(crs.get_geod().polygon_area_perimeter(lon, lat)[0])
    assert found == pytest.approx(expected, rel=1e-7)
    assert is_equal_area(grid) == (name == "albers")


def test_rows_nearer_to_the_equator_are_larger():
    crs, transform = GRIDS["degrees"]
    found = pixel_areas(Grid(crs, transform, (201, 3)))
    assert found.shape == (201, 1)
    assert (np.diff(found[:100, 0]) > 0).all()
    assert (np.diff(found[-100:, 0]) < 0).all()


def test_a_crs_that_does_not_tell_areas_is_refused():
    crs = CRS("+proj=geos +h=35785831 +lon_0=-60 +sweep=y +ellps=GRS80 +type=crs")
    grid = Grid(crs, Affine(3000, 0, -6_000_000, 0, -3000, 6_000_000), (40, 30))
    with pytest.raises(GridError, match=r"areas|large"):
        is_equal_area(grid)


def test_a_tile_is_summed_in_bands_as_it_is_whole(plan, monkeypatch, tmp_path):
    fill(plan, pixels(plan))
    path = layer(tmp_path, [("west", (820_000, 9_100_000, 830_333, 9_120_000))])
    finish_basin(plan, cogs=None, polygons=path)
    whole = table(plan)
    monkeypatch.setattr(areas_module, "ROWS", 7)
    finish_basin(plan, cogs=None, polygons=path, overwrite=True)
    for one, other in zip(whole, table(plan), strict=True):
        assert one["pixels"] == other["pixels"]
        assert float(one["hectares"]) == pytest.approx(float(other["hectares"]), rel=1e-7)


def test_pixels_count_by_their_centres(plan, tmp_path):
    layers = fill(plan, pixels(plan))
    # Its edges cross pixels on either side of their centres.
    path = layer(tmp_path, [("odd", (830_103, 9_108_657, 830_578, 9_109_343))])
    finish_basin(plan, cogs=None, polygons=path)
    grid = plan.tiling.grid
    rows, cols = np.indices(grid.shape)
    x = grid.transform.c + grid.transform.a * (cols + 0.5)
    y = grid.transform.f + grid.transform.e * (rows + 0.5)
    aoi = json.loads(open_objects(plan.url).get("aoi.json"))["geometry"]
    area = on_crs(shapely.geometry.shape(aoi), grid.crs)
    (zone,) = read_zones(PolygonLayer(path))
    inside = {"whole area": shapely.contains_xy(area, x, y)}
    inside["odd"] = inside["whole area"] & shapely.contains_xy(
        on_crs(zone.geometry, grid.crs), x, y
    )
    assert inside["odd"].sum() > 500
    for row in table(plan):
        expected = (inside[row["zone"]] & (layers["lulc"] == int(row["code"]))).sum()
        assert int(row["pixels"]) == expected


def test_the_property_that_names_polygons_is_given(plan, tmp_path):
    path = layer(tmp_path, [("Pará", (820_000, 9_100_000, 830_500, 9_120_000))], field="SIGLA")
    with pytest.raises(ConfigError, match="has no property 'name'; it has SIGLA, other: give one"):
        read_zones(PolygonLayer(path))
    (zone,) = read_zones(PolygonLayer(path, "SIGLA"))
    assert zone.name == "Pará"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(features=[]), "no polygon"),
        (lambda c: c.pop("features"), "neither GeoJSON nor"),
        (lambda c: c["features"][0]["properties"].update(name=" "), "has no 'name': name it"),
        (lambda c: c["features"][0]["properties"].update(name="whole area"), "rename it"),
        (lambda c: c["features"][0].update(geometry=mapping(shapely.box(0, 0, 500, 1))), "degrees"),
    ],
)
def test_polygons_that_cannot_be_are_refused(tmp_path, change, told):
    path = layer(tmp_path, [("a", (820_000, 9_100_000, 830_500, 9_120_000))])
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=told):
        read_zones(PolygonLayer(path))
