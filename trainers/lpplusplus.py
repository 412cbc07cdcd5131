"""LP++: a linear probe that blends image and text (Huang et al., CVPR 2024, arXiv 2404.02285).

    logits_ik = f_i^T (w_k + alpha_k t_k)        f_i, t_k unit; minimised: mean cross entropy over w (C, D), alpha (C,)

Full-batch descent on the two blocks in turn, with step sizes from upper bounds of the curvature: since the softmax's
Hessian diag(p) - p p^T <= I / 2,

    step_w = 2 N / lambda_max(F^T F)        step_alpha = 2 N / max_k sum_i (f_i^T t_k)^2

so no step increases the loss, and nothing is searched on validation images. w starts at the class means, alpha at one
number: INIT_SCALE times the mean over the classes of t_k^T (class mean). ITERATIONS steps of w; after every
ALPHA_EVERY of them one of alpha.

That start supposes that images and their texts have a positive cosine, as in OpenAI's models. Where it is not, alpha
would be negative, and the text read the wrong way round: there it starts at CLIP's own scale.

Differences from the released code: it takes 4 N / lambda_max with momentum 0.9 and N / (4 max_k ...), which is not
sure to descend; adds a random bias; and keeps the iterate that is best on validation images. Here it is the last one.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.alignment import unit
from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.features import LabelledFeatures
from xcoop.fixed_text import TEXT, FixedTextModel, FixedTextTrainer
from xcoop.model import Compared, PromptModel
from xcoop.plugins import register_trainer

logger = logging.getLogger(__name__)

DEFAULTS = CfgNode(
    {
        **TEXT,
        "INIT_SCALE": 250.0,  # of alpha at the start
        "ITERATIONS": 300,
        "ALPHA_EVERY": 10,
    }
)


class LPPlusPlusModel(FixedTextModel):
    """Visual prototypes w and blending weights alpha; before it is fitted, CLIP's own logits (w = 0, alpha = scale)."""

    fitted = ("w", "alpha")
    class_vector = Compared(
        "class vector",
        learned=True,
        about="This method learns no prompt: the vector of a class is the feature of fixed sentences, scaled, plus one "
        "that was fitted to image features.",
    )
    w: Tensor
    alpha: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], text: Tensor, settings: CfgNode) -> None:
        super().__init__(backbone, classnames, unit(text))
        self.settings = settings
        self.register_buffer("w", torch.zeros_like(text), persistent=False)
        self.register_buffer("alpha", self.scale.detach().expand(len(classnames)).clone(), persistent=False)

    def text_features(self) -> Tensor:
        """What images are compared with, w_k + alpha_k t_k: (C, D)."""
        return self.w + self.alpha[:, None] * self.text

    def temperature(self, features: ImageFeatures) -> Tensor:
        """The lengths of the blended class vectors, (1, C)."""
        return self.text_features().norm(dim=1)[None]

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the blended classifier, (B, C)."""
        return unit(features.pooled) @ self.text_features().T

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Block descent from the class means."""
        images, target = unit(training.features.pooled), F.one_hot(training.labels, len(self.classnames))
        self.start(images, target.to(images))
        steps = step_sizes(images, self.text)
        for iteration in range(1, self.settings.ITERATIONS + 1):
            self.step_w(images, target, steps[0])
            if iteration % self.settings.ALPHA_EVERY == 0:
                self.step_alpha(images, target, steps[1])
        loss = F.cross_entropy(self._logits(images), training.labels)
        logger.info("LP++: loss %.4f; step sizes %.3g (w), %.3g (alpha)", loss, *steps)

    def start(self, images: Tensor, target: Tensor) -> None:
        """Sets w to the class means (C, D), and alpha from their cosines with the text; see above."""
        self.w = target.T @ images / target.sum(0)[:, None].clamp(min=1)
        cosine = (self.w * self.text).sum(-1).mean()
        self.alpha.copy_(self.settings.INIT_SCALE * cosine if cosine > 0 else self.scale)

    def step_w(self, images: Tensor, target: Tensor, size: float) -> None:
        """One descent step of w; the gradient is (p - y)^T F / N."""
        self.w -= size * self._excess(images, target).T @ images

    def step_alpha(self, images: Tensor, target: Tensor, size: float) -> None:
        """One descent step of alpha; the gradient is sum_i (p - y)_ik f_i^T t_k / N."""
        self.alpha -= size * (self._excess(images, target) * (images @ self.text.T)).sum(0)

    def _excess(self, images: Tensor, target: Tensor) -> Tensor:
        """(p - y) / N, (N, C)."""
        return (self._logits(images).softmax(-1) - target) / len(images)

    def _logits(self, images: Tensor) -> Tensor:
        return images @ self.text_features().T


def step_sizes(images: Tensor, text: Tensor) -> tuple[float, float]:
    """The steps of w and alpha at which no step increases the loss, from unit features (N, D) and (C, D)."""
    largest = float(torch.linalg.eigvalsh((images.T @ images).double())[-1])
    return 2 * len(images) / largest, 2 * len(images) / float((images @ text.T).square().sum(0).max())


@register_trainer("LPPLUSPLUS", DEFAULTS)
class LPPlusPlus(FixedTextTrainer):
    """Fits LP++; no epochs."""

    node = "LPPLUSPLUS"

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: a prototype a class."""
        return True

    def check_cfg(self, cfg: Any) -> None:
        """Refuses settings that could not work."""
        super().check_cfg(cfg)
        for key, least in (("ITERATIONS", 0), ("ALPHA_EVERY", 1)):
            if cfg.TRAINER.LPPLUSPLUS[key] < least:
                raise ValueError(f"TRAINER.LPPLUSPLUS.{key} is {cfg.TRAINER.LPPLUSPLUS[key]}; at least {least}")

    def build_method(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> PromptModel:
        """Prototypes of zeros beside the fixed sentences."""
        text = self.class_features(backbone, classnames, bank)
        return LPPlusPlusModel(backbone, classnames, text, self.settings)
