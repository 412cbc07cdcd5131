"""What changes if a concept is taken away, replaced or added: the model is asked again with other knowledge.

Two kinds of models. XCoOp's `aligned` variant holds the clinical sentences of its classes: they are made anew from the
changed bank, and the logits are the model's own. Every other model holds no concepts, only prompts: there the concept's
part of the decomposed prompt is taken out, and the global similarity is computed again.

Symbols: B images, C classes, J concepts, K prompts a class, D joint width.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.bank import Concept
from xcoop.concepts.controls import plain_template, unrelated_to
from xcoop.explain.textual.decomposition import Decomposition
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel


def holds_concepts(model: PromptModel) -> bool:
    """Whether a model's logits depend on clinical sentences that can be changed."""
    clinical, settings = getattr(model, "clinical", None), getattr(model, "settings", {})
    counted = settings.get("FROM_SENTENCE", False) or settings.get("CLINICAL_WEIGHT", 0) > 0
    return isinstance(clinical, Tensor) and clinical.dim() == 3 and bool(counted)


def removed(bank: ConceptBank, classname: str, text: str) -> ConceptBank:
    """The bank without one concept of a class; a class without any left keeps its plain sentence.

    Raises:
        ValueError: the class has no such concept.
    """
    if text not in bank.texts(classname):
        raise ValueError(f"{classname!r} has no concept {text!r}; it has {bank.texts(classname)}")
    kept = tuple(concept for concept in bank.classes[classname] if concept.text != text)
    return replace(bank, classes={**bank.classes, classname: kept})


def only(bank: ConceptBank, classname: str, texts: Sequence[str]) -> ConceptBank:
    """The bank in which a class keeps only these of its concepts; without any, it keeps its plain sentence.

    Raises:
        ValueError: the class has no such concept.
    """
    if missing := [text for text in texts if text not in bank.texts(classname)]:
        raise ValueError(f"{classname!r} has no concept {missing[0]!r}; it has {bank.texts(classname)}")
    kept = tuple(concept for concept in bank.classes[classname] if concept.text in texts)
    return replace(bank, classes={**bank.classes, classname: kept})


def replaced(bank: ConceptBank, classname: str, text: str, other: str) -> ConceptBank:
    """The bank with another concept in the place of one of a class's."""
    if text not in bank.texts(classname):
        raise ValueError(f"{classname!r} has no concept {text!r}; it has {bank.texts(classname)}")
    new = tuple(Concept(other, c.source) if c.text == text else c for c in bank.classes[classname])
    return replace(bank, classes={**bank.classes, classname: new})


def added(bank: ConceptBank, classname: str, text: str) -> ConceptBank:
    """The bank with one concept more for a class; a bank that has it for this class already stays as it is."""
    if text in bank.texts(classname):
        return bank
    source = next(iter(bank.sources), "")
    return replace(bank, classes={**bank.classes, classname: (*bank.classes[classname], Concept(text, source))})


@contextmanager
def knowing(model: PromptModel, bank: ConceptBank) -> Iterator[None]:
    """While it is open, the model's clinical sentences are those of another bank of the same classes.

    Raises:
        ValueError: the model holds no clinical sentences.
    """
    if not holds_concepts(model):
        raise ValueError(f"{type(model).__name__} holds no clinical sentences that could be changed")
    before: Any = model.clinical  # (K, C, D)
    model.clinical = _sentences(model, bank).to(before)
    try:
        yield
    finally:
        model.clinical = before


def _sentences(model: Any, bank: ConceptBank) -> Tensor:
    """The clinical features (K, C, D) of a bank in which some classes may have no concepts left."""
    full: Tensor = model.sentences(bank)
    empty = [index for index, concepts in enumerate(bank.classes.values()) if not concepts]
    if empty:
        bare = replace(bank, classes=dict.fromkeys(bank.classes, ()), template=plain_template(bank.template))
        full[:, empty] = model.sentences(bare)[:, empty]
    return full


@torch.no_grad()
def logits_knowing(model: PromptModel, features: ImageFeatures, bank: ConceptBank) -> Tensor:
    """The model's own logits (B, C) with another bank's clinical sentences."""
    with knowing(model, bank):
        return model.logits(features)


@dataclass(frozen=True)
class Change:
    """One concept taken away from one class (or, for a control, one unrelated phrase given to it).

    Attributes:
        label: the class.
        concept: its place among the bank's different concepts.
        sign: 1 if the concept is missing in `text`, -1 if the phrase is there.
        text: the class features with the change, (K, C, D).
    """

    label: int
    concept: int
    sign: int
    text: Tensor


@torch.no_grad()
def changes(model: PromptModel, bank: ConceptBank, texts: tuple[str, ...], control: int | None = None) -> list[Change]:
    """The class features of a model for every concept that is taken away; no image is needed for this.

    Args:
        model: one that `holds_concepts`.
        bank: of the model's classes.
        texts: the bank's different concepts.
        control: a seed: an unrelated phrase is added instead.
    """
    phrases = iter(() if control is None else _drawn(bank, control))
    found = []
    for label, name in enumerate(bank.classes):
        for text in bank.texts(name):
            other = removed(bank, name, text) if control is None else added(bank, name, next(phrases))
            with knowing(model, other):
                found.append(Change(label, texts.index(text), 1 if control is None else -1, model.text_features()))
    return found


@torch.no_grad()
def leave_one_out(model: Any, features: ImageFeatures, changed: Sequence[Change], concepts: int) -> Tensor:
    """How much of a class's logit goes with each of its concepts: logit with it less logit without it.

    Args:
        model: one that `holds_concepts`.
        features: of B images.
        changed: see `changes`.
        concepts: J.

    Returns:
        (B, C, J); 0 for concepts that a class does not list.
    """
    whole = model.logits(features)  # (B, C)
    moved = whole.new_zeros(*whole.shape, concepts)
    for one in changed:
        other = model.image_logits(features, one.text)
        moved[:, one.label, one.concept] = one.sign * (whole - other)[:, one.label]
    return moved


@torch.no_grad()
def without_part(
    model: PromptModel, features: ImageFeatures, vectors: Tensor, parts: Decomposition, control: int | None = None
) -> Tensor:
    """The same for models without concepts, through the decomposition of their prompts: (B, C, J).

    Args:
        model: says what is compared with the vectors, and at which temperature.
        features: of B images.
        vectors: class vectors, (C, D).
        parts: their decomposition.
        control: a seed: each part is taken away in a random direction of the same length instead.
    """
    pieces = parts.weights[..., None] * parts.directions  # (C, J, D)
    if control is not None:
        generator = torch.Generator().manual_seed(control)
        noise = unit(torch.randn(pieces.shape, generator=generator).to(pieces))
        pieces = parts.weights[..., None] * noise
    images, vectors = unit(model.compared(features)), unit(vectors)
    whole = images @ vectors.T  # (B, C)
    less = torch.einsum("bd,cjd->bcj", images, unit(vectors[:, None] - pieces))
    return model.temperature(features).expand(whole.shape)[..., None] * (whole[..., None] - less)


def _drawn(bank: ConceptBank, seed: int) -> list[str]:
    phrases = unrelated_to(bank)
    wanted = sum(len(concepts) for concepts in bank.classes.values())
    return random.Random(f"{seed}|control").choices(phrases, k=wanted)
