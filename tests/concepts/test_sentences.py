"""Clinical sentences hold every concept once and always fit; their features are means on the sphere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xcoop.backbones.openai import ClipBackbone
from xcoop.concepts import Concept, ConceptBank, clinical_sentences, load_bank
from xcoop.concepts.bank import bank_names
from xcoop.concepts.sentences import bank_sentences, clinical_features


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


@pytest.mark.parametrize("name", bank_names())
def test_shipped_banks_with_a_real_tokenizer(name: str, tiny_backbone: ClipBackbone) -> None:
    bank = load_bank(name)
    for sentences in bank_sentences(tiny_backbone, bank):
        assert len(sentences) == 1, "CLIP's 77 tokens hold every class of the shipped banks in one sentence"
    features = clinical_features(tiny_backbone, bank)
    assert features.shape == (len(bank.classes), tiny_backbone.embed_dim)
    assert not features.requires_grad
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(bank.classes)))
    assert len(torch.unique(features, dim=0)) == len(bank.classes)
