"""CoCoOp: a context that each image shifts (Zhou et al., CVPR 2022, arXiv 2203.05557)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.prompts import PromptLearner, start_context
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import whole

DEFAULTS = CfgNode(
    {
        "N_CTX": 16,  # context tokens
        "CTX_INIT": "",  # words to start from
        "PREC": "fp16",  # fp32, amp, fp16, bf16, auto
        "SEQUENCES": 512,  # prompts (images x classes) encoded at once; more are done in parts, to save memory
    }
)


class CoCoOpModel(PromptModel):
    """One context v and a small network pi: image b sees the prompts of v + pi(f_b).

    The B x C prompts of a batch are encoded together. pi sees frozen image features, so these can be cached.
    """

    uncaptured = ""

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        context = start_context(backbone, settings.CTX_INIT, settings.N_CTX)
        self.prompt_learner = PromptLearner(backbone, classnames, context)
        D, W = backbone.embed_dim, backbone.text_width
        layers = [("linear1", nn.Linear(D, D // 16)), ("relu", nn.ReLU()), ("linear2", nn.Linear(D // 16, W))]
        self.meta_net = nn.Sequential(OrderedDict(layers))
        self.images_at_once = max(1, settings.SEQUENCES // len(classnames))

    def text_features(self) -> Tensor:
        """Features of the prompts before an image shifts them, (C, D)."""
        return self.encode_prompts(*self.prompt_learner())

    def logits(self, features: ImageFeatures) -> Tensor:
        """Each image against its own prompts, (B, C)."""
        images = unit(features.pooled)  # (B, D)
        parts = images.split(self.images_at_once)
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._logits(part) for part in parts])
        # Each part is encoded again in the backward pass, so only one part's activations are held at a time.
        # Nothing is drawn there; to put generators back would mean to read them.
        again = partial(checkpoint, self._logits, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(part) for part in parts])

    def image_text_features(self, features: ImageFeatures) -> Tensor:
        """Each image's own prompts, (B, 1, C, D)."""
        parts = unit(features.pooled).split(self.images_at_once)
        return torch.cat([self._shifted(part) for part in parts])[:, None]

    def _shifted(self, images: Tensor) -> Tensor:
        """Features of the prompts that unit image features (B, D) shift, (B, C, D)."""
        shift = self.meta_net(images)  # (B, W)
        context = self.prompt_learner.ctx + shift[:, None, None]  # (B, 1, n, W)
        return self.encode_prompts(*self.prompt_learner.assemble(context))

    def _logits(self, images: Tensor) -> Tensor:
        return self.scale * torch.einsum("bd,bcd->bc", images, unit(self._shifted(images)))


@register_trainer("COCOOP", DEFAULTS, {"SEQUENCES": whole(1)})
class CoCoOp(PromptTrainer):
    """Trains CoCoOp's context and its network."""

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return CoCoOpModel(backbone, task.classnames, cfg.TRAINER.COCOOP)
