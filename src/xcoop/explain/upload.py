"""One uploaded picture out of a form's body, and the rules by which a request is refused; no server, no torch."""

from __future__ import annotations

import ipaddress
import re
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import HTTP
from http import HTTPStatus
from urllib.parse import urlsplit

from xcoop.utils.images import reason_unreadable
from xcoop.utils.suggest import cut, shown

FIELD = "image"  # the form's field
MOST = 20_000_000  # bytes of a body
MOST_PARTS = 16  # of a form; ours has one
LONGEST_HEAD = 4096  # bytes of the headers of a part
MOST_HEADERS = 16_384  # characters of the headers of a request


class Refused(Exception):  # noqa: N818  a refusal is an answer, not a fault
    """A request that is not served.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_headers(headers: Message) -> None:
    """Refuses headers that no browser sends."""
    if sum(len(name) + len(value) for name, value in headers.items()) > MOST_HEADERS:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MOST_HEADERS:,} characters of headers")


def check_host(given: str | None, bound: str) -> None:
    """Refuses a foreign Host header: a web page whose name was turned to this machine must not read from it.

    Args:
        given: the header.
        bound: what the server listens on. Names are accepted if they are this one or `localhost`; addresses that
            are numbers always, because nobody can turn them.
    """
    try:
        name = urlsplit(f"//{given or ''}").hostname or ""
        if name in ("localhost", bound):
            return
        ipaddress.ip_address(name)
    except ValueError as error:
        raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this page is not served as {shown(given)}") from error


def check_origin(headers: Message) -> None:
    """Refuses a form that another site's page sent."""
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "same-origin")
    own = f"http://{headers.get('Host', '')}".lower()
    if (origin is not None and origin.lower() != own) or site not in ("same-origin", "none"):
        raise Refused(HTTPStatus.FORBIDDEN, "the image must be sent from this page, not from another site")


def body_length(headers: Message) -> int:
    """The length of a body, bytes, from 1 to `MOST`."""
    given = headers.get("Content-Length", "")
    if headers.get("Transfer-Encoding") or not given:
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request must state its Content-Length")
    if not (given.isascii() and given.isdecimal()) or int(given) == 0:
        raise Refused(HTTPStatus.BAD_REQUEST, f"Content-Length is {given[:40]!r}; it must be a positive number")
    if int(given) > MOST:
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"{int(given):,} bytes are too many; at most {MOST:,} are read",
        )
    return int(given)


def picture(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Name and content of the picture in a form's body; it was decoded once, so it is one.

    Raises:
        Refused: there is none.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the image as multipart/form-data")
    name, data = _part(content_type, body)
    if reason := reason_unreadable(name, data):
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{name} is no image that can be read: {reason}")
    return name, data


def _part(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Name and content of the form's field; the parser of `email` alone has no limits on parts and their headers."""
    try:
        mark = _delimiter(content_type)
        parts = mark.split(b"\r\n" + body, MOST_PARTS + 1)[1:]
        if len(parts) > MOST_PARTS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the form has more than {MOST_PARTS} parts")
        for part in parts:
            head, _, data = part.partition(b"\r\n\r\n")
            if len(head) > LONGEST_HEAD:
                raise Refused(HTTPStatus.BAD_REQUEST, "the headers of a part are too long")
            headers = BytesHeaderParser(policy=HTTP).parsebytes(head.strip() + b"\r\n\r\n")
            if data and headers.get_param("name", header="content-disposition") == FIELD:
                return cut(headers.get_filename() or "image"), data
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the form cannot be read") from error
    raise Refused(HTTPStatus.BAD_REQUEST, "no image was chosen")


def _delimiter(content_type: str) -> re.Pattern[bytes]:
    """What stands between the parts of a form, and after the last (RFC 2046, 5.1.1)."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary("")
    if not 0 < len(boundary) <= 70:
        raise Refused(HTTPStatus.BAD_REQUEST, "the form states no boundary between its parts, of at most 70 characters")
    return re.compile(rb"\r\n--" + re.escape(boundary.encode("latin-1")) + rb"(?:--)?[ \t]*(?=\r\n|\Z)")
