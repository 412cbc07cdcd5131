"""Asks a server with the OpenAI chat API: one request, with a limit on time and size, and every failure by its name.

The key comes from the environment, goes into the request's header, and nowhere else: whatever comes back, and
whatever is reported, has it blotted out.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

LONGEST_BODY = 4 << 20  # bytes of an answer
PATIENCE = 5  # an answer that trickles in may take so many times the timeout
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


class Secret:
    """A key that can be used and never shown."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """The key itself, for the request's header alone."""
        return self._value

    def blot(self, text: str) -> str:
        """A text in which the key is blotted out."""
        return text.replace(self._value, "[key]") if len(self._value) >= SHORTEST_SECRET else text


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
        # The package takes no empty key. Its own retries are off: ours are counted, and know what a bad answer is.
        self._client = self._openai.OpenAI(
            api_key=key.reveal() or "none", base_url=address.url, timeout=timeout, max_retries=0
        )

    def ask(self, prompt: str) -> Reply:
        """The model's answer to a prompt.

        Raises:
            NoAnswer: the server is busy, broken, silent, or answers something else; another try may do.
            ElicitError: the server refuses, and will do so again.
        """
        try:
            body = self._body([{"role": "user", "content": prompt}])
        except self._openai.APIStatusError as error:
            raise self._refusal(error) from None
        except self._openai.APITimeoutError:
            raise NoAnswer("timeout") from None
        except self._openai.APIConnectionError:
            raise NoAnswer("connection lost") from None
        except Exception as error:
            if not _is_of_transport(error):
                raise
            raise NoAnswer("timeout" if "Timeout" in type(error).__name__ else "connection lost") from None
        reply = _reply(body)
        return Reply(*(self._key.blot(part) for part in (reply.text, reply.finish, reply.served)))

    def _body(self, messages: list[dict[str, str]]) -> bytes:
        deadline = time.monotonic() + PATIENCE * self._timeout
        create = self._client.chat.completions.with_streaming_response.create
        with create(messages=messages, **self._options) as response:
            if "json" not in response.headers.get("content-type", ""):
                raise NoAnswer("wrong content type")
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > LONGEST_BODY:
                    raise NoAnswer("endless answer")
                if time.monotonic() > deadline:
                    raise NoAnswer("timeout")
        return bytes(body)

    def _refusal(self, error: Any) -> Exception:
        status = int(error.status_code)
        if status in RETRIED or status >= 500:
            kind = "rate limit (429)" if status == 429 else f"server error ({status})"
            return NoAnswer(kind, retry_after(error.response.headers))
        hint = {401: "the key is refused: see --key-env", 403: "the key is refused: see --key-env",
                404: "is --base-url right (it often ends in /v1), and does the server have this model?"}  # fmt: skip
        said = self._key.blot(" ".join(str(error.message).split()))[:300]
        return ElicitError(f"{self._host} refuses (HTTP {status}; {hint.get(status, 'it would do so again')}): {said}")


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
        content = json.loads(body)
        choice = content["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, RecursionError):
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
