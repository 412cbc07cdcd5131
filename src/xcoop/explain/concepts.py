"""A model in words: what its prompts are made of, what changes without a concept, and which words lie near.

Three kinds of models. Where logits are exact sums over concepts, nothing is left out: see `exact.py`.
A model that holds the clinical sentences of its classes is made anew from a changed bank, and the logits are its own.
Every other model holds no concepts, only prompts: there the concept's part of the decomposed prompt is taken out, and
the global similarity is computed again.

Symbols: B images, C classes, J concepts, K prompts a class, D joint width; n context tokens, W text width, N words.
"""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.bank import Concept
from xcoop.concepts.sentences import fill, unrelated_to
from xcoop.explain.readings import DIRECTIONS, UNRELATED
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel

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
    own = torch.tensor([[text in bank.texts(name) for text in texts] for name in classes])
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
        """The share of a class's weights on its own concepts, (C, J) bool: (C,), in [0, 1]; NaN without any weight."""
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
    left; then their weights are fitted anew without the penalty, which would shrink them. It takes two concepts.
    """
    from scipy.optimize import nnls
    from sklearn.linear_model import Lasso

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


# The concepts that a model holds, and what it says without some of them.


class HeldConcepts(ABC):
    """A model that is asked again while one class keeps only some of the concepts that it holds."""

    model: PromptModel
    held: list[list[int]]  # which of the J concepts each class holds, C of them

    @abstractmethod
    def logits(self, features: ImageFeatures, label: int, kept: Collection[int]) -> Tensor:
        """Of B images, (B, C), where a class keeps only these of its concepts."""

    @abstractmethod
    def contributions(self, features: ImageFeatures) -> Tensor:
        """What each concept adds to a class's logit: with it less without it, (B, C, J); 0 where it is not held."""

    @abstractmethod
    def controls(self, features: ImageFeatures, seed: int = 0) -> dict[str, Tensor]:
        """By name, the same of what stands in the place of concepts and knows nothing, (B, C, J) each.

        The model is asked as it is: whoever compares untrained phrases with its sentences puts its prompts back first.
        """

    @torch.no_grad()
    def effects(
        self, features: ImageFeatures, labels: Sequence[int], chosen: Sequence[frozenset[int]]
    ) -> dict[str, Floats]:
        """Comprehensiveness and sufficiency of chosen concepts, (B,) each in logits; NaN where a class holds no others.

            comprehensiveness = margin(all) - margin(without the chosen)     higher is better: they were needed
            sufficiency       = margin(all) - margin(the chosen alone)       lower is better: they were enough

        DeYoung et al., "ERASER", ACL 2020, for words; here the concepts that a class holds.

        Args:
            features: of B images.
            labels: the class that is looked at in each image.
            chosen: the concepts chosen in each image, all of them held by its class.
        """
        found = {name: np.full(len(labels), np.nan) for name in ("comprehensiveness", "sufficiency")}
        groups: dict[tuple[int, frozenset[int]], list[int]] = {}
        for i, key in enumerate(zip(labels, chosen, strict=True)):
            groups.setdefault(key, []).append(i)
        every = {label: frozenset(self.held[label]) for label in set(labels)}
        whole = {label: margin(self.logits(features, label, own), label) for label, own in every.items()}  # each (B,)
        for (label, some), which in groups.items():
            if not some or some == every[label]:
                continue
            own = ImageFeatures(features.pooled[which], features.patches[which])
            for name, kept in (("comprehensiveness", every[label] - some), ("sufficiency", some)):
                less = margin(self.logits(own, label, kept), label)
                found[name][which] = (whole[label][which] - less).double().cpu().numpy()
        return found


class SentenceConcepts(HeldConcepts):
    """A model that `holds_concepts`, in the clinical sentences of its classes: it is given a changed bank."""

    def __init__(self, model: PromptModel, bank: ConceptBank, concepts: ConceptSet) -> None:
        self.model, self.bank, self.texts = model, bank, concepts.texts
        self.held = [own.nonzero()[:, 0].tolist() for own in concepts.own]
        # For each choice of concepts the model that has them, and its class features: they are encoded once.
        self._known: dict[tuple[int, frozenset[int]], tuple[PromptModel, Tensor]] = {}

    @torch.no_grad()
    def logits(self, features: ImageFeatures, label: int, kept: Collection[int]) -> Tensor:
        """The model's own, with a bank in which the class keeps these concepts; without any, its plain sentence."""
        key = label, frozenset(kept)
        if key not in self._known:
            name, texts = list(self.bank.classes)[label], {self.texts[j] for j in kept}
            some = tuple(concept for concept in self.bank.classes[name] if concept.text in texts)
            other = self._with(name, some)
            self._known[key] = other, other.text_features()
        other, text = self._known[key]
        return other.compare(features, text)

    @torch.no_grad()
    def contributions(self, features: ImageFeatures) -> Tensor:
        """Asks without each concept of each class."""
        whole = self.model.logits(features)  # (B, C)
        moved = whole.new_zeros(*whole.shape, len(self.texts))
        for label, own in enumerate(self.held):
            for j in own:
                less = self.logits(features, label, {*own} - {j})
                moved[:, label, j] = (whole - less)[:, label]
        return moved

    @torch.no_grad()
    def controls(self, features: ImageFeatures, seed: int = 0) -> dict[str, Tensor]:
        """Asks with one unrelated phrase more in each concept's place."""
        whole = self.model.logits(features)  # (B, C)
        moved = whole.new_zeros(*whole.shape, len(self.texts))
        places = [(label, name, text) for label, name in enumerate(self.bank.classes) for text in self.bank.texts(name)]
        phrases = random.Random(f"{seed}|control").choices(unrelated_to(self.bank), k=len(places))
        for (label, name, text), phrase in zip(places, phrases, strict=True):
            unrelated = Concept(phrase, next(iter(self.bank.sources), ""))
            other = self._with(name, (*self.bank.classes[name], unrelated))
            moved[:, label, self.texts.index(text)] = (other.logits(features) - whole)[:, label]
        return {UNRELATED: moved}

    def _with(self, name: str, concepts: tuple[Concept, ...]) -> PromptModel:
        return self.model.with_bank(replace(self.bank, classes={**self.bank.classes, name: concepts}))


class PartConcepts(HeldConcepts):
    """A model without concepts: they are parts of its class vectors, (C, D), by their decomposition."""

    def __init__(self, model: PromptModel, vectors: Tensor, parts: Decomposition) -> None:
        self.model, self.vectors, self.parts = model, unit(vectors), parts
        self.held = [(own > 0).nonzero()[:, 0].tolist() for own in parts.weights]

    @torch.no_grad()
    def logits(self, features: ImageFeatures, label: int, kept: Collection[int]) -> Tensor:
        """The scaled cosine with the class vectors, the other parts of one of them taken out."""
        dropped, vectors = [j for j in self.held[label] if j not in kept], self.vectors.clone()
        vectors[label] -= self.parts.weights[label, dropped] @ self.parts.directions[dropped]
        return self.model.temperature(features) * (unit(self.model.compared(features)) @ unit(vectors).T)

    @torch.no_grad()
    def contributions(self, features: ImageFeatures) -> Tensor:
        """Takes each part out by itself."""
        return self._without(features, self.parts.directions)

    @torch.no_grad()
    def controls(self, features: ImageFeatures, seed: int = 0) -> dict[str, Tensor]:
        """Takes out as long a part in a random direction."""
        directions = self.parts.directions
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(*self.parts.weights.shape, directions.shape[1], generator=generator)
        return {DIRECTIONS: self._without(features, unit(drawn.to(directions)))}

    def _without(self, features: ImageFeatures, directions: Tensor) -> Tensor:
        """What the logits lose without each part by itself, (B, C, J); directions (J, D) or (C, J, D)."""
        pieces = self.parts.weights[..., None] * directions  # (C, J, D)
        images = unit(self.model.compared(features))
        whole = images @ self.vectors.T  # (B, C)
        less = torch.einsum("bd,cjd->bcj", images, unit(self.vectors[:, None] - pieces))
        return self.model.temperature(features).expand(whole.shape)[..., None] * (whole[..., None] - less)


def margin(logits: Tensor, label: int) -> Tensor:
    """A class's logit less the largest of the others, (B,): its own alone may rise with all others together."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.amax(1) if others.shape[1] else logits[:, label]


# The words next to a learned context. Weak evidence: a vector that was learned need not be a word, and in many
# dimensions every vector has some nearest word. So each distance stands beside a null, the distance of random vectors
# of the same length to the word that is nearest to them.

NULL_QUANTILE = 0.05
_SEED = [0, 20240611]  # of the null


@dataclass(frozen=True)
class TokenWords:
    """The words nearest to one context vector."""

    index: tuple[int, ...]  # where it stands among the leading axes of the context, e.g. (token,) or (class, token)
    words: tuple[tuple[str, float], ...]  # with their Euclidean distances, the nearest first
    null_low: float  # the 5 % quantile of the distance from a random vector of equal norm to its nearest word


@torch.no_grad()
def nearest_words(
    context: Tensor, table: Tensor, words: Sequence[str], k: int = 5, draws: int = 1000
) -> list[TokenWords]:
    """The k words nearest to each context vector, in row-major order of the leading axes.

    Of vectors that are in truth random, about one in twenty is not told as noise; as the null is drawn too, 3 to 6 %
    with 1000 draws on the phantom's words.

    Args:
        context: (..., n, W), of the backbone that the prompt was trained with.
        table: (N, W), the embeddings of the words, at least one; see `Backbone.vocabulary`.
        words: N of them.
        k: at least 1; fewer are given where there are fewer words.
        draws: how many random vectors make the null. Their directions are the same for all context vectors.
    """
    rows = table.float().to(context.device)
    # From NumPy: the same seed in PyTorch may have drawn the table or the context.
    drawn = np.random.default_rng(_SEED).standard_normal((draws, rows.shape[1]), dtype=np.float32)
    directions = unit(torch.from_numpy(drawn)).to(rows.device)  # (draws, W)
    products, squares = directions @ rows.T, rows.square().sum(1)  # (draws, N), (N,)
    found = []
    places = itertools.product(*map(range, context.shape[:-1]))
    for index, point in zip(places, context.flatten(0, -2).float(), strict=True):
        near = (point - rows).norm(dim=-1)  # from differences, so that equal vectors are at exactly 0
        order = near.argsort(stable=True)[:k].tolist()
        # |r u - w|^2 less r^2, which moves no minimum; the products serve all norms r.
        norm = point.norm()
        closest = rows[(squares - 2 * norm * products).argmin(1)]
        null = float(torch.quantile((norm * directions - closest).norm(dim=-1), NULL_QUANTILE))
        named = tuple((words[j], float(near[j])) for j in order)
        found.append(TokenWords(index, named, null))
    return found


# Sentences: each says one thing, and the number that it rests on.

SHOWN = 3  # concepts that carry a class, and that do not, that are named
NO_SUM = (
    "This decision is no sum over concepts: each figure above is what changes without that concept alone, and together "
    "they need not add up to the logit."
)


def image_sentences(predicted: str, probability: float, changes: Mapping[str, float]) -> list[str]:
    """What carries the predicted class in an image, and what does not, the strongest first, `SHOWN` of each at most.

    That a class fits better without a concept is no finding against it: the image shows others of its concepts.

    Args:
        predicted: the class.
        probability: in [0, 1].
        changes: by concept, the class's logit with it less that without it.
    """
    sentences = [f"The model sees {predicted} with a probability of {probability:.0%}."]
    ordered = sorted(changes.items(), key=lambda pair: -pair[1])
    for text, value in [pair for pair in ordered if pair[1] > 0][:SHOWN]:
        sentences.append(f"{text} carries {predicted}: without it the logit falls by {value:.2f}.")
    for text, value in [pair for pair in reversed(ordered) if pair[1] < 0][:SHOWN]:
        sentences.append(f"{text} does not carry {predicted} here: without it the logit rises by {-value:.2f}.")
    if len(sentences) == 1:
        sentences.append(f"No concept of the bank moves the logit of {predicted}.")
    return [*sentences, NO_SUM]


def class_sentences(
    name: str,
    explained: float | None,
    own_share: float | None,
    strongest: Sequence[tuple[str, float]],
    noise: tuple[int, int] | None = None,
    noun: str = "prompt",
) -> list[str]:
    """What the prompt of a class says, or whatever else the method compares images with.

    Args:
        name: of the class.
        explained: share of what sets the prompt apart that a sum of concepts accounts for, in [0, 1].
        own_share: share of the weights on the class's own concepts.
        strongest: concepts with their weights, the largest first.
        noise: of how many context vectors the nearest word is no nearer than chance, and how many there are.
        noun: names what is spoken of.
    """
    sentences = []
    if explained is not None:
        sentences.append(
            f"A sum of the bank's concepts accounts for {explained:.0%} of what sets the {noun} of {name} apart."
        )
    if own_share is not None:
        sentences.append(f"{own_share:.0%} of its weights lie on the concepts that the bank lists for {name}.")
    if strongest:
        listed = ", ".join(f"{text} ({weight:.2f})" for text, weight in strongest)
        sentences.append(f"Its largest weights: {listed}.")
    if noise is not None:
        sentences.append(f"Of its {noise[1]} context vectors, {noise[0]} are no nearer to a word than random ones.")
    return sentences
