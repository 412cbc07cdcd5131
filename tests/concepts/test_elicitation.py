"""Elicitation over real HTTP: answers of little use, stored answers, votes, and the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import (
    GOOD,
    QUERY,
    TEMPLATE,
    Act,
    ask,
    command,
    completion,
    hangs,
    says,
    sends,
    serving,
)

from xcoop.cli import main
from xcoop.concepts import load_bank
from xcoop.concepts.elicitation import (
    MOST_CLASSES,
    Answer,
    Elected,
    ElicitError,
    answers_path,
    elect,
    meaning,
    open_store,
    picture_of,
    read_store,
)
from xcoop.concepts.lint import check

# Answers.


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
sys.path[:0] = {tests!r}
from chat_server import NO_KEY, QUERY, Client, Tally, ask_all, open_store
with open_store(Path({path!r}), QUERY, resume=True) as store:
    ask_all(Client({url!r}, "tiny", NO_KEY, 60, 0), store, 3, 1, Tally())
"""


def test_killed_and_resumed_without_asking_twice(tmp_path: Path) -> None:
    path = tmp_path / "bank.answers.jsonl"
    with serving(says(GOOD), says(GOOD), hangs) as server:
        code = DRIVER.format(
            tests=[str(folder) for folder in Path(__file__).parents[:2]], url=server.url, path=str(path)
        )
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
    # The wording of most answers wins, and of equals the shortest.
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


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([{"nevus": ["comma vessels"]}] * 2, "no usable answer for 'melanoma'; no bank is written"),
        (
            [{"nevus": [text], "melanoma": ["veil"]} for text in ("dots", "streaks", "globules")],
            "no finding for 'nevus' is visual and in 50 % of the answers",
        ),
    ],
)
def test_a_class_without_a_finding_makes_no_bank(
    answers: list[dict[str, list[str]]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    with serving(*map(says, answers)) as server:
        assert command(server, out, "--samples", str(len(answers))) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert ("2x missing classes" in said.out) is ("melanoma" not in answers[0])
    assert not out.exists()
    assert len(read_store(answers_path(out)).answers) == len(answers)


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
