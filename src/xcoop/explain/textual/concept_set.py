"""The concepts of a bank as points on the joint sphere, each by itself, and which class claims which.

Symbols: C classes, J concepts, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import fill
from xcoop.methods.alignment import unit


@dataclass(frozen=True)
class ConceptSet:
    """The different concepts of all classes of a bank.

    Attributes:
        texts: J wordings, in the bank's order.
        own: (C, J) bool, whether the bank lists a concept for a class.
        vectors: (J, D), unit.
    """

    texts: tuple[str, ...]
    own: Tensor
    vectors: Tensor


@torch.no_grad()
def concept_set(backbone: Backbone, bank: ConceptBank) -> ConceptSet:
    """Encodes each concept in the bank's sentence, once with each class name, and averages over the names.

    So no concept carries the name of the class that lists it: whatever a name adds, it adds to all of them alike.

    Raises:
        ValueError: a concept's sentence is longer than the backbone's context; the message names it.
    """
    classes = list(bank.classes)
    texts = tuple(dict.fromkeys(text for name in classes for text in bank.texts(name)))
    own = torch.tensor([[text in bank.texts(name) for text in texts] for name in classes])
    return ConceptSet(texts, own.view(len(classes), len(texts)), phrase_vectors(backbone, bank, texts))


@torch.no_grad()
def phrase_vectors(backbone: Backbone, bank: ConceptBank, phrases: tuple[str, ...]) -> Tensor:
    """Any phrases in the place of a bank's concepts, (len(phrases), D), unit; see `concept_set`."""
    if not phrases:
        return torch.zeros(0, backbone.embed_dim, device=backbone.logit_scale.device)
    sentences = [fill(bank.template, name.replace("_", " "), [phrase]) for phrase in phrases for name in bank.classes]
    features = unit(backbone.encode_text(sentences)).unflatten(0, (len(phrases), -1))  # (J, C, D)
    return unit(features.mean(1))
