"""Asset names against recorded items, signing against a token server on loopback."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deepforest_xr.catalogs import PROVIDERS, asset_for, read_items, sign
from deepforest_xr.sentinel.s2 import BANDS

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

# What planetary-computer 1.0 says when imported under pydantic 2, and pystac of Earth Search.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for class-based `config`:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Could not parse bucket"),
]


@pytest.fixture
def tokens(monkeypatch):
    """A server that hands out tokens as Planetary Computer's does; the list of what was asked."""
    import planetary_computer
    from planetary_computer import sas

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            expiry = (datetime.now(UTC) + timedelta(minutes=45)).isoformat()
            body = json.dumps({"msft:expiry": expiry, "token": "st=1&se=2&sp=rl&sig=x"}).encode()
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
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


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
        assert asset_for(item, "SCL").href.endswith(("SCL.tif", "SCL_20m.tif"))


def test_radar_is_found_by_polarisation(shared_data):
    folder = shared_data / "stac" / "planetary-computer"
    for item in read_items(folder / "sentinel-1-rtc.items.2024-04.json"):
        assert asset_for(item, "vv").href.endswith("iw-vv.rtc.tiff")
        assert asset_for(item, "vh").href.endswith("iw-vh.rtc.tiff")


def test_a_band_that_is_not_there_is_none(scene):
    item = next(iter(read_items(scene.items)))
    assert asset_for(item, "B10") is None


def test_known_providers_have_sentinel_2_first_and_only_one_has_terrain_corrected_radar():
    assert all(p.collections[0] == "sentinel-2-l2a" for p in PROVIDERS.values())
    assert [n for n, p in PROVIDERS.items() if "sentinel-1-rtc" in p.collections] == [
        "planetary-computer"
    ]
    assert all(name == p.name and p.url.startswith("https://") for name, p in PROVIDERS.items())


@pytest.mark.parametrize(
    "href",
    [
        "/data/B02.tif",
        "relative/B02.tif",
        "s3://sentinel-cogs/B02.tif",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/B02.tif",
        "https://example.org/?next=https://a.blob.core.windows.net/b",
        "https://blob.core.windows.net.example.org/a/B02.tif",
    ],
)
def test_only_planetary_computers_storage_is_signed(href, tokens):
    assert sign(href) == href
    assert tokens == []


def test_a_link_into_its_storage_gets_a_token_once_for_all_files_of_a_container(tokens):
    base = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a"
    assert sign(f"{base}/B02.tif") == f"{base}/B02.tif?st=1&se=2&sp=rl&sig=x"
    sign(f"{base}/B03.tif")
    assert tokens == ["/token/sentinel2l2a01/sentinel2-l2"]


def test_a_signed_link_is_not_signed_again(tokens):
    href = sign("https://a.blob.core.windows.net/b/B02.tif")
    assert sign(href) == href
    assert len(tokens) == 1
