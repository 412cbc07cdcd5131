"""Clinical sentences hold every concept once and always fit; their features; a bank's controls; ensembles."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xcoop.concepts import Concept, ConceptBank, clinical_sentences, load_bank
from xcoop.concepts.sentences import (
    bank_ensemble,
    bank_or_control,
    bank_sentences,
    clinical_features,
    groups,
    plain_template,
    read_ensemble,
    shares,
    unrelated_to,
    words_around_class,
)


def make_bank(**classes: list[str]) -> ConceptBank:
    concepts = {name: tuple(Concept(text, "s") for text in texts) for name, texts in classes.items()}
    return ConceptBank("b", "1", "D", "a {class}: {concepts}.", concepts, {"s": "x"}, (), Path("b.yaml"), "0")


def up_to(characters: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= characters


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (99, ["a c: aa, bb, cc, dd, ee."]),
        (19, ["a c: aa, bb, cc.", "a c: dd, ee."]),
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


def test_what_does_not_fit_alone_is_named() -> None:
    with pytest.raises(ValueError, match=r"b\.yaml: class 'c': the concept 'very long indeed' alone"):
        clinical_sentences(make_bank(c=["short", "very long indeed"]), "c", up_to(15))
    with pytest.raises(ValueError, match=r"class 'cyst': its name is longer than the text context"):
        clinical_sentences(make_bank(cyst=[]), "cyst", up_to(0))


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


# Controls: their sentences by hand, and draws that depend on bank and seed alone.

TWO = make_bank(cyst=["thin wall", "dark inside"], stone=["bright spot"])
FOUR = make_bank(
    cyst=["thin wall", "dark inside"], stone=["bright spot"], mass=["edge", "bulge", "dark rim"], scar=["pale band"]
)


def sentences(bank: ConceptBank) -> list[str]:
    return [text for name in bank.classes for text in clinical_sentences(bank, name, lambda _: True)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_controls_by_hand(seed: int) -> None:
    assert bank_or_control(TWO, "bank", seed) is TWO
    swapped, nothing = bank_or_control(TWO, "shuffled", seed), bank_or_control(TWO, "none", seed)
    assert sentences(swapped) == ["a cyst: bright spot.", "a stone: thin wall, dark inside."]
    assert swapped.sources == TWO.sources
    assert sentences(nothing) == ["a cyst.", "a stone."]
    assert [sentences(share) for share in shares(nothing, 2)] == [sentences(nothing)] * 2


def test_shuffled_no_class_keeps_its_concepts_and_none_is_lost() -> None:
    found = set()
    for seed in range(20):
        shuffled = bank_or_control(FOUR, "shuffled", seed)
        assert list(shuffled.classes) == list(FOUR.classes)
        assert all(shuffled.classes[name] != FOUR.classes[name] for name in FOUR.classes)
        assert sorted(map(str, shuffled.classes.values())) == sorted(map(str, FOUR.classes.values()))
        assert shuffled == bank_or_control(FOUR, "shuffled", seed)
        found.add(str(shuffled.classes))
    assert len(found) > 2  # of the six circles of four classes


def test_unrelated_concepts_are_as_many_all_different_and_fixed_by_the_seed() -> None:
    drawn = bank_or_control(FOUR, "random", 1)
    assert [len(drawn.texts(name)) for name in drawn.classes] == [2, 1, 3, 1]
    texts = [text for name in drawn.classes for text in drawn.texts(name)]
    assert len(set(texts)) == len(texts)
    assert set(texts) <= set(unrelated_to(FOUR))
    assert bank_or_control(FOUR, "random", 2) != drawn == bank_or_control(FOUR, "random", 1)
    assert {concept.source for concepts in drawn.classes.values() for concept in concepts} == set(drawn.sources)
    same_everywhere = ["a cyst: portable mailbox, wooden greenhouse.", "a stone: oversized teapot."]
    assert sentences(bank_or_control(TWO, "random", 1)) == same_everywhere


def test_unrelated_phrases_share_no_word_with_the_bank() -> None:
    boats = make_bank(Sailing_Boat=["toy flag"])
    assert "toy teapot" in unrelated_to(load_bank("derm7pt"))
    assert not [text for text in unrelated_to(boats) if "boat" in text or text.startswith("toy ")]


def test_controls_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"b\.yaml: KNOWLEDGE shuffled needs two classes .*'cyst'"):
        bank_or_control(TWO.for_classes(["cyst"]), "shuffled", 1)
    with pytest.raises(ValueError, match=r"KNOWLEDGE 'shufled'. Did you mean 'shuffled'\? Known: bank, none, random"):
        bank_or_control(TWO, "shufled", 1)
    monkeypatch.setattr("xcoop.concepts.sentences._lists", lambda: {"makes": ["toy"], "things": ["bus", "tent"]})
    with pytest.raises(ValueError, match="needs 3 unrelated concepts; there are 2"):
        bank_or_control(TWO, "random", 1)


@pytest.mark.parametrize(
    ("template", "plain", "words"),
    [
        ("a skin photo of a {class}, {concepts}.", "a skin photo of a {class}.", "a skin photo of a"),
        ("a {class} chest x-ray with {concepts}.", "a {class} chest x-ray.", "a chest x-ray"),
        ("a scan of a {class} showing {concepts}", "a scan of a {class}", "a scan of a"),
        ("{class}: {concepts}, magnified", "{class}, magnified", "magnified"),
        ("{class} {concepts}", "{class}", "a photo of a"),
        ("{concepts} in a {class}", "a photo of a {class}.", "a photo of a"),
    ],
)
def test_a_template_loses_its_concepts_and_what_ties_them_on(template: str, plain: str, words: str) -> None:
    assert plain_template(template) == plain
    assert words_around_class(plain) == words


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
    (pairs,) = bank_ensemble(bank, 50, up_to(45))
    assert set(pairs) == {"a nevus with regular streaks, comma vessels.", "regular streaks, comma vessels in a nevus."}
    (short,) = bank_ensemble(bank, 50, up_to(26))
    assert set(short) == {"comma vessels in a nevus."}
    with pytest.raises(ValueError, match=r"phantom.yaml: class 'nevus': no sentence fits"):
        bank_ensemble(bank, 50, up_to(0))


def test_a_file_is_read_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"Blue-Nevus": ["one.", "two.", "three."], "lung": ["only."], "other": ["unused."]}))
    assert read_ensemble(path, ["lung", "blue_nevus"], 2) == [["only.", "only."], ["one.", "two."]]
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_ensemble(tmp_path / "missing.json", ["lung"], 2)


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
