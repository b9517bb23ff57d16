"""Searching a real STAC API on loopback, and the same call on files."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pandas as pd
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepforest_xr.catalogs import CATALOGS, read_items, search, write_items
from deepforest_xr.catalogs.search import interval
from deepforest_xr.errors import CatalogError, ConfigError, NoItemsError

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]


def landing(url):
    links = [
        {"rel": "root", "type": "application/json", "href": f"{url}/"},
        {"rel": "self", "type": "application/json", "href": f"{url}/"},
    ] + [
        {"rel": "search", "type": "application/geo+json", "href": f"{url}/search", "method": m}
        for m in ("GET", "POST")
    ]
    return {
        "type": "Catalog",
        "id": "loopback",
        "description": "Recorded items.",
        "stac_version": "1.0.0",
        "conformsTo": CONFORMS,
        "links": links,
    }


def page(api, body):
    """Two items a page, the rest behind a token, as Planetary Computer's pgstac does."""
    start = int(body.get("token", "next:0").removeprefix("next:"))
    wanted = [i for i in api.items if i["collection"] in body["collections"]]
    links = []
    if start + 2 < len(wanted):
        links = [
            {
                "rel": "next",
                "type": "application/geo+json",
                "method": "POST",
                "href": f"{api.url}/search",
                "body": {**body, "token": f"next:{start + 2}"},
            }
        ]
    return {
        "type": "FeatureCollection",
        "features": wanted[start : start + 2],
        "links": links,
    }


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A catalog that fails is asked again at once."""
    monkeypatch.setattr("deepforest_xr.catalogs.api.BACKOFF", 0)


@pytest.fixture
def api():
    """A STAC API; `items` is what it holds, `asked` the searches, `answer` an error to give."""
    api = SimpleNamespace(items=[], asked=[], answer=None, landing=landing)

    class Handler(BaseHTTPRequestHandler):
        def reply(self, content, status=200):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.reply(api.landing(api.url))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.asked.append(body)
            if api.answer is not None:
                status, content = api.answer
                self.reply(content, status)
            else:
                self.reply(page(api, body))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield api
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def recorded(shared_data):
    """Five items that Planetary Computer gave: three optical, two radar."""
    folder = shared_data / "stac" / "planetary-computer"
    files = ("sentinel-2-l2a.items.2024-04.json", "sentinel-1-rtc.items.2024-04.json")
    return [item for name in files for item in json.loads((folder / name).read_text())]


def rebind(monkeypatch, name, url):
    """Point a catalog's name at another address and at nothing else."""
    from dataclasses import replace

    monkeypatch.setitem(CATALOGS, name, replace(CATALOGS[name], url=url))


# ---- over HTTP


def test_where_when_and_what_arrive_as_asked_and_pages_are_joined(api, recorded):
    api.items = recorded
    box = (14.0, 30.0, 17.0, 33.0)
    found = search(api.url, bbox=box, datetime="2024-04")
    assert sorted(i.id for i in found) == sorted(i["id"] for i in recorded)
    first = api.asked[0]
    assert first["bbox"] == list(box)
    assert first["collections"] == ["sentinel-2-l2a", "sentinel-1-rtc"]
    assert first["datetime"] == "2024-04-01T00:00:00Z/2024-04-30T23:59:59Z"
    assert [body.get("token") for body in api.asked] == [None, "next:2", "next:4"]


def test_a_year_is_its_first_to_its_last_second(api, recorded):
    api.items = recorded
    search(api.url, year=2018)
    assert api.asked[0]["datetime"] == "2018-01-01T00:00:00Z/2018-12-31T23:59:59Z"


@pytest.mark.parametrize("wrap", [False, True])
def test_a_polygon_is_asked_for_as_a_polygon_also_inside_a_feature(api, recorded, wrap):
    api.items = recorded
    polygon = {"type": "Polygon", "coordinates": [[[14, 30], [17, 30], [17, 33], [14, 30]]]}
    geometry = {"type": "Feature", "properties": {}, "geometry": polygon} if wrap else polygon
    search(api.url, geometry=geometry)
    assert api.asked[0]["intersects"] == polygon
    assert "bbox" not in api.asked[0]


def test_links_of_a_search_stay_unsigned(api, recorded):
    api.items = recorded
    found = {i.id: i for i in search(api.url)}
    for item in recorded:
        for key, asset in item["assets"].items():
            assert found[item["id"]].assets[key].href == asset["href"]


def test_two_equal_searches_are_equal_whatever_the_order_of_the_answer(api, recorded):
    api.items = recorded
    once = [i.id for i in search(api.url)]
    api.items = recorded[::-1]
    assert [i.id for i in search(api.url)] == once
    assert [i.collection_id for i in search(api.url)] == ["sentinel-1-rtc"] * 2 + [
        "sentinel-2-l2a"
    ] * 3


@pytest.mark.parametrize(
    ("name", "url", "collections"),
    [
        (
            "planetary-computer",
            "https://planetarycomputer.microsoft.com/api/stac/v1",
            ["sentinel-2-l2a", "sentinel-1-rtc"],
        ),
        ("earth-search", "https://earth-search.aws.element84.com/v1", ["sentinel-2-l2a"]),
        ("copernicus", "https://stac.dataspace.copernicus.eu/v1", ["sentinel-2-l2a"]),
    ],
)
def test_a_catalog_is_asked_by_name(name, url, collections, api, recorded, monkeypatch):
    assert CATALOGS[name].url == url
    rebind(monkeypatch, name, api.url)
    api.items = recorded
    found = search(name, year=2024)
    assert api.asked[0]["collections"] == collections
    assert {i.collection_id for i in found} == set(collections)


@pytest.mark.parametrize(
    ("name", "collection"),
    [
        ("earth-search", "sentinel-2-c1-l2a"),
        ("earth-search", "sentinel-1-grd"),
        ("planetary-computer", "sentinel-1-grd"),
        ("copernicus", "sentinel-1-grd"),
    ],
)
def test_a_collection_not_searched_by_default_is_searched_when_named(
    name, collection, api, recorded, monkeypatch
):
    rebind(monkeypatch, name, api.url)
    api.items = [{**recorded[0], "collection": collection}]
    assert len(search(name, collections=collection)) == 1
    assert api.asked[0]["collections"] == [collection]


def test_any_is_no_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatalogError, match="no items at 'any'"):
        search("any", year=2018)


def test_a_collection_a_catalog_lacks_is_refused_before_asking(api, monkeypatch):
    rebind(monkeypatch, "earth-search", api.url)
    with pytest.raises(CatalogError, match=r"earth-search has no sentinel-1-rtc") as caught:
        search("earth-search", collections=["sentinel-2-l2a", "sentinel-1-rtc"])
    assert "\n" not in str(caught.value)
    assert api.asked == []


def test_cloudy_optical_scenes_are_dropped_radar_never(api, recorded):
    api.items = recorded
    covers = sorted(
        i["properties"]["eo:cloud_cover"] for i in recorded if i["collection"] == "sentinel-2-l2a"
    )
    found = search(api.url, max_cloud_cover=covers[0])
    assert [i.collection_id for i in found] == ["sentinel-1-rtc"] * 2 + ["sentinel-2-l2a"]


def test_nothing_found_says_what_was_asked(api):
    with pytest.raises(
        NoItemsError, match=r"sentinel-2-l2a in bbox \(1, 2, 3, 4\), 2018"
    ) as caught:
        search(api.url, bbox=(1, 2, 3, 4), year=2018, collections=["sentinel-2-l2a"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, {"code": "InternalServerError", "description": "database\n is down"}),
        (404, {"code": "NotFoundError", "description": "no such thing"}),
        (400, b"bad request"),
        (503, b"<html>\n<body>busy</body></html>"),
        (200, b"not json"),
        (200, b"[]"),
        (200, {"type": "FeatureCollection", "features": [{"type": "Feature"}]}),
    ],
)
def test_an_answer_that_is_none_is_one_line(api, status, content):
    api.answer = (status, content)
    with pytest.raises(CatalogError, match=r"127\.0\.0\.1.* did not answer the search") as caught:
        search(api.url, year=2018)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("page", [b"<html></html>", b"{}", b"[]", {"type": "Catalog", "id": "x"}])
def test_an_address_that_is_no_stac_api_is_one_line(api, page):
    api.landing = lambda _: page
    with pytest.raises(CatalogError, match="did not answer the search") as caught:
        search(api.url, year=2018)
    assert "\n" not in str(caught.value)


def test_nobody_listening_is_one_line():
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_port
    server.server_close()
    with pytest.raises(CatalogError, match=f"127.0.0.1:{port} did not answer") as caught:
        search(f"http://127.0.0.1:{port}", year=2018)
    assert "\n" not in str(caught.value)


# ---- on disk


@pytest.fixture(scope="module")
def on_disk(scene, tmp_path_factory):
    """The scene's items as a collection, as a folder of single items and as geoparquet."""
    folder = tmp_path_factory.mktemp("items")
    items = read_items(scene.items)
    (folder / "single").mkdir()
    for item in items:
        (folder / "single" / f"{item.id}.json").write_text(json.dumps(item.to_dict()))
    return {
        "json": scene.items,
        "folder": folder / "single",
        "parquet": write_items(items, folder / "items.parquet"),
    }


@pytest.mark.parametrize("form", ["json", "folder", "parquet"])
def test_files_are_searched_by_the_same_call(on_disk, form):
    found = search(on_disk[form], bbox=(-55, -9, -53, -8), datetime="2018-06/2018-07")
    assert {i.collection_id for i in found} == {"sentinel-1-rtc", "sentinel-2-l2a"}
    assert {i.datetime.month for i in found} == {6, 7}
    assert [i.id for i in found] == [
        i.id for i in search(on_disk["json"], datetime="2018-06/2018-07")
    ]
    assert len(found) == 3 * 2 + 2


def test_order_is_collection_time_id(on_disk):
    found = list(search(on_disk["json"]))
    keys = [(i.collection_id, i.datetime, i.id) for i in found]
    assert keys == sorted(keys)


def test_a_box_is_met_by_footprints_not_by_boxes_of_footprints(tmp_path):
    triangle = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [0, 4], [0, 0]]]}
    item = pystac.Item("t", triangle, [0, 0, 4, 4], datetime(2018, 6, 1, tzinfo=UTC), {})
    item.collection_id = "sentinel-2-l2a"
    path = write_items([item], tmp_path / "items.json")
    assert len(search(path, bbox=(0, 0, 1, 1))) == 1
    with pytest.raises(NoItemsError):
        search(path, bbox=(3, 3, 3.9, 3.9))


def test_a_box_across_the_antimeridian_has_two_sides(tmp_path):
    items = []
    for lon in (179.5, -179.5, 0):
        ring = [[lon, 0], [lon + 0.2, 0], [lon, 0.2], [lon, 0]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        when = datetime(2018, 6, 1, tzinfo=UTC)
        item = pystac.Item(f"at {lon}", geometry, [lon, 0, lon + 0.2, 0.2], when, {})
        item.collection_id = "sentinel-2-l2a"
        items.append(item)
    path = write_items(items, tmp_path / "items.json")
    assert sorted(i.id for i in search(path, bbox=(179, -1, -179, 1))) == ["at -179.5", "at 179.5"]


@pytest.mark.parametrize("wrap", [False, True])
def test_a_polygon_selects_on_disk_too(on_disk, wrap):
    # West of the scene's middle lies no granule of zone 22.
    west = {
        "type": "Polygon",
        "coordinates": [
            [[-54.1, -8.1], [-54.0065, -8.1], [-54.0065, -8], [-54.1, -8], [-54.1, -8.1]]
        ],
    }
    geometry = {"type": "Feature", "properties": {}, "geometry": west} if wrap else west
    found = search(on_disk["json"], geometry=geometry, collections=["sentinel-2-l2a"])
    assert {i.properties["s2:mgrs_tile"] for i in found} == {"21LYM"}


@pytest.mark.parametrize(
    ("when", "months"),
    [
        ("2018", {6, 7, 8}),
        ("2018-07", {7}),
        ("2018-07-01/..", {7, 8}),
        ("2018-07-01/", {7, 8}),
        ("../2018-07", {6, 7}),
        ("../..", {6, 7, 8}),
        ("2018-06-30T23:59:59Z/2018-08-01T00:00:00Z", {7}),
        ("2018-05/2018-06", {6}),
    ],
)
def test_intervals_open_and_closed(on_disk, when, months):
    found = search(on_disk["json"], datetime=when, collections=["sentinel-2-l2a"])
    assert {i.datetime.month for i in found} == months


def test_year_is_the_whole_year(on_disk):
    assert len(search(on_disk["json"], year=2018)) == 13
    with pytest.raises(NoItemsError, match="2019"):
        search(on_disk["json"], year=2019)


def test_cloud_limit_on_disk_counts_only_where_cloud_is_stated(on_disk):
    covers = [
        i.properties["eo:cloud_cover"]
        for i in search(on_disk["json"], collections="sentinel-2-l2a")
    ]
    limit = sorted(covers)[3]
    found = search(on_disk["json"], max_cloud_cover=limit)
    assert sum(i.collection_id == "sentinel-2-l2a" for i in found) == sum(
        c <= limit for c in covers
    )
    assert sum(i.collection_id == "sentinel-1-rtc" for i in found) == 4


def test_a_cloud_limit_of_nothing_stands_in_the_message(on_disk):
    with pytest.raises(NoItemsError, match="cloud cover <= 0 %"):
        search(on_disk["json"], year=2019, max_cloud_cover=0)


def test_every_sentinel_collection_on_disk_is_taken_and_no_other(tmp_path, on_disk):
    items = [i.clone() for i in search(on_disk["json"])]
    items[0].collection_id, items[1].collection_id = "sentinel-1-grd", "landsat-c2-l2"
    path = write_items(items, tmp_path / "items.json")
    found = search(path)
    assert {i.collection_id for i in found} == {
        "sentinel-1-grd",
        "sentinel-1-rtc",
        "sentinel-2-l2a",
    }
    assert len(search(path, collections=["landsat-c2-l2"])) == 1


@pytest.mark.parametrize(
    "bbox",
    [
        (500000, 9000000, 510000, 9010000),
        (-54, -8, -53, -9),
        (-54, -8, -54, -7),
        (-181, -8, -53, -7),
        (-54, -8, -53),
        (-54, -8, 0, -53, -7, 9),
        ("west", -8, -53, -7),
        (float("nan"), -8, -53, -7),
        5,
    ],
)
def test_a_box_that_is_not_in_degrees_is_refused(on_disk, bbox):
    with pytest.raises(ConfigError, match="west, south, east, north"):
        search(on_disk["json"], bbox=bbox)


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon"},
        {"type": "Feature", "geometry": None},
        {"type": "Feature"},
        {"type": "FeatureCollection", "features": []},
        {"type": "Polygon", "coordinates": []},
        {},
        "POINT (1 2)",
    ],
)
def test_what_is_no_geometry_is_refused_and_never_means_anywhere(on_disk, geometry):
    with pytest.raises(ConfigError, match="geometry"):
        search(on_disk["json"], geometry=geometry)


@pytest.mark.parametrize(
    "when", ["summer", "2018-13", "2018/2019/2020", "2018-08/2018-06", "nat", "2018-02-30"]
)
def test_a_date_that_is_none_is_refused(on_disk, when):
    with pytest.raises(ConfigError, match="datetime="):
        search(on_disk["json"], datetime=when)


def test_contradictions_are_refused(on_disk):
    with pytest.raises(ConfigError, match="year and datetime"):
        search(on_disk["json"], year=2018, datetime="2018-06")
    with pytest.raises(ConfigError, match="bbox and geometry"):
        search(
            on_disk["json"], bbox=(1, 2, 3, 4), geometry={"type": "Point", "coordinates": [1, 2]}
        )


def test_a_source_that_is_neither_name_nor_file_is_one_line():
    with pytest.raises(CatalogError, match=r"'planetary_computer'.*provider's name") as caught:
        search("planetary_computer", year=2018)
    assert "\n" not in str(caught.value)


@given(st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1)))
def test_a_moment_lies_in_its_year_month_day_and_second(moment):
    instant = pd.Timestamp(moment, tz="UTC")
    for form in ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"):
        start, end = interval(moment.strftime(form))
        assert start <= instant <= end
        assert end.strftime(form) == moment.strftime(form)


def test_an_offset_from_utc_is_applied():
    start, _ = interval("2018-06-01T22:00:00-03:00/..")
    assert start == pd.Timestamp("2018-06-02T01:00:00Z")


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("2018", "2018-01-01T00:00:00Z/2018-12-31T23:59:59Z"),
        ("2018Q2", "2018-04-01T00:00:00Z/2018-06-30T23:59:59Z"),
        ("2018-06-01T10/..", "2018-06-01T10:00:00Z/.."),
        ("../2018-06", "../2018-06-30T23:59:59Z"),
    ],
)
def test_an_api_is_asked_for_the_interval_that_a_search_on_disk_means(text, spelt):
    from deepforest_xr.catalogs.search import _rfc3339

    assert _rfc3339(text) == spelt
