"""Clinical sentences hold every concept once and always fit; their features are means on the sphere; ensembles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xcoop.concepts import Concept, ConceptBank, clinical_sentences, load_bank
from xcoop.concepts.sentences import bank_ensemble, bank_sentences, clinical_features, groups, read_ensemble


def make_bank(**classes: list[str]) -> ConceptBank:
    concepts = {name: tuple(Concept(text, "s") for text in texts) for name, texts in classes.items()}
    return ConceptBank("b", "1", "D", "a {class}: {concepts}.", concepts, {"s": "x"}, (), Path("b.yaml"), "0")


def up_to(characters: int):
    return lambda text: len(text) <= characters


def test_one_sentence_if_it_fits() -> None:
    assert clinical_sentences(make_bank(cat=["x", "y z"]), "cat", up_to(99)) == ["a cat: x, y z."]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (19, ["a c: aa, bb, cc, dd."[:-5] + ".", "a c: dd, ee."]),
        (13, ["a c: aa, bb.", "a c: cc, dd.", "a c: ee."]),
        (8, ["a c: aa.", "a c: bb.", "a c: cc.", "a c: dd.", "a c: ee."]),
    ],
)
def test_fewest_even_sentences(limit: int, expected: list[str]) -> None:
    assert clinical_sentences(make_bank(c=["aa", "bb", "cc", "dd", "ee"]), "c", up_to(limit)) == expected


def test_every_concept_stands_once_in_order() -> None:
    texts = [f"concept{n:02d}" * (1 + n % 3) for n in range(12)]
    for limit in range(36, 300, 7):
        sentences = clinical_sentences(make_bank(c=texts), "c", up_to(limit))
        assert all(len(sentence) <= limit for sentence in sentences)
        assert [t for s in sentences for t in s.removeprefix("a c: ").removesuffix(".").split(", ")] == texts


def test_a_concept_that_does_not_fit_alone_is_named() -> None:
    with pytest.raises(ValueError, match=r"b\.yaml: class 'c': the concept 'very long indeed' alone"):
        clinical_sentences(make_bank(c=["short", "very long indeed"]), "c", up_to(15))


def test_braces_in_names_are_plain_text() -> None:
    bank = make_bank(**{"{concepts} {0}": ["{class}", "%s"]})
    assert clinical_sentences(bank, "{concepts} {0}", up_to(99)) == ["a {concepts} {0}: {class}, %s."]


class LetterTower:
    """Text features by hand: how often `a`, `b` and `c` stand in a text."""

    context_length = 14

    def count_tokens(self, text: str) -> int:
        return len(text)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text.count(letter)) for letter in "abc"] for text in texts])


def test_features_by_hand() -> None:
    bank = make_bank(x=["bbb"], y=["b", "bc", "ccc"])
    # "a x: bbb." -> (1, 3, 0); "a y: b, bc." -> (1, 2, 1); "a y: ccc." -> (1, 0, 3)
    assert bank_sentences(LetterTower(), bank) == [["a x: bbb."], ["a y: b, bc.", "a y: ccc."]]
    first, second = torch.tensor([1.0, 2, 1]) / 6**0.5, torch.tensor([1.0, 0, 3]) / 10**0.5
    expected = torch.stack([torch.tensor([1.0, 3, 0]) / 10**0.5, (first + second) / (first + second).norm()])
    torch.testing.assert_close(clinical_features(LetterTower(), bank), expected)


# Ensembles.


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
    carcinoma, nevus = bank_ensemble(bank, 12, lambda _: True)
    assert carcinoma[:2] == [
        "a dermoscopic photo of a basal cell carcinoma, arborizing vessels, no pigment network.",
        "a basal cell carcinoma with arborizing vessels, no pigment network.",
    ]
    assert carcinoma[7] == carcinoma[0], "two concepts make one group, and seven phrases"
    start = "typical pigment network, regular dots and globules, regular streaks"
    assert nevus[0] == f"a dermoscopic photo of a nevus, {start}."
    assert nevus[10] == f"a nevus with {start}.", "five concepts make ten groups"
    assert [len(carcinoma), len(nevus)] == [12, 12]


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
