"""Many sentences a class, from a bank or a JSON file."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from xcoop.concepts import load_bank
from xcoop.concepts.bank import bank_names
from xcoop.concepts.sentences import PHRASES, bank_ensemble, groups, read_ensemble


def anything(text: str) -> bool:
    return True


def test_groups_by_hand() -> None:
    assert groups("abcde", 3)[:7] == [list(word) for word in ("abc", "bcd", "cde", "ade", "abe", "ace", "abd")]
    assert sorted(map("".join, groups("abcde", 3))) == sorted(map("".join, combinations("abcde", 3)))
    assert groups("abc", 3) == [["a", "b", "c"]]
    assert groups("ab", 1) == [["a"], ["b"]]
    assert groups("a", 1) == [["a"]]


@pytest.mark.parametrize("m", range(3, 13))
def test_the_first_groups_name_each_concept_equally_often_and_none_comes_twice(m: int) -> None:
    letters = "abcdefghijkl"[:m]
    found = ["".join(group) for group in groups(letters, min(3, m))]
    assert len(set(found)) == len(found)
    first = "".join(found[:m])
    assert {first.count(letter) for letter in letters} == {1 if m == 3 else 3}


def test_all_groups_come_before_the_next_phrase() -> None:
    bank = load_bank("phantom").for_classes(["basal cell carcinoma", "nevus"])
    carcinoma, nevus = bank_ensemble(bank, 12, anything)
    assert carcinoma[:2] == [
        "a dermoscopic photo of a basal cell carcinoma, arborizing vessels, no pigment network.",
        "a basal cell carcinoma with arborizing vessels, no pigment network.",
    ]
    assert carcinoma[7] == carcinoma[0], "two concepts make one group, and seven phrases"
    start = "typical pigment network, regular dots and globules, regular streaks"
    assert nevus[0] == f"a dermoscopic photo of a nevus, {start}."
    assert nevus[10] == f"a nevus with {start}.", "five concepts make ten groups"
    assert [len(carcinoma), len(nevus)] == [12, 12]


@pytest.mark.parametrize("name", bank_names())
def test_every_bank_makes_fifty_whole_sentences_a_class(name: str) -> None:
    bank = load_bank(name)
    for classname, sentences in zip(bank.classes, bank_ensemble(bank, 50, anything), strict=True):
        concepts = bank.texts(classname)
        different = len(groups(concepts, min(3, len(concepts)))) * (1 + len(PHRASES))
        assert len(sentences) == 50
        assert len(set(sentences)) == min(50, different)
        said = " ".join(sentences)
        assert all(text in said for text in concepts)
        assert classname.replace("_", " ") in said
        assert "{" not in said


def test_what_does_not_fit_is_left_out_and_said_if_nothing_does() -> None:
    bank = load_bank("phantom").for_classes(["nevus"])
    (pairs,) = bank_ensemble(bank, 50, lambda text: len(text) <= 45)
    assert set(pairs) == {"a nevus with regular streaks, comma vessels.", "regular streaks, comma vessels in a nevus."}
    (short,) = bank_ensemble(bank, 50, lambda text: len(text) <= 26)
    assert set(short) == {"comma vessels in a nevus."}
    with pytest.raises(ValueError, match=r"phantom.yaml: class 'nevus': no sentence fits"):
        bank_ensemble(bank, 50, lambda text: False)


def test_a_file_is_read_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"Blue-Nevus": ["one.", "two.", "three."], "lung": ["only."], "other": ["unused."]}))
    assert read_ensemble(path, ["lung", "blue_nevus"], 2) == [["only.", "only."], ["one.", "two."]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "an object with a list of sentences a class is needed, not list"),
        ("{", "not valid JSON"),
        ('{"lung": []}', "class 'lung': a list of sentences"),
        ('{"lung": "one"}', "class 'lung'"),
        ('{"lung": ["one", 2]}', "class 'lung'"),
        ('{"lung": [" "]}', "class 'lung'"),
        ('{"lungs": ["one"]}', r"no sentences for 'lung' \(nearest: 'lungs'\)"),
    ],
)
def test_a_faulty_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"sentences\.json.*{message}"):
        read_ensemble(path, ["lung"], 2)
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_ensemble(tmp_path / "missing.json", ["lung"], 2)
