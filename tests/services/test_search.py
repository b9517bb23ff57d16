"""A search on a real STAC server gives what the same search gives on the same items in a file."""

import time

import pytest
import xarray as xr
from affine import Affine

import deepforest_xr as dfx
from deepforest_xr.catalogs import api
from deepforest_xr.errors import CatalogError, NoItemsError
from deepforest_xr.grid import Grid

from .holdings import COPIES
from .proxy import busy, circle, cut, hang_up, lose_one, silence

pytestmark = [
    pytest.mark.services,
    # pystac, bringing older items of Earth Search to STAC 1.1.
    pytest.mark.filterwarnings("ignore:Could not parse bucket/account:UserWarning"),
]

S2, S1 = "sentinel-2-l2a", "sentinel-1-rtc"
TRIES = 6


def ids(items):
    return [(item.collection_id, item.id) for item in items]


def both(stac, **question):
    """The search on the server, which is the same on disk."""
    question = {"collections": [S2, S1], "deduplicate": False, **question}
    there, here = (dfx.search(source, **question) for source in (stac.url, stac.path))
    assert ids(there) == ids(here)
    return there


def polygon(*corners):
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}


# ---- pages


def test_hundreds_of_items_come_page_by_page_in_the_order_of_the_file(stac, failing):
    asked = {"datetime": "2019-01-01/..", "bbox": (-55, -9, -53, -7), "deduplicate": False}
    found = dfx.search(failing.url, collections=[S2], **asked)
    here = dfx.search(stac.path, collections=[S2], **asked)
    assert ids(found) == ids(here)
    assert len(set(ids(found))) == COPIES
    pages = [path for method, path, _ in failing.requests if method == "POST"]
    assert len(pages) == -(-COPIES // api.PAGE_SIZE)


@pytest.mark.parametrize("size", [7, 100, COPIES])
def test_the_size_of_a_page_changes_nothing(stac, monkeypatch, size):
    monkeypatch.setattr(api, "PAGE_SIZE", size)
    assert len(both(stac, datetime="2019/2020", collections=[S2])) >= COPIES


def test_items_arrive_as_they_were_loaded(stac):
    here = {item.id: item for item in dfx.search(stac.path, year=2018)}
    there = dfx.search(stac.url, year=2018)
    assert len(there) == 13
    for item in there:
        told, kept = (i.to_dict(transform_hrefs=False) for i in (item, here[item.id]))
        for key in ("id", "collection", "geometry", "bbox", "properties", "assets"):
            assert told[key] == kept[key]


def test_scenes_processed_twice_are_found_as_on_disk(stac):
    there, here = (dfx.search(source, datetime="2018/2020") for source in (stac.url, stac.path))
    assert ids(there) == ids(here)


# ---- where and when


def test_a_polygon_across_two_zones_finds_the_scenes_of_both(stac):
    across = polygon((-54.0003, -8.052), (-53.998, -8.052), (-53.998, -8.05), (-54.0003, -8.05))
    found = both(stac, geometry=across, year=2018, collections=[S2])
    assert {i.properties["s2:mgrs_tile"] for i in found} == {"21LZM", "22LAS"}


def test_a_polygon_in_one_tile_finds_that_tile(stac):
    west = polygon((-54.1, -8.1), (-54.0065, -8.1), (-54.0065, -8), (-54.1, -8))
    found = both(stac, geometry=west, year=2018, collections=[S2])
    assert {i.properties["s2:mgrs_tile"] for i in found} == {"21LYM"}


def test_a_box_beside_everything_finds_nothing(stac):
    for source in (stac.url, stac.path):
        with pytest.raises(NoItemsError, match="no scene"):
            dfx.search(source, bbox=(10, -60, 11, -59))


@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("2018", 13),
        ("2018-06", 5),
        ("2018-06-01/2018-07-31", 8),
        ("2018-08-11/2018-08-19", 2),
        ("2018-06-09T13:58:41Z/2018-06-09T13:58:42Z", 3),
        ("2019-01-01T12:00:00Z", 1),
        ("2019-01-01", 1),
        ("2019-02", 56),
        ("2019-11-01/2019-11-10", 20),
    ],
)
def test_intervals(stac, when, number):
    assert len(both(stac, datetime=when, bbox=(-55, -9, -53, -7))) == number


@pytest.mark.parametrize("when", ["../2018-07", "2019-11-01/..", "2017/.."])
def test_open_intervals(stac, when):
    both(stac, datetime=when)


# ---- clouds


@pytest.mark.parametrize("limit", [0, 12.5, 50, 100])
def test_a_cloud_limit_on_the_server_is_the_one_on_this_side(stac, limit):
    found = both(stac, max_cloud_cover=limit, bbox=(-55, -9, -53, -7))
    assert sum(i.collection_id == S1 for i in found) == 4
    assert max(i.properties.get("eo:cloud_cover", 0) for i in found) <= limit


def test_the_server_itself_leaves_cloudy_scenes_out(stac, failing):
    where = {"bbox": (-55, -9, -53, -7), "geometry": None, "datetime": None}
    answers = [
        api.find(failing.url, collections=(S2, S1), max_cloud_cover=limit, **where)
        for limit in (None, 20.0)
    ]
    every, clear = ([i.properties.get("eo:cloud_cover", -1) for i in found] for found in answers)
    assert sorted(clear) == sorted(cover for cover in every if cover <= 20)
    assert clear.count(-1) == 4
    assert len(clear) < len(every) / 2
    bodies = [body for method, _, body in failing.requests if method == "POST"]
    assert sum("query" in body for body in bodies) == 1


# ---- collections


def test_a_collection_that_the_server_lacks_is_no_scene(stac):
    for source in (stac.url, stac.path):
        with pytest.raises(NoItemsError, match="landsat-c2-l2"):
            dfx.search(source, collections=["landsat-c2-l2"])


def test_a_collection_that_the_server_lacks_beside_one_it_has(stac):
    assert len(both(stac, collections=[S2, "landsat-c2-l2"], year=2018)) == 9


def test_recorded_items_of_public_catalogs_are_found_as_on_disk(stac, recorded, shared_data):
    names = sorted({item["collection"] for item in recorded if "sentinel" in item["collection"]})
    found = both(stac, collections=names)
    wanted = {(i["collection"], i["id"]) for i in recorded if i["collection"] in names}
    assert len(wanted) > 70
    assert wanted <= set(ids(found))


# ---- a server that fails


@pytest.mark.parametrize(
    "faults",
    [
        [busy(429, ("Retry-After", "0"))],
        [busy(503), busy(503)],
        [None, busy(502), None, busy(504), busy(500)],
        [None, cut, cut],
        [None, None, cut, busy(503), cut],
    ],
)
def test_what_passes_changes_nothing(stac, failing, monkeypatch, faults):
    monkeypatch.setattr(api, "PAGE_SIZE", 5)
    calm = dfx.search(stac.url, year=2018)
    failing.faults = list(faults)
    assert ids(dfx.search(failing.url, year=2018)) == ids(calm)
    assert failing.faults == []
    assert len(failing.requests) == 1 + 3 + sum(fault is not None for fault in faults)


def test_silence_that_passes_changes_nothing(stac, failing, monkeypatch):
    calm = dfx.search(stac.url, year=2018)
    monkeypatch.setattr(api, "TIMEOUT", (5, 2))
    failing.faults = [None, silence]
    assert ids(dfx.search(failing.url, year=2018)) == ids(calm)
    assert len(failing.requests) == 3


@pytest.mark.parametrize("first", [0, 1, 3], ids=["landing", "first page", "third page"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (busy(503), f"status 503 each of {TRIES} times"),
        (busy(429, ("Retry-After", "0")), f"status 429 each of {TRIES} times"),
        (cut, f"broke off each of {TRIES} times"),
        (hang_up, "did not answer the search.*Check the address and the network"),
    ],
)
def test_what_does_not_pass_is_one_line(failing, monkeypatch, first, fault, reason):
    monkeypatch.setattr(api, "PAGE_SIZE", 5)
    failing.faults, failing.always = [None] * first, fault
    with pytest.raises(CatalogError, match=reason) as caught:
        dfx.search(failing.url, year=2018)
    assert not isinstance(caught.value, NoItemsError)
    assert "\n" not in str(caught.value)
    assert failing.url in str(caught.value)


def test_silence_that_stays_is_one_line(failing, monkeypatch):
    monkeypatch.setattr(api, "TIMEOUT", (5, 0.3))
    failing.faults, failing.always = [None], silence
    begin = time.monotonic()
    with pytest.raises(CatalogError, match=r"nothing came for 0\.3 s") as caught:
        dfx.search(failing.url, year=2018)
    assert time.monotonic() - begin < 9
    assert "\n" not in str(caught.value)


def test_a_page_that_lacks_an_item_is_never_a_shorter_list(failing, monkeypatch):
    monkeypatch.setattr(api, "PAGE_SIZE", 5)
    failing.faults = [None, None, lose_one]
    with pytest.raises(CatalogError, match="it gave 12 of the 13 items"):
        dfx.search(failing.url, year=2018)


def test_a_page_whose_next_one_is_itself_is_not_asked_for_ever(failing):
    failing.faults, failing.always = [None], circle
    with pytest.raises(CatalogError, match="its next page is one that it gave before"):
        dfx.search(failing.url, year=2018)
    assert len(failing.requests) == 2


# ---- to the cube


def test_a_cube_of_what_the_server_found_is_the_cube_of_the_file(stac, scene):
    whole = scene.grid
    grid = Grid(whole.crs, whole.transform @ Affine.translation(20, 30), (40, 56))
    cubes = [
        dfx.open_cube(dfx.search(source, year=2018), grid=grid, months=[6, 8]).compute()
        for source in (stac.url, stac.path)
    ]
    assert float(cubes[0]["s2_count"].max()) > 0
    xr.testing.assert_identical(*cubes)
