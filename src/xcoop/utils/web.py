"""One request over HTTP(S), from the start of a file or from within it; what fails says whether to try again."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.parse import urlsplit

from xcoop.version import __version__

BLOCK = 1 << 20  # bytes
SECONDS = 30  # without a byte
SCHEMES = ("https", "http")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states of a server that may be over soon


class WebError(ConnectionError):
    """A request that brought no file.

    Attributes:
        passing: whether another try may succeed.
        wait: seconds that the server asks to wait for; 0 if it does not.
    """

    def __init__(self, message: str, passing: bool, wait: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.wait = passing, wait


@dataclass(frozen=True)
class Answer:
    """What a server gives.

    Attributes:
        start: where in the file the blocks begin, in bytes: as asked, or 0.
        total: bytes of the whole file; 0 if the server does not say.
        validator: names this state of the file (`If-Range`); empty if the server does not.
        blocks: the content from there on; ends in WebError if it is cut off.
    """

    start: int
    total: int
    validator: str
    blocks: Iterator[bytes]


def check_address(url: str) -> None:
    """ValueError for an address that is not http(s)."""
    if urlsplit(url).scheme.lower() not in SCHEMES or not urlsplit(url).hostname:
        raise ValueError(f"{url!r} is no http(s) address")


@contextmanager
def ask(url: str, start: int = 0, validator: str = "") -> Iterator[Answer]:
    """The answer to a request for the file, or for its rest.

    Args:
        url: http(s); redirections to anything else, and from https to http, are refused.
        start: where to begin, in bytes. A server may disregard it: see `Answer.start`.
        validator: of the state that the first bytes are of; another state is sent whole.

    Raises:
        WebError: there is no answer, or none with the file.
    """
    answer, connection = _request(url, start, validator)
    with connection:
        yield answer


def _request(url: str, start: int, validator: str) -> tuple[Answer, AbstractContextManager[object]]:
    check_address(url)
    try:
        reply = open_request(urllib.request.Request(url, headers=_headers(start, validator)))  # noqa: S310 - checked
    except HTTPError as error:
        error.close()
        if error.code != 416 or not start:
            raise WebError(f"{error.code} {error.reason}", error.code in PASSING, _wait(error.headers)) from error
        if _total(error.headers) == start:  # nothing is left to be sent
            return Answer(start, start, validator, iter(())), nullcontext()
        return _request(url, 0, "")
    except (OSError, HTTPException) as error:
        raise WebError(_reason(error), not isinstance(error, RedirectError)) from error
    return _answer(reply, start), reply


def open_request(request: urllib.request.Request) -> HTTPResponse:
    """Sends a request; only http and https are spoken, through the proxies of the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    reply: HTTPResponse = opener.open(request, timeout=SECONDS)
    return reply


class RedirectError(OSError):
    """A redirection that is not followed."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections (ten at most, none in a circle) that stay with http(s), and with https once there."""

    def redirect_request(  # type: ignore[no-untyped-def]
        self, req, fp, code, msg, headers, newurl
    ) -> urllib.request.Request | None:
        """The next request; RedirectError if it must not be made."""
        new, old = urlsplit(newurl).scheme.lower(), urlsplit(req.full_url).scheme.lower()
        if new not in SCHEMES or (old == "https" and new != "https"):
            raise RedirectError(f"redirected from {req.full_url} to {newurl!r}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _headers(start: int, validator: str) -> dict[str, str]:
    headers = {"User-Agent": f"xcoop/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    return headers


def _answer(reply: HTTPResponse, start: int) -> Answer:
    length = int(reply.headers.get("Content-Length") or 0)
    validator = reply.headers.get("ETag") or ""
    if not validator or validator.startswith("W/"):  # a weak one does not promise equal bytes
        validator = reply.headers.get("Last-Modified") or ""
    if reply.status != 206:
        return Answer(0, length, validator, _blocks(reply, length))
    begins = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range") or "")
    if not begins or int(begins[1]) != start:
        raise WebError(f"the server sent another part than the one from byte {start:,} on", passing=False)
    return Answer(start, _total(reply.headers), validator, _blocks(reply, length))


def _blocks(reply: HTTPResponse, length: int) -> Iterator[bytes]:
    """The content. Failures of the network, and no others, become WebError."""
    done = 0
    while not length or done < length:
        try:
            block = reply.read1(min(BLOCK, length - done) if length else BLOCK)  # what has come by now
        except (OSError, HTTPException) as error:
            raise WebError(_reason(error), passing=True) from error
        if not block:
            break
        done += len(block)
        yield block
    if done < length:
        raise WebError(f"the connection ended after {done:,} of {length:,} bytes", passing=True)


def _total(headers: Message) -> int:
    match = re.search(r"/(\d+)\s*$", headers.get("Content-Range") or "")
    return int(match[1]) if match else 0


def _wait(headers: Message) -> float:
    text = headers.get("Retry-After") or ""
    return float(text) if text.isdigit() else 0.0


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__
