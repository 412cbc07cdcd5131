"""Asks a server with the OpenAI chat API: one request, with a limit on time and size, and every failure by its name.

The key comes from the environment, goes into the request's header, and nowhere else: whatever comes back, and
whatever is reported, has it blotted out. Limits hold for answers of every status, headers included: a request that is
not over in time is cut by closing its connection.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from xcoop.utils.reading import parse_json
from xcoop.utils.suggest import cut

LONGEST_BODY = 4 << 20  # bytes of an answer
LONGEST_REASON = 300  # characters of a server's reason to refuse
PATIENCE = 5  # a request may take so many times the timeout, however often a byte comes
RETRIED = (408, 409, 425, 429)  # and 5xx
TALKATIVE = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")  # loggers below the client
SHORTEST_SECRET = 6  # what is shorter stands in other words by chance, and protects nothing


class ElicitError(ValueError):
    """Asking cannot go on; the message says why and what to do."""


class NoAnswer(Exception):  # noqa: N818 - it is what happened, and is retried
    """One request failed; another may not.

    Attributes:
        kind: what happened, for the report.
        wait: seconds that the server asks to wait, if it does.
    """

    def __init__(self, kind: str, wait: float | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """A raw answer, why it ended, and which model the server says gave it."""

    text: str
    finish: str
    served: str


@dataclass(frozen=True)
class Address:
    """Where a server is, without anything secret."""

    url: str
    host: str
    warnings: tuple[str, ...]


class _HTTPError(Exception):
    """An answer with a status of failure, read as far as the limits allow."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers, body


class Secret:
    """A key that can be used and never shown."""

    def __init__(self, value: str) -> None:
        self._value = value
        self._forms = _every_form(value) if len(value) >= SHORTEST_SECRET else None

    def __repr__(self) -> str:
        return "Secret(...)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """The key itself, for the request's header alone."""
        return self._value

    def blot(self, text: str) -> str:
        """A text in which the key is blotted out, however it is written there."""
        return self._forms.sub("[key]", text) if self._forms else text


def _every_form(key: str) -> re.Pattern[str]:
    """A key as it may come back: as it is, escaped (URL, JSON, HTML), in base64 or hexadecimal, broken over lines."""
    broken = r"(?:\\[nrt]|\s)*"  # white space, or how JSON writes it
    code = r"(?:\\*{}|%{:02x}|\\u{:04x}|\\x{:02x}|&\#0*{};|&\#x0*{:x};)"
    letters = [code.format(re.escape(c), *[ord(c)] * 5) for c in key]
    # Within a longer text, what base64 makes of the key depends on where in a group of three it begins; the letters at
    # both ends tell of its neighbours, too.
    inner = [base64.b64encode(b"\0" * shift + key.encode())[-(-8 * shift // 6) :].decode() for shift in range(3)]
    whole = [text[: len(key) * 8 // 6 - 1] for text in inner]
    coded = [key.encode().hex(), *whole, *(text.translate(str.maketrans("+/", "-_")) for text in whole)]
    return re.compile("|".join([broken.join(letters), *(broken.join(map(re.escape, text)) for text in coded)]), re.I)


def read_key(variable: str, needed: bool) -> Secret:
    """The key of an environment variable; none if the variable is not set.

    Raises:
        ElicitError: it is needed and not there, or it is no key; its value is not shown.
    """
    value = os.environ.get(variable, "").strip()
    if needed and not value:
        raise ElicitError(f"the environment variable {variable} is not set; it must hold the API key")
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ElicitError(f"the environment variable {variable} holds no API key: blanks or other strange characters")
    return Secret(value)


def read_address(base_url: str, key: Secret) -> Address:
    """A server's address without user, password and query; what was left out, or is risky, becomes a warning.

    Raises:
        ElicitError: it is no http(s) URL; it is not shown, since it may hold a password.
    """
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in ("http", "https"):
        raise ElicitError("--base-url must be a URL such as https://api.example.org/v1 or http://localhost:8000/v1")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    warnings = []
    if "@" in parts.netloc or parts.query or parts.fragment:
        warnings.append("what --base-url holds beside the address is neither sent nor stored; keys: see --key-env")
    if parts.scheme == "http" and key and not _is_loopback(host):
        warnings.append(f"the API key travels to {host} unencrypted; use https")
    return Address(key.blot(urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))), host, tuple(warnings))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Client:
    """One server and one model.

    Args:
        address: of the server.
        model: as the server knows it.
        key: may be empty, for servers that ask for none.
        timeout: seconds without a byte, after which a request has failed.
        temperature: None leaves it to the server.

    Raises:
        ElicitError: the package `openai` is not installed.
    """

    def __init__(
        self, address: Address, model: str, key: Secret, timeout: float, temperature: float | None = None
    ) -> None:
        self._openai = _openai()
        self._key = key
        self._timeout = timeout
        self._host = address.host
        self._options: dict[str, Any] = {"model": model}
        if temperature is not None:
            self._options["temperature"] = temperature
        self._url = address.url

    def ask(self, prompt: str) -> Reply:
        """The model's answer to a prompt.

        Raises:
            NoAnswer: the server is busy, broken, silent, or answers something else; another try may do.
            ElicitError: the server refuses, and will do so again.
        """
        deadline = time.monotonic() + PATIENCE * self._timeout
        try:
            body = self._body([{"role": "user", "content": prompt}], deadline)
        except Exception as error:
            ours = error if isinstance(error, (_HTTPError, NoAnswer)) else error.__cause__  # some versions wrap it
            if isinstance(ours, _HTTPError):
                raise self._refusal(ours) from None
            if isinstance(ours, NoAnswer):
                raise ours from None
            late = time.monotonic() >= deadline or "Timeout" in type(error).__name__
            if not (late or isinstance(error, self._openai.APIConnectionError) or _is_of_transport(error)):
                raise
            raise NoAnswer("timeout" if late else "connection lost") from None
        reply = _reply(body)
        return Reply(*(self._key.blot(part) for part in (reply.text, reply.finish, reply.served)))

    def _body(self, messages: list[dict[str, str]], deadline: float) -> bytes:
        def refuse(response: Any) -> None:
            """Called when the headers are there. The package itself would read an error's body without an end."""
            if response.status_code >= 300:
                raise _HTTPError(response.status_code, response.headers, _bounded(response.iter_raw(), deadline))

        # The package takes no empty key. Its own retries are off: ours are counted, and know what a bad answer is. A
        # redirection is not followed: the key is for the address that was given.
        http = self._openai.DefaultHttpxClient(event_hooks={"response": [refuse]}, follow_redirects=False)
        client = self._openai.OpenAI(
            api_key=self._key.reveal() or "none",
            base_url=self._url,
            timeout=self._timeout,
            max_retries=0,
            http_client=http,
            default_headers={"Accept-Encoding": "identity"},
        )
        guard = threading.Timer(deadline - time.monotonic(), http.close)
        guard.daemon = True
        guard.start()
        try:
            with client.chat.completions.with_streaming_response.create(messages=messages, **self._options) as response:
                if "json" not in response.headers.get("content-type", ""):
                    raise NoAnswer("wrong content type")
                return _bounded(response.iter_bytes(), deadline)
        finally:
            guard.cancel()
            http.close()

    def _refusal(self, error: _HTTPError) -> Exception:
        status = error.status
        if status in RETRIED or status >= 500:
            kind = "rate limit (429)" if status == 429 else f"server error ({status})"
            return NoAnswer(kind, retry_after(error.headers))
        otherwise = "it redirects: give --base-url the address itself" if status < 400 else "it would do so again"
        hint = {401: "the key is refused: see --key-env", 403: "the key is refused: see --key-env",
                404: "is --base-url right (it often ends in /v1), and does the server have this model?"}  # fmt: skip
        said = cut(self._key.blot(" ".join(error.body.decode("utf-8", "replace").split())), LONGEST_REASON)
        return ElicitError(f"{self._host} refuses (HTTP {status}; {hint.get(status, otherwise)}): {said}")


def _bounded(chunks: Iterable[bytes], deadline: float) -> bytes:
    """A body; `NoAnswer` if it is too long, or takes too long."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > LONGEST_BODY:
            raise NoAnswer("endless answer")
        if time.monotonic() > deadline:
            raise NoAnswer("timeout")
    return bytes(body)


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that `Retry-After` asks to wait (a number, or a date), not below 0; None if it does not say."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value)) if value and float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp() - now())


def utc_now() -> str:
    """The time in ISO form, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _reply(body: bytes) -> Reply:
    """The first choice of a chat completion."""
    try:
        content = parse_json(body, "the answer")
        choice = content["choices"][0]
        text = choice["message"]["content"]
    except ValueError:
        raise NoAnswer("truncated or malformed response") from None
    except (KeyError, IndexError, TypeError):
        raise NoAnswer("not a chat completion") from None
    if text is not None and not isinstance(text, str):
        raise NoAnswer("not a chat completion")
    return Reply(text or "", str(choice.get("finish_reason") or ""), str(content.get("model") or ""))


def _is_of_transport(error: Exception) -> bool:
    """Whether the HTTP library failed while the body was read; which library that is depends on `openai`."""
    return any("HTTPError" in base.__name__ or "TransportError" in base.__name__ for base in type(error).__mro__)


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ElicitError("eliciting needs the package openai: pip install 'xcoop[elicit]'") from None
    for name in TALKATIVE:  # at DEBUG they log the headers that a server sends, and it may send the key back
        logging.getLogger(name).setLevel(logging.WARNING)
    return openai
