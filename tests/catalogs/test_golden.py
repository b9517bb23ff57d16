"""Every recorded answer and every real scene: what its numbers mean, against its documents.

The table was written from the documents themselves and their README, not by running the
library. A file that is neither in the table nor ignored with a reason fails the test.
"""

import numpy as np
import pytest
import rasterio

from deepforest_xr.catalogs import catalog_of, read_items
from deepforest_xr.errors import CatalogError, MissingAssetError, UnknownOffsetError
from deepforest_xr.sentinel.s2 import BANDS

pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket")

PC, ES = "planetary-computer", "earth-search"
FLAG = (0, "earthsearch:boa_offset_applied")
REFLECTANCE = "L2A surface reflectance"
GAMMA0 = "RTC gamma0, linear power, terrain-corrected"
AMPLITUDE = "GRD, not terrain-corrected: digital numbers in radar geometry"

# How the href of each band's file ends.
ESA_NAMES = {
    "B02": "_B02_10m",
    "B03": "_B03_10m",
    "B04": "_B04_10m",
    "B05": "_B05_20m",
    "B06": "_B06_20m",
    "B07": "_B07_20m",
    "B08": "_B08_10m",
    "B8A": "_B8A_20m",
    "B11": "_B11_20m",
    "B12": "_B12_20m",
    "SCL": "_SCL_20m",
}
PC_FILES = {band: f"{name}.tif" for band, name in ESA_NAMES.items()}
JP2_FILES = {band: f"{name}.jp2" for band, name in ESA_NAMES.items()}
ES_FILES = {band: f"_L2A/{band}.tif" for band in ESA_NAMES}

# file: how many items, collection, catalog, offset and its reason, files
S2_ANSWERS = {
    f"{PC}/sentinel-2-l2a.item.baseline-02.12.json": (
        (1, "sentinel-2-l2a", PC),
        (0, "baseline 02.12"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.item.baseline-04.00.json": (
        (1, "sentinel-2-l2a", PC),
        (-1000, "baseline 04.00"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.items.2024-04.json": (
        (3, "sentinel-2-l2a", PC),
        (-1000, "baseline 05.10"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.items.pystac-client.test-datetime-results.json": (
        (33, "sentinel-2-l2a", PC),
        (0, "baseline 02.12"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.items.stac-geoparquet.test-assert-equal.json": (
        (1, "sentinel-2-l2a", PC),
        (-1000, "baseline 04.00"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.items.stac-geoparquet.test-sentinel2-l2a.json": (
        (1, "sentinel-2-l2a", PC),
        (0, "baseline 02.12"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.items.stac-geoparquet.test-smoke-sentinel-2-l2a.json": (
        (1, "sentinel-2-l2a", PC),
        (-1000, "baseline 05.11"),
        PC_FILES,
    ),
    f"{PC}/sentinel-2-l2a.items.xcube-stac.test-get-data-types-for-data.json": (
        (1, "sentinel-2-l2a", PC),
        (0, "baseline 02.12"),
        PC_FILES,
    ),
    f"{ES}/v1.sentinel-2-l2a.item.2023-06.json": ((1, "sentinel-2-l2a", ES), FLAG, ES_FILES),
    f"{ES}/v1.sentinel-2-l2a.item.31UDQ.json": ((1, "sentinel-2-l2a", ES), FLAG, ES_FILES),
    f"{ES}/v1.sentinel-2-l2a.items.31UDQ.json": ((3, "sentinel-2-l2a", ES), FLAG, ES_FILES),
    f"{ES}/v1.sentinel-2-l2a.items.pystac-client.test-filter-inprocess.json": (
        (6, "sentinel-2-l2a", ES),
        FLAG,
        ES_FILES,
    ),
    # Two versions of four granules: ..._0_L2A is 02.14 with flag false, ..._1_L2A 05.00 with true.
    f"{ES}/v1.sentinel-2-l2a.items.xcube-stac.test-search-data-searchable-catalog.json": (
        (8, "sentinel-2-l2a", ES),
        {"_0_L2A": (0, "raster:bands offset"), "_1_L2A": FLAG},
        ES_FILES,
    ),
    f"{ES}/v1.sentinel-2-c1-l2a.items.pystac-client.test-filter-inprocess.json": (
        (6, "sentinel-2-c1-l2a", ES),
        (-1000, "raster:bands offset"),
        ES_FILES,
    ),
    "stactools/sentinel2.T22HBD.N0214.expected_output.json": (
        (1, None, "any"),
        (0, "raster:bands offset"),
        JP2_FILES,
    ),
}

RTC_FILES = {"vv": "/iw-vv.rtc.tiff", "vh": "/iw-vh.rtc.tiff"}
# file: how many items, collection, catalog; level and missing value; quantity or refusal; files
S1_ANSWERS = {
    f"{PC}/sentinel-1-rtc.items.2024-04.json": (
        (2, "sentinel-1-rtc", PC),
        (GAMMA0, -32768),
        "gamma0",
        RTC_FILES,
    ),
    f"{PC}/sentinel-1-rtc.items.stac-geoparquet.test-smoke-sentinel-1-rtc.json": (
        (1, "sentinel-1-rtc", PC),
        (GAMMA0, -32768),
        "gamma0",
        RTC_FILES,
    ),
    # Ingest-time document: its assets are called vv-rtc and vh-rtc, which no API serves.
    f"{PC}/sentinel-1-rtc.item.pre-publish.2019-12-15.json": (
        (1, None, PC),
        (GAMMA0, -32768),
        MissingAssetError,
        {},
    ),
    f"{PC}/sentinel-1-grd.items.stac-geoparquet.test-smoke-sentinel-1-grd.json": (
        (1, "sentinel-1-grd", PC),
        (AMPLITUDE, 0),
        CatalogError,
        {"vv": "/iw-vv.tiff", "vh": "/iw-vh.tiff"},
    ),
    f"{PC}/sentinel-1-grd.item.json": (  # HH only
        (1, "sentinel-1-grd", PC),
        (AMPLITUDE, 0),
        MissingAssetError,
        {},
    ),
    f"{ES}/v1.sentinel-1-grd.items.pystac-client.test-filter-inprocess.json": (  # HH only
        (3, "sentinel-1-grd", ES),
        (AMPLITUDE, 0),
        MissingAssetError,
        {},
    ),
    f"{ES}/v1.sentinel-1-grd.items.xcube-stac.test-get-data-ids-include-attrs.json": (  # HH, HV
        (6, "sentinel-1-grd", ES),
        (AMPLITUDE, 0),
        MissingAssetError,
        {},
    ),
}
LAND_COVER = f"{PC}/io-lulc-annual-v02.items.json"

IGNORED = {
    "README.md": "no STAC",
    "cassettes/*.yaml": "raw exchanges, whose items stand in the files above",
    "*.collection*.json": "a collection, no item",
}


def recorded(shared_data, name):
    return list(read_items(shared_data / "stac" / name))


@pytest.mark.parametrize("name", S2_ANSWERS)
def test_what_a_recorded_sentinel_2_answer_means(name, shared_data):
    (count, collection, catalog), offset, files = S2_ANSWERS[name]
    items = recorded(shared_data, name)
    assert len(items) == count
    for item in items:
        ways = catalog_of(item)
        assert (item.collection_id, ways.name) == (collection, catalog)
        assert ways.level(item) == REFLECTANCE
        expected = offset[item.id[-6:]] if isinstance(offset, dict) else offset
        for band in BANDS:
            assert ways.asset(item, band).href.endswith(files[band])
            found = ways.offset(item, band)
            assert (found.value, found.reason) == expected
            assert ways.scale(item, band) == 0.0001
            assert ways.nodata(item, band) == 0
        assert ways.asset(item, "SCL").href.endswith(files["SCL"])
        assert (ways.scale(item, "SCL"), ways.nodata(item, "SCL")) == (1, 0)
        assert ways.offset(item, "SCL").value == 0
        assert ways.asset(item, "vv") is None
        with pytest.raises(CatalogError, match="no Sentinel-1"):
            ways.quantity(item)


@pytest.mark.parametrize("name", S1_ANSWERS)
def test_what_a_recorded_sentinel_1_answer_means(name, shared_data):
    (count, collection, catalog), (level, nodata), quantity, files = S1_ANSWERS[name]
    items = recorded(shared_data, name)
    assert len(items) == count
    for item in items:
        ways = catalog_of(item)
        assert (item.collection_id, ways.name) == (collection, catalog)
        assert ways.level(item) == level
        for band in ("vv", "vh"):
            asset = ways.asset(item, band)
            if band in files:
                assert asset.href.endswith(files[band])
            else:
                assert asset is None
            assert (ways.scale(item, band), ways.nodata(item, band)) == (1, nodata)
            with pytest.raises(UnknownOffsetError, match="no Sentinel-2"):
                ways.offset(item, band)
        if isinstance(quantity, str):
            assert ways.quantity(item) == quantity
        else:
            with pytest.raises(quantity):
                ways.quantity(item)


def test_land_cover_is_no_sentinel_product(shared_data):
    items = recorded(shared_data, LAND_COVER)
    assert len(items) == 3
    for item in items:
        assert catalog_of(item).level(item) == "not a Sentinel-1 or Sentinel-2 product"
        assert all(catalog_of(item).asset(item, band) is None for band in (*BANDS, "vv"))
        with pytest.raises(UnknownOffsetError, match="no Sentinel-2"):
            catalog_of(item).offset(item, "B02")


def test_no_recorded_file_is_left_out(shared_data):
    folder = shared_data / "stac"
    files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    unknown = {
        p.as_posix()
        for p in files
        if not any(p.match(pattern) or p.as_posix() == pattern for pattern in IGNORED)
    }
    assert unknown == {*S2_ANSWERS, *S1_ANSWERS, LAND_COVER}
    counts = [row[0][0] for row in (*S2_ANSWERS.values(), *S1_ANSWERS.values())]
    assert sum(counts) + 3 == 86  # as its README says


# From the README beside the real scenes, which measured it in the pixels.
REAL_S2 = {
    ("terramesh", "282D_485L_3_3"): (1, 0, "raster:bands offset"),
    ("terramesh", "433D_629L_3_1"): (1, -1000, "raster:bands offset"),
    ("terramesh", "637U_59R_1_3"): (1, 0, "raster:bands offset"),
    ("worldcereal_series", "00002806639B424A"): (118, 0, "raster:bands offset"),
    ("worldcereal_series", "000028085BF08E7E"): (146, 0, "raster:bands offset"),
    ("worldcereal_series", "2021_TZA_COPERNICUS-GEOGLAM_POLY_1101950"): (
        136,
        0,
        "raster:bands offset",
    ),
    ("gfmap_series", "belgium"): (12, 0, "raster:bands offset"),
    ("majortom_congo", "0U_199R"): (1, -1000, "baseline 04.00"),
}
REAL_S1 = {
    "terramesh": (3, "gamma0"),
    "worldcereal_series": (376, "sigma0, not terrain-corrected"),
    "gfmap_series": (10, "sigma0, not terrain-corrected"),
}


def real(shared_data, name, sensor):
    items = read_items(shared_data / "real" / name / "items.json")
    return [i for i in items if i.collection_id.startswith(sensor)]


@pytest.mark.parametrize(("name", "site"), REAL_S2)
def test_what_a_real_scene_states_is_what_was_measured(name, site, shared_data):
    items = [i for i in real(shared_data, name, "sentinel-2") if i.properties["site"] == site]
    count, value, reason = REAL_S2[name, site]
    assert len(items) == count
    for item in items:
        ways = catalog_of(item)
        assert ways.name == "any"
        for band in BANDS:
            if ways.asset(item, band) is not None:
                found = ways.offset(item, band)
                assert (found.value, found.reason) == (value, reason)
                assert (ways.scale(item, band), ways.nodata(item, band)) == (0.0001, 0)


@pytest.mark.parametrize("name", REAL_S1)
def test_real_radar_is_power_of_one_quantity_a_set(name, shared_data):
    items = real(shared_data, name, "sentinel-1")
    count, quantity = REAL_S1[name]
    assert len(items) == count
    assert {catalog_of(i).quantity(i) for i in items} == {quantity}
    assert {catalog_of(i).nodata(i, "vv") for i in items} == {-32768}


def test_every_real_set_is_looked_at(shared_data):
    sets = {p.name for p in (shared_data / "real").iterdir() if p.is_dir()}
    assert sets == {name for name, _ in REAL_S2} | set(REAL_S1)


def darkest(item, band):
    """Smallest number of a band, and the reflectance it is by what the item says."""
    ways = catalog_of(item)
    with rasterio.open(ways.asset(item, band).href) as source:
        dn = source.read(1)
    least = int(dn[dn != ways.nodata(item, band)].min())
    value = (least + ways.offset(item, band).value) * ways.scale(item, band)
    return least, value, float(np.mean(dn < 1000))


def test_the_congo_scene_carries_the_offset_and_no_reflectance_is_below_5_percent(shared_data):
    (item,) = real(shared_data, "majortom_congo", "sentinel-2")
    for band in BANDS:
        least, reflectance, _ = darkest(item, band)
        assert least >= 1500
        assert reflectance >= 0.05  # it lies under cloud


def test_chile_carries_the_offset_and_denmark_does_not(shared_data):
    scenes = {i.properties["site"]: i for i in real(shared_data, "terramesh", "sentinel-2")}
    for band in BANDS:
        # As the README measured: below 1000 are fewer than 0.01 % here, 2 to 100 % there.
        *_, chile = darkest(scenes["433D_629L_3_1"], band)
        _, denmark, below = darkest(scenes["637U_59R_1_3"], band)
        assert chile < 1e-4
        assert below > 0.02
        assert denmark >= 0  # with an offset of -1000 it would reflect less than nothing
