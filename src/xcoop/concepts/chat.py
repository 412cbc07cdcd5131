"""A chat with one model of any server that has the OpenAI chat API; it trusts neither the server nor its answers.

Requests and retries are those of the package `openai`; an answer of any status is limited in size and time, and no
redirection is followed: the key is for the address that was given. The API key comes from the environment, goes into
the requests' headers, and nowhere else: in whatever comes back, and whatever is reported, it is redacted in every form.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
import re
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from xcoop.utils.console import cut, to_paste

LONGEST_BODY = 4 << 20  # bytes of an answer
PATIENCE = 5  # a try may take so many times the timeout, however often a byte comes
LONGEST_REASON = 300  # characters of a server's reason to refuse
SHORTEST_SECRET = 6  # what is shorter stands in other words by chance, and protects nothing
TALKATIVE = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")  # loggers that show headers at DEBUG
RESUME = "what was answered is kept, and --resume goes on from there"


class ElicitError(ValueError):
    """Asking cannot go on; the message says why and what to do."""


def read_key(variable: str, needed: bool) -> SecretStr:
    """The key of an environment variable; an empty one if the variable is not set.

    Raises:
        ElicitError: it is needed and not there, or it is no key; its value is not shown.
    """
    value = os.environ.get(variable, "").strip()
    if needed and not value:
        raise ElicitError(f"the environment variable {variable} is not set; it must hold the API key")
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ElicitError(f"the environment variable {variable} holds no API key: blanks or other strange characters")
    return SecretStr(value)


def read_address(base_url: str, key: SecretStr) -> tuple[str, str, list[str]]:
    """A server's address without user, password and query, its host, and warnings of what was left out or is risky.

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
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    if parts.scheme == "http" and key and not here:
        warnings.append(f"the API key travels to {host} unencrypted; use https")
    return redacted(urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", "")), key), host, warnings


def redacted(text: str, key: SecretStr) -> str:
    """A text in which the key is redacted, however it is written there; see `_every_form`."""
    secret = key.get_secret_value()
    return _every_form(secret).sub("[key]", text) if len(secret) >= SHORTEST_SECRET else text


@cache
def _every_form(key: str) -> re.Pattern[str]:
    """A key as it may come back: as it is, escaped (URL, JSON, HTML), in base64 or hexadecimal, broken over lines."""
    broken = r"(?:\\[nrt]|\s)*"  # white space, or how JSON writes it
    code = r"(?:\\{{0,8}}{}|%{:02x}|\\u{:04x}|\\x{:02x}|&\#0{{0,8}}{};|&\#x0{{0,8}}{:x};)"
    letters = [code.format(re.escape(c), *[ord(c)] * 5) for c in key]
    # Within a longer text, what base64 makes of the key depends on where in a group of three it begins; the letters at
    # both ends tell of its neighbours, too.
    inner = [base64.b64encode(b"\0" * shift + key.encode())[-(-8 * shift // 6) :].decode() for shift in range(3)]
    whole = [text[: len(key) * 8 // 6 - 1] for text in inner]
    coded = [key.encode().hex(), *whole, *(text.translate(str.maketrans("+/", "-_")) for text in whole)]
    return re.compile("|".join([broken.join(letters), *(broken.join(map(re.escape, text)) for text in coded)]), re.I)


class Client:
    """One server and one model.

    Args:
        url: of the server.
        model: as the server knows it.
        key: may be empty, for servers that ask for none.
        timeout: seconds without a byte, after which a request has failed; all of an answer may take `PATIENCE` times
            as long.
        retries: of a request that failed, or whose server is busy.
        temperature: None leaves it to the server.

    Raises:
        ElicitError: the package `openai` is not installed.
    """

    def __init__(
        self, url: str, model: str, key: SecretStr, timeout: float, retries: int, temperature: float | None = None
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ElicitError(
                f"eliciting needs the package openai: {to_paste('pip', 'install', 'xcoop[elicit]')}"
            ) from None
        for name in TALKATIVE:  # a server may send the key back in its headers
            logging.getLogger(name).setLevel(logging.WARNING)
        self._errors, self._key, self._host = openai, key, urlsplit(url).hostname
        self._options: dict[str, Any] = {"model": model}
        if temperature is not None:
            self._options["temperature"] = temperature
        self._longest = PATIENCE * timeout
        self._clock = threading.Timer(self._longest, lambda: None)  # of the try under way
        self._http = openai.DefaultHttpxClient(
            event_hooks={"request": [self._start_clock], "response": [self._limit]}, follow_redirects=False
        )
        self._client = openai.OpenAI(  # which takes no empty key
            api_key=key.get_secret_value() or "none",
            base_url=url,
            timeout=timeout,
            max_retries=retries,
            http_client=self._http,
        )

    def _start_clock(self, _: Any) -> None:
        """Closes the connection when a try takes too long: a byte now and then, in headers too, passes any timeout."""
        self._clock.cancel()
        self._clock = threading.Timer(self._longest, self._http.close)
        self._clock.daemon = True
        self._clock.start()

    def _limit(self, response: Any) -> None:
        """Called with an answer's headers; its body, whatever the status, is then read through `iter_bytes`."""
        read = response.iter_bytes

        def bounded(*chunk_size: int) -> Iterator[bytes]:
            size = 0
            for chunk in read(*chunk_size):
                size += len(chunk)
                if size > LONGEST_BODY:
                    raise ValueError("an endless answer")
                yield chunk
            self._clock.cancel()  # the server may ask to wait long before the next try

        response.iter_bytes = bounded

    def ask(self, prompt: str) -> tuple[str, str, str] | None:
        """Text, reason of the end, and model of the answer to a prompt; None if what came is no chat completion.

        Raises:
            ElicitError: the server refuses, or could not be reached in as many tries as are allowed.
        """
        try:
            completion = self._client.chat.completions.create(
                messages=[{"role": "user", "content": prompt}], **self._options
            )
            choice = completion.choices[0]
            answer = [choice.message.content or "", choice.finish_reason or "", completion.model or ""]
        except self._errors.APIStatusError as error:
            otherwise = "it would do so again" if error.status_code < 429 else RESUME
            if error.status_code < 400:
                otherwise = "it redirects: give --base-url the address itself"
            hint = {
                401: "the key is refused: see --key-env",
                403: "the key is refused: see --key-env",
                404: "is --base-url right (it often ends in /v1), and does the server have this model?",
            }.get(error.status_code, otherwise)
            said = self._shown(error)
            raise ElicitError(f"{self._host} refuses (HTTP {error.status_code}; {hint}): {said}") from None
        except self._errors.APIConnectionError as error:
            raise self._no_answer(self._shown(error)) from None
        except (AttributeError, IndexError, TypeError, ValueError, RecursionError, self._errors.APIError):
            return None
        except RuntimeError:
            if not self._http.is_closed:
                raise
            raise self._no_answer("") from None  # the clock had closed the connection
        finally:
            self._clock.cancel()
        if not all(isinstance(part, str) for part in answer):
            return None
        # Half of a surrogate pair, which JSON can spell, cannot be written.
        text, finish, served = (redacted(part, self._key).encode("utf-8", "replace").decode() for part in answer)
        return text, finish, served

    def _no_answer(self, why: str) -> ElicitError:
        if self._http.is_closed:
            return ElicitError(f"{self._host} gave no whole answer in {self._longest:g} seconds; {RESUME}")
        tries = self._client.max_retries + 1
        return ElicitError(f"{self._host} gave no answer to {tries} tries ({why}); {RESUME}")

    def _shown(self, error: Exception) -> str:
        return cut(redacted(" ".join(str(error).split()), self._key), LONGEST_REASON)
