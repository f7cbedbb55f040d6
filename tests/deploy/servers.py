"""A server on this machine that answers as it is told: well, cut, altered, sending on, stalling, without an end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class _Handler(BaseHTTPRequestHandler):
    answers: dict[str, Answer]
    asked: list[tuple[str, str]]

    def do_GET(self):
        type(self).asked.append((self.path, self.headers.get("Range", "")))
        answer = self.answers.get(self.path)
        with contextlib.suppress(ConnectionError):
            if answer is None:
                self.send_error(404)
            else:
                answer(self)

    def log_message(self, *_):
        pass


class Server:
    """Where it is, and what it was asked: (path, range)."""

    def __init__(self, url: str, asked: list[tuple[str, str]]):
        self.url, self.asked = url, asked


@contextlib.contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[Server]:
    """Serve on a free port of this machine until the block ends."""
    handler = type("Handler", (_Handler,), {"answers": answers, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}", handler.asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def good(data: bytes, **headers: str) -> Answer:
    """Send all of it."""

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


def cut(data: bytes, after: int, *, ranges: bool) -> Answer:
    """Announce all of it and stop after so many bytes; the rest goes out if it is asked for and ``ranges``."""

    def answer(request):
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        request.wfile.write(data[start : start + after])

    return answer


def sent_on(to: str, **headers: str) -> Answer:
    """Send the client to another address."""

    def answer(request):
        request.send_response(302)
        request.send_header("Location", to)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    return answer


def stalling(data: bytes, seconds: float) -> Answer:
    """Send half of it and then nothing for a while."""

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])
        request.wfile.flush()
        time.sleep(seconds)

    return answer


def endless(most: int) -> Answer:
    """Send bytes without saying how many, up to ``most``; close then."""

    def answer(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(most >> 16):
            request.wfile.write(bytes(1 << 16))

    return answer


def dripping(data: bytes, seconds: float) -> Answer:
    """Send a byte at a time."""

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        for byte in data:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(seconds)

    return answer
