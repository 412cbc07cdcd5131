"""A local page: choose an image, get its card. Of the standard library alone, so it needs no extra."""

from __future__ import annotations

import base64
import hashlib
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from xcoop.explain.page.card import card
from xcoop.explain.page.report import banner
from xcoop.explain.page.style import CSS
from xcoop.explain.schema import ImageEntry
from xcoop.explain.upload import FIELD, MOST, Refused, body_length, check_headers, check_host, check_origin, picture
from xcoop.page.document import document
from xcoop.page.markup import text

Explain = Callable[[bytes], ImageEntry]

SECONDS = 30  # a silent connection is closed after them
DEADLINE = 120  # seconds for a whole request, however often a byte of it comes
_DRAINED = 5 * MOST  # bytes of a refused body that are read, so that the browser gets to see the answer
_DROP = (
    "addEventListener('dragover',e=>e.preventDefault());addEventListener('drop',e=>{e.preventDefault();"
    "const f=document.querySelector('input[type=file]');if(e.dataTransfer.files.length)"
    "{f.files=e.dataTransfer.files;f.form.submit()}})"
)
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_DROP.encode()).digest()).decode()}'"
)
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a browser would hide the form's origin, which is checked
    "Cache-Control": "no-store",
    "Connection": "close",
}
_LOG = logging.getLogger(__name__)


class DemoServer(ThreadingHTTPServer):
    """Answers from the moment that `serve_forever` runs; bound at once, so that `url` is known.

    Args:
        explain: turns an image file's bytes into an entry of the report; called by one request at a time.
        host: listened on; other machines reach the page only if this is not a loopback address.
        port: 0 for a free one.
        is_phantom: whether the model was trained on drawn images; the page says so.
    """

    daemon_threads = True

    def __init__(self, explain: Explain, host: str = "127.0.0.1", port: int = 0, is_phantom: bool = False) -> None:
        self.explain, self.host, self.is_phantom = explain, host, is_phantom
        self.turn = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"cannot listen on {host}, port {port}: {reason} (port 0 takes any that is free)") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that ends early is no fault of the page; the base class would print a traceback."""
        _LOG.debug("a connection ended early", exc_info=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"


def serve(
    explain: Explain,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    is_phantom: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves the page until interrupted (Ctrl-C).

    Args:
        explain: see `DemoServer`.
        host: see `DemoServer`.
        port: see `DemoServer`.
        is_phantom: see `DemoServer`.
        ready: is told the page's address when it can be opened.
    """
    with DemoServer(explain, host, port, is_phantom) as server:
        try:
            if ready:
                ready(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            _LOG.info("stopped")


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    timeout = SECONDS
    server_version, sys_version = "xcoop", ""

    def setup(self) -> None:
        """Sets the clock: `timeout` holds for each wait, this for all of them together."""
        super().setup()
        self._clock = threading.Timer(DEADLINE, self._cut)
        self._clock.daemon = True
        self._clock.start()

    def finish(self) -> None:
        self._clock.cancel()
        super().finish()

    def _cut(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self._answer(self._form)

    def do_POST(self) -> None:
        self._answer(self._explained)

    def _other(self) -> None:
        self._answer(self._no_method)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _other  # noqa: N815  the base class's names

    def _answer(self, make: Callable[[], str]) -> None:
        self.close_connection = True
        try:
            check_headers(self.headers)
            check_host(self.headers.get("Host"), self.server.host)
            status, inner = HTTPStatus.OK, make()
        except Refused as refused:
            status, inner = refused.status, f'<p role="alert">{text(refused)}.</p>'
            self._drain()
        except TimeoutError:
            return
        except Exception:  # the page must answer whatever a model does; the log has the reason
            _LOG.exception("explaining failed")
            status, inner = HTTPStatus.INTERNAL_SERVER_ERROR, '<p role="alert">Explaining failed; see the log.</p>'
        self._send(status, inner)

    def _form(self) -> str:
        if self.path != "/":
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page; the form is at /")
        return ""

    def _explained(self) -> str:
        if self.path != "/explain":
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page; the form is at /")
        check_origin(self.headers)
        length = body_length(self.headers)
        body = self.rfile.read(length)
        self.headers.replace_header("Content-Length", "0")  # nothing is left to drain
        if len(body) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, "the upload broke off")
        self._clock.cancel()  # all of it is here; explaining takes the time that it takes
        name, data = picture(self.headers.get("Content-Type", ""), body)
        with self.server.turn:
            entry = self.server.explain(data)
        return f"<h2>Explanation</h2>{card({**entry, 'path': name})}"

    def _no_method(self) -> str:
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST are served")

    def _drain(self) -> None:
        given = self.headers.get("Content-Length", "0")
        left = min(int(given), _DRAINED) if given.isascii() and given.isdecimal() else 0
        try:
            while left > 0 and (block := self.rfile.read(min(left, 1 << 16))):
                left -= len(block)
        except OSError:
            return

    def _send(self, status: HTTPStatus, inner: str) -> None:
        page = _page(inner, self.server.is_phantom).encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, POST")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Goes to the log, not to the terminal."""
        _LOG.debug(format, *args)


def _page(inner: str, is_phantom: bool) -> str:
    form = (
        '<form method="post" action="/explain" enctype="multipart/form-data"><p><label for="file">Choose an image, or '
        f'drop one here (at most {MOST // 1_000_000} MB)</label></p><p><input type="file" id="file" name="{FIELD}" '
        'accept="image/*" required> <button type="submit">Explain</button></p></form>'
    )
    body = (
        f'<header><h1>Explain an image</h1>{banner(is_phantom)}</header><main id="main" tabindex="-1">{form}{inner}'
        f"</main><script>{_DROP}</script>"
    )
    return document("Explain an image", body, _POLICY, CSS)
