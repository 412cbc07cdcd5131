"""PromptSRC: prompts in both towers that stay near the frozen CLIP (Khattak et al., ICCV 2023, arXiv 2307.06948).

    L = CE + w_t mean | t - t0 | + w_i mean | f - f0 | + mean_bc p0 ( log p0 - log p )

t, f: unit text and image features with prompts, p: their probabilities; t0, f0, p0: those of the frozen towers. t0 is
the direction of the mean of the raw text features over sixty of CLIP's templates for ImageNet, and the divergence is
a mean over images and classes, as in the released code (muzairkhattak/PromptSRC, trainers/promptsrc.py at bb95c77).
The prompts in use after training are the mean over the epochs, each epoch with a Gaussian weight: around epoch 45 with
a spread of 5 in the YAML files, which is the release's choice for sets far from what CLIP knows (cars, flowers,
aircraft, textures, satellite images; 30 and 30 for the others). Differences: AMP works (the release's branch for it
stops with an error), and the frozen features are computed in the precision of the run.
Symbols: B images, C classes, m vision prompts, J layers, V width of the image tower, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import IMAGENET, distillation, random_context, template_features
from xcoop.trainers.maple import DeepPromptModel, depth_within, vision_width
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, whole

DEFAULTS = CfgNode(
    {
        "N_CTX_VISION": 4,  # m, prompts of each layer of the image tower
        "N_CTX_TEXT": 4,  # context tokens
        "CTX_INIT": "a photo of a",  # words to start from; "" is random
        "PREC": "fp16",  # fp32, amp, fp16, bf16, auto
        "PROMPT_DEPTH_VISION": 9,  # layers with prompts of their own, at most all; 0 leaves the image tower as it is
        "PROMPT_DEPTH_TEXT": 9,  # the same for the text tower, at least 1
        "TEXT_LOSS_WEIGHT": 25.0,  # w_t
        "IMAGE_LOSS_WEIGHT": 10.0,  # w_i
        "GPA_MEAN": 15.0,  # the epoch, from 1, that has most weight in the mean of the prompts
        "GPA_STD": 1.0,  # in epochs
    }
)
RULES = {
    **dict.fromkeys(("N_CTX_VISION", "N_CTX_TEXT", "PROMPT_DEPTH_TEXT"), whole(1)),
    "PROMPT_DEPTH_VISION": whole(0),
    **dict.fromkeys(("TEXT_LOSS_WEIGHT", "IMAGE_LOSS_WEIGHT"), number(0)),
    "GPA_MEAN": number(),
    "GPA_STD": number(above=0),
}


@dataclass(frozen=True)
class BothFeatures(ImageFeatures):
    """Image features with prompts, and what the frozen tower sees in the same images.

    Attributes:
        frozen: global features without prompts, (B, D), not normalised.
    """

    frozen: Tensor


class PromptSRCModel(DeepPromptModel):
    """Independent prompts in both towers, and the frozen features that they are held to."""

    uncaptured = ""  # of a depth of 0 in the image tower
    frozen_text: Tensor

    def __init__(
        self, backbone: Backbone, classnames: list[str], settings: CfgNode, templates: tuple[str, ...] = IMAGENET
    ) -> None:
        depth = depth_within(settings.PROMPT_DEPTH_TEXT, backbone, "PromptSRC", vision=False)
        super().__init__(backbone, classnames, settings.CTX_INIT, settings.N_CTX_TEXT, depth, "PromptSRC")
        self.settings = settings
        J = depth_within(settings.PROMPT_DEPTH_VISION, backbone, "PromptSRC", text=False)
        V = vision_width(backbone, "PromptSRC")
        self.patch_prompts = nn.Parameter(random_context(J, settings.N_CTX_VISION, V)) if J else None
        self.image_tower_frozen = not J
        ensemble = unit(template_features(backbone, templates, classnames, raw=True).mean(1))
        self.register_buffer("frozen_text", ensemble, persistent=False)  # (C, D), unit

    def vision_prompts(self) -> Tensor | None:
        """(J, m, V); None with a depth of 0."""
        return self.patch_prompts

    def encode_images(self, images: Tensor) -> ImageFeatures:
        """Features with prompts; where gradients are wanted, with the frozen tower's beside them."""
        seen = super().encode_images(images)
        if self.image_tower_frozen or not torch.is_grad_enabled():
            return seen
        with torch.no_grad():
            frozen = self.backbone.encode_image(images).pooled
        return BothFeatures(seen.pooled, seen.patches, frozen)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, and the distances to the frozen towers.

        Raises:
            ValueError: the image tower has prompts, and the features do not say what it sees without them.
        """
        if not (self.image_tower_frozen or isinstance(features, BothFeatures)):
            raise ValueError("PromptSRC's losses need the features that `encode_images` gives with gradients on")
        frozen = unit(features.frozen if isinstance(features, BothFeatures) else features.pooled)
        text = self.text_features()
        logits = self.compare(features, text)
        losses = classification(logits, labels)
        losses["text"] = self.settings.TEXT_LOSS_WEIGHT * F.l1_loss(unit(text.float()), self.frozen_text)
        if not self.image_tower_frozen:
            distance = F.l1_loss(unit(features.pooled.float()), frozen.float())
            losses["image"] = self.settings.IMAGE_LOSS_WEIGHT * distance
        teacher = self.scale * frozen @ self.frozen_text.T
        losses["logits"] = distillation(logits, teacher) / len(self.classnames)  # the mean is over classes, too
        return losses


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """exp( -(t - mean)^2 / (2 std^2) ) for t = 1 to `epochs`, scaled to a sum of 1.

    Args:
        epochs: T, at least 1.
        mean: the epoch with the largest weight, counted from 1; may lie outside of the run.
        std: in epochs, above 0.
    """
    t = torch.arange(1, epochs + 1, dtype=torch.float64)
    weights: list[float] = (-((t - mean) ** 2) / (2 * std**2)).softmax(0).tolist()  # never 0 / 0, however far the mean
    return weights


@register_trainer("PROMPTSRC", DEFAULTS, RULES)
class PromptSRC(PromptTrainer):
    """Trains prompts of both towers, and ends with their mean over the epochs."""

    needs_vit = True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return PromptSRCModel(backbone, task.classnames, cfg.TRAINER.PROMPTSRC)

    def before_train(self) -> None:
        """The mean starts empty, or where a resumed run left it."""
        self.weights = gaussian_weights(self.max_epoch, self.settings.GPA_MEAN, self.settings.GPA_STD)
        self.mean: dict[str, Tensor] = {}
        super().before_train()

    def after_epoch(self) -> None:
        """The mean takes the epoch in; after the last one it is what is tested and saved."""
        for name, tensor in self.model.trained_state().items():
            part = self.weights[self.epoch] * tensor
            self.mean[name] = self.mean[name] + part if name in self.mean else part
        if self.epoch + 1 == self.max_epoch:
            self.model.load_trained_state(self.mean, "the mean over the epochs")
        super().after_epoch()

    def extra_state(self) -> dict[str, Any]:
        """The mean so far, for a resumed run."""
        return {"average": self.mean}

    def restore(self, content: dict[str, Any]) -> None:
        super().restore(content)
        self.mean = dict(content["average"])
