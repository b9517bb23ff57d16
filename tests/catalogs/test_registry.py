"""Which catalog an item or a link belongs to; a new one is one file and one registration."""

from dataclasses import dataclass

import pystac
import pytest

from deepforest_xr.catalogs import (
    CATALOGS,
    Catalog,
    Link,
    asset_for,
    catalog_of,
    link,
    quantity,
    read_items,
    register,
    sign,
)
from deepforest_xr.errors import CatalogError, ConfigError
from deepforest_xr.sentinel.s2 import BANDS

pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket")

# Sentinel-2's common names, from the STAC electro-optical extension.
COMMON = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B08": "nir",
    "B8A": "nir08",
    "B11": "swir16",
    "B12": "swir22",
}
# Centre wavelengths of Sentinel-2A in micrometres (ESA, user handbook).
WAVELENGTH = {
    "B02": 0.49,
    "B03": 0.56,
    "B04": 0.665,
    "B05": 0.704,
    "B06": 0.74,
    "B07": 0.783,
    "B08": 0.842,
    "B8A": 0.865,
    "B11": 1.61,
    "B12": 2.19,
}


@pytest.fixture
def registry(monkeypatch):
    """The registry, restored afterwards."""
    before = dict(CATALOGS)
    yield CATALOGS
    CATALOGS.clear()
    CATALOGS.update(before)


@dataclass(frozen=True, kw_only=True)
class Ours(Catalog):
    """A catalog of somebody's own: one class."""

    name: str = "ours"
    collections: tuple[str, ...] = ("sentinel-2-l2a",)

    def owns(self, item):
        return "ours:id" in item.properties

    def asset(self, item, band):
        return item.assets.get(f"our_{band}")

    def signs(self, href):
        return href.startswith("https://ours.example.org/")

    def sign(self, href):
        return Link(f"{href}?key=1", expires=5.0, options={"GDAL_HTTP_AUTH": "BEARER"})


@pytest.mark.parametrize(
    "name",
    [
        "planetary-computer/sentinel-2-l2a.items.2024-04.json",
        "earth-search/v1.sentinel-2-l2a.items.31UDQ.json",
        "earth-search/v1.sentinel-2-c1-l2a.items.pystac-client.test-filter-inprocess.json",
    ],
)
def test_a_band_is_found_by_the_wavelength_its_item_states(name, shared_data):
    for item in read_items(shared_data / "stac" / name):
        for band in BANDS:
            stated = asset_for(item, band).to_dict()["eo:bands"][0]
            assert stated["center_wavelength"] == pytest.approx(WAVELENGTH[band], abs=0.03), band
            if band in COMMON:
                assert stated["common_name"] in {COMMON[band], "rededge"}, band


def test_a_band_that_is_not_there_is_none(scene):
    item = next(iter(read_items(scene.items)))
    assert asset_for(item, "B10") is None


def test_known_catalogs_have_sentinel_2_first_and_only_one_has_terrain_corrected_radar():
    assert list(CATALOGS) == ["planetary-computer", "earth-search", "copernicus", "any"]
    assert all(c.collections[0] == "sentinel-2-l2a" for c in CATALOGS.values())
    public = {n: c for n, c in CATALOGS.items() if c.url}
    assert [n for n, c in public.items() if "sentinel-1-rtc" in c.collections] == [
        "planetary-computer"
    ]
    assert all(name == c.name and c.url.startswith("https://") for name, c in public.items())
    assert CATALOGS["any"].url is None


def test_a_new_catalog_is_one_class_and_one_registration(registry, scene):
    item = next(iter(read_items(scene.items))).clone()
    assert catalog_of(item).name == "any"
    register(Ours())
    assert list(registry) == ["planetary-computer", "earth-search", "copernicus", "ours", "any"]
    item.properties["ours:id"] = 1
    item.assets = {"our_B02": pystac.Asset("https://ours.example.org/B02.tif")}
    assert catalog_of(item).name == "ours"
    assert asset_for(item, "B02").href == "https://ours.example.org/B02.tif"
    found = link("https://ours.example.org/B02.tif")
    assert found == Link(
        "https://ours.example.org/B02.tif?key=1", 5.0, {"GDAL_HTTP_AUTH": "BEARER"}
    )
    assert sign("https://ours.example.org/B02.tif") == found.href


def test_a_name_is_taken_once(registry):
    with pytest.raises(ConfigError, match=r"'earth-search' is registered.*copernicus"):
        register(Catalog(name="earth-search", collections=("sentinel-2-l2a",)))
    assert list(registry)[-1] == "any"


@pytest.mark.parametrize(
    "href",
    [
        "/data/B02.tif",
        "relative/B02.tif",
        "s3://sentinel-cogs/B02.tif",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/B02.tif",
        "https://example.org/?next=https://a.blob.core.windows.net/b",
        "https://blob.core.windows.net.example.org/a/B02.tif",
        "https://example.org/s3://eodata/B02.jp2",
    ],
)
def test_other_links_stay_as_they_are_and_never_end(href):
    assert link(href) == Link(href, None, {})
    assert sign(href) == href


def test_the_quantity_of_radar_is_asked_of_its_catalog(scene):
    items = read_items(scene.items)
    assert {quantity(i) for i in items if i.collection_id == "sentinel-1-rtc"} == {"gamma0"}
    with pytest.raises(CatalogError, match="no Sentinel-1"):
        quantity(next(i for i in items if i.collection_id == "sentinel-2-l2a"))
