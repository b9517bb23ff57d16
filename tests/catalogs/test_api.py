"""A STAC API that fails on purpose: every item arrives, or an error does, never a shorter list."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from deepforest_xr.catalogs import api as asking
from deepforest_xr.errors import CatalogError

CORE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
]
QUERY = "https://api.stacspec.org/v1.0.0/item-search#query"
FILTER = "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter"
TRIES = 6
PAGE = 2


def landing(api):
    links = [
        {"rel": "root", "type": "application/json", "href": f"{api.url}/"},
        {"rel": "self", "type": "application/json", "href": f"{api.url}/"},
        {"rel": "search", "type": "application/geo+json", "href": f"{api.url}/search"}
        | {"method": "POST"},
    ]
    return {
        "type": "Catalog",
        "id": "loopback",
        "description": "Fails on purpose.",
        "stac_version": "1.0.0",
        "conformsTo": api.conforms,
        "links": links,
    }


def item(number, collection="sentinel-2-l2a", cover=None):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"scene-{number}",
        "collection": collection,
        "geometry": {"type": "Point", "coordinates": [-54.0, -8.0]},
        "bbox": [-54.0, -8.0, -54.0, -8.0],
        "properties": {"datetime": "2018-06-01T00:00:00Z"}
        | ({} if cover is None else {"eo:cloud_cover": cover}),
        "assets": {},
        "links": [],
    }


def page(api, body):
    """Two items, the rest behind a token."""
    start = int(body.get("token", 0))
    wanted = [i for i in api.items if i["collection"] in body["collections"]]
    link = {"rel": "next", "method": "POST", "href": f"{api.url}/search"}
    link["body"] = {**body, "token": str(start + PAGE)}
    return {
        "type": "FeatureCollection",
        "features": wanted[start : start + PAGE],
        "links": [link] if start + PAGE < len(wanted) else [],
    }


class Handler(BaseHTTPRequestHandler):
    """`api.faults` are what the next requests meet, in order; None is a fine answer."""

    def do_GET(self):
        self.answer(landing(self.server.api))

    def do_POST(self):
        api = self.server.api
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        api.asked.append(body)
        self.answer(api.page(api, body))

    def answer(self, content):
        api = self.server.api
        api.requests.append(self.path)
        fault = api.faults.pop(0) if api.faults else api.always
        (fault or whole)(self, json.dumps(content).encode())

    def log_message(self, *_):
        pass


def reply(handler, body, status=200, length=None, headers=()):
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    if length is not None:
        handler.send_header("Content-Length", str(length))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def whole(handler, body):
    reply(handler, body, length=len(body))


def status(code, *headers):
    def fault(handler, body):
        reply(handler, b"busy\n now", code, 9, headers)

    return fault


def cut(handler, body):
    """Half of what Content-Length announces."""
    reply(handler, body[: len(body) // 2], length=len(body))


def cut_unannounced(handler, body):
    """Half of a page that had no Content-Length."""
    reply(handler, body[: len(body) // 2])


def hang_up(handler, body):
    """Not one byte."""
    handler.close_connection = True


def silence(handler, body):
    """An answer so late that nobody waits for it."""
    if not handler.server.api.woken.wait(10):
        whole(handler, body)


def silence_halfway(handler, body):
    reply(handler, body[: len(body) // 2], length=len(body))
    handler.wfile.flush()
    if not handler.server.api.woken.wait(10):
        handler.wfile.write(body[len(body) // 2 :])


@pytest.fixture
def api(monkeypatch):
    """A STAC API of five scenes; `faults` come first, then `always` if it is set."""
    monkeypatch.setattr(asking, "BACKOFF", 0)
    api = SimpleNamespace(
        items=[item(n) for n in range(5)],
        conforms=list(CORE),
        page=page,
        faults=[],
        always=None,
        requests=[],
        asked=[],
        woken=threading.Event(),
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.api = api
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield api
    api.woken.set()
    server.shutdown()
    thread.join()
    server.server_close()


def find(api, **question):
    defaults = {"bbox": None, "geometry": None, "datetime": None}
    collections = question.pop("collections", ("sentinel-2-l2a",))
    found = asking.find(api.url, collections=collections, **{**defaults, **question})
    return [i.id for i in found]


ALL = [f"scene-{n}" for n in range(5)]


def refused(api, match):
    """The one line that a search ends with."""
    with pytest.raises(CatalogError, match=match) as caught:
        find(api)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(api.url)
    return message


# ---- what passes is waited for


@pytest.mark.parametrize(
    "faults",
    [
        [status(429, ("Retry-After", "0"))],
        [status(503), status(503)],
        [status(code) for code in (429, 500, 502, 503, 504)],
        [hang_up],
        [cut],
        [cut] * (TRIES - 1),
        [cut_unannounced],
        [status(503), cut, hang_up, cut_unannounced],
    ],
)
@pytest.mark.parametrize("first", [0, 1, 2], ids=["landing", "first page", "second page"])
def test_what_passes_is_waited_for(api, first, faults):
    api.faults = [None] * first + faults
    assert find(api) == ALL
    assert len(api.requests) == 4 + len(faults)
    assert api.faults == []


def test_the_pause_that_the_catalog_names_is_made(api, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    api.faults = [None, status(429, ("Retry-After", "7")), status(503, ("Retry-After", "90000"))]
    assert find(api) == ALL
    assert slept == [7, asking.LONGEST_PAUSE]


@pytest.mark.parametrize(("fault", "pauses"), [(status(503), [2, 4]), (cut, [1, 2, 4])])
def test_pauses_double(api, monkeypatch, fault, pauses):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(asking, "BACKOFF", 1)
    api.faults = [None] + [fault] * 3
    assert find(api) == ALL
    assert slept == pauses


@pytest.mark.parametrize("fault", [silence, silence_halfway])
def test_silence_is_asked_again(api, monkeypatch, fault):
    monkeypatch.setattr(asking, "TIMEOUT", (5, 0.2))
    api.faults = [None, None, fault]
    assert find(api) == ALL
    assert len(api.requests) == 4 + 1


# ---- what does not pass is one line


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_catalog_that_stays_busy_is_named_with_its_status(api, code):
    api.faults, api.always = [None], status(code)
    line = refused(api, rf"status {code} each of {TRIES} times, busy now.*ask again later")
    assert "items on disk" in line
    assert len(api.requests) == 1 + TRIES


def test_a_catalog_that_is_down_from_the_first_page_is_named_too(api):
    api.always = status(503)
    refused(api, f"status 503 each of {TRIES} times")
    assert len(api.requests) == TRIES


@pytest.mark.parametrize("code", [400, 401, 404, 501])
def test_a_refusal_is_not_asked_again(api, code):
    api.faults, api.always = [None], status(code)
    refused(api, f"status {code}, busy now. Check the address")
    assert len(api.requests) == 2


def test_a_catalog_that_stays_silent_is_named_with_the_time_waited(api, monkeypatch):
    monkeypatch.setattr(asking, "TIMEOUT", (5, 0.1))
    api.faults, api.always = [None], silence
    refused(api, rf"nothing came for 0.1 s, each of {TRIES} times.*ask again later")
    assert len(api.requests) == 1 + TRIES


@pytest.mark.parametrize("first", [0, 1, 3], ids=["landing", "first page", "last page"])
@pytest.mark.parametrize("fault", [cut, cut_unannounced])
def test_a_page_that_stays_cut_is_an_error_and_never_a_shorter_list(api, first, fault):
    api.faults, api.always = [None] * first, fault
    refused(api, f"broke off each of {TRIES} times")
    assert len(api.requests) == first + TRIES


def test_a_page_silent_halfway_every_time_is_an_error(api, monkeypatch):
    monkeypatch.setattr(asking, "TIMEOUT", (5, 0.1))
    api.faults, api.always = [None, None], silence_halfway
    refused(api, f"broke off each of {TRIES} times.*timed out")


def test_a_lost_connection_every_time_is_an_error(api):
    api.faults, api.always = [None, None], hang_up
    refused(api, "did not answer the search: .*Check the address and the network")
    assert len(api.requests) == 2 + TRIES


def test_a_page_that_was_never_json_is_not_asked_again(api):
    api.faults = [None, lambda handler, body: whole(handler, b"<html>sign in</html>")]
    refused(api, "did not answer the search")
    assert len(api.requests) == 2


@pytest.mark.parametrize("content", [b"{}", b'{"features": null}', b"[]", b"5"])
def test_a_page_without_items_is_not_an_empty_one(api, content):
    api.faults = [None, None, lambda handler, body: whole(handler, content)]
    refused(api, "did not answer the search with a page of items")


# ---- pages


def test_pages_are_asked_for_in_large_ones(api):
    find(api)
    assert [body["limit"] for body in api.asked] == [250, 250, 250]


def test_a_next_page_that_was_given_before_ends_in_an_error(api):
    def circle(api, body):
        answer = page(api, body)
        if not answer["links"]:
            answer["links"] = page(api, {**body, "token": "0"})["links"]
        return answer

    api.page = circle
    refused(api, "its next page is one that it gave before")
    assert len(api.asked) == 3


@pytest.mark.parametrize("features", [[], [item(0)]])
def test_a_next_page_that_never_ends_ends_in_an_error(api, features):
    def forever(api, body):
        token = str(int(body.get("token", 0)) + 1)
        link = {"rel": "next", "method": "POST", "href": f"{api.url}/search"}
        links = [link | {"body": {**body, "token": token}}] if len(api.asked) < 99 else []
        return {"features": features, "links": links}

    api.page = forever
    refused(api, "pages in a row brought nothing new")


def test_an_empty_page_with_a_next_one_is_not_the_end(api):
    def sparse(api, body):
        answer = page(api, body)
        return answer | ({"features": []} if body.get("token") == "2" else {})

    api.page = sparse
    assert find(api) == ["scene-0", "scene-1", "scene-4"]


def test_next_pages_may_be_links_to_get_or_bodies_to_merge(api):
    def merging(api, body):
        answer = page(api, body)
        for link in answer["links"]:
            link |= {"merge": True, "body": {"token": link["body"]["token"]}}
        return answer

    api.page = merging
    assert find(api, bbox=(-55, -9, -53, -7)) == ALL
    assert [body["bbox"] for body in api.asked] == [[-55, -9, -53, -7]] * 3


def test_an_item_that_slips_onto_the_next_page_is_one_item(api):
    def shifting(api, body):
        """New scenes arrive between the pages; what was there when asked is what counts."""
        answer = page(api, body) | {"numberMatched": len(api.items)}
        api.items.insert(0, item("new"))
        return answer

    api.page = shifting
    assert find(api) == ALL


def test_equal_ids_in_two_collections_are_two_items(api):
    api.items = [item(1), item(1, "sentinel-1-rtc")]
    assert find(api, collections=("sentinel-2-l2a", "sentinel-1-rtc")) == ["scene-1"] * 2


@pytest.mark.parametrize("place", ["numberMatched", "context"])
@pytest.mark.parametrize(("stated", "short"), [(6, True), (5, False), (3, False), (None, False)])
def test_fewer_items_than_the_api_states_is_an_error(api, place, stated, short):
    def counting(api, body):
        return page(api, body) | (
            {"numberMatched": stated}
            if place == "numberMatched"
            else {"context": {"matched": stated}}
        )

    api.page = counting
    if short:
        refused(api, "it gave 5 of the 6 items")
    else:
        assert find(api) == ALL


# ---- clouds


@pytest.fixture
def mixed(api):
    """Two optical scenes between radar ones, which state no clouds."""
    radar = [item(n, "sentinel-1-rtc") for n in (2, 3, 4)]
    api.items = [item(0, cover=10.0), *radar, item(1, cover=90.0)]
    api.both = ("sentinel-2-l2a", "sentinel-1-rtc")
    return api


def test_clouds_are_asked_of_optical_collections_alone(mixed):
    mixed.conforms += [QUERY, FILTER]
    found = find(mixed, collections=mixed.both, max_cloud_cover=20.0)
    assert sorted(found) == ALL
    first, *rest = mixed.asked
    assert first["collections"] == ["sentinel-2-l2a"]
    assert first["query"] == {"eo:cloud_cover": {"lte": 20.0}}
    assert {tuple(body["collections"]) for body in rest} == {("sentinel-1-rtc",)}
    assert not any({"query", "filter"} & set(body) for body in rest)


def test_clouds_are_asked_as_a_filter_where_that_is_all_the_api_knows(mixed):
    mixed.conforms += [FILTER]
    find(mixed, collections=mixed.both, max_cloud_cover=20.0)
    first = mixed.asked[0]
    assert "query" not in first
    assert first["filter-lang"] == "cql2-json"
    assert first["filter"]["args"] == [
        {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 20.0]},
        {"op": "isNull", "args": [{"property": "eo:cloud_cover"}]},
    ]


@pytest.mark.parametrize(
    ("conforms", "collections", "limit"),
    [
        ([], ("sentinel-2-l2a", "sentinel-1-rtc"), 20.0),
        ([QUERY], ("sentinel-2-l2a", "sentinel-1-rtc"), None),
        ([QUERY], ("sentinel-1-rtc",), 20.0),
    ],
)
def test_clouds_are_not_asked_where_that_means_nothing(mixed, conforms, collections, limit):
    mixed.conforms += conforms
    find(mixed, collections=collections, max_cloud_cover=limit)
    assert {tuple(body["collections"]) for body in mixed.asked} == {collections}
    assert not any({"query", "filter"} & set(body) for body in mixed.asked)


def test_a_cloud_limit_of_nothing_is_asked(mixed):
    mixed.conforms += [QUERY]
    find(mixed, max_cloud_cover=0.0)
    assert mixed.asked[0]["query"] == {"eo:cloud_cover": {"lte": 0.0}}
