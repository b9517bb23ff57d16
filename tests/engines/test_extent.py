"""Boxes and moments of items, as catalogs write them."""

from datetime import UTC, datetime, timedelta, timezone

import pystac
import pytest

from deepforest_xr.catalogs import asset_for, read_items
from deepforest_xr.engines.extent import asset_extent, moment, overlapping
from deepforest_xr.errors import CatalogError
from deepforest_xr.grid import Grid


def item(name="a", bbox=(-54, -9, -53, -8), when=datetime(2020, 1, 2, tzinfo=UTC), **properties):
    return pystac.Item(name, None, list(bbox) if bbox else None, when, properties)


def test_the_extent_of_an_asset_is_found_in_either_catalogs_metadata(shared_data):
    # Earth Search states transform and shape, Planetary Computer's radar an item-wide box.
    found = {}
    for name, band in (
        ("earth-search/v1.sentinel-2-l2a.item.31UDQ.json", "B05"),
        (
            "planetary-computer/sentinel-1-rtc.items.stac-geoparquet.test-smoke-sentinel-1-rtc.json",
            "vv",
        ),
    ):
        item = next(iter(read_items(shared_data / "stac" / name)))
        assert isinstance(item, pystac.Item)
        found[band] = item, *asset_extent(item, asset_for(item, band))
    assert found["B05"][1:] == ((399960, 5390220, 509760, 5500020), "EPSG:32631")
    radar, bounds, _ = found["vv"]
    assert bounds == pytest.approx(tuple(radar.properties["proj:bbox"]))


def test_a_box_of_degrees_serves_where_nothing_better_is_stated():
    asset = pystac.Asset("a.tif")
    assert asset_extent(item(), asset) == ((-54, -9, -53, -8), "EPSG:4326")
    high = item(bbox=(-54, -9, 0, -53, -8, 100))
    assert asset_extent(high, asset)[0] == (-54, -9, -53, -8)
    with pytest.raises(CatalogError, match="neither proj:bbox nor bbox"):
        asset_extent(item(bbox=None), asset)


def test_moments_sort_whatever_their_time_zone():
    early = item(when=datetime(2020, 1, 2, 1, tzinfo=timezone(timedelta(hours=3))))
    late = item(when=datetime(2020, 1, 1, 23, tzinfo=UTC))
    assert moment(early) == "2020-01-01T22:00:00.000000Z"
    assert moment(early) < moment(late)


def test_items_that_meet_a_grid_are_kept_in_order_of_time_and_name():
    grid = Grid.from_lonlat((-53.5, -8.6, -53.4, -8.5), crs=32722)
    day = datetime(2020, 1, 1, tzinfo=UTC)
    found = overlapping(
        [
            item("b", when=day),
            item("late"),
            item("a", when=day),
            item("far", bbox=(10, 0, 11, 1)),
            item("across", bbox=(170, -9, -50, -8)),
            item("no box", bbox=None),
        ],
        grid,
    )
    assert [i.id for i in found] == ["a", "b", "across", "late", "no box"]
