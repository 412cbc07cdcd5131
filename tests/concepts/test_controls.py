"""Knowledge in question: each control's sentences by hand, and draws that depend on bank and seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from xcoop.concepts import ConceptBank, clinical_sentences, load_bank
from xcoop.concepts.sentences import bank_or_control, plain_template, shares, unrelated_to, words_around_class

BANK = """
name: toy
version: "1"
dataset: Toy
template: "a scan of a {class}, {concepts}."
reviewed_by: []
sources: {here: "this test"}
classes:
  cyst: [{concept: thin wall, source: here}, {concept: dark inside, source: here}]
  stone: [{concept: bright spot, source: here}]
"""
MORE = """
  mass: [{concept: ragged edge, source: here}, {concept: bulge, source: here}, {concept: dark rim, source: here}]
  scar: [{concept: pale band, source: here}]
"""


@pytest.fixture
def bank(tmp_path: Path) -> ConceptBank:
    (tmp_path / "toy.yaml").write_text(BANK)
    return load_bank(tmp_path / "toy.yaml")


@pytest.fixture
def larger(tmp_path: Path) -> ConceptBank:
    (tmp_path / "larger.yaml").write_text(BANK + MORE.lstrip("\n"))
    return load_bank(tmp_path / "larger.yaml")


def sentences(bank: ConceptBank) -> list[str]:
    return [text for name in bank.classes for text in clinical_sentences(bank, name, lambda _: True)]


def test_the_bank_itself_is_what_it_is(bank: ConceptBank) -> None:
    assert bank_or_control(bank, "bank", 1) is bank


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_classes_are_swapped_whatever_the_seed(bank: ConceptBank, seed: int) -> None:
    swapped = bank_or_control(bank, "shuffled", seed)
    assert sentences(swapped) == ["a scan of a cyst, bright spot.", "a scan of a stone, thin wall, dark inside."]
    assert swapped.sources == bank.sources


def test_no_class_keeps_its_concepts_and_none_is_lost(larger: ConceptBank) -> None:
    found = set()
    for seed in range(20):
        shuffled = bank_or_control(larger, "shuffled", seed)
        assert list(shuffled.classes) == list(larger.classes)
        assert all(shuffled.classes[name] != larger.classes[name] for name in larger.classes)
        assert sorted(map(str, shuffled.classes.values())) == sorted(map(str, larger.classes.values()))
        assert shuffled == bank_or_control(larger, "shuffled", seed)
        found.add(str(shuffled.classes))
    assert len(found) > 2  # of the six circles of four classes


def test_one_class_alone_has_nobody_to_exchange_with(bank: ConceptBank) -> None:
    with pytest.raises(ValueError, match=r"toy\.yaml: KNOWLEDGE shuffled needs two classes .*'cyst'"):
        bank_or_control(bank.for_classes(["cyst"]), "shuffled", 1)


def test_unrelated_concepts_are_as_many_all_different_and_fixed_by_the_seed(larger: ConceptBank) -> None:
    drawn = bank_or_control(larger, "random", 1)
    assert [len(drawn.texts(name)) for name in drawn.classes] == [2, 1, 3, 1]
    texts = [text for name in drawn.classes for text in drawn.texts(name)]
    assert len(set(texts)) == len(texts)
    assert set(texts) <= set(unrelated_to(larger))
    assert bank_or_control(larger, "random", 1) == drawn
    assert bank_or_control(larger, "random", 2) != drawn
    assert {concept.source for concepts in drawn.classes.values() for concept in concepts} == set(drawn.sources)


def test_the_draw_is_the_same_on_every_machine(bank: ConceptBank) -> None:
    drawn = ["a scan of a cyst, portable mailbox, wooden greenhouse.", "a scan of a stone, oversized teapot."]
    assert sentences(bank_or_control(bank, "random", 1)) == drawn


def test_unrelated_phrases_share_no_word_with_the_bank(tmp_path: Path) -> None:
    (tmp_path / "boats.yaml").write_text(BANK.replace("cyst:", "Sailing_Boat:").replace("thin wall", "toy flag"))
    boats = load_bank(tmp_path / "boats.yaml")
    assert "toy teapot" in unrelated_to(load_bank("derm7pt"))
    assert not [text for text in unrelated_to(boats) if "boat" in text or text.startswith("toy ")]


def test_too_few_unrelated_phrases_are_an_error(bank: ConceptBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcoop.concepts.sentences._lists", lambda: {"makes": ["toy"], "things": ["bus", "tent"]})
    with pytest.raises(ValueError, match="needs 3 unrelated concepts; there are 2"):
        bank_or_control(bank, "random", 1)


def test_nothing_known_is_the_sentence_without_concepts(bank: ConceptBank) -> None:
    nothing = bank_or_control(bank, "none", 1)
    assert sentences(nothing) == ["a scan of a cyst.", "a scan of a stone."]
    assert [sentences(share) for share in shares(nothing, 2)] == [sentences(nothing)] * 2


@pytest.mark.parametrize(
    ("template", "plain", "words"),
    [
        (
            "a dermoscopic photo of a {class}, {concepts}.",
            "a dermoscopic photo of a {class}.",
            "a dermoscopic photo of a",
        ),
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


def test_an_unknown_kind_is_answered_with_the_nearest(bank: ConceptBank) -> None:
    with pytest.raises(ValueError, match=r"KNOWLEDGE 'shufled'. Did you mean 'shuffled'\? Known: bank, none, random"):
        bank_or_control(bank, "shufled", 1)


def test_a_name_that_is_too_long_is_named(bank: ConceptBank) -> None:
    with pytest.raises(ValueError, match=r"class 'cyst': its name is longer than the text context"):
        clinical_sentences(bank_or_control(bank, "none", 1), "cyst", lambda _: False)
