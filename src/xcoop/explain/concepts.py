"""What a model makes of a bank's concepts: where they lie, what its prompts are made of, and what changes without them.

Two kinds of models. XCoOp's `aligned` variant holds the clinical sentences of its classes: they are made anew from a
changed bank, and the logits are the model's own. Every other model holds no concepts, only prompts: there the concept's
part of the decomposed prompt is taken out, and the global similarity is computed again.

Symbols: B images, C classes, J concepts, K prompts a class, D joint width.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.bank import Concept
from xcoop.concepts.sentences import fill, unrelated_to
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ConceptSet:
    """The different concepts of all classes of a bank, as points on the joint sphere.

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
    own = torch.tensor([[text in bank.texts(name) for text in texts] for name in classes]).view(len(classes), -1)
    if not texts:
        return ConceptSet(texts, own, torch.zeros(0, backbone.embed_dim, device=backbone.logit_scale.device))
    sentences = [fill(bank.template, name.replace("_", " "), [text]) for text in texts for name in classes]
    features = unit(backbone.encode_text(sentences)).unflatten(0, (len(texts), -1))  # (J, C, D)
    return ConceptSet(texts, own, unit(features.mean(1)))


# A prompt as a sum of concepts.

SPARSITY = 0.1  # alpha, as a share of the value at which no concept is left


@dataclass(frozen=True)
class Decomposition:
    """What each class's prompt is made of.

    Attributes:
        weights: w, (C, J), >= 0, most of them 0.
        directions: g, (J, D), unit.
        centre: m, (D,).
        explained: (C,), 1 - |rest|^2 / |z|^2, in [0, 1]: higher is better.
    """

    weights: Tensor
    directions: Tensor
    centre: Tensor
    explained: Tensor

    def own_share(self, own: Tensor) -> Tensor:
        """The share of a class's weights that lies on its own concepts, (C,), in [0, 1]; NaN without any weight.

        Args:
            own: (C, J) bool.
        """
        return (self.weights * own.to(self.weights)).sum(1) / self.weights.sum(1)


def decompose(prompts: Tensor, concepts: Tensor) -> Decomposition:
    """Class vectors t (C, D) as sparse, non-negative sums of concepts h (J, D).

    After SpLiCE (Bhalla et al., NeurIPS 2024):

        min_w  1/2 || z_c - sum_j w_j g_j ||^2 + alpha sum_j w_j,   w >= 0
        z_c = t_c - m,   g_j = u(h_j - mu),   mu = mean_j h_j,   m = mean_c t_c (of one prompt alone: mu)

    Both are taken at length one. All sentences of a bank lie close together on the sphere; mu is what they share, and
    says nothing of any concept. What all prompts share, m, adds the same to every class's logit and decides nothing:
    z_c is what sets a class's prompt apart. (From the bank's mean, m = mu, prompts that all lean to one class would
    each seem to be made of its concepts.) The Lasso chooses concepts, with alpha = 1/10 of the value at which none is
    left; then their weights are fitted anew without the penalty, which would shrink them.

    Raises:
        ValueError: fewer than two concepts.
    """
    from scipy.optimize import nnls
    from sklearn.linear_model import Lasso

    if len(concepts) < 2:
        raise ValueError(f"a decomposition needs at least two concepts, not {len(concepts)}")
    t, h = unit(prompts.detach().double().cpu()), unit(concepts.detach().double().cpu())
    mu = h.mean(0)
    m = t.mean(0) if len(t) > 1 else mu
    g, z = unit(h - mu), t - m
    weights, directions = np.zeros((len(z), len(g))), g.numpy()
    for row, vector in zip(weights, z.numpy(), strict=True):
        largest = float((directions @ vector).max())
        if largest <= 0:  # no concept points its way
            continue
        # scikit-learn's loss is that of the formula divided by D.
        alpha = SPARSITY * largest / len(vector)
        lasso = Lasso(alpha=alpha, positive=True, fit_intercept=False, max_iter=10_000, tol=1e-8)
        kept = lasso.fit(directions.T, vector).coef_ > 0
        row[kept], _ = nnls(directions[kept].T, vector)
    w = torch.from_numpy(weights)
    explained = 1 - (z - w @ g).square().sum(1) / z.square().sum(1).clamp_min(1e-30)
    return Decomposition(*(part.to(prompts.device, torch.float32) for part in (w, g, m, explained)))


# The model with other knowledge (`PromptModel.with_bank`).


def only(bank: ConceptBank, classname: str, texts: Sequence[str]) -> ConceptBank:
    """The bank in which a class keeps only these of its concepts; without any, it keeps its plain sentence.

    Raises:
        ValueError: the class has no such concept.
    """
    if missing := [text for text in texts if text not in bank.texts(classname)]:
        raise ValueError(f"{classname!r} has no concept {missing[0]!r}; it has {bank.texts(classname)}")
    kept = tuple(concept for concept in bank.classes[classname] if concept.text in texts)
    return replace(bank, classes={**bank.classes, classname: kept})


# What a concept adds to a logit.


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
    places = [(label, name, text) for label, name in enumerate(bank.classes) for text in bank.texts(name)]
    if control is not None:
        phrases = random.Random(f"{control}|control").choices(unrelated_to(bank), k=len(places))
    found = []
    for number, (label, name, text) in enumerate(places):
        if control is None:
            other = only(bank, name, [kept for kept in bank.texts(name) if kept != text])
        else:
            phrase = Concept(phrases[number], next(iter(bank.sources), ""))
            other = replace(bank, classes={**bank.classes, name: (*bank.classes[name], phrase)})
        features = model.with_bank(other).text_features()
        found.append(Change(label, texts.index(text), 1 if control is None else -1, features))
    return found


@torch.no_grad()
def leave_one_out(model: PromptModel, features: ImageFeatures, changed: Sequence[Change], concepts: int) -> Tensor:
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
        other = model.compare(features, one.text)
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
    directions = parts.directions
    if control is not None:
        generator = torch.Generator().manual_seed(control)
        drawn = torch.randn(*parts.weights.shape, directions.shape[1], generator=generator)
        directions = unit(drawn.to(directions))
    pieces = parts.weights[..., None] * directions  # (C, J, D)
    images, vectors = unit(model.compared(features)), unit(vectors)
    whole = images @ vectors.T  # (B, C)
    less = torch.einsum("bd,cjd->bcj", images, unit(vectors[:, None] - pieces))
    return model.temperature(features).expand(whole.shape)[..., None] * (whole[..., None] - less)


# Subsets of a class's concepts.

Ask = Callable[[ImageFeatures, int, frozenset[int]], Tensor]
"""Features of B images, a class and those of its concepts (of J) that it keeps: logits (B, C)."""


def margin(logits: Tensor, label: int) -> Tensor:
    """A class's logit less the largest of the others, (B,): its own alone may rise with all others together."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.amax(1) if others.shape[1] else logits[:, label]


def held(run: TrainedModel, label: int) -> list[int]:
    """Which of the J concepts a class's prompt holds: those of its clinical sentence, or those it decomposes into."""
    if run.concepts is None:
        return []
    if run.model.holds_concepts:
        return run.concepts.own[label].nonzero()[:, 0].tolist()
    return (run.decomposition.weights[label] > 0).nonzero()[:, 0].tolist() if run.decomposition else []


def asking(run: TrainedModel) -> Ask:
    """How a run is asked again while one class keeps only some of its concepts.

    Raises:
        ValueError: it holds no concepts, and its prompts are not decomposed.
    """
    model, bank, concepts = run.model, run.bank, run.concepts
    if bank is not None and concepts is not None and model.holds_concepts:
        known: dict[tuple[int, frozenset[int]], Tensor] = {}  # each subset is encoded once

        def of_sentences(features: ImageFeatures, label: int, kept: frozenset[int]) -> Tensor:
            if (label, kept) not in known:
                texts = [concepts.texts[j] for j in sorted(kept)]
                known[label, kept] = model.with_bank(only(bank, run.classnames[label], texts)).text_features()
            return model.compare(features, known[label, kept])

        return of_sentences
    parts = run.decomposition
    if parts is None:
        raise ValueError(f"{run.folder}: its prompts are not decomposed; a bank of two concepts or more is needed")

    def of_parts(features: ImageFeatures, label: int, kept: frozenset[int]) -> Tensor:
        dropped = [j for j in held(run, label) if j not in kept]
        vectors = unit(run.class_vectors()).clone()  # (C, D)
        vectors[label] -= parts.weights[label, dropped] @ parts.directions[dropped]
        return model.temperature(features) * (unit(model.compared(features)) @ unit(vectors).T)

    return of_parts


@torch.no_grad()
def effects(
    run: TrainedModel, features: ImageFeatures, labels: Sequence[int], chosen: Sequence[frozenset[int]]
) -> dict[str, Floats]:
    """Comprehensiveness and sufficiency of chosen concepts, (B,) each in logits; NaN where a class holds no others.

        comprehensiveness = margin(all) - margin(without the chosen)     higher is better: they were needed
        sufficiency       = margin(all) - margin(the chosen alone)       lower is better: they were enough

    DeYoung et al., "ERASER", ACL 2020, for words; here the concepts that a class's prompt holds.

    Args:
        run: the trained model.
        features: of B images.
        labels: the class that is looked at in each image.
        chosen: of J concepts those chosen in each image; all of them held by its class.
    """
    ask = asking(run)
    found = {name: np.full(len(labels), np.nan) for name in ("comprehensiveness", "sufficiency")}
    groups: dict[tuple[int, frozenset[int]], list[int]] = {}
    for i, key in enumerate(zip(labels, chosen, strict=True)):
        groups.setdefault(key, []).append(i)
    for (label, some), which in groups.items():
        every = frozenset(held(run, label))
        if not some or some == every:
            continue
        own = ImageFeatures(features.pooled[which], features.patches[which])
        whole = margin(ask(own, label, every), label)
        for name, kept in (("comprehensiveness", every - some), ("sufficiency", some)):
            found[name][which] = (whole - margin(ask(own, label, kept), label)).double().cpu().numpy()
    return found
