"""PCBM: a post-hoc concept bottleneck, sparse linear weights on a bank's concepts (Yuksekgonul et al., ICLR 2023).

arXiv 2205.15480. An image is described by J scores, how far its feature f goes towards the text of each concept, and a
sparse linear classifier reads nothing else:

    s_j     = f . v_j,   v_j the unit text feature of concept j           (section 2, concepts from a multimodal model)
    logit_c = sum_j w_cj s_j + b_c                                         so every logit is a sum over concepts
    minimise over w, b:   1/N sum_i ce(logit(i), y_i) + lambda sum_cj ( a |w_cj| + (1 - a)/2 w_cj^2 )

The released code (mertyg/post-hoc-cbm at c0ba2b7) divides f . v by |v|, once where v is made and once in the score
(learn_concepts_multimodal.py:99, models/pcbm_utils.py:30), leaves f as it comes out of the tower, and has a = 0.99
(train_pcbm.py:24); the paper tunes lambda on images that are held out of the training. Here they are the validation
split: lambda goes down from the value at which the first weight appears, by two decades in four steps each, and the
one that classifies most validation images right is taken; equally accurate ones are told apart by their cross entropy.
Without such a split LAMBDA holds, the released code's setting for CUB.

Departures: concepts are those of a concept bank (there, of ConceptNet), each once, whichever classes list it: which
class a concept belongs to is never used, so KNOWLEDGE shuffled changes nothing here. The loss is the paper's cross
entropy over all classes (in the code, one class against the rest at a time). The minimum itself is computed, by
L-BFGS-B (there, stochastic gradient descent, which on a few images stops far from it and never at zero weights). The
hybrid PCBM-h, which adds a classifier of the whole feature, is left out: its logits are no sums over concepts.
Symbols: B and N images, C classes, J concepts, D joint width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import KNOWLEDGE, bank_or_control, fill
from xcoop.config.plugins import register_trainer
from xcoop.methods.model import (
    ClassVector,
    PromptModel,
    PromptSum,
    Task,
    Told,
    Usual,
    best_setting,
    usual_values,
    validation_scores,
)
from xcoop.methods.prompts import sentence_features
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import Rule, number, one_of

logger = logging.getLogger(__name__)

BOTTLENECK = {
    "KNOWLEDGE": "bank",  # bank; or a control: shuffled (other classes' concepts), random (unrelated ones), none
}
DEFAULTS = CfgNode(
    {
        **BOTTLENECK,
        "LAMBDA": 2e-4,  # strength of the penalty
        "SEARCH_LAMBDA": True,  # choose it on the validation split, if there is one
        "L1_RATIO": 0.99,  # a: 1 is the lasso; towards 0 it is ridge
    }
)
RULES = {"LAMBDA": number(above=0), "L1_RATIO": number(above=0, high=1)}
DECADES, STEPS = 2, 4  # the path of lambda, and its steps a decade
Floats = NDArray[np.float64]


# The bottleneck: what every method has that decides by concepts alone.


class BankConcepts(NamedTuple):
    """The different concepts of a bank, in its order: J texts, and which class lists which, (C, J) bool."""

    texts: tuple[str, ...]
    listed: Tensor


def bank_concepts(bank: ConceptBank) -> BankConcepts:
    """Each concept once; a class without any (KNOWLEDGE none) is there with its plain sentence."""
    lists = [bank.texts(name) or [fill(bank.template, name.replace("_", " "), [])] for name in bank.classes]
    texts = tuple(dict.fromkeys(text for own in lists for text in own))
    return BankConcepts(texts, torch.tensor([[text in own for text in texts] for own in lists]))


class ConceptBottleneck(PromptModel, ABC):
    """Logits that are sums over concepts; a subclass says with which `concept_weights` and `offset`.

    Args:
        backbone: frozen.
        classnames: in the order of the labels.
        bank: of these classes.
        raw: text features as they come out of the tower, instead of unit.

    Attributes:
        typical: the mean score of each concept in the training images, every class counting alike, (J,).
        deviation: the standard deviation of the same, (J,).
    """

    sums_concepts = True
    fitted = kept = ("typical", "deviation")  # what explanations measure an image against
    vectors: Tensor
    typical: Tensor
    deviation: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, raw: bool = False) -> None:
        super().__init__(backbone, classnames)
        self.concepts = bank_concepts(bank)
        vectors = sentence_features(backbone, [[text] for text in self.concepts.texts], raw)[:, 0]
        self.register_buffer("vectors", vectors, persistent=False)  # (J, D)
        for name in ConceptBottleneck.kept:
            self.register_buffer(name, vectors.new_zeros(len(vectors), dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Keeps what training images show, against which explanations measure others; a subclass may fit more."""
        found = usual_values(self.scores(training.features), training.labels)
        self.typical.copy_(found.mean)
        self.deviation.copy_(found.deviation)

    @abstractmethod
    def concept_weights(self) -> Tensor:
        """How much each concept counts for each class, (C, J)."""

    def offset(self) -> Tensor:
        """What a class has before any concept is looked at, (C,)."""
        return self.vectors.new_zeros(len(self.classnames))

    def scores(self, features: ImageFeatures) -> Tensor:
        """How strongly images show the concepts, (B, J)."""
        return self.compared(features) @ self.vectors.T

    def contributions(self, features: ImageFeatures) -> Tensor:
        """What each concept adds to each logit, (B, C, J): with the offset, their sum is the logit."""
        return self.scores(features)[:, None] * self.concept_weights()

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the weighted scores, (B, C)."""
        return self.scores(features) @ self.concept_weights().T + self.offset()

    # The same sum as explanations take it: one term a class and concept, those without a weight left out.

    @property
    def told(self) -> list[Told]:
        """Class and concept of each term."""
        return [Told(c, self.concepts.texts[j]) for c, j in self.concept_weights().nonzero().tolist()]

    def prompt_sum(self, features: ImageFeatures) -> PromptSum:
        """The weighted scores, (B, M), and the offsets, (C,)."""
        return PromptSum(self.contributions(features)[:, self.concept_weights() != 0], self.offset())

    @property
    def usual(self) -> Usual:
        """Of the training images; zeros before any were seen."""
        weights = self.concept_weights()
        return Usual(*((weights * scores)[weights != 0] for scores in (self.typical, self.deviation)))

    # And as a comparison of vectors.

    def text_features(self) -> Tensor:
        """The classes as vectors, (C, D): each a weighted sum of the concepts' features."""
        return self.concept_weights() @ self.vectors

    def temperature(self, features: ImageFeatures) -> Tensor:
        """The lengths of image feature and class vectors, (B, C)."""
        return self.compared(features).norm(dim=1)[:, None] * self.text_features().norm(dim=1)


class BottleneckTrainer(PromptTrainer):
    """Base of the trainers of concept bottlenecks; their nodes have the keys of `BOTTLENECK`."""

    node_rules: ClassVar[dict[str, Rule]] = {**PromptTrainer.node_rules, "KNOWLEDGE": one_of(*KNOWLEDGE)}

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        return True

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: a row of weights a class."""
        return True


# PCBM: the weights are fitted, and most of them are 0.


class PCBMModel(ConceptBottleneck):
    """Sparse weights (C, J) and biases (C,); before they are fitted, all classes are equally probable."""

    fitted = ("weight", "bias", *ConceptBottleneck.kept)
    class_vector = ClassVector(
        "class vector",
        learned=True,
        about="This method learns no prompt: the vector of a class is a sum of the text features of the bank's "
        "concepts, with weights that were fitted to image features; those that were not needed are 0.",
    )
    weight: Tensor
    bias: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode) -> None:
        super().__init__(backbone, classnames, bank)
        self.settings = settings
        self.register_buffer("weight", torch.zeros(len(classnames), len(self.vectors)), persistent=False)
        self.register_buffer("bias", torch.zeros(len(classnames)), persistent=False)

    def concept_weights(self) -> Tensor:
        return self.weight

    def offset(self) -> Tensor:
        return self.bias

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Fits weights and biases, with the lambda that is best on the validation images."""
        super().prepare(training, validation)
        scores = self.scores(training.features).double().cpu().numpy()
        target = np.eye(len(self.classnames))[training.labels.cpu().numpy()]  # (N, C), one-hot
        ratio = float(self.settings.L1_RATIO)
        if validation is None or not self.settings.SEARCH_LAMBDA:
            self._set(*elastic_net(scores, target, float(self.settings.LAMBDA), ratio))
            return
        largest = largest_lambda(scores, target, ratio)
        path = [largest * 10 ** (-step / STEPS) for step in range(1, DECADES * STEPS + 1)]
        fits, quality = [], []
        for strength in path:  # each starts from the one before it
            fits.append(elastic_net(scores, target, strength, ratio, fits[-1] if fits else None))
            self._set(*fits[-1])
            quality.append(validation_scores(self.logits(validation.features)[None], validation.labels))
        best = best_setting(torch.cat(quality))
        self._set(*fits[best])
        logger.info(
            "lambda %.3g: the best of %d on %d validation images; %d of %d weights are not 0",
            path[best], len(path), len(validation.labels), int(self.weight.count_nonzero()), self.weight.numel(),
        )  # fmt: skip

    def _set(self, weight: Floats, bias: Floats) -> None:
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))


def largest_lambda(scores: Floats, target: Floats, ratio: float) -> float:
    """The smallest lambda at which all weights are 0: the largest slope of the loss there, over a.

    Args:
        scores: of the training images, (N, J).
        target: one-hot labels, (N, C).
        ratio: a, in (0, 1].
    """
    slopes = (target - target.mean(0)).T @ (scores - scores.mean(0)) / len(scores)  # (C, J)
    return float(max(np.abs(slopes).max(), np.finfo(np.float64).tiny) / ratio)


def elastic_net(
    scores: Floats, target: Floats, strength: float, ratio: float, start: tuple[Floats, Floats] | None = None
) -> tuple[Floats, Floats]:
    """Weights (C, J) and biases (C,) at the minimum of the formula above; the biases' mean, which is free, is 0.

    A weight is the difference of two numbers that are not negative: so the penalty is smooth, and a weight of 0 is a
    bound that is met exactly.

    Args:
        scores: of the training images, (N, J).
        target: one-hot labels, (N, C).
        strength: lambda > 0.
        ratio: a, in (0, 1].
        start: weights and biases to begin at; zeros without.
    """
    from scipy.optimize import minimize

    (N, J), C = scores.shape, target.shape[1]
    mean = scores.mean(0)
    centred = scores - mean  # biases are not penalised, so that this moves them alone; the problem is better posed
    spread = max(float(np.sqrt(np.square(centred).mean())), np.finfo(np.float64).tiny)
    x = centred / spread  # one scale for all concepts: weights and penalties change with it, the minimum does not

    def objective(theta: Floats) -> tuple[float, Floats]:
        up, down = theta[: 2 * C * J].reshape(2, C, J)
        w = up - down
        logits = x @ w.T + theta[2 * C * J :]  # (N, C)
        logits -= logits.max(1, keepdims=True)
        total = np.exp(logits).sum(1, keepdims=True)
        entropy = (np.log(total)[:, 0] - (logits * target).sum(1)).mean()
        excess = (np.exp(logits) / total - target) / N  # (N, C)
        slope = excess.T @ x + strength * (1 - ratio) / spread**2 * w
        lasso = strength * ratio / spread
        penalty = lasso * (up + down).sum() + strength * (1 - ratio) / (2 * spread**2) * np.square(w).sum()
        gradient = np.concatenate([(lasso + slope).ravel(), (lasso - slope).ravel(), excess.sum(0)])
        return float(entropy + penalty), gradient

    theta = np.zeros(2 * C * J + C)
    if start is not None:
        weight, bias = start[0] * spread, start[1] + start[0] @ mean
        theta = np.concatenate([weight.clip(0).ravel(), (-weight).clip(0).ravel(), bias])
    bounds = [(0, None)] * (2 * C * J) + [(None, None)] * C
    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-7}
    found = minimize(objective, theta, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    up, down = found[: 2 * C * J].reshape(2, C, J)
    weight = (up - down) / spread
    bias = found[2 * C * J :] - weight @ mean
    return weight, bias - bias.mean()


@register_trainer("PCBM", DEFAULTS, RULES)
class PCBM(BottleneckTrainer):
    """Fits a post-hoc concept bottleneck; no epochs."""

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """The model, over the concepts of the bank or of what KNOWLEDGE puts in its place."""
        settings = cfg.TRAINER.PCBM
        bank = bank_or_control(task.bank, settings.KNOWLEDGE, cfg.SEED)
        return PCBMModel(backbone, task.classnames, bank, settings)
