"""LP++: a linear probe that blends image and text (Huang et al., CVPR 2024, arXiv 2404.02285).

    logits_ik = f_i^T (w_k + alpha_k t_k) + b_k        f_i, t_k unit; minimised: mean cross entropy over w, alpha, b

The arithmetic is that of the released code (FereshteShakeri/FewShot-CLIP-Strong-Baseline, methods/linear_probe_p2.py
at f81054f), on the whole batch:

    w, b: gradient descent with momentum 0.9 and the step 4 N / lambda_max(F^T F), in each of ITERATIONS steps
    alpha: after every ALPHA_EVERY of them, minus N / (4 max_k sum_i (f_i^T t_k)^2) times the *sum* of its gradients
        in all steps so far (there, they are never set to zero)

w starts at each class's *sum* of features, b at a linear layer's random numbers, alpha at one number: INIT_SCALE times
the mean over the classes of t_k^T (class mean). Kept is the iterate that classifies most validation images right, of
equals the last; without a validation split it is the last of all.

Differences: training images are not augmented; validation images are min(shots, 4) a class, as everywhere here (there,
as many as shots); and alpha's start supposes that images and their texts have a positive cosine, as in OpenAI's
models: where it is not, alpha would be negative and the text read the wrong way round, so it starts at CLIP's scale.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import ClassVector, PromptModel, Task
from xcoop.trainers.zsclip import TEXT, FixedTextModel, FixedTextTrainer, fixed_text
from xcoop.utils.rules import number, whole

logger = logging.getLogger(__name__)

DEFAULTS = CfgNode(
    {
        **TEXT,
        "INIT_SCALE": 250.0,  # of alpha at the start
        "ITERATIONS": 300,
        "ALPHA_EVERY": 10,
    }
)
RULES = {"INIT_SCALE": number(), "ITERATIONS": whole(0), "ALPHA_EVERY": whole(1)}
MOMENTUM = 0.9


class LPPlusPlusModel(FixedTextModel):
    """Visual prototypes w, biases b, blending weights alpha; unfitted, CLIP's own logits (w, b = 0, alpha = scale)."""

    fitted = ("w", "alpha", "bias")
    class_vector = ClassVector(
        "class vector",
        learned=True,
        about="This method learns no prompt: the vector of a class is the feature of fixed sentences, scaled, plus one "
        "that was fitted to image features.",
    )
    w: Tensor
    alpha: Tensor
    bias: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], text: Tensor, settings: CfgNode) -> None:
        super().__init__(backbone, classnames, unit(text))
        self.settings = settings
        self.register_buffer("w", torch.zeros_like(text), persistent=False)
        self.register_buffer("alpha", self.scale.detach().expand(len(classnames)).clone(), persistent=False)
        self.register_buffer("bias", torch.zeros_like(self.alpha), persistent=False)

    def text_features(self) -> Tensor:
        """What images are compared with, w_k + alpha_k t_k: (C, D)."""
        return self.w + self.alpha[:, None] * self.text

    def temperature(self, features: ImageFeatures) -> Tensor:
        """The lengths of the blended class vectors, (1, C)."""
        return self.text_features().norm(dim=1)[None]

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the blended classifier, (B, C)."""
        return unit(features.pooled) @ self.text_features().T + self.bias

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Block descent from the class sums; see above."""
        images, target = unit(training.features.pooled), F.one_hot(training.labels, len(self.classnames))
        self.start(images, target.to(images))
        step_w, step_alpha = step_sizes(images, self.text)
        speed_w, speed_b, pull = torch.zeros_like(self.w), torch.zeros_like(self.bias), torch.zeros_like(self.alpha)
        most, kept = -1, self.trained_state()
        for iteration in range(1, self.settings.ITERATIONS + 1):
            excess = (self.logits(training.features).softmax(-1) - target) / len(images)  # (N, C)
            speed_w = MOMENTUM * speed_w + excess.T @ images
            speed_b = MOMENTUM * speed_b + excess.sum(0)
            pull += (excess * (images @ self.text.T)).sum(0)
            self.w -= step_w * speed_w
            self.bias -= step_w * speed_b
            if iteration % self.settings.ALPHA_EVERY == 0:
                self.alpha -= step_alpha * pull
            if validation is not None:
                right = int((self.logits(validation.features).argmax(-1) == validation.labels).sum())
                if right >= most:
                    most, kept = right, self.trained_state()
        if most >= 0:
            self.load_trained_state(kept)
        loss = F.cross_entropy(self.logits(training.features), training.labels)
        logger.info("LP++: loss %.4f; step sizes %.3g (w, b), %.3g (alpha)", loss, step_w, step_alpha)

    def start(self, images: Tensor, target: Tensor) -> None:
        """Sets w, b and alpha to where the descent begins.

        Args:
            images: unit, (N, D).
            target: one-hot labels, (N, C).
        """
        self.w = target.T @ images
        self.bias.uniform_(-1, 1).mul_(images.shape[1] ** -0.5)  # as `torch.nn.Linear` draws it
        cosine = ((self.w * self.text).sum(-1) / target.sum(0).clamp(min=1)).mean()
        self.alpha.copy_(self.settings.INIT_SCALE * cosine if cosine > 0 else self.scale)

    def load_trained_state(self, state: Mapping[str, Tensor], source: str = "the given state") -> None:
        """See `PromptModel`; a checkpoint from before there was a bias has none."""
        super().load_trained_state({"bias": torch.zeros_like(self.bias), **state}, source)


def step_sizes(images: Tensor, text: Tensor) -> tuple[float, float]:
    """The steps of w (and b) and of alpha, from unit features (N, D) and (C, D)."""
    largest = float(torch.linalg.eigvalsh((images.T @ images).double())[-1])
    return 4 * len(images) / largest, len(images) / (4 * float((images @ text.T).square().sum(0).max()))


@register_trainer("LPPLUSPLUS", DEFAULTS, RULES)
class LPPlusPlus(FixedTextTrainer):
    """Fits LP++; no epochs."""

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: a prototype a class."""
        return True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        settings = cfg.TRAINER.LPPLUSPLUS
        return LPPlusPlusModel(backbone, task.classnames, fixed_text(backbone, task, settings), settings)
