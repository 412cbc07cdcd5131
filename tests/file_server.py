"""A small HTTP server on this machine that serves one file, and fails as it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any


class FileServer:
    """What is served, how it fails, and what was asked.

    Attributes:
        content: of the file at every path.
        faults: one for each request, in order: a status, `cut:<bytes>` (then the connection ends), `no-range`,
            `redirect:<address>` or `` for none; after the last there are none.
        validators: whether an ETag is sent.
        asked: the Range header of each request; None without one.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.faults: list[str] = []
        self.validators = True
        self.ranges = True
        self.asked: list[str | None] = []
        self.url = ""

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:8]}"'

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.headers.get("Range"))
        fault = self.faults.pop(0) if self.faults else ""
        kind, _, value = fault.partition(":")
        if kind == "redirect":
            return self._send(request, 302, b"", {"Location": value})
        if kind.isdigit():
            return self._send(request, int(kind), b"no", {"Retry-After": "0"})
        start = self._start(request) if kind != "no-range" else 0
        size = len(self.content)
        if start >= size > 0:
            return self._send(request, 416, b"", {"Content-Range": f"bytes */{size}"})
        headers = {"ETag": self.etag} if self.validators else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        return self._send(
            request, 206 if start else 200, self.content[start:], headers, int(value) if kind == "cut" else None
        )

    def _start(self, request: BaseHTTPRequestHandler) -> int:
        wanted, state = request.headers.get("Range"), request.headers.get("If-Range")
        if not wanted or not self.ranges or (state and state != self.etag):
            return 0
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        request.send_response(status)
        for name, text in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(name, text)
        request.end_headers()
        request.wfile.write(body[:cut])


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """The server, for as long as it is needed."""
    state = FileServer(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with running(Handler) as address:
        state.url = f"{address}/x.bin"
        yield state


class Server(ThreadingHTTPServer):
    """One that waits for no thread, looks up no name, and says nothing of a client that went away."""

    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, *_: Any) -> None:
        """Is no news."""


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server with this handler, while it runs."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
