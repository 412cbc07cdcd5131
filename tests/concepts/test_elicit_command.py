"""`xcoop concepts elicit` over real HTTP: banks made and rebuilt, words refused, no key leaks."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import (
    GOOD,
    KEY,
    Act,
    ChatServer,
    completion,
    fails,
    resets,
    says,
    sends,
    serving,
)

from xcoop.cli import main
from xcoop.concepts import load_bank
from xcoop.concepts.elicit_client import Client, ElicitError, Secret, read_address, read_key
from xcoop.concepts.elicit_store import answers_path, read_store
from xcoop.concepts.lint import check


def command(server: ChatServer, out: Path, *more: str) -> int:
    words = ["--model", "tiny", "--base-url", server.url, "--out", str(out), "--timeout", "30", "--retries", "0", *more]
    return main(["concepts", "elicit", "phantom", *words])


THREE = (
    {"nevus": ["Regular pigment networks", "comma vessels", "flat"], "melanoma": ["Blue-whitish veil", "itchy spot"]},
    {"nevus": ["typical network of pigment", "rare nevus cells"], "melanoma": ["bluish white veil", "blue-white veil"]},
    {"nevus": ["regular pigment network", "comma vessel"], "melanoma": ["blue-whitish veil", "irregular streaks"]},
)


def test_a_bank_is_elicited_and_rebuilt_without_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    with serving(*map(says, THREE)) as server:
        assert command(server, out, "--samples", "3") == 0
        assert [request["model"] for request in server.requests] == ["tiny"] * 3
        assert server.requests[0]["path"] == "/v1/chat/completions"
    bank = load_bank(out)
    assert {name: [(one.text, one.votes) for one in own] for name, own in bank.classes.items()} == {
        "nevus": [("regular pigment network", 3), ("comma vessel", 2)],
        "melanoma": [("blue-whitish veil", 3)],
    }
    assert bank.template == load_bank("phantom").template
    assert bank.elicited is not None
    assert (bank.elicited.model, bank.elicited.host, bank.elicited.samples) == ("tiny", "127.0.0.1", 3)
    assert bank.elicited.date == time.strftime("%Y-%m-%d", time.gmtime())
    source = bank.sources[bank.classes["nevus"][1].source]
    assert source == f"Elicited from tiny on {bank.elicited.date}, 2 of 3 answers; not reviewed."
    assert [finding for finding in check(out) if finding.severity == "error"] == []
    shown = capsys.readouterr().out
    assert "dropped: itchy spot (melanoma): not visible: itchy" in shown
    assert "dropped: rare nevus cells (nevus): not visible: rare" in shown
    first = out.read_bytes()
    out.unlink()
    assert main(["concepts", "elicit", "phantom", "--out", str(out), "--rebuild"]) == 0
    assert out.read_bytes() == first
    lower = ["--rebuild", "--force", "--threshold", "0.3"]
    assert main(["concepts", "elicit", "phantom", "--out", str(out), *lower]) == 0
    assert "irregular streaks" in load_bank(out).texts("melanoma")


def test_a_class_without_any_answer_ends_in_an_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    with serving(says({"nevus": ["comma vessels"]})) as server:
        assert command(server, out, "--samples", "2") == 2
    said = capsys.readouterr()
    assert "no usable answer for 'melanoma'; no bank is written" in said.err
    assert "2x missing classes" in said.out
    assert not out.exists()
    assert len(read_store(answers_path(out)).answers) == 2


def test_disagreement_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    answers = [
        {"nevus": [a], "melanoma": [b]} for a, b in (("dots", "veil"), ("streaks", "veil"), ("globules", "veil"))
    ]
    with serving(*map(says, answers)) as server:
        assert command(server, out, "--samples", "3") == 2
    assert "no finding for 'nevus' is visual and in 50 % of the answers" in capsys.readouterr().err
    assert not out.exists()


def test_a_sample_without_use_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    with serving(says(GOOD), says("no"), says(GOOD)) as server:
        assert command(server, out, "--samples", "3") == 0
    assert "sample 2: nevus, melanoma" in capsys.readouterr().err
    assert load_bank(out).classes["nevus"][0].votes == 2
    with serving(says(GOOD)) as server:
        assert command(server, out, "--samples", "3", "--resume", "--force") == 0
        assert len(server.requests) == 1
    assert load_bank(out).classes["nevus"][0].votes == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "bank.txt"], "must be a YAML file"),
        (["--threshold", "0"], "--threshold must be a share"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--model", ""], "--model and --base-url"),
        (["--base-url", "host:80"], "--base-url must be a URL such as"),
        (["--base-url", "ftp://u:geheim@host"], "--base-url must be a URL such as"),
        (["--key-env", "NOT_SET_AT_ALL"], "the environment variable NOT_SET_AT_ALL is not set"),
        (["--rebuild"], "no answers"),
        (["--rebuild", "--resume"], "choose one"),
        (["--task", "mel-vs-nevi"], "Did you mean 'mel-vs-nev'"),
        (["--template", "a {class}"], "must hold {class} and {concepts}"),
    ],
)
def test_wrong_words_end_in_a_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--retries", "0", *words]
    assert main(["concepts", "elicit", "phantom", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "geheim" not in said
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("by hand")
    with serving(says(GOOD)) as server:
        assert command(server, tmp_path / "mine.yaml") == 2
        assert server.requests == []
    assert "exists; --force" in capsys.readouterr().err


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ElicitError, match=r"pip install 'xcoop\[elicit\]'"):
        Client(read_address("http://localhost/v1", Secret("")), "m", Secret(""), 1)


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


def test_a_key_of_another_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(says(GOOD)) as server:
        assert command(server, tmp_path / "mine.yaml", "--samples", "1", "--key-env", "MY_KEY") == 0
        assert server.requests[0]["key"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
def test_what_is_no_key_is_refused_without_being_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ElicitError, match="MY_KEY holds no API key") as caught:
        read_key("MY_KEY", needed=True)
    assert value not in str(caught.value)
    assert KEY not in repr(Secret(KEY))


def test_credentials_in_the_address_are_dropped_and_risks_are_named() -> None:
    address = read_address("https://user:geheim@api.example.org:8443/v1/?api-key=geheim#x", Secret(KEY))
    assert (address.url, address.host) == ("https://api.example.org:8443/v1", "api.example.org")
    assert len(address.warnings) == 1
    assert "geheim" not in str(address)
    warned: list[Any] = [
        read_address(url, Secret(key)).warnings
        for url, key in (
            ("http://api.example.org/v1", KEY), ("http://api.example.org/v1", ""), ("http://127.0.0.1:1/v1", KEY),
            ("http://localhost/v1", KEY), ("http://[::1]/v1", KEY), ("https://api.example.org/v1", KEY),
        )
    ]  # fmt: skip
    assert [len(warnings) for warnings in warned] == [1, 0, 0, 0, 0, 0]
    assert "unencrypted" in warned[0][0]
