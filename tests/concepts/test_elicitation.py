"""Elicitation over real HTTP: faulty servers and answers, stored answers, votes, the command, and no key that leaks."""

from __future__ import annotations

import base64
import html
import json
import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
from chat_server import (
    GOOD,
    KEY,
    Act,
    ChatServer,
    breaks_off,
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

from xcoop.cli import main
from xcoop.concepts import elicitation, load_bank
from xcoop.concepts.elicitation import (
    MOST_CLASSES,
    Answer,
    Client,
    Elected,
    ElicitError,
    Query,
    Tally,
    answers_path,
    ask_all,
    elect,
    meaning,
    open_store,
    picture_of,
    read_address,
    read_key,
    read_store,
    redacted,
)
from xcoop.concepts.lint import check

TEMPLATE = "a dermoscopic photo of a {class}, {concepts}."
QUERY = Query(
    dataset="Toy",
    classes=("nevus", "melanoma"),
    template=TEMPLATE,
    picture="a dermoscopic photo",
    model="tiny",
    host="127.0.0.1",
    concepts=8,
)
NO_KEY = SecretStr("")


def ask(
    server: ChatServer,
    folder: Path,
    samples: int = 1,
    retries: int = 1,
    query: Query = QUERY,
    timeout: float = 30.0,
) -> tuple[Tally, list[Answer]]:
    """What happened, and what was stored."""
    client = Client(server.url, query.model, NO_KEY, timeout, retries)
    with open_store(folder / "bank.answers.jsonl", query, resume=True) as store:
        return ask_all(client, store, samples, retries + 1), store.answers


# Servers and answers.


@pytest.mark.parametrize(
    "act", [fails(429), fails(503), hangs, resets, breaks_off], ids=["429", "503", "hangs", "resets", "breaks off"]
)
def test_a_failed_request_is_tried_again(act: Act, tmp_path: Path) -> None:
    with serving(act, says(GOOD)) as server:
        tally, answers = ask(server, tmp_path, timeout=0.3 if act is hangs else 30.0)
        assert len(server.requests) == 2
    assert (tally.requests, tally.faults, tally.given_up) == (1, Counter(), [])
    assert json.loads(answers[0].text) == GOOD


FAULTS: dict[str, tuple[Act, str]] = {
    "truncated body": (sends(completion("{}")[:-9]), "not a chat completion"),
    "page": (sends(b"<html>Sign in</html>", "text/html"), "not a chat completion"),
    "other JSON": (sends(b'{"choices": []}'), "not a chat completion"),
    "list content": (sends(json.dumps({"choices": [{"message": {"content": [1]}}]}).encode()), "not a chat completion"),
    "truncated answer": (says(json.dumps(GOOD)[:-20]), "truncated or malformed JSON"),
    "prose": (says("I cannot answer that."), "no JSON object"),
    "nothing": (says(""), "empty answer"),
    "null": (says(None), "empty answer"),
    "a list": (says(["blue veil"]), "no JSON object"),
    "texts": (says(dict.fromkeys(GOOD, "blue veil")), "wrong schema, missing classes"),
    "numbers": (says({"nevus": [1], "melanoma": [2]}), "wrong schema, missing classes"),
    "empty lists": (says({"nevus": [], "melanoma": [" "]}), "empty list, missing classes"),
    "other classes": (says({"cat": ["whiskers"]}), "extra classes, missing classes"),
    "deep": (says('{"nevus": ' + "[" * 100_000), "truncated or malformed JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_of_no_use_is_counted_and_the_next_try_is_used(name: str, tmp_path: Path) -> None:
    act, kinds = FAULTS[name]
    with serving(act, says(GOOD)) as server:
        tally, answers = ask(server, tmp_path)
        assert len(server.requests) == tally.requests == 2
    assert (tally.faults, tally.given_up) == (Counter(kinds.split(", ")), [])
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
        tally, answers = ask(server, tmp_path)
    assert (tally.requests, tally.faults) == (1, Counter([remark] if remark else []))
    assert (answers[0].text, answers[0].finish, answers[0].served) == (text, "stop", "tiny-1")  # raw


def test_half_a_surrogate_pair_can_be_kept(tmp_path: Path) -> None:
    with serving(sends(completion(json.dumps(GOOD)).replace(b"blue veil", b"blue \\ud83d"))) as server:
        ask(server, tmp_path)
    assert len(read_store(tmp_path / "bank.answers.jsonl").answers) == 1


def test_only_missing_classes_are_asked_for_again(tmp_path: Path) -> None:
    with serving(says({"Nevus": GOOD["nevus"]}), says({"melanoma": GOOD["melanoma"]})) as server:
        tally, answers = ask(server, tmp_path)
        prompts = [request["messages"][0]["content"] for request in server.requests]
    assert 'other classes: "nevus", "melanoma".' in prompts[0]
    assert 'other classes: "melanoma".' in prompts[1]
    assert [answer.classes for answer in answers] == [("nevus", "melanoma"), ("melanoma",)]
    assert tally.faults == Counter({"missing classes": 1})


def test_bad_answers_are_bounded_and_the_next_sample_is_asked(tmp_path: Path) -> None:
    with serving(says("no"), says("no"), says({"nevus": ["flat"]}), says({"nevus": ["flat"]})) as server:
        tally, answers = ask(server, tmp_path, samples=2)
    assert tally.given_up == [(1, ("nevus", "melanoma")), (2, ("melanoma",))]
    assert [answer.sample for answer in answers] == [1, 1, 2, 2]  # kept, of use or not


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
    monkeypatch.setattr(elicitation, "LONGEST_BODY", 1 << 20)
    with serving(floods(status), says(GOOD)) as server:
        tally, answers = ask(server, tmp_path)
    assert tally.faults == Counter(["not a chat completion"])
    assert json.loads(answers[0].text) == GOOD


@pytest.mark.parametrize("status", [200, 307, 401, 500])
@pytest.mark.parametrize("head", ["content-type: application/json\r\n\r\n", "x-slow: "], ids=["body", "headers"])
def test_an_answer_that_drips_ends_it(head: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elicitation, "PATIENCE", 2)
    start = time.monotonic()
    whole = pytest.raises(ElicitError, match=r"127\.0\.0\.1 gave no whole answer in 0\.8 seconds; .*--resume")
    with serving(drips(status, head)) as server, whole:
        ask(server, tmp_path, timeout=0.4)
    assert time.monotonic() - start < 10


def test_a_slow_answer_takes_no_time_from_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elicitation, "PATIENCE", 2)
    with serving(fails(429, retry_after_ms="1500"), says(GOOD)) as server:
        _, answers = ask(server, tmp_path, timeout=0.5)
    assert len(answers) == 1


def test_many_classes_are_asked_for_in_portions(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(MOST_CLASSES + 3))
    with serving(says({name: ["spot"] for name in names})) as server:
        _, answers = ask(server, tmp_path, query=QUERY.model_copy(update={"classes": names}))
    assert [len(answer.classes) for answer in answers] == [MOST_CLASSES, 3]


def test_the_prompt_says_what_it_should() -> None:
    prompt = QUERY.prompt()
    for part in ("a dermoscopic photo", '"nevus", "melanoma"', "list 8 visual findings", '{"nevus": ["finding"'):
        assert part in prompt
    assert picture_of(TEMPLATE) == "a dermoscopic photo"
    assert picture_of("a {class} chest x-ray with {concepts}.") == "a chest x-ray"


# The file of answers.


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    with serving(says(GOOD)) as server:
        ask(server, tmp_path, samples=2)
    whole = path.read_bytes()
    for damaged, line in (
        (whole.replace(b'"sample":1', b'"smaple":1'), 2),
        (whole[:-20], 3),
        (whole[:20], 1),
        (b"", 1),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ElicitError, match=rf"bank\.answers\.jsonl, line {line}: not a line"):
            read_store(path)


def test_answers_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    with open_store(path, QUERY, resume=False) as store:
        store.add(Answer(sample=1, classes=QUERY.classes, text="x", finish="stop", served="t", time="2026-01-31"))
        with pytest.raises(ElicitError, match="in use by another process"), open_store(path, QUERY, resume=True):
            pass
    with pytest.raises(ElicitError, match="holds answers: --resume goes on"), open_store(path, QUERY, resume=False):
        pass
    other = QUERY.model_copy(update={"model": "large"})
    with pytest.raises(ElicitError, match="model 'tiny' there, 'large' now"), open_store(path, other, resume=True):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_elicitation import NO_KEY, QUERY, Client, ask_all, open_store
with open_store(Path({path!r}), QUERY, resume=True) as store:
    ask_all(Client({url!r}, "tiny", NO_KEY, 60, 0), store, 3, 1)
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
        tally, answers = ask(server, tmp_path, samples=3)
    assert (tally.requests, [answer.sample for answer in answers]) == (1, [1, 2, 3])


# Votes.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Pigment-Network", "pigment networks", True),
        ("atypical pigment network", "irregular network of pigment", True),
        ("blue-whitish veil", "whitish blue veil", True),
        ("irregular blood vessels", "atypical vessel", True),
        ("well-circumscribed margin", "the sharply demarcated edge", True),
        ("presence of multiple grey dots", "numerous gray dots", True),
        ("areas of white scar", "white scar", True),
        ("atypical pigment network", "typical pigment network", False),
        ("regular streaks", "regular dots", False),
        ("pigment network", "network pigment", False),  # another head
        ("large nodule", "small nodule", False),
        ("cyst with septa", "septum", False),
    ],
)
def test_whether_two_wordings_are_one_finding(one: str, other: str, same: bool) -> None:
    assert (meaning(one) == meaning(other)) is same


def test_votes_by_hand() -> None:
    answers = {
        "nevus": [["comma vessels", "comma vessel"], ["Comma vessels"], ["dots"], ["comma-like vessels", "dots"]],
        "melanoma": [["blue veil"], ["blue veil", "streaks"]],
    }
    chosen, dropped = elect(answers, TEMPLATE, 0.5, 8)
    # An answer has one vote; "comma-like vessels" is something else, and has one vote of four.
    assert chosen["nevus"] == [Elected("comma vessels", 2, 4), Elected("dots", 2, 4)]
    assert chosen["melanoma"] == [Elected("blue veil", 2, 2), Elected("streaks", 1, 2)]
    assert dropped == []
    assert elect(answers, TEMPLATE, 0.6, 8)[0]["nevus"] == []
    assert elect(answers, TEMPLATE, 0.5, 1)[0]["melanoma"] == [Elected("blue veil", 2, 2)]
    assert elect({"mass": [["B lines"]]}, TEMPLATE, 0.5, 8)[0]["mass"][0].text == "B lines"


def test_the_wording_of_most_answers_wins_and_of_equals_the_shortest() -> None:
    lists = [["irregular blood vessels"], ["atypical vessels"], ["irregular blood vessels"]]
    assert elect({"melanoma": lists}, TEMPLATE, 0.5, 8)[0]["melanoma"] == [Elected("irregular blood vessels", 3, 3)]
    assert elect({"melanoma": lists[:2]}, TEMPLATE, 0.5, 8)[0]["melanoma"] == [Elected("atypical vessels", 2, 2)]


def test_what_cannot_stand_in_a_bank_is_dropped_with_its_reason() -> None:
    answers = {
        "nevus": [["itchy spot", "melanocytic nevus cells", "dots", "round shape"]],
        "melanoma": [["treatment scar", "dots", "jagged outline", "nevus remnant"]],
    }
    chosen, dropped = elect(answers, TEMPLATE, 0.5, 8)
    assert {name: [one.text for one in own] for name, own in chosen.items()} == {
        "nevus": ["round shape"],
        "melanoma": ["jagged outline"],
    }
    assert {(classname, text): why for classname, text, why in dropped} == {
        ("nevus", "itchy spot"): "not visible: itchy",
        ("nevus", "melanocytic nevus cells"): dropped[1][2],
        ("melanoma", "treatment scar"): "not visible: treatment",
        ("melanoma", "nevus remnant"): "names the diagnosis nevus",
        ("nevus", "dots"): "every class has it",
        ("melanoma", "dots"): "every class has it",
    }


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
    answers = [{"nevus": [text], "melanoma": ["veil"]} for text in ("dots", "streaks", "globules")]
    with serving(*map(says, answers)) as server:
        assert command(server, out, "--samples", "3") == 2
    assert "no finding for 'nevus' is visual and in 50 % of the answers" in capsys.readouterr().err
    assert not out.exists()


def test_a_sample_without_use_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    with serving(says(GOOD), says("no"), says(GOOD)) as server:
        assert command(server, out, "--samples", "3") == 0
        assert command(server, out) == 2
        assert len(server.requests) == 3
    said = capsys.readouterr().err
    assert "sample 2: nevus, melanoma" in said
    assert "exists; --force" in said
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
