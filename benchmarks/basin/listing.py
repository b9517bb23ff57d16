"""Seconds to learn the states of 10,000 finished tiles from the ledger, on disk and on S3."""

import os
import re
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import parse_qs, quote, urlsplit

from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.store import open_objects

BUCKET, WAITS = "basins", (0.0, 0.05, 0.1)
KEYS = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
}
# As long as a real record of a tile, about: a listing does not read them.
CLAIM, DONE = b"{}" + b" " * 300, b"{}" + b" " * 1200


def measure(services, *, tiles, repeats):
    """All stores; one that is not there is left out, with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        objects = open_objects(folder, make=True)
        fill(objects, names(tiles))
        found = {"tiles": tiles, "disk": timed(objects, tiles, repeats)}
    server = services / "bin" / "moto_server"
    if not server.exists():
        return found | {"left_out": f"there is no moto_server in {services.name}"}
    with tempfile.TemporaryDirectory() as folder, moto(server, Path(folder)) as (port, log):
        objects = open_objects(f"s3://{BUCKET}/basin")
        filled = fill(objects, names(tiles))
        before = len(requests(log))
        seconds = timed(objects, tiles, repeats)
        asked = requests(log)[before:]
        pages, spent = crawl(port, asked, repeats)
    found["moto"] = {"fill": filled, "seconds": seconds, "pages": len(pages), "server": spent}
    found["requests"] = len(asked) // repeats
    found["replayed"] = {}
    for wait in WAITS:
        with replayed(pages, wait=wait):
            objects = open_objects(f"s3://{BUCKET}/basin")
            found["replayed"][str(wait)] = timed(objects, tiles, repeats)
    return found


def names(tiles):
    return [f"r{n // 100:04d}c{n % 100:04d}" for n in range(tiles)]


def fill(objects, tiles):
    """Put a claim and a record for each tile, many at once; seconds."""

    def put(tile):
        objects.put(f"attempts/{tile}/1.json", CLAIM)
        objects.put(f"done/{tile}.json", DONE)

    start = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, tiles))
    return time.perf_counter() - start


def timed(objects, tiles, repeats):
    """Seconds of each look at all states."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        states = Ledger(objects).states(names(tiles))
        found.append(time.perf_counter() - start)
        assert {state.status for state in states.values()} == {"done"}
    return found


@contextmanager
def moto(server, folder):
    """An S3 store on loopback with one bucket, its address in the environment; port and log."""
    from tests.services.servers import free_port, running

    port, log = free_port(), folder / "moto.log"
    told = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [server, "-H", "127.0.0.1", "-p", port]
    with running(command, port=port, log=log), patch.dict(os.environ, told):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        yield port, log


def requests(log):
    """Every request that the server has answered, as it wrote them down."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return re.findall(r'"(?:\x1b\[[\d;]*m)?(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP', text)


def crawl(port, asked, repeats):
    """Ask for the pages that were asked for, and do nothing with them.

    Returns the pages by (prefix, first key, token) and the seconds that the server took for all.
    """
    listings = [t for method, t in asked if method == "GET" and "list-type=2" in t]
    counts = Counter(key(target)[:2] for target in listings)
    first = sorted({target for target in listings if "continuation-token" not in target})
    pages, spent = {}, 0.0
    for target in first:
        token = ""
        for _ in range(counts[key(target)[:2]] // repeats):
            further = f"&continuation-token={quote(token)}" if token else ""
            start = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}{further}") as answer:
                body = answer.read()
            spent += time.perf_counter() - start
            pages[key(target + further)] = body
            found = re.search(rb"<NextContinuationToken>(.*?)</", body)
            if found is None:
                break
            token = unescape(found[1].decode())
    return pages, spent


def key(target):
    """What tells one page from another."""
    query = parse_qs(urlsplit(target).query)
    return tuple(
        query.get(name, [""])[0] for name in ("prefix", "start-after", "continuation-token")
    )


@contextmanager
def replayed(pages, *, wait=0.0):
    """A store that knows these pages by heart and gives each answer after `wait` seconds."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if "list-type=2" in self.path:
                self.answer(pages[key(self.path)], "application/xml")
            else:
                self.answer(CLAIM)  # the one that is looked into

        def do_PUT(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def do_HEAD(self):
            self.answer()

        def answer(self, body=b"", kind="application/octet-stream"):
            time.sleep(wait)
            self.send_response(200)
            now = formatdate(usegmt=True)
            told = {"Content-Type": kind, "ETag": '"1"', "Last-Modified": now}
            for name, value in {**told, "Content-Length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with patch.dict(os.environ, KEYS | {"AWS_ENDPOINT_URL": address}):
            yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
