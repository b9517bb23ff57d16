"""GeoTIFFs, mosaic and catalog: every pixel in one file, and what other tools read there."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from pyproj import CRS, Transformer
from rio_cogeo.cogeo import cog_validate

from deepforest_xr.basin import plan_basin
from deepforest_xr.basin.cells import Cell, cells_of, inside
from deepforest_xr.basin.cogs import Cog
from deepforest_xr.basin.finish import finish_basin
from deepforest_xr.basin.mosaic import mosaic_text
from deepforest_xr.grid import Grid
from deepforest_xr.legend import amazon13

from .conftest import IDS, basin_of
from .finished import fill, pixels, window

GRIDS = {
    "albers": Grid(CRS("ESRI:102033"), Affine(900, 0, -100_500, 0, -900, 3_300_200), (150, 210)),
    "utm": Grid(CRS("EPSG:32721"), Affine(10, 0, 829_440, 0, -10, 9_114_000), (131, 200)),
    "degrees": Grid(CRS("EPSG:4326"), Affine(0.01, 0, -60.505, 0, -0.01, 0.755), (190, 333)),
    "on edges": Grid(CRS("EPSG:4326"), Affine(0.5, 0, -61.25, 0, -0.5, 1.25), (5, 8)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_pixel_is_in_the_one_cell_that_its_centre_lies_in(name):
    grid = GRIDS[name]
    rows, cols = np.indices(grid.shape)
    x = grid.transform.c + grid.transform.a * (cols + 0.5)
    y = grid.transform.f + grid.transform.e * (rows + 0.5)
    lon, lat = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(x, y)
    cells = cells_of(grid)
    times = np.zeros(grid.shape, dtype=int)
    for cell in cells:
        mask = inside(cell, grid)
        times += mask
        expected = (np.floor(lon) == cell.west) & (np.floor(lat) == cell.south)
        np.testing.assert_array_equal(mask, expected)
    assert (times == 1).all()
    assert len(cells) > 1


@pytest.mark.parametrize(
    ("south", "west", "name"),
    [(-3, -60, "S03W060"), (0, -1, "N00W001"), (12, 7, "N12E007"), (-10, 0, "S10E000")],
)
def test_a_cell_is_named_by_its_south_west_corner(south, west, name):
    assert Cell(south, west).id == name


@pytest.fixture(scope="module", params=["tile", "degree"])
def finished(request, scene, model, tmp_path_factory):
    plan = plan_basin(basin_of(scene, model, tmp_path_factory.mktemp("cogs")))
    layers = pixels(plan)
    layers["lulc"][64:, :64] = layers["confidence"][64:, :64] = 0  # a tile without data
    fill(plan, layers)
    finish_basin(plan, cogs=request.param, license_name="CC-BY-4.0")
    return request.param, plan, layers, Path(plan.url) / "finish"


def test_all_files_together_are_the_map_and_no_pixel_is_in_two(finished):
    kind, plan, layers, folder = finished
    names = sorted(p.stem for p in folder.glob("cog/*.tif") if "_" not in p.stem)
    expected = {"tile": [IDS[0], IDS[1], IDS[3]], "degree": ["S09W054", "S09W055"]}
    assert names == expected[kind]
    for name, suffix in (("lulc", ""), ("confidence", "_confidence")):
        whole, times = np.zeros_like(layers[name]), np.zeros(layers[name].shape, dtype=int)
        for stem in names:
            with rasterio.open(folder / "cog" / f"{stem}{suffix}.tif") as file:
                values = file.read(1)
                col, row = ~plan.tiling.grid.transform @ (file.transform.c, file.transform.f)
            row, col = round(row), round(col)
            place = np.s_[row : row + values.shape[0], col : col + values.shape[1]]
            times[place] += values > 0
            np.copyto(whole[place], values, where=values > 0)
        np.testing.assert_array_equal(whole, layers[name])
        assert times.max() == 1


def test_files_are_cogs_with_classes_colours_and_sidecars(finished):
    kind, _, _, folder = finished
    stem = {"tile": IDS[0], "degree": "S09W055"}[kind]
    valid, errors, _ = cog_validate(folder / "cog" / f"{stem}.tif")
    assert valid, errors
    with rasterio.open(folder / "cog" / f"{stem}.tif") as file:
        assert file.colormap(1)[13][:3] == amazon13().rgb()[13]
        assert file.nodata == 0
    assert {p.name for p in folder.glob(f"cog/{stem}*")} == {
        f"{stem}.tif", f"{stem}.tif.aux.xml", f"{stem}.qml",
        f"{stem}_confidence.tif", f"{stem}_confidence.qml",
    }  # fmt: skip


def test_the_mosaic_is_the_map_wherever_the_folder_is_moved(finished, tmp_path):
    _, plan, layers, folder = finished
    folder = shutil.copytree(folder, tmp_path / "moved")
    for name, file in (("lulc", "mosaic.vrt"), ("confidence", "mosaic_confidence.vrt")):
        with rasterio.open(folder / file) as mosaic:
            np.testing.assert_array_equal(mosaic.read(1), layers[name])
            assert mosaic.transform == plan.tiling.grid.transform
            assert CRS.from_wkt(mosaic.crs.to_wkt()) == plan.tiling.grid.crs
            assert mosaic.nodata == 0
            if name == "lulc":
                assert mosaic.colormap(1)[1][:3] == amazon13().rgb()[1]


def test_the_mosaic_names_files_beside_itself_wherever_it_stands(finished):
    _, plan, _, folder = finished
    item = json.loads(next(folder.glob("stac/items/*.json")).read_text())
    text = mosaic_text([Cog(item, ())], plan.tiling.grid)
    assert f'relativeToVRT="1">cog/{item["id"]}.tif<' in text


def test_a_large_mosaic_has_overviews(finished, tmp_path):
    _, plan, _, folder = finished
    cog = Cog(json.loads(next(folder.glob("stac/items/*.json")).read_text()), ())
    grid = plan.tiling.grid
    wide = Grid(grid.crs, grid.transform, (1500, 3000))
    path = tmp_path / "wide.vrt"
    path.write_text(mosaic_text([cog], wide, legend=amazon13()))
    with rasterio.open(path) as mosaic:
        assert mosaic.overviews(1) == [2, 4, 8]


def test_the_catalog_is_valid_and_tells_files_model_and_software(finished):
    kind, plan, _, folder = finished
    collection = pystac.Collection.from_file(folder / "stac" / "collection.json")
    validate(collection.to_dict(transform_hrefs=False), "COLLECTION")
    assert collection.license == "CC-BY-4.0"
    start, end = collection.extent.temporal.intervals[0]
    assert (start.isoformat()[:10], end.isoformat()[:10]) == ("2018-01-01", "2018-12-31")
    items = list(collection.get_items())
    assert len(items) == {"tile": 3, "degree": 2}[kind]
    west, south, east, north = collection.extent.spatial.bboxes[0]
    for item in items:
        validate(item.to_dict(transform_hrefs=False), "ITEM")
        assert item.collection_id == collection.id
        assert item.get_parent().id == collection.id
        assert west <= item.bbox[0] < item.bbox[2] <= east
        assert south <= item.bbox[1] < item.bbox[3] <= north
        assert item.properties["processing:software"] == {"torch": "2.6.0", "zarr": "3.1.0"}
        for asset in item.assets.values():
            path = Path(os.path.normpath(asset.get_absolute_href()))
            require_checksum(asset, path)
        (link,) = item.get_links("derived_from")
        assert plan.model.name in link.title
        assert Path(link.get_absolute_href()).resolve() == folder / "stac" / "model" / "item.json"
    model = pystac.Item.from_file(folder / "stac" / "model" / "item.json")
    assert Path(model.assets["weights"].href).is_file()
    assert model.properties["mlm:name"] == plan.model.name


def test_results_are_assets_of_the_collection(finished):
    _, plan, _, folder = finished
    collection = pystac.Collection.from_file(folder / "stac" / "collection.json")
    assert set(collection.assets) == {
        "map", "mosaic.vrt", "mosaic_confidence.vrt",
        "areas.csv", "areas.json", "overview.png", "overview.html",
    }  # fmt: skip
    for key, asset in collection.assets.items():
        path = Path(os.path.normpath(asset.get_absolute_href()))
        assert path.exists()
        if key != "map":
            require_checksum(asset, path)
    values = [c["value"] for c in collection.assets["map"].extra_fields["classification:classes"]]
    assert values == [0, *amazon13().codes]
    assert collection.extra_fields["deepforest:run_id"] == plan.run_id


def require_checksum(asset, path):
    import hashlib

    told = asset.extra_fields["file:checksum"]
    assert told == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert asset.extra_fields["file:size"] == path.stat().st_size


def validate(value, kind):
    """Against the core schemas that pystac brings along; extensions would be fetched."""
    from pystac.validation import JsonSchemaSTACValidator

    JsonSchemaSTACValidator().validate_core(value, getattr(pystac.STACObjectType, kind), "1.1.0")


def test_pixels_of_a_tile_are_where_the_tile_is(finished):
    kind, plan, layers, folder = finished
    if kind == "degree":
        pytest.skip("of tiles")
    tile = plan.tiles[1]
    with rasterio.open(folder / "cog" / f"{tile.id}.tif") as file:
        np.testing.assert_array_equal(file.read(1), layers["lulc"][window(tile, 64)])
        assert tuple(file.bounds) == plan.tiling.grid_of(tile).bounds
