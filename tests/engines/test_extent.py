"""Boxes and moments of items, as catalogs write them."""

from datetime import UTC, datetime, timedelta, timezone

import pystac
import pytest

from deepforest_xr.catalogs import asset_for, read_items
from deepforest_xr.engines.extent import asset_extent, box_on, moment, overlapping
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


def asset(**fields):
    fields = {f"proj:{name}": value for name, value in fields.items()}
    return pystac.Asset("a.tif", extra_fields=fields | {"proj:code": "EPSG:32721"})


def test_a_raster_stored_upside_down_has_the_same_box():
    up = asset(transform=[10, 0, 500, 0, -10, 900], shape=[20, 30])
    down = asset(transform=[10, 0, 500, 0, 10, 700], shape=[20, 30])
    high = asset(bbox=[500, 700, 0, 800, 900, 9])
    for each in (up, down, high):
        assert asset_extent(item(), each) == ((500, 700, 800, 900), "EPSG:32721")


def test_a_raster_that_only_touches_a_grid_does_not_reach_it():
    grid = Grid.from_bounds((800, 700, 900, 900), crs=32721)
    edge = asset(bbox=[500, 700, 800, 900])
    assert box_on(item(), edge, grid) is None
    over = asset(bbox=[500, 700, 801, 900])
    assert box_on(item(), over, grid) == (500, 700, 801, 900)


def test_a_box_across_the_antimeridian_is_taken_to_meet_the_grid():
    grid = Grid.from_lonlat((-179.9, -17.1, -179.8, -17.0), crs=32701)
    fiji = item(bbox=(179.9, -17.2, -179.7, -16.9))
    assert overlapping([fiji], grid) == [fiji]
    degrees = Grid.from_bounds((-179.9, -17.1, -179.8, -17.0), crs=4326, resolution=0.001)
    assert box_on(fiji, pystac.Asset("a.tif"), degrees) == degrees.bounds
