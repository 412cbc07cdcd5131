"""Linear probe: L2-regularised logistic regression on image features (Radford et al., ICML 2021, appendix A.3).

    minimise over W, b:    C sum_i ce(W f_i + b, y_i) + |W|^2 / 2        (L-BFGS, scikit-learn)

C = 1 / lambda is swept as the paper sweeps lambda: seven powers of 100 from 1e-6 to 1e6, then the interval round the
best is halved until there are eight steps a decade; on the validation split only, and the configured C holds where
there is none. Differences: features are those of the joint space (the paper takes the layer before, which not every
backbone gives), and settings that are equally accurate are told apart by their cross entropy.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import ClassVector, PromptModel, Task, best_setting, validation_scores
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, whole

logger = logging.getLogger(__name__)

DEFAULTS = CfgNode(
    {
        "C": 0.316,  # inverse strength of the regularisation; that of CLIP's own example
        "SEARCH_C": True,  # choose C on the validation split, if there is one
        "NORMALIZE": False,  # unit features; else as they come out of the image tower
        "MAX_ITER": 1000,  # of L-BFGS
    }
)
RULES = {"C": number(above=0), "MAX_ITER": whole(1)}
COARSE = tuple(range(-6, 7, 2))  # log10 C
FINEST = 0.125  # of log10 C: eight steps a decade


class LinearProbeModel(PromptModel):
    """A linear classifier (C, D) with bias (C,); before it is fitted, all classes are equally probable."""

    fitted = ("weight", "bias")
    class_vector = ClassVector(
        "class vector",
        learned=True,
        about="This method has neither prompts nor text: the vector of a class is its row of the fitted classifier.",
    )
    weight: Tensor
    bias: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        self.settings = settings
        self.register_buffer("weight", torch.zeros(len(classnames), backbone.embed_dim), persistent=False)
        self.register_buffer("bias", torch.zeros(len(classnames)), persistent=False)

    def text_features(self) -> Tensor:
        """What images are compared with, (C, D): the classifier, in the place of text."""
        return self.weight

    def compared(self, features: ImageFeatures) -> Tensor:
        """What is classified, (B, D)."""
        return unit(features.pooled) if self.settings.NORMALIZE else features.pooled

    def temperature(self, features: ImageFeatures) -> Tensor:
        """The lengths of image feature and class weights, (B, C)."""
        return self.compared(features).norm(dim=1)[:, None] * self.weight.norm(dim=1)

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the classifier, (B, C)."""
        return self.compared(features) @ self.weight.T + self.bias

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Fits the classifier, with the C that is best on the validation images."""
        if validation is None or not self.settings.SEARCH_C:
            self._fit(training, float(self.settings.C))
            return
        found = {exponent: self._score(training, validation, exponent) for exponent in map(float, COARSE)}
        step = 1.0
        while step >= FINEST:
            top = _best(found)
            found |= {e: self._score(training, validation, e) for e in (top - step, top + step) if abs(e) <= 6}
            step /= 2
        logger.info("C 10^%g: the best of %d on %d validation images", _best(found), len(found), len(validation.labels))
        self._fit(training, 10.0 ** _best(found))

    def _score(self, training: LabelledFeatures, validation: LabelledFeatures, exponent: float) -> Tensor:
        """Accuracy and cross entropy on the validation images, (2,)."""
        self._fit(training, 10.0**exponent)
        return validation_scores(self.logits(validation.features)[None], validation.labels)[0]

    def _fit(self, training: LabelledFeatures, C: float) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        x, y = self.compared(training.features).double().cpu().numpy(), training.labels.cpu().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weakly regularised fits of a sweep; MAX_ITER is told
            fit = LogisticRegression(C=C, max_iter=self.settings.MAX_ITER).fit(x, y)
        weight, bias = fit.coef_, fit.intercept_
        if len(weight) == 1:  # of two classes, the log-odds of the second: shared evenly
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))


def _best(found: dict[float, Tensor]) -> float:
    """The exponent with the best score; of exact equals the smallest."""
    exponents = sorted(found)
    return exponents[best_setting(torch.stack([found[exponent] for exponent in exponents]))]


@register_trainer("LINEARPROBE", DEFAULTS, RULES)
class LinearProbe(PromptTrainer):
    """Fits a linear probe; no epochs, no text."""

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: a row of weights a class."""
        return True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return LinearProbeModel(backbone, task.classnames, cfg.TRAINER.LINEARPROBE)
