"""Eliciting over real HTTP: every fault of a server is survived and reported, nothing is asked twice, no key leaks."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_server import (
    Act,
    ChatServer,
    breaks_off,
    completion,
    fails,
    hangs,
    resets,
    says,
    sends,
    serving,
    trickles,
)

from xcoop.cli import main
from xcoop.concepts import elicit_client, load_bank
from xcoop.concepts.elicit import LONGEST_WAIT, Patience, Tally, ask_all
from xcoop.concepts.elicit_client import Client, ElicitError, Secret, read_address, read_key, retry_after
from xcoop.concepts.elicit_prompt import MOST_CLASSES, Query, picture_of
from xcoop.concepts.elicit_store import AnswersError, Stored, answers_path, open_store, read_store
from xcoop.concepts.lint import check

GOOD = {"nevus": ["regular network", "uniform color"], "melanoma": ["blue veil", "irregular streaks"]}
TEMPLATE = "a dermoscopic photo of a {class}, {concepts}."
QUERY = Query("Toy", ("nevus", "melanoma"), TEMPLATE, "a dermoscopic photo", "tiny", "127.0.0.1", 8)
KEY = "sk-planted-0123456789"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OPENAI"):
            monkeypatch.delenv(name)


def ask(
    server: ChatServer, folder: Path, samples: int = 1, retries: int = 4, query: Query = QUERY, timeout: float = 30.0
) -> tuple[Tally, list[float], list[Stored]]:
    """What happened, how long it waited, and what was stored; nothing is waited for really."""
    client = Client(read_address(server.url, Secret("")), query.model, Secret(""), timeout)
    waits: list[float] = []
    with open_store(folder / "bank.answers.jsonl", query, resume=True) as store:
        tally = ask_all(client, store, samples, Patience(retries, waits.append))
    return tally, waits, store.answers


FAULTS: dict[str, tuple[Act, str]] = {
    "429": (fails(429), "rate limit (429)"),
    "500": (fails(500), "server error (500)"),
    "503": (fails(503), "server error (503)"),
    "hangs": (hangs, "timeout"),
    "trickles": (trickles, "timeout"),
    "resets": (resets, "connection lost"),
    "breaks off": (breaks_off, "connection lost"),
    "truncated body": (sends(completion("{}")[:-9]), "truncated or malformed response"),
    "page": (sends(b"<html>Sign in</html>", "text/html"), "wrong content type"),
    "other JSON": (sends(b'{"choices": []}'), "not a chat completion"),
    "list content": (sends(json.dumps({"choices": [{"message": {"content": [1]}}]}).encode()), "not a chat completion"),
    "truncated answer": (says(json.dumps(GOOD)[:-20]), "truncated or malformed JSON"),
    "prose": (says("I cannot answer that."), "no JSON"),
    "nothing": (says(""), "empty answer"),
    "null": (says(None), "empty answer"),
    "a list": (says(["blue veil"]), "wrong schema"),
    "texts": (says(dict.fromkeys(GOOD, "blue veil")), "wrong schema, missing classes"),
    "numbers": (says({"nevus": [1], "melanoma": [2]}), "wrong schema, missing classes"),
    "empty lists": (says({"nevus": [], "melanoma": [" "]}), "empty list, missing classes"),
    "other classes": (says({"cat": ["whiskers"]}), "extra classes, missing classes"),
    "deep": (says('{"nevus": ' + "[" * 100_000), "truncated or malformed JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_counted_and_the_next_try_is_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, kind = FAULTS[name]
    monkeypatch.setattr(elicit_client, "PATIENCE", 1)
    with serving(act, says(GOOD)) as server:
        tally, waits, answers = ask(server, tmp_path, timeout=1.0 if act in (hangs, trickles) else 30.0)
        assert len(server.requests) == tally.requests == 2
    assert (tally.faults, tally.given_up) == (Counter([kind]), [])
    assert waits == [1.0]
    assert json.loads(answers[-1].text) == GOOD


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (f"Here you are:\n```json\n{json.dumps(GOOD, indent=1)}\n```\nGood luck!", "Markdown fence"),
        (f"```\n{json.dumps(GOOD)}", "Markdown fence"),
        (f"<think>{{or not}}</think>Sure. {json.dumps(GOOD)} Done.", None),
        (json.dumps(GOOD | {"cat": ["whiskers"]}), "extra classes"),
    ],
)
def test_what_can_be_used_is_not_asked_for_again(text: str, remark: str | None, tmp_path: Path) -> None:
    with serving(says(text)) as server:
        tally, _, answers = ask(server, tmp_path)
    assert tally.requests == 1
    assert tally.faults == Counter([remark] if remark else [])
    assert answers[0].text == text  # raw
    assert (answers[0].finish, answers[0].served) == ("stop", "tiny-1")


def test_only_missing_classes_are_asked_for_again(tmp_path: Path) -> None:
    with serving(says({"Nevus": GOOD["nevus"]}), says({"melanoma": GOOD["melanoma"]})) as server:
        tally, _, answers = ask(server, tmp_path)
        prompts = [request["messages"][0]["content"] for request in server.requests]
    assert 'other classes: "nevus", "melanoma".' in prompts[0]
    assert 'other classes: "melanoma".' in prompts[1]
    assert [answer.classes for answer in answers] == [("nevus", "melanoma"), ("melanoma",)]
    assert tally.faults == Counter({"missing classes": 1})


def test_waits_double_and_follow_the_server(tmp_path: Path) -> None:
    with serving(fails(500), fails(500), fails(429, retry_after="7"), fails(503), says(GOOD)) as server:
        _, waits, _ = ask(server, tmp_path)
    assert waits == [1.0, 2.0, 7.0, 8.0]


def test_retry_after_in_every_form() -> None:
    at = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(at, lambda: 1445412475.0) == 5.0
    assert retry_after(at, lambda: 1445412500.0) == 0.0
    assert [retry_after({"retry-after": value}) for value in ("2.5", "-1", "", "soon", "inf")] == [
        2.5,
        0,
        None,
        None,
        None,
    ]


def test_a_server_that_asks_for_an_hour_is_left_alone(tmp_path: Path) -> None:
    with serving(fails(429, retry_after="3600")) as server:
        with pytest.raises(ElicitError, match=r"asks to wait 3600 s.*--resume"):
            ask(server, tmp_path)
        assert len(server.requests) == 1
    assert LONGEST_WAIT < 3600


def test_tries_are_bounded_and_silence_ends_it(tmp_path: Path) -> None:
    with serving(says(GOOD), fails(500)) as server:
        with pytest.raises(
            ElicitError, match=r"no answer to 3 tries in a row \(3x server error \(500\)\).*1 answers are"
        ):
            ask(server, tmp_path, samples=3, retries=2)
        assert len(server.requests) == 4


def test_bad_answers_are_bounded_too_and_the_next_sample_is_asked(tmp_path: Path) -> None:
    with serving(says("no"), says("no"), says({"nevus": ["flat"]}), says({"nevus": ["flat"]})) as server:
        tally, _, answers = ask(server, tmp_path, samples=2, retries=1)
    assert tally.given_up == [(1, ("nevus", "melanoma")), (2, ("melanoma",))]
    assert [answer.sample for answer in answers] == [1, 1, 2, 2]  # kept, of use or not


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "--key-env"), (403, "--key-env"), (404, "/v1"), (400, "do so again")]
)
def test_a_refusal_is_not_tried_again(status: int, hint: str, tmp_path: Path) -> None:
    with serving(fails(status, "because")) as server:
        with pytest.raises(ElicitError, match=rf"127\.0\.0\.1 refuses \(HTTP {status}; .*{hint}.*because"):
            ask(server, tmp_path)
        assert len(server.requests) == 1


def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elicit_client, "LONGEST_BODY", 1000)
    with serving(sends(b" " * 2000), says(GOOD)) as server:
        tally, _, _ = ask(server, tmp_path)
    assert tally.faults == Counter(["endless answer"])


def test_many_classes_are_asked_for_in_portions(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(MOST_CLASSES + 3))
    query = Query("Toy", names, TEMPLATE, "a photo", "tiny", "127.0.0.1", 4)
    with serving(says({name: ["spot"] for name in names})) as server:
        _, _, answers = ask(server, tmp_path, query=query)
    assert [len(answer.classes) for answer in answers] == [MOST_CLASSES, 3]


def test_the_prompt_says_what_it_should() -> None:
    prompt = QUERY.prompt()
    for part in ("a dermoscopic photo", '"nevus", "melanoma"', "list 8 visual findings", '{"nevus": ["finding"'):
        assert part in prompt
    assert picture_of(TEMPLATE) == "a dermoscopic photo"
    assert picture_of("a {class} chest x-ray with {concepts}.") == "a chest x-ray"


# The file of answers.


def store_of(path: Path, *texts: str) -> None:
    with open_store(path, QUERY, resume=False) as store:
        for sample, text in enumerate(texts, 1):
            store.add(Stored(sample, QUERY.classes, text, "stop", "tiny-1", "2026-01-31T00:00:00+00:00"))


def test_a_torn_last_line_is_cut_off_and_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    store_of(path, json.dumps(GOOD), json.dumps(GOOD))
    whole = path.read_bytes()
    for torn in (1, 40, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-torn])
        assert len(read_store(path).answers) == 1
        with serving(says(GOOD)) as server:
            tally, _, answers = ask(server, tmp_path, samples=2)
        assert (tally.requests, len(answers)) == (1, 2)
        assert [json.loads(line)["sample"] for line in path.read_bytes().splitlines()[1:]] == [1, 2]


def test_a_torn_first_line_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    path.write_bytes(b'{"dataset": "To')
    with pytest.raises(AnswersError, match="holds no answers"):
        read_store(path)
    store_of(path, "x")
    assert read_store(path).query == QUERY


def test_damage_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    store_of(path, "one", "two")
    path.write_bytes(path.read_bytes().replace(b'{"sample": 1', b'{"smaple": 1'))
    with pytest.raises(AnswersError, match=r"bank\.answers\.jsonl, line 2"):
        read_store(path)


def test_answers_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    store_of(path, "x")
    with pytest.raises(AnswersError, match="holds answers: --resume goes on"), open_store(path, QUERY, resume=False):
        pass
    other = Query(**{**QUERY.__dict__, "model": "large"})
    with pytest.raises(AnswersError, match="model 'tiny' there, 'large' now"), open_store(path, other, resume=True):
        pass
    with open_store(path, QUERY, resume=True), pytest.raises(AnswersError, match="in use by another process"):  # noqa: SIM117
        with open_store(path, QUERY, resume=True):
            pass


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_elicit import QUERY
from xcoop.concepts.elicit import Patience, ask_all
from xcoop.concepts.elicit_client import Client, Secret, read_address
from xcoop.concepts.elicit_store import open_store
client = Client(read_address({url!r}, Secret("")), "tiny", Secret(""), 60)
with open_store(Path({path!r}), QUERY, resume=True) as store:
    ask_all(client, store, 3, Patience())
"""


def test_killed_and_resumed_without_asking_twice(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    with serving(says(GOOD), says(GOOD), hangs) as server:
        code = DRIVER.format(tests=str(Path(__file__).parent), url=server.url, path=str(path))
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        while len(server.requests) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert [answer.sample for answer in read_store(path).answers] == [1, 2]
    with serving(says(GOOD)) as server:
        tally, _, answers = ask(server, tmp_path, samples=3)
    assert (tally.requests, [answer.sample for answer in answers]) == (1, [1, 2, 3])


# The command.


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
