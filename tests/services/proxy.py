"""A proxy that hands requests on to a server on loopback and fails on purpose."""

import contextlib
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEPT = {"accept-encoding", "connection", "content-length", "date", "server", "transfer-encoding"}
"""Headers that are each connection's own."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.hand_on(b"")

    def do_POST(self):
        self.hand_on(self.rfile.read(int(self.headers["Content-Length"])))

    def do_PUT(self):
        self.hand_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_HEAD(self):
        self.hand_on(b"")

    def do_DELETE(self):
        self.hand_on(b"")

    def hand_on(self, body):
        proxy, is_json = self.server, body.startswith(b"{")
        with proxy.lock:
            proxy.requests.append((self.command, self.path, json.loads(body) if is_json else None))
            if proxy.closed(self.command, self.path):
                busy(503)(self, None, b"")
                return
            fault = proxy.faults.pop(0) if proxy.faults else proxy.always
        # The server writes its links with the Host it is asked by: the next page comes here too.
        headers = {k: v for k, v in self.headers.items() if k.lower() not in KEPT}
        upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            (fault or whole)(self, answer, answer.read())

    def log_message(self, *_):
        pass


def whole(handler, answer, body):
    send(handler, answer, body, len(body))


def cut(handler, answer, body):
    """Half of what Content-Length announces."""
    send(handler, answer, body[: len(body) // 2], len(body))
    handler.close_connection = True


def hang_up(handler, answer, body):
    """Not one byte."""
    handler.close_connection = True


def lose_one(handler, answer, body):
    """A whole page, well-formed, in which one item is missing."""
    page = json.loads(body)
    page["features"] = page.get("features", [])[1:]
    shorter = json.dumps(page).encode()
    send(handler, answer, shorter, len(shorter))


def circle(handler, answer, body):
    """A page whose next one is itself."""
    page = json.loads(body)
    asked = handler.server.requests[-1]
    link = {"rel": "next", "method": "POST", "href": f"{handler.server.url}/search"}
    page["links"] = [link | {"body": asked[2]}]
    same = json.dumps(page).encode()
    send(handler, answer, same, len(same))


def busy(status, *headers):
    def fault(handler, answer, body):
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"busy")

    return fault


def silence(handler, answer, body):
    """The whole answer, but when nobody waits for it any more."""
    if not handler.server.woken.wait(10):
        whole(handler, answer, body)


def send(handler, answer, body, length):
    handler.send_response(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in KEPT:
            handler.send_header(name, value)
    if handler.command == "HEAD":
        length = answer.getheader("Content-Length", 0)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)


@contextlib.contextmanager
def proxied(upstream):
    """In front of the server on port `upstream`: `faults` come first, then `always` if set.

    While `closed` is true of a method and a path, 503 is answered and nothing is handed on.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.upstream, server.lock, server.woken = upstream, threading.Lock(), threading.Event()
    server.faults, server.always, server.requests = [], None, []
    server.closed = lambda _method, _path: False
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.woken.set()
        server.shutdown()
        thread.join()
        server.server_close()
