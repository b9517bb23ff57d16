"""Two engines, one array: stackstac's graph and odc-stac's over the same reader."""

import sys
from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import rasterio

from deepforest_xr.catalogs import read_items
from deepforest_xr.cube import open_cube
from deepforest_xr.engines import Layer, Source, stack
from deepforest_xr.errors import ConfigError
from deepforest_xr.grid import Grid
from deepforest_xr.sentinel.prepare import Clean, ClearMask
from deepforest_xr.sentinel.s2 import BANDS
from deepforest_xr.testing import no_compute

# odc-geo 0.5 calls what shapely 2.2 and affine 3 want to rename.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'shapely:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


@pytest.fixture(scope="module")
def items(scene):
    return list(read_items(scene.items))


def optical(items):
    return sorted(
        (i for i in items if i.collection_id == "sentinel-2-l2a"), key=lambda i: (i.datetime, i.id)
    )


GRIDS = {
    "its own": lambda g: g,
    "a part": lambda g: Grid.from_bounds(
        (g.bounds[0] + 130, g.bounds[1] + 170, g.bounds[2] - 190, g.bounds[3] - 110), crs=32721
    ),
    "beyond": lambda g: Grid.from_bounds(
        (g.bounds[0] - 900, g.bounds[1] - 700, g.bounds[2] + 500, g.bounds[3] + 300), crs=32721
    ),
    "other zone": lambda g: Grid.from_lonlat(g.bbox_lonlat, crs=32722),
    "20 m": lambda g: Grid.from_bounds(g.bounds, crs=32721, resolution=20),
    "degrees": lambda g: Grid.from_bounds(
        (g.bbox_lonlat[0], g.bbox_lonlat[1], g.bbox_lonlat[2], g.bbox_lonlat[3]),
        crs=4326,
        resolution=0.0002,
    ),
    "no EPSG number": lambda g: Grid.from_lonlat(g.bbox_lonlat, crs="ESRI:102033", resolution=40),
}


@pytest.mark.parametrize("name", GRIDS)
def test_both_engines_give_the_same_pixels(items, scene, name):
    grid = GRIDS[name](scene.grid)
    options = {"grid": grid, "months": (6, 8), "bands": ("B03", "B11"), "chunk": 50}
    ours = open_cube(items, engine="stackstac", **options)
    theirs = open_cube(items, engine="odc-stac", **options)
    assert ours.attrs == theirs.attrs
    assert ours.chunksizes == theirs.chunksizes
    ours, theirs = ours.compute(), theirs.compute()
    for variable in ours.variables:
        np.testing.assert_array_equal(ours[variable], theirs[variable], err_msg=str(variable))
    assert np.isfinite(ours["s2"]).any()


@pytest.mark.parametrize("engine", ["stackstac", "odc-stac"])
def test_on_a_scenes_own_grid_it_is_the_file(items, engine):
    one = [i for i in optical(items) if i.properties["proj:code"] == "EPSG:32721"][:2]
    with rasterio.open(one[0].assets["B02"].href) as source:
        grid = Grid.from_bounds(tuple(source.bounds), crs=32721)
        expected = source.read(1)
    layer = Layer(bands=["B02"], dtype="uint16", fill=0, nodata=0)
    with no_compute():
        array = stack(Source(one, grid, 37, engine), layer)
    assert array.dims == ("time", "band", "y", "x")
    assert array.chunks[:2] == ((2,), (1,))
    np.testing.assert_array_equal(array[0, 0], expected)
    assert [str(t)[:19] for t in array["time"].to_numpy()] == [
        i.datetime.astimezone(UTC).isoformat()[:19] for i in one
    ]
    assert list(array.coords) in (["time", "band"], ["band", "time"])


def test_plain_odc_stac_reads_the_same_where_no_warp_is_needed(items, scene):
    """The same items through odc-stac's own reader, told nothing by us."""
    odc = pytest.importorskip("odc.stac")
    from odc.geo.geobox import GeoBox

    zone = [i for i in optical(items) if i.properties["proj:code"] == "EPSG:32721"]
    grid = scene.grid
    theirs = odc.load(
        zone,
        bands=["B02", "B11"],
        geobox=GeoBox(grid.shape, grid.transform, "EPSG:32721"),
        groupby="id",
        dtype="uint16",
        nodata=0,
    )
    layer = Layer(bands=["B02", "B11"], dtype="uint16", fill=0, nodata=0)
    ours = stack(Source(zone, grid), layer)
    for position, band in enumerate(("B02", "B11")):
        np.testing.assert_array_equal(ours[:, position], theirs[band])


@pytest.mark.parametrize("engine", ["stackstac", "odc-stac"])
@pytest.mark.parametrize(
    ("band", "sensor", "dtype", "prepare"),
    [
        ("SCL", "sentinel-2-l2a", "uint8", ClearMask((0, 1, 3, 8, 9, 10), 7)),
        ("vv", "sentinel-1-rtc", "float32", Clean(without_border=True, speckle="lee")),
    ],
)
def test_a_step_with_neighbours_does_not_show_chunks(
    items, scene, engine, band, sensor, dtype, prepare
):
    some = [i for i in items if i.collection_id == sensor][:4]
    fill = np.nan if dtype == "float32" else 0
    layer = Layer(
        bands=[band],
        dtype=dtype,
        fill=fill,
        nodata=-32768 if dtype == "float32" else 0,
        prepare=prepare,
    )
    whole = stack(Source(some, scene.grid, 512, engine), layer).compute()
    parts = stack(Source(some, scene.grid, 23, engine), layer).compute()
    np.testing.assert_array_equal(parts, whole)
    without = Layer(bands=[band], dtype=dtype, fill=fill, nodata=layer.nodata)
    assert (stack(Source(some, scene.grid), without) != whole).any()


def test_a_tile_is_the_part_of_a_larger_grid(items, scene):
    """Neighbouring grids meet without a seam: a step sees past its own grid's edge."""
    left, bottom, right, top = scene.grid.bounds
    half = Grid.from_bounds((left + 300, bottom, right, top - 200), crs=32721)
    radar = [i for i in items if i.collection_id == "sentinel-1-rtc"]
    layer = Layer(
        bands=["vv"],
        dtype="float32",
        fill=np.nan,
        nodata=-32768,
        prepare=Clean(speckle="refined_lee"),
    )
    native = [i for i in radar if i.properties["proj:code"] == "EPSG:32721"]
    whole = stack(Source(native, scene.grid), layer).compute()
    part = stack(Source(native, half), layer).compute()
    np.testing.assert_array_equal(part, whole[:, :, 20:, 30:])


def test_the_missing_value_an_item_declares_is_used(tmp_path):
    values = np.array([[1, 77, 3], [77, 5, 6]], "uint16")
    grid = Grid.from_bounds((600_000, 9_000_000, 600_030, 9_000_020), crs=32721)
    items = []
    for number, declared in enumerate((77, None)):
        path = tmp_path / f"{number}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=2,
            width=3,
            count=1,
            dtype="uint16",
            crs="EPSG:32721",
            transform=grid.transform,
        ) as out:
            out.write(values, 1)
        item = pystac.Item(
            f"i{number}",
            None,
            [-54, -9.1, -53, -8.9],
            datetime(2020, 1, 1 + number, tzinfo=UTC),
            {"proj:code": "EPSG:32721", "s2:processing_baseline": "02.12"},
            collection="sentinel-2-l2a",
        )
        fields = {"proj:transform": list(grid.transform)[:6], "proj:shape": [2, 3]}
        if declared is not None:
            fields["raster:bands"] = [{"nodata": declared}]
        item.add_asset("B02", pystac.Asset(str(path), extra_fields=fields))
        items.append(item)
    found = stack(Source(items, grid), Layer(bands=["B02"], dtype="uint16", fill=0, nodata=0))
    np.testing.assert_array_equal(found[0, 0], np.where(values == 77, 0, values))
    np.testing.assert_array_equal(found[1, 0], values)


@pytest.mark.parametrize("engine", ["stackstac", "odc-stac"])
def test_a_year_over_a_hundred_kilometres_is_a_small_graph(engine):
    grid = Grid.from_bounds((600_000, 9_000_000, 700_000, 9_100_000), crs=32721)
    with no_compute():
        cube = open_cube(list(year_of_items()), grid=grid, dataset="S1TsS2_12")
    assert len(cube.__dask_graph__()) <= 20_000
    assert cube["s2"].shape == (10, 10_000, 10_000)


def year_of_items():
    """Four Sentinel-2 tiles every ten days and two radar slices every twelve, no files."""
    shared = {"proj:code": "EPSG:32721"}
    boxes = [(x, y) for x in (595_000, 695_000) for y in (9_105_000, 9_005_000)]
    for day in range(0, 360, 10):
        when = datetime.fromordinal(datetime(2020, 1, 1).toordinal() + day).replace(tzinfo=UTC)
        for x, y in boxes:
            yield made(
                f"s2-{day}-{x}-{y}",
                "sentinel-2-l2a",
                when,
                (*BANDS, "SCL"),
                x,
                y,
                10_980,
                shared | {"s2:processing_baseline": "05.00"},
            )
        if day % 12 == 0:
            for y in (9_150_000, 9_050_000):
                yield made(
                    f"s1-{day}-{y}",
                    "sentinel-1-rtc",
                    when,
                    ("vv", "vh"),
                    550_000,
                    y,
                    20_000,
                    shared,
                )


def made(name, collection, when, bands, left, top, size, properties):
    item = pystac.Item(
        name, None, [-60, -10, -50, 0], when, dict(properties), collection=collection
    )
    for band in bands:
        fields = {"proj:transform": [10, 0, left, 0, -10, top], "proj:shape": [size, size]}
        item.add_asset(
            band, pystac.Asset(f"https://example.org/{name}/{band}.tif", extra_fields=fields)
        )
    return item


def test_an_engine_that_is_not_installed_says_how(items, scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "odc.stac", None)
    with pytest.raises(ConfigError, match=r"pip install .deepforest-xr\[odc\]"):
        open_cube(items, grid=scene.grid, engine="odc-stac")


def test_an_engine_that_is_not_known_is_refused(items, scene):
    with pytest.raises(ConfigError, match="expected one of 'odc-stac', 'stackstac'"):
        open_cube(items, grid=scene.grid, engine="xcube")
    with pytest.raises(ConfigError, match="expected one of stackstac, odc-stac"):
        stack(
            Source(items, scene.grid, engine="xcube"),
            Layer(bands=["vv"], dtype="float32", fill=np.nan, nodata=0),
        )
