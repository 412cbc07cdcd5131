"""ProGrad: no step against what CLIP knows (Zhu et al., ICCV 2023, arXiv 2205.14865)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import distillation, template_features
from xcoop.trainers.coop import DEFAULTS as COOP
from xcoop.trainers.coop import CoOpModel
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number

DEFAULTS = CfgNode(
    {
        **COOP,
        "CTX_INIT": "a photo of a",
        "LAMBDA": 1.0,  # share of the conflict that is taken out of a step, in [0, 1]
        "T": 1.0,  # temperature of the divergence from zero-shot CLIP
        "TEMPLATE": "",  # zero-shot CLIP's sentence, with {} for the class name; "" is the dataset's `template`
    }
)


def without_conflict(task: Sequence[Tensor], general: Sequence[Tensor], share: float = 1.0) -> list[Tensor]:
    """The task's gradient, less its part against the general one.

        g = g_task                                                if <g_task, g_general> >= 0
        g = g_task - share <g_task, g_general> / |g_general|^2 g_general   otherwise

    Source: equation 4 of the paper, with the tensors of one gradient taken together. The size of `general` doesn't
    matter, and a common factor of both (a gradient scaler's) stays.

    Args:
        task: the gradient tensors of the loss that is minimised.
        general: those of the loss that must not rise, of the same shapes.
        share: lambda; at 1 the result is orthogonal to `general` wherever they were in conflict.
    """
    product = torch.stack([(ours * theirs).sum() for ours, theirs in zip(task, general, strict=True)]).sum()
    size = torch.stack([theirs.square().sum() for theirs in general]).sum()
    factor = share * torch.where(product < 0, product / size, torch.zeros_like(product))
    return [ours - factor * theirs for ours, theirs in zip(task, general, strict=True)]


class ProGradModel(CoOpModel):
    """CoOp, with the gradient of its cross entropy kept from rising the divergence from zero-shot CLIP.

    The general direction is the gradient of T^2 KL(zero-shot CLIP || prompts), shown in the log as `kl`. Departures
    from the released code (BeierZhu/Prompt-align, ProGrad.public/trainers/prograd.py): words of CTX_INIT make a
    context of their own length (the release fills up to N_CTX with zero vectors), zero-shot CLIP speaks the dataset's
    sentence, the divergence lacks a constant (the teacher's entropy), and AMP works (the release's branch for it stops
    with an error).
    """

    reported = ("acc", "kl")
    hand_written: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode, template: str) -> None:
        super().__init__(backbone, classnames, settings)
        self.share, self.softness = settings.LAMBDA, settings.T
        features = template_features(backbone, [template], classnames)[:, 0]  # (C, D)
        self.register_buffer("hand_written", features, persistent=False)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, which is minimised, and the divergence, which is not to rise."""
        logits = self.logits(features)
        teacher = self.compare(features, self.hand_written)
        return classification(logits, labels) | {"kl": distillation(logits, teacher, self.softness)}

    def backward(self, loss: Tensor, parts: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """The gradient of the cross entropy, without what is in conflict with the divergence's."""
        trained = list(self.trained_parameters().values())
        backward(parts["kl"], retain_graph=True)
        general = _taken(trained)
        backward(loss)
        for parameter, gradient in zip(trained, without_conflict(_taken(trained), general, self.share), strict=True):
            parameter.grad = gradient


def _taken(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of some parameters, which have none afterwards."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


@register_trainer("PROGRAD", DEFAULTS, {"LAMBDA": number(0, 1), "T": number(above=0)})
class ProGrad(PromptTrainer):
    """Trains ProGrad's contexts."""

    side_by_side = True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        settings = cfg.TRAINER.PROGRAD
        return ProGradModel(backbone, task.classnames, settings, settings.TEMPLATE or task.template)
