"""One uploaded picture out of a form's body, and the rules by which a request is refused; no server, no torch."""

from __future__ import annotations

import ipaddress
from email import message_from_bytes
from email.message import Message
from email.policy import HTTP
from http import HTTPStatus
from urllib.parse import urlsplit

from xcoop.data.images import reason_unreadable

FIELD = "image"  # the form's field
MOST = 20_000_000  # bytes of a body


class Refused(Exception):  # noqa: N818  a refusal is an answer, not a fault
    """A request that is not served.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


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
        raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this page is not served as {given!r}") from error


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
    try:
        head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
        for part in message_from_bytes(head + body, policy=HTTP).iter_parts():
            if part.get_param("name", header="content-disposition") == FIELD:
                data = part.get_payload(decode=True)
                if isinstance(data, bytes) and data:
                    return part.get_filename() or "image", data
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the form cannot be read") from error
    raise Refused(HTTPStatus.BAD_REQUEST, "no image was chosen")
