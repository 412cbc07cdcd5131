"""Eliciting over real HTTP: every fault of a server is survived and reported, nothing is asked twice, no key leaks."""

from __future__ import annotations

import base64
import html
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from chat_server import (
    GOOD,
    Act,
    ChatServer,
    breaks_off,
    completion,
    drips,
    drips_headers,
    fails,
    floods,
    hangs,
    resets,
    says,
    sends,
    serving,
    trickles,
)

from xcoop.concepts import elicit_client
from xcoop.concepts.elicit import LONGEST_WAIT, Patience, Tally, ask_all
from xcoop.concepts.elicit_client import Client, ElicitError, Secret, read_address, retry_after
from xcoop.concepts.elicit_prompt import MOST_CLASSES, Query, picture_of
from xcoop.concepts.elicit_store import AnswersError, Stored, open_store, read_store

TEMPLATE = "a dermoscopic photo of a {class}, {concepts}."
QUERY = Query("Toy", ("nevus", "melanoma"), TEMPLATE, "a dermoscopic photo", "tiny", "127.0.0.1", 8)


def ask(
    server: ChatServer,
    folder: Path,
    samples: int = 1,
    retries: int = 4,
    query: Query = QUERY,
    timeout: float = 30.0,
    force: bool = False,
) -> tuple[Tally, list[float], list[Stored]]:
    """What happened, how long it waited, and what was stored; nothing is waited for really."""
    client = Client(read_address(server.url, Secret("")), query.model, Secret(""), timeout)
    waits: list[float] = []
    with open_store(folder / "bank.answers.jsonl", query, resume=True, force=force) as store:
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


@pytest.mark.parametrize("status", [200, 307, 400, 401, 500])
@pytest.mark.parametrize("act", [floods, drips, drips_headers])
def test_limits_hold_for_answers_of_every_status(
    act: Callable[[int], Act], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elicit_client, "LONGEST_BODY", 1 << 20)
    monkeypatch.setattr(elicit_client, "PATIENCE", 1)
    with serving(act(status), says(GOOD)) as server:
        start = time.monotonic()
        tally, _, _ = ask(server, tmp_path, timeout=0.6)
        assert time.monotonic() - start < 15
    assert tally.faults == Counter(["endless answer" if act is floods else "timeout"])


def test_a_redirection_is_not_followed_with_the_key(tmp_path: Path) -> None:
    with serving(says(GOOD)) as other, serving(fails(307, location=other.url)) as server:
        with pytest.raises(ElicitError, match=r"HTTP 307; it redirects: give --base-url the address itself"):
            ask(server, tmp_path)
        assert other.requests == []


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
def test_a_key_that_comes_back_is_blotted_out_in_every_form(form: str) -> None:
    blotted = Secret(SECRET).blot(f"before {form} after")
    assert "[key]" in blotted
    assert blotted.startswith("before ")
    assert blotted.endswith(" after")
    for piece in (
        SECRET[3:9],
        SECRET[-6:],
        base64.b64encode(SECRET.encode()).decode()[4:12],
        quote(SECRET, safe="")[3:12],
    ):
        assert piece.lower() not in blotted.lower()


def test_what_is_no_key_stays() -> None:
    assert Secret(SECRET).blot("a blue-white veil, sk-p and 01") == "a blue-white veil, sk-p and 01"
    assert Secret("abc").blot("abc") == "abc"  # too short to be told from words
    start = time.process_time()
    Secret(SECRET * 4).blot((SECRET[:-1] + " \n") * 20_000)
    assert time.process_time() - start < 5


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
        for resume in (True, False):
            with pytest.raises(AnswersError, match=r"ends within|holds answers"), open_store(path, QUERY, resume):
                pass
        assert path.read_bytes() == whole[:-torn]
        with serving(says(GOOD)) as server:
            tally, _, answers = ask(server, tmp_path, samples=2, force=True)
        assert (tally.requests, len(answers)) == (1, 2)
        assert [json.loads(line)["sample"] for line in path.read_bytes().splitlines()[1:]] == [1, 2]


def test_a_torn_first_line_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    path.write_bytes(b'{"dataset": "To')
    with pytest.raises(AnswersError, match="holds no answers"):
        read_store(path)
    with pytest.raises(AnswersError, match=r"ends within a line \(15 bytes.*: --force cuts them off"):
        store_of(path, "x")
    assert path.read_bytes() == b'{"dataset": "To'
    with open_store(path, QUERY, resume=False, force=True):
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
