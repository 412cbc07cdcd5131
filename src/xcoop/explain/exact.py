"""A decision as a sum: what each concept adds to a logit in an image, and whether the image shows it.

Where a logit is an exact sum over terms that each tell a concept (`PromptModel.prompt_sum`), prompts of XCoOp or
weighted concepts of a bottleneck, nothing has to be left out to know what a concept does. Each contribution is measured
against the training images:

    l_bc = sum over the terms m of class c of v_bm + base_c
    v_bm = parts_bm - mean_m,    base_c = offset_c + sum over the same terms of mean_m

mean_m is the term's mean contribution in the training images, every class counting alike. So v says what it adds to the
logit that an image is not a typical training image in this concept, and the base is the logit of an image that is
typical in everything. Whether a concept is *seen* is a question of its own (`Seeing`): a concept that a class may show
and the image lacks is "not seen"; that is no finding against the class.

Symbols: B images, C classes, J concepts, M terms.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.bank import Concept
from xcoop.concepts.sentences import unrelated_to
from xcoop.explain.concepts import Floats, HeldConcepts
from xcoop.explain.content import SURE, chance
from xcoop.explain.readings import SAME, UNRELATED
from xcoop.methods.model import PromptModel, PromptSum

TINY = 1e-6  # logits: a standard deviation below it is rounding


class ExactConcepts(HeldConcepts):
    """The concepts of a model whose logits are exact sums over terms that tell them.

    Args:
        model: one that `sums_concepts`.
        texts: the J concepts that are asked for; terms that tell others count in `parts` and `logits` alone.
        bank: of the model's classes, for the controls.
    """

    def __init__(self, model: PromptModel, texts: Sequence[str], bank: ConceptBank) -> None:
        self.model, self.texts, self.bank = model, tuple(texts), bank
        self.sum_of: Callable[[ImageFeatures], PromptSum] = model.prompt_sum
        self.labels = torch.tensor([one.label for one in model.told], dtype=torch.long)  # (M,)
        self.places = {m: self.texts.index(one.concept) for m, one in enumerate(model.told) if one.concept in texts}
        held = [{j for m, j in self.places.items() if self.labels[m] == c} for c in range(len(model.classnames))]
        self.held = [sorted(own) for own in held]

    @torch.no_grad()
    def parts(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        """v, (B, M), and the base of each class, (C,), in 64 bit: with the base, a class's v sum to its logit."""
        found = self.sum_of(features)
        usual = self.model.usual
        mean = torch.zeros_like(found.parts[0]) if usual is None else usual.mean
        base = found.offsets.double().index_add(0, self.labels.to(mean.device), mean.double())
        return found.parts.double() - mean.double(), base

    def logits(self, features: ImageFeatures, label: int, kept: Collection[int]) -> Tensor:
        """The model's, where what a class does not keep contributes as in a typical training image."""
        moved, base = self.parts(features)
        gone = [m for m, j in self.places.items() if self.labels[m] == label and j not in kept]
        moved[:, gone] = 0
        logits = base.expand(len(moved), -1).index_add(1, self.labels.to(base.device), moved)
        return logits.to(features.pooled.dtype)

    def effects(
        self, features: ImageFeatures, labels: Sequence[int], chosen: Sequence[frozenset[int]]
    ) -> dict[str, Floats]:
        """See the base class; it asks many times, so prompts are encoded once."""
        as_it_is = copy.copy(self)
        as_it_is.sum_of = self.model.fixed_sum()
        return super(ExactConcepts, as_it_is).effects(features, labels, chosen)

    @torch.no_grad()
    def contributions(self, features: ImageFeatures) -> Tensor:
        """V of each concept in each class that has a term for it, (B, C, J); 0 elsewhere."""
        return self._by_class(self.parts(features)[0]).to(features.pooled.dtype)

    @torch.no_grad()
    def controls(self, features: ImageFeatures, seed: int = 0) -> dict[str, Tensor]:
        """The model's sentences, and as many unrelated phrases in their place, both against their mean in these images.

        No training image has seen the phrases, so that both are measured alike. A bottleneck has no sentences.
        """
        if not self.model.holds_concepts:
            return {}
        drawn = iter(random.Random(f"{seed}|control").sample(unrelated_to(self.bank), len(self.places)))
        source = next(iter(self.bank.sources), "")
        classes = {
            name: tuple(Concept(next(drawn), source) for _ in own)
            for name, own in zip(self.bank.classes, self.held, strict=True)
        }
        other = self.model.with_bank(replace(self.bank, classes=classes))
        parts = features.pooled.new_zeros(len(features.pooled), len(self.labels))
        seats = [m for label in range(len(self.held)) for m in self._seats(label)]  # in the order of the phrases
        phrases = [m for m, one in enumerate(other.told) if one.concept]
        parts[:, seats] = other.prompt_sum(features).parts[:, phrases]
        found = {SAME: self.sum_of(features).parts, UNRELATED: parts}
        return {name: self._by_class(given - given.mean(0)) for name, given in found.items()}

    @torch.no_grad()
    def deviations(self, features: ImageFeatures) -> Tensor | None:
        """How many standard deviations of the training images each concept lies above their mean, (B, J).

        The mean over the classes that have a term for it; NaN without any, None if no training image was seen.
        """
        usual = self.model.usual
        if usual is None or not usual.deviation.any():
            return None
        width = usual.deviation.double()
        moved = self.parts(features)[0] / torch.where(width.abs() < TINY, TINY, width)
        counts = torch.tensor([[j in own for j in range(len(self.texts))] for own in self.held]).sum(0)
        return self._by_class(moved).sum(1) / counts.to(moved)

    @property
    def falling(self) -> set[tuple[int, str]]:
        """Class and concept of the terms that fall the more an image shows of the concept: those of negative weight."""
        usual = self.model.usual
        below = [] if usual is None else (usual.deviation < 0).nonzero()[:, 0].tolist()
        return {tuple(self.model.told[m]) for m in below}

    def _seats(self, label: int) -> list[int]:
        """The terms of a class, in the order of the concepts that it holds."""
        own = {j: m for m, j in self.places.items() if self.labels[m] == label}
        return [own[j] for j in self.held[label]]

    def _by_class(self, values: Tensor) -> Tensor:
        """Values of terms, (B, M), where their classes and concepts are: (B, C, J)."""
        found = values.new_zeros(len(values), len(self.held), len(self.texts))
        for m, j in self.places.items():
            found[:, int(self.labels[m]), j] = values[:, m]
        return found


# Whether an image shows a concept.

SEEN, NOT_SEEN, UNDECIDED = "seen", "not seen", "undecided"

CLEAR = 0.5  # without labels: standard deviations of the training images from their mean
SLOPE_VARIANCE = 30.0  # of the prior on the slope of a calibration: chosen on validation images, benchmarks/seen.py


class Seen(NamedTuple):
    """Whether an image shows a concept.

    Attributes:
        word: `seen`, `not seen` or `undecided`.
        probability: that it does, in [0, 1], from labelled training images; None without.
    """

    word: str
    probability: float | None = None

    def __str__(self) -> str:
        return self.word if self.probability is None else f"{self.word} ({chance(self.probability)})"


@dataclass(frozen=True)
class Seeing:
    """Probabilities of concepts from scores, one logistic curve each (Platt, 1999), fitted to labelled images.

    Attributes:
        slopes: (J,); NaN where the labelled images do not have the concept both ways.
        offsets: (J,).
        shares: how many of the labelled images show the concept, (J,), in [0, 1]; NaN where no label is known.
    """

    slopes: Floats
    offsets: Floats
    shares: Floats

    @classmethod
    def fit(cls, scores: Floats, labels: Floats, variance: float = SLOPE_VARIANCE) -> Seeing:
        """By maximum a posteriori: the slope has a normal prior about 0, the offset none.

        Args:
            scores: of N images, (N, J).
            labels: 1 shown, 0 not, NaN unknown, (N, J).
            variance: of the prior on the slope of a score at variance one.
        """
        from sklearn.linear_model import LogisticRegression

        J = scores.shape[1]
        slopes, offsets, shares = np.full(J, np.nan), np.full(J, np.nan), np.full(J, np.nan)
        for j in range(J):
            known = ~np.isnan(labels[:, j])
            x, y = scores[known, j : j + 1], labels[known, j]
            if known.any():
                shares[j] = y.mean()
            if not 0 < shares[j] < 1 or not x.std():
                continue
            centre, width = x.mean(), x.std()
            curve = LogisticRegression(C=variance, max_iter=1000).fit((x - centre) / width, y)
            slopes[j] = curve.coef_[0, 0] / width
            offsets[j] = curve.intercept_[0] - slopes[j] * centre
        return cls(slopes, offsets, shares)

    def probabilities(self, scores: Floats) -> Floats:
        """Of the scores of B images, (B, J); NaN where there is no curve."""
        from scipy.special import expit

        found: Floats = expit(scores * self.slopes + self.offsets)
        return found


def in_words(probability: float, deviation: float) -> Seen | None:
    """By the probability where it is known, else by the deviation from typical training images; None without both.

    Args:
        probability: in [0, 1], or NaN.
        deviation: in standard deviations, or NaN.
    """
    if not np.isnan(probability):
        word = SEEN if probability >= SURE else NOT_SEEN if probability <= 1 - SURE else UNDECIDED
        return Seen(word, probability)
    if np.isnan(deviation):
        return None
    return Seen(SEEN if deviation >= CLEAR else NOT_SEEN if deviation <= -CLEAR else UNDECIDED)


# Sentences.

SHOWN = 3  # concepts of a class that are named


@dataclass(frozen=True)
class Decision:
    """An image's decision as sums.

    Attributes:
        predicted: the class.
        probabilities: by class, in [0, 1].
        parts: by class and concept, what the concept adds to the logit; "" for a prompt without a concept.
        base: by class.
        seen: by concept, as far as it is known.
        falling: class and concept of what lowers a logit by being seen, as weights of a bottleneck may.
    """

    predicted: str
    probabilities: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float]]
    base: Mapping[str, float]
    seen: Mapping[str, Seen]
    falling: Collection[tuple[str, str]] = ()

    def logit(self, name: str) -> float:
        """Of a class."""
        return self.base[name] + sum(self.parts[name].values())

    @property
    def rival(self) -> str | None:
        """The class with the second largest logit; None if there is one class alone."""
        others = [name for name in self.base if name != self.predicted]
        return max(others, key=self.logit) if others else None

    def named(self) -> list[tuple[str, str]]:
        """Class and concept of what the text names: what moves the logits most; of the rival, only what may be seen."""
        found = [(self.predicted, text) for text in self._strongest(self.predicted)]
        if self.rival is not None:
            own = self.parts[self.predicted]
            found += [
                (self.rival, text)
                for text in self._strongest(self.rival)
                if text not in own and (text not in self.seen or self.seen[text].word == SEEN)
            ]
        return found

    def _strongest(self, name: str) -> list[str]:
        parts = self.parts[name]
        return sorted((text for text in parts if text), key=lambda text: -abs(parts[text]))[:SHOWN]

    def sentences(self) -> list[str]:
        """What was seen in the image, and how it adds up to the decision."""
        predicted, rival = self.predicted, self.rival
        said = [f"The model sees {predicted} with a probability of {self.probabilities[predicted]:.0%}."]
        for name, text in self.named():
            falls = (name, text) in self.falling
            line = _said(text, name, self.parts[name][text], self.seen.get(text), falls)
            said.append(line if name == predicted else f"Of {name}: {line}")
        if rival is not None:
            logit = self.logit(predicted)
            said.append(
                f"In all, the logit of {predicted} is {logit:.2f}, {logit - self.logit(rival):.2f} above that of "
                f"{rival}; of a typical training image it would be {self.base[predicted]:.2f}."
            )
        return said


def _said(text: str, name: str, value: float, seen: Seen | None, falls: bool) -> str:
    """A concept, whether it is seen, and what that does to the logit of a class."""
    adds = f"adds {value:.2f} to" if value >= 0 else f"takes {-value:.2f} from"
    if seen is None:
        return f"{text}: compared with a typical training image, it {adds} the logit of {name}."
    if seen.word == UNDECIDED or not value:
        return f"{text}: {seen}; it {adds} the logit of {name}."
    if (value > 0) != ((seen.word == SEEN) != falls):
        return f"{text}: {seen}; even so, its part {adds} the logit of {name}."
    if seen.word == SEEN:
        return f"{text}: {seen}; it {adds} the logit of {name}{', where its weight is negative' if falls else ''}."
    change = f"{abs(value):.2f} {'higher' if value > 0 else 'lower'}"
    return f"{text}: {seen}; the logit of {name} is {change} than if it were as in a typical image."
