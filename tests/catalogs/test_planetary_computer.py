"""Planetary Computer: signing against a token server on loopback, offsets by baseline."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deepforest_xr.catalogs import catalog_of, link, read_items, sign
from deepforest_xr.errors import UnknownOffsetError

# What planetary-computer 1.0 says when imported under pydantic 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Support for class-based `config`:DeprecationWarning"
)

BASE = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a"
END = "2031-02-03T04:05:06Z"


class Tokens:
    """What was asked of the server, and the token it gives."""

    def __init__(self):
        self.asked = []
        self.token = f"st=2031-02-03T03:20:06Z&se={END}&sp=rl&sig=x%2Fy"


@pytest.fixture
def tokens(monkeypatch):
    """A server that hands out tokens as Planetary Computer's does."""
    import planetary_computer
    from planetary_computer import sas

    given = Tokens()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            given.asked.append(self.path)
            expiry = (datetime.now(UTC) + timedelta(minutes=45)).isoformat()
            body = json.dumps({"msft:expiry": expiry, "token": given.token}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    settings = planetary_computer.settings.Settings.get()
    monkeypatch.setattr(settings, "sas_url", f"http://127.0.0.1:{server.server_port}/token")
    monkeypatch.setattr(sas, "TOKEN_CACHE", {})
    yield given
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_link_into_its_storage_gets_a_token_once_for_all_files_of_a_container(tokens):
    assert sign(f"{BASE}/B02.tif") == f"{BASE}/B02.tif?{tokens.token}"
    sign(f"{BASE}/B03.tif")
    assert tokens.asked == ["/token/sentinel2l2a01/sentinel2-l2"]


def test_a_signed_link_is_not_signed_again_and_still_knows_its_end(tokens):
    once = link(f"{BASE}/B02.tif")
    assert link(once.href) == once
    assert len(tokens.asked) == 1


def test_a_link_says_when_its_token_ends(tokens):
    found = link(f"{BASE}/B02.tif")
    assert found.expires == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp()
    assert found.options == {}


@pytest.mark.parametrize("token", ["sig=x", "se=soon&sig=x", "se=&sig=x"])
def test_a_token_without_an_end_is_never_kept(token, tokens):
    tokens.token = token
    assert link(f"{BASE}/B02.tif").expires == 0


@pytest.mark.parametrize("href", ["/data/B02.tif", "https://example.org/B02.tif"])
def test_nothing_else_asks_for_a_token(href, tokens):
    assert link(href).href == href
    assert tokens.asked == []


@pytest.fixture
def item(shared_data):
    name = "planetary-computer/sentinel-2-l2a.item.baseline-04.00.json"
    return next(iter(read_items(shared_data / "stac" / name))).clone()


def test_it_is_known_by_its_storage_not_by_somebody_elses(item):
    assert catalog_of(item).name == "planetary-computer"
    del item.assets["tilejson"], item.assets["rendered_preview"]
    assert catalog_of(item).name == "planetary-computer"
    for asset in item.assets.values():
        asset.href = asset.href.replace("sentinel2l2a01", "myaccount")
    assert catalog_of(item).name == "any"


def test_a_declaration_against_the_baseline_is_refused(item):
    item.assets["B02"].extra_fields["raster:bands"] = [{"offset": 0}]
    with pytest.raises(UnknownOffsetError, match=r"offset of 0 for B02, but baseline 04\.00"):
        catalog_of(item).offset(item, "B02")
    item.assets["B02"].extra_fields["raster:bands"] = [{"offset": -0.1}]
    assert catalog_of(item).offset(item, "B02").reason == "baseline 04.00"
    assert catalog_of(item).offset(item, "B03").value == -1000
