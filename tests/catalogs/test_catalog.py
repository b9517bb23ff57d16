"""The rules for any catalog, on items made by hand in either spelling of the extensions."""

import math
from datetime import UTC, datetime

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.catalogs import CATALOGS, catalog_of
from deepforest_xr.errors import CatalogError, MissingAssetError, UnknownOffsetError

ANY = CATALOGS["any"]
# The same declaration of a band in raster v1, and in v2 of STAC 1.1 at the asset or its band.
SPELLINGS = {
    "v1": lambda **f: {"raster:bands": [f]},
    "asset": lambda **f: {k if k == "nodata" else f"raster:{k}": v for k, v in f.items()},
    "band": lambda **f: {
        "bands": [{k if k == "nodata" else f"raster:{k}": v for k, v in f.items()}]
    },
}
spelled = pytest.mark.parametrize("spelling", SPELLINGS)


def scene(keys=("B02",), fields=None, *, collection="sentinel-2-l2a", name="a", **properties):
    item = pystac.Item(name, None, None, datetime(2023, 6, 1, tzinfo=UTC), properties)
    item.collection_id = collection
    for key in keys:
        item.add_asset(key, pystac.Asset(f"{key}.tif", extra_fields=dict(fields or {})))
    return item


@spelled
def test_a_declaration_is_understood_in_every_spelling(spelling):
    fields = SPELLINGS[spelling](offset=-0.1, scale=0.0001, nodata=7)
    item = scene(fields=fields)
    assert ANY.offset(item, "B02").value == -1000
    assert ANY.scale(item, "B02") == 0.0001
    assert ANY.nodata(item, "B02") == 7


@spelled
@pytest.mark.parametrize("stated", [0, 0.0])
def test_a_declared_zero_is_a_declaration(spelling, stated):
    item = scene(fields=SPELLINGS[spelling](offset=stated), **{"s2:processing_baseline": "05.10"})
    found = ANY.offset(item, "B02")
    assert (found.value, found.reason) == (0, "raster:bands offset")


def test_each_band_has_its_own_declaration():
    item = scene(["B02", "B03"], **{"s2:processing_baseline": "05.10"})
    item.assets["B03"].extra_fields["raster:bands"] = [{"offset": 0}]
    assert ANY.offset(item, "B02").value == -1000
    assert ANY.offset(item, "B03").value == 0


def test_a_bands_word_wins_over_its_assets():
    fields = {"raster:offset": 0, "bands": [{"raster:offset": -0.1}]}
    assert ANY.offset(scene(fields=fields), "B02").value == -1000


@spelled
@pytest.mark.parametrize("stated", [-1000, 0.1, -0.2, "none", 1e-5, float("inf")])
def test_an_offset_that_is_none_of_esas_is_refused(spelling, stated):
    item = scene(fields=SPELLINGS[spelling](offset=stated), name="scene-7")
    with pytest.raises(UnknownOffsetError, match=r"'scene-7'.*B02, expected 0 or -0\.1") as caught:
        ANY.offset(item, "B02")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_number_of_a_table_is_no_declaration(missing):
    item = scene(fields={"raster:bands": [{"offset": missing, "scale": missing}]})
    with pytest.raises(UnknownOffsetError, match="'a' states neither"):
        ANY.offset(item, "B02")
    assert ANY.scale(item, "B02") == 0.0001


def test_the_date_decides_nothing():
    with pytest.raises(UnknownOffsetError):
        ANY.offset(scene(), "B02")  # of June 2023


@spelled
@pytest.mark.parametrize("stated", [1, 0.0002, 0.001, "wide"])
def test_another_scale_is_refused(spelling, stated):
    item = scene(fields=SPELLINGS[spelling](scale=stated), name="scene-7")
    with pytest.raises(CatalogError, match=r"'scene-7' declares scale .* expected 0\.0001"):
        ANY.scale(item, "B02")


@pytest.mark.parametrize("stated", ["nan", float("nan")])
def test_nodata_may_be_not_a_number(stated):
    item = scene(["vv"], {"raster:bands": [{"nodata": stated}]}, collection="sentinel-1-rtc")
    assert math.isnan(ANY.nodata(item, "vv"))


def test_nodata_that_is_no_number_is_refused():
    item = scene(fields={"nodata": "black"})
    with pytest.raises(CatalogError, match=r"nodata 'black' for B02, expected a number"):
        ANY.nodata(item, "B02")


@pytest.mark.parametrize(
    ("collection", "band", "expected"),
    [("sentinel-2-l2a", "B02", 0), ("sentinel-2-l2a", "SCL", 0), ("sentinel-1-rtc", "vv", -32768)],
)
def test_nodata_that_nobody_states_is_the_products(collection, band, expected):
    assert ANY.nodata(scene([band], collection=collection), band) == expected


@pytest.mark.parametrize(
    ("keys", "band", "found"),
    [
        (["B02_10m", "B02_20m", "B02_60m"], "B02", "B02_10m"),
        (["B05_60m", "B05_20m"], "B05", "B05_20m"),
        (["SCL_60m", "SCL_20m"], "SCL", "SCL_20m"),
        (["B02_20m", "B02_60m"], "B02", None),  # resampled: not what was measured
        (["blue_20m", "blue"], "B02", "blue"),
        (["nir", "nir08"], "B8A", "nir08"),
        (["nir", "nir08"], "B08", "nir"),
        (["VV", "VH"], "vh", "VH"),
        (["B02"], "B10", None),
    ],
)
def test_a_band_is_taken_at_the_size_it_was_measured_at(keys, band, found):
    asset = ANY.asset(scene(keys), band)
    assert (asset and asset.href) == (found and f"{found}.tif")


# ---- baselines


@pytest.mark.parametrize(
    ("properties", "name", "reason"),
    [
        ({"s2:processing_baseline": "02.14"}, "a", "baseline 02.14"),
        ({"s2:processing_baseline": 4}, "a", "baseline 04.00"),
        (
            {},
            "S2A_MSIL2A_20230628T115421_N0509_R023_T29UNU_20230628T194416",
            "baseline 05.09",
        ),
        (
            {"s2:product_uri": "S2A_MSIL2A_20190628T115421_N0212_R023_T29UNU_20190628T194416.SAFE"},
            "a",
            "baseline 02.12",
        ),
        (
            {"processing:version": "05.11"},
            "S2A_MSIL2A_20230628T115421_N0511_R023_T29UNU_20230628T194416",
            "baseline 05.11",
        ),
        # A packager's own version is no baseline.
        ({"s2:processing_baseline": "02.14", "processing:version": "1.2.3"}, "a", "baseline 02.14"),
    ],
)
def test_the_baseline_is_what_property_or_product_name_say(properties, name, reason):
    assert ANY.offset(scene(name=name, **properties), "B02").reason == reason


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        (
            {"s2:processing_baseline": "02.12"},
            "S2A_MSIL2A_20230628T115421_N0509_R023_T29UNU_20230628T194416",
        ),
        (
            {"processing:version": "02.14"},
            "S2A_MSIL2A_20230628T115421_N0509_R023_T29UNU_20230628T194416",
        ),
        ({"s2:processing_baseline": "02.12", "processing:version": "05.00"}, "scene-7"),
    ],
)
def test_a_contradiction_about_the_baseline_is_refused_by_name(properties, name):
    with pytest.raises(UnknownOffsetError, match=rf"{name}.*contradicts itself.* says ") as caught:
        ANY.offset(scene(name=name, **properties), "B02")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"processing:version": "05.11"}, "a"),  # may be a copy's own version
        ({"s2:processing_baseline": "nan"}, "a"),
        ({"s2:processing_baseline": "unknown"}, "a"),
        # Sen2Cor run by a user, with or without the offset in its input.
        ({}, "S2A_MSIL2A_20230628T115421_N9999_R023_T29UNU_20230628T194416"),
        ({"s2:processing_baseline": "99.99"}, "a"),
        ({}, "S2A_MSIL2A_20230628T115421_R023_T29UNU_20230628T194416"),
    ],
)
def test_a_baseline_that_is_not_stated_is_not_guessed(properties, name):
    with pytest.raises(UnknownOffsetError, match=name):
        ANY.offset(scene(name=name, **properties), "B02")


@given(st.integers(0, 89), st.integers(0, 99))
def test_from_baseline_4_on_the_offset_is_there(major, minor):
    number = f"{major:02d}.{minor:02d}"
    found = ANY.offset(scene(**{"s2:processing_baseline": number}), "B02")
    assert (found.value, found.reason) == (-1000 if major >= 4 else 0, f"baseline {number}")


# ---- radar


def radar(collection="sentinel-1-grd", *, unit=None, data_type="float32", keys=("vv", "vh")):
    fields = {"raster:bands": [{"data_type": data_type, "unit": unit}]}
    return scene(keys, fields, collection=collection, name="radar-7")


def test_a_grd_is_read_where_a_calibrated_copy_declares_floats():
    assert ANY.quantity(radar()) == "sigma0, not terrain-corrected"
    assert ANY.level(radar()) == "GRD sigma0, linear power, not terrain-corrected"
    assert ANY.nodata(radar(), "vv") == -32768
    assert ANY.quantity(radar("sentinel-1-rtc", data_type=None)) == "gamma0"


@pytest.mark.parametrize("data_type", ["uint16", None])
def test_uncalibrated_amplitudes_are_refused(data_type):
    with pytest.raises(CatalogError, match=r"'radar-7' of sentinel-1-grd.*uncalibrated") as caught:
        ANY.quantity(radar(data_type=data_type))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("collection", ["sentinel-1-rtc", "sentinel-1-grd"])
@pytest.mark.parametrize("unit", ["dB", "db"])
def test_decibels_are_refused(collection, unit):
    with pytest.raises(CatalogError, match=r"'radar-7' is in decibels, expected linear power"):
        ANY.quantity(radar(collection, unit=unit))


def test_radar_of_other_polarizations_is_missing_ours():
    with pytest.raises(MissingAssetError, match=r"'radar-7' lacks vv and vh \(it has hh, hv\)"):
        ANY.quantity(radar(keys=("hh", "hv")))


@pytest.mark.parametrize(
    ("collection", "level"),
    [
        ("sentinel-2-l2a", "L2A surface reflectance"),
        ("sentinel-2-c1-l2a", "L2A surface reflectance"),
        ("sentinel-1-rtc", "RTC gamma0, linear power, terrain-corrected"),
        (
            "sentinel-1-grd",
            "GRD, not terrain-corrected: digital numbers in radar geometry",
        ),
        ("landsat-c2-l2", "not a Sentinel-1 or Sentinel-2 product"),
    ],
)
def test_a_known_collection_says_what_it_is(collection, level):
    assert ANY.level(scene(collection=collection)) == level


@pytest.mark.parametrize(
    ("properties", "name", "level"),
    [
        ({"s2:product_type": "S2MSI2A"}, "a", "L2A surface reflectance"),
        ({"product:type": "S2MSI2A"}, "a", "L2A surface reflectance"),
        ({"s2:product_type": "S2MSI1C"}, "a", "not a Sentinel-1 or Sentinel-2 product"),
        ({"sar:product_type": "RTC"}, "a", "RTC gamma0, linear power, terrain-corrected"),
        ({"sar:product_type": "GRD"}, "a_rtc", "RTC gamma0, linear power, terrain-corrected"),
        (
            {"sar:product_type": "GRD"},
            "a",
            "GRD, not terrain-corrected: digital numbers in radar geometry",
        ),
        ({"sar:product_type": "SLC"}, "a", "not a Sentinel-1 or Sentinel-2 product"),
    ],
)
def test_without_a_known_collection_the_properties_say_what_it_is(properties, name, level):
    for collection in (None, "mine"):
        item = scene(name=name, collection=collection, **properties)
        assert catalog_of(item).level(item) == level
