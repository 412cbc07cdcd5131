"""The clinical sentences of each class as one point on the joint sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from xcoop.concepts.bank import ConceptBank
from xcoop.concepts.sentences import clinical_sentences
from xcoop.concepts.shares import shares

SENTENCES = ("share", "whole", "each", "both")  # which concepts the clinical sentence of a prompt holds


class TextTower(Protocol):
    """What is needed of a backbone here."""

    @property
    def context_length(self) -> int:
        """Tokens that the tower takes, start and end included."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, start and end included."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features (N, D) of N texts, not normalised."""


def bank_sentences(backbone: TextTower, bank: ConceptBank) -> list[list[str]]:
    """Per class of the bank its clinical sentences, each within the backbone's context."""

    def fits(text: str) -> bool:
        return backbone.count_tokens(text) <= backbone.context_length

    return [clinical_sentences(bank, name, fits) for name in bank.classes]


@torch.no_grad()
def clinical_features(backbone: TextTower, bank: ConceptBank) -> Tensor:
    """One unit vector a class: the mean of its sentences' unit features, renormalised.

    Args:
        backbone: encodes the sentences.
        bank: of the dataset's classes, in label order (`ConceptBank.for_classes`).

    Returns:
        (C, D), on the backbone's device, in its dtype, without gradient.
    """
    sentences = bank_sentences(backbone, bank)
    features = normalize(backbone.encode_text([text for texts in sentences for text in texts]), dim=-1)  # (N, D)
    means = [part.mean(dim=0) for part in features.split([len(texts) for texts in sentences])]
    return normalize(torch.stack(means), dim=-1)  # (C, D)


def prompt_sentences(backbone: TextTower, bank: ConceptBank, prompts: int, kind: str = "share") -> Tensor:
    """The clinical sentences of K prompts a class.

    Args:
        backbone: encodes the sentences.
        bank: of the dataset's classes, in label order.
        prompts: K.
        kind: `share`: prompt k's own concepts in one sentence; `whole`: all concepts of the class in one, the same for
            every prompt; `each`: the mean of one sentence for each concept, the same for every prompt; `both`: the mean
            of `share` and `each`. What a long sentence hides in a text tower, short ones say.

    Returns:
        (K, C, D), unit.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in SENTENCES:
        raise ValueError(f"unknown kind of sentences {kind!r}; known: {', '.join(SENTENCES)}")
    if kind == "whole":
        return clinical_features(backbone, bank).repeat(prompts, 1, 1)
    own = torch.stack([clinical_features(backbone, share) for share in shares(bank, prompts)])  # (K, C, D)
    if kind == "share":
        return own
    each = normalize(torch.stack([features.mean(0) for features in single_features(backbone, bank)]), dim=-1)  # (C, D)
    return each.repeat(prompts, 1, 1) if kind == "each" else normalize(own + each, dim=-1)


def single_features(backbone: TextTower, bank: ConceptBank) -> list[Tensor]:
    """Per class a sentence for each of its concepts, (m_c, D), unit; without any, its plain sentence alone."""
    counts = [max(1, len(concepts)) for concepts in bank.classes.values()]
    dealt = torch.stack([clinical_features(backbone, share) for share in shares(bank, max(counts))])  # (m, C, D)
    return [dealt[:count, c] for c, count in enumerate(counts)]
