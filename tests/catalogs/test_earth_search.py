"""Earth Search: where its flag wins over its own declaration, and where not."""

import pytest

from deepforest_xr.catalogs import catalog_of, link, read_items

pytestmark = pytest.mark.filterwarnings("ignore:Could not parse bucket")

FLAG = "earthsearch:boa_offset_applied"


@pytest.fixture
def item(shared_data):
    """Baseline 05.09, flag true, and declares -0.1 all the same."""
    name = "earth-search/v1.sentinel-2-l2a.item.31UDQ.json"
    return next(iter(read_items(shared_data / "stac" / name))).clone()


def test_the_flag_wins_over_the_declaration(item):
    assert item.assets["red"].extra_fields["raster:bands"][0]["offset"] == -0.1
    assert catalog_of(item).offset(item, "B04").value == 0


@pytest.mark.parametrize("flag", [False, None, "true"])
def test_without_the_flag_the_declaration_holds(flag, item):
    item.properties[FLAG] = flag
    assert catalog_of(item).offset(item, "B04").value == -1000


def test_in_collection_1_the_declaration_holds_whatever_the_flag(item):
    item.collection_id = "sentinel-2-c1-l2a"
    assert catalog_of(item).offset(item, "B04").value == -1000


def test_a_copy_whose_collection_was_lost_keeps_the_flag(item):
    item.collection_id = None
    assert catalog_of(item).offset(item, "B04").value == 0


def test_it_is_known_by_its_properties_or_its_buckets(item):
    for asset in item.assets.values():
        asset.href = "/copy/of/it.tif"
    assert catalog_of(item).name == "earth-search"
    item.properties = {k: v for k, v in item.properties.items() if "earthsearch" not in k}
    assert catalog_of(item).name == "any"
    item.assets["red"].href = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/B04.tif"
    assert catalog_of(item).name == "earth-search"


def test_its_files_are_public(item):
    href = item.assets["red"].href
    assert link(href).href == href
    assert link(href).expires is None
