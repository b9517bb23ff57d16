"""A file server on loopback that answers ranges, as object stores do, and counts them."""

import contextlib
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    """One request and what it was given."""

    method: str
    path: str
    status: int
    sent: int
    size: int


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, *, with_body):
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.note(404, 0, 0)
            self.head(404, 0)
            return
        content = file.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, first, last = 200, 0, len(content) - 1
        if span:
            status, first = 206, int(span[1])
            last = min(int(span[2] or last), last)
        if first > last:
            self.note(416, 0, len(content))
            self.head(416, 0)
            return
        body = content[first : last + 1]
        self.note(status, len(body) if with_body else 0, len(content))
        self.head(status, len(body), f"bytes {first}-{last}/{len(content)}" if span else None)
        if with_body:
            self.wfile.write(body)

    def head(self, status, length, span=None):
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def note(self, status, sent, size):
        with self.server.lock:
            self.server.asked.append(Asked(self.command, self.path, status, sent, size))

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """Files of `folder` at `url`; `asked` is every request so far."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.lock, server.asked = folder, threading.Lock(), []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
