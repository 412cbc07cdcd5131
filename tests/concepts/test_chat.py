"""A language model's server over real HTTP: what it may send, how long it may take, and a key that it never shows."""

from __future__ import annotations

import base64
import html
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
from chat_server import (
    GOOD,
    KEY,
    NO_KEY,
    Act,
    ask,
    breaks_off,
    command,
    completion,
    drips,
    fails,
    floods,
    hangs,
    resets,
    says,
    sends,
    serving,
)
from pydantic import SecretStr

from xcoop.concepts import chat
from xcoop.concepts.chat import Client, ElicitError, read_address, read_key, redacted
from xcoop.concepts.elicitation import read_store


@pytest.mark.parametrize(
    "act", [fails(429), fails(503), hangs, resets, breaks_off], ids=["429", "503", "hangs", "resets", "breaks off"]
)
def test_a_failed_request_is_tried_again(act: Act, tmp_path: Path) -> None:
    with serving(act, says(GOOD)) as server:
        tally, answers = ask(server, tmp_path, timeout=0.3 if act is hangs else 30.0)
        assert len(server.requests) == 2
    assert (tally.requests, tally.faults, tally.given_up) == (1, Counter(), [])
    assert json.loads(answers[0].text) == GOOD


def test_a_server_that_stays_silent_ends_it(tmp_path: Path) -> None:
    with serving(says(GOOD), fails(500)) as server:
        with pytest.raises(ElicitError, match=r"HTTP 500; what was answered is kept, and --resume goes on"):
            ask(server, tmp_path, samples=3, retries=2)
        assert len(server.requests) == 4
    with pytest.raises(ElicitError, match=r"127\.0\.0\.1 gave no answer to 1 tries \(.*\); what was answered is kept"):
        ask(server, tmp_path, samples=3, retries=0)
    assert len(read_store(tmp_path / "bank.answers.jsonl").answers) == 1


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "--key-env"), (403, "--key-env"), (404, "/v1"), (400, "do so again")]
)
def test_a_refusal_is_not_tried_again(status: int, hint: str, tmp_path: Path) -> None:
    with serving(fails(status, "because")) as server:
        with pytest.raises(ElicitError, match=rf"127\.0\.0\.1 refuses \(HTTP {status}; .*{hint}.*because"):
            ask(server, tmp_path)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 307, 401, 500])
def test_an_endless_answer_of_any_status_is_cut(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LONGEST_BODY", 1 << 20)
    with serving(floods(status), says(GOOD)) as server:
        tally, answers = ask(server, tmp_path)
    assert tally.faults == Counter(["not a chat completion"])
    assert json.loads(answers[0].text) == GOOD


@pytest.mark.parametrize("status", [200, 307, 401, 500])
@pytest.mark.parametrize("head", ["content-type: application/json\r\n\r\n", "x-slow: "], ids=["body", "headers"])
def test_an_answer_that_drips_ends_it(head: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "PATIENCE", 2)
    start = time.monotonic()
    whole = pytest.raises(ElicitError, match=r"127\.0\.0\.1 gave no whole answer in 0\.8 seconds; .*--resume")
    with serving(drips(status, head)) as server, whole:
        ask(server, tmp_path, timeout=0.4)
    assert time.monotonic() - start < 10


def test_a_slow_answer_takes_no_time_from_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "PATIENCE", 2)
    with serving(fails(429, retry_after_ms="1500"), says(GOOD)) as server:
        _, answers = ask(server, tmp_path, timeout=0.5)
    assert len(answers) == 1


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ElicitError, match=r"pip install 'xcoop\[elicit\]'"):
        Client("http://localhost/v1", "m", NO_KEY, 1, 0)


# Keys.

LEAKS: dict[str, Act] = {
    "answer": says({"nevus": [f"network {KEY}"], "melanoma": ["blue veil"]}),
    "refusal": fails(401, f"wrong key {KEY}"),
    "limit": fails(429, f"key {KEY} asks too often"),
    "broken": fails(500, KEY),
    "page": sends(KEY.encode(), f"text/html; {KEY}"),
    "reset": resets,
    "model": sends(
        completion(json.dumps(GOOD)).replace(b"tiny-1", KEY.encode()).replace(b'"stop"', f'"{KEY}"'.encode())
    ),
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("debug", ["", "1"])
def test_the_key_is_sent_and_shown_nowhere(
    name: str,
    debug: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("XCOOP_DEBUG", debug)
    caplog.set_level(logging.DEBUG)
    with serving(LEAKS[name]) as server:
        command(server, tmp_path / "mine.yaml", "--samples", "1")
        assert server.requests[0]["key"] == f"Bearer {KEY}"
    said = capfd.readouterr()
    seen = [said.out, said.err, caplog.text, *(path.read_text() for path in tmp_path.rglob("*") if path.is_file())]
    assert not [text for text in seen if KEY in text]


def test_no_redirection_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(says(GOOD)) as other, serving(fails(307, location=other.url)) as server:
        assert command(server, tmp_path / "mine.yaml", "--samples", "1") == 2
        assert other.requests == []
    assert "HTTP 307; it redirects: give --base-url the address itself" in capsys.readouterr().err


SECRET = "sk-p/anted+01=23456789"


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        f"Bearer {SECRET}",
        SECRET.upper(),
        json.dumps(SECRET).replace("/", "\\/"),
        "".join(f"\\u{ord(c):04x}" for c in SECRET),
        quote(SECRET, safe=""),
        "".join(f"%{ord(c):02X}" for c in SECRET),
        html.escape(SECRET).replace("=", "&#61;").replace("+", "&#x2B;"),
        SECRET[:9] + "\n" + SECRET[9:],
        json.dumps(SECRET[:9] + "\r\n  " + SECRET[9:]),
        "\n".join(SECRET),
        SECRET.encode().hex(),
        *(base64.b64encode(b"x" * shift + SECRET.encode() + b"yz").decode() for shift in range(4)),
        base64.urlsafe_b64encode(f"Bearer {SECRET}".encode()).decode(),
        base64.encodebytes(b"user:" * 12 + SECRET.encode()).decode(),
    ],
)
def test_a_key_that_comes_back_is_redacted_in_every_form(form: str) -> None:
    text = redacted(f"before {form} after", SecretStr(SECRET))
    assert "[key]" in text
    assert text.startswith("before ")
    assert text.endswith(" after")
    encoded = base64.b64encode(SECRET.encode()).decode()
    for piece in (SECRET[3:9], SECRET[-6:], encoded[4:12], quote(SECRET, safe="")[3:12]):
        assert piece.lower() not in text.lower()


@pytest.mark.parametrize("hostile", [(SECRET[:-1] + " \n") * 20_000, "\\" * 1_000_000, "&#" + "0" * 1_000_000])
def test_what_is_no_key_stays_and_takes_no_time(hostile: str) -> None:
    assert redacted("a blue-white veil, sk-p and 01", SecretStr(SECRET)) == "a blue-white veil, sk-p and 01"
    assert redacted("abc", SecretStr("abc")) == "abc"  # too short to be told from words
    start = time.process_time()
    redacted(hostile, SecretStr(SECRET * 4))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
def test_what_is_no_key_is_refused_without_being_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ElicitError, match="MY_KEY holds no API key") as caught:
        read_key("MY_KEY", needed=True)
    assert value not in str(caught.value)


def test_credentials_in_the_address_are_dropped_and_risks_are_named() -> None:
    key = SecretStr(KEY)
    url, host, warnings = read_address("https://user:geheim@api.example.org:8443/v1/?api-key=geheim#x", key)
    assert (url, host, len(warnings)) == ("https://api.example.org:8443/v1", "api.example.org", 1)
    assert "geheim" not in warnings[0]
    for url, given, risks in (
        ("http://api.example.org/v1", key, 1), ("http://api.example.org/v1", NO_KEY, 0),
        ("http://127.0.0.1:1/v1", key, 0), ("http://localhost/v1", key, 0), ("http://[::1]/v1", key, 0),
        ("https://api.example.org/v1", key, 0),
    ):  # fmt: skip
        assert [text.startswith("the API key travels") for text in read_address(url, given)[2]] == [True] * risks
