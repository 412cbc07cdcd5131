"""The clinical sentences of each class as one point on the joint sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from xcoop.concepts.bank import ConceptBank
from xcoop.concepts.sentences import clinical_sentences


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
