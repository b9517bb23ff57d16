"""Copernicus Data Space, on items of the form its API gives (made by hand, 2025)."""

import pystac
import pytest

from deepforest_xr.catalogs import CATALOGS, asset_for, catalog_of, link
from deepforest_xr.errors import UnknownOffsetError
from deepforest_xr.sentinel.s2 import BANDS

NAME = "S2A_MSIL2A_20200812T140111_{n}_R067_T21LYH_20230912T010203"
FOLDER = "s3://eodata/Sentinel-2/MSI/L2A_N0500/2020/08/12/{name}.SAFE/GRANULE/L2A/IMG_DATA"
SIZES = {
    **dict.fromkeys(("B02", "B03", "B04"), (10, 20, 60)),
    "B08": (10,),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), (20, 60)),
}


def scene(n="N0500", *, version="05.00", offset=-0.1):
    name = NAME.format(n=n)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "properties": {
            "datetime": "2020-08-12T14:01:11.024Z",
            "grid:code": "MGRS-21LYH",
            "product:type": "S2MSI2A",
            "processing:version": version,
            "eopf:datatake_id": f"GS2A_20200812T140111_026846_N{version}",
            "storage:schemes": {"cdse-s3": {"platform": "https://eodata.dataspace.copernicus.eu"}},
        },
        "links": [],
        "assets": {
            f"{band}_{size}m": {
                "href": f"{FOLDER.format(name=name)}/R{size}m/T21LYH_{band}_{size}m.jp2",
                "alternate": {"https": {"href": "https://zipper.dataspace.copernicus.eu/x"}},
                "nodata": 0,
                "data_type": "uint8" if band == "SCL" else "uint16",
                "proj:code": "EPSG:32721",
                **({} if band == "SCL" else {"raster:scale": 0.0001, "raster:offset": offset}),
            }
            for band, sizes in SIZES.items()
            for size in sizes
        },
    }
    return pystac.Item.from_dict(item)


def test_each_band_is_taken_at_its_own_pixel_size():
    item = scene()
    assert catalog_of(item).name == "copernicus"
    for band in (*BANDS, "SCL"):
        size = 10 if band in {"B02", "B03", "B04", "B08"} else 20
        assert asset_for(item, band).href.endswith(f"/R{size}m/T21LYH_{band}_{size}m.jp2")


def test_numbers_are_declared_in_raster_2():
    item = scene()
    ways = catalog_of(item)
    for band in BANDS:
        found = ways.offset(item, band)
        assert (found.value, found.reason) == (-1000, "baseline 05.00")
        assert (ways.scale(item, band), ways.nodata(item, band)) == (0.0001, 0)
    assert (ways.scale(item, "SCL"), ways.offset(item, "SCL").value) == (1, 0)
    assert ways.level(item) == "L2A surface reflectance"


def test_an_old_baseline_has_no_offset():
    item = scene("N0214", version="02.14", offset=0)
    assert catalog_of(item).offset(item, "B02").value == 0


@pytest.mark.parametrize(
    ("n", "version", "offset", "message"),
    [
        ("N0214", "02.14", -0.1, r"offset of -1000 for B02, but baseline 02\.14 has 0"),
        ("N0500", "05.00", 0, r"offset of 0 for B02, but baseline 05\.00 has -1000"),
        ("N0500", "02.14", -0.1, r"contradicts itself"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(n, version, offset, message):
    item = scene(n, version=version, offset=offset)
    with pytest.raises(UnknownOffsetError, match=message) as caught:
        catalog_of(item).offset(item, "B02")
    assert item.id in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_bucket_is_found_with_the_users_own_keys():
    item = scene()
    found = link(asset_for(item, "B02").href)
    assert found.href == asset_for(item, "B02").href
    assert found.expires is None
    assert found.options == {
        "AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    assert link("s3://EODATA/a.jp2").options == found.options
    assert link("s3://eodata-of-mine/a.jp2").options == {}


def test_options_of_one_link_are_not_those_of_the_next():
    link("s3://eodata/a").options["AWS_S3_ENDPOINT"] = "elsewhere"
    assert link("s3://eodata/a").options["AWS_S3_ENDPOINT"] == "eodata.dataspace.copernicus.eu"


def test_a_copy_on_disk_is_still_its_own():
    item = scene()
    for asset in item.assets.values():
        asset.href = "/copy/of/it.jp2"
    assert catalog_of(item).name == "copernicus"
    del item.properties["storage:schemes"]
    assert catalog_of(item).name == "any"
    assert catalog_of(item).offset(item, "B02").value == -1000


def test_it_is_searched_by_name():
    assert CATALOGS["copernicus"].url == "https://stac.dataspace.copernicus.eu/v1"
    assert CATALOGS["copernicus"].collections == ("sentinel-2-l2a",)
