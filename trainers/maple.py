"""MaPLe: text prompts of the first layers, coupled to vision prompts (Khattak et al., CVPR 2023, arXiv 2210.03117).

PromptSRC shares the base of its model: contexts that each of the first layers has anew, and vision prompts.
Symbols: C classes, n context tokens, W text width; m vision prompts, V width of the image tower; J layers.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.backbones.openai import ClipBackbone, require_vit
from xcoop.config.plugins import register_trainer
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.prompts import PromptLearner, random_context, start_context
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import whole

logger = logging.getLogger(__name__)

DEFAULTS = CfgNode(
    {
        "N_CTX": 2,  # n, prompts of each layer, in either tower
        "CTX_INIT": "a photo of a",  # words to start from: the first n are learned, the rest stays; "" is random
        "PREC": "fp16",  # fp32, amp, fp16, bf16, auto
        "PROMPT_DEPTH": 9,  # J, layers with prompts of their own; a smaller tower has them in all its layers
    }
)


class DeepPromptModel(PromptModel, ABC):
    """Base of the models. One states `vision_prompts`.

    The text tower's first layer sees `ctx` (n, W), and the next J - 1 layers `text_prompts` (J - 1, n, W) in its place.

    Args:
        backbone: frozen, with a ViT.
        classnames: in the order of the labels.
        words: CTX_INIT; "" for random vectors. Of more words than n_ctx the first are learned, and the rest stay.
        n_ctx: n; words that are several tokens each may make it larger.
        depth: J, 1 or more.
        method: its name, for messages.

    Raises:
        ValueError: the backbone's image tower is no ViT.
    """

    image_tower_frozen = False
    backbone: ClipBackbone

    def __init__(
        self, backbone: Backbone, classnames: list[str], words: str, n_ctx: int, depth: int, method: str
    ) -> None:
        require_vit(backbone, method)
        super().__init__(backbone, classnames)
        learned, fixed = split_words(words, n_ctx)
        context = start_context(backbone, learned, n_ctx)
        self.prompt_learner = PromptLearner(backbone, [f"{fixed} {name}".strip() for name in classnames], context)
        deep = random_context(depth - 1, *context.shape)
        self.text_prompts = nn.Parameter(deep) if depth > 1 else None

    @abstractmethod
    def vision_prompts(self) -> Tensor | None:
        """(J, m, V); None leaves the image tower as it is."""

    @property
    def image_backbone(self) -> Backbone:
        """The backbone with the vision prompts in it."""
        prompts = self.vision_prompts()
        return self.backbone if prompts is None else self.backbone.with_prompts(prompts)

    def text_features(self) -> Tensor:
        """Features of the prompts, (C, D)."""
        embeddings, end = self.prompt_learner()
        return self.backbone.encode_embeddings(embeddings, end, self.text_prompts)


def split_words(words: str, n_ctx: int) -> tuple[str, str]:
    """The first n_ctx words, which are learned, and the others, which stay before each class name."""
    each = words.replace("_", " ").split()
    return " ".join(each[:n_ctx]), " ".join(each[n_ctx:])


def depth_within(wanted: int, backbone: Backbone, method: str, text: bool = True, vision: bool = True) -> int:
    """How many layers get prompts: as many as wanted, or all of the towers asked for.

    Raises:
        ValueError: the backbone's image tower is no ViT.
    """
    clip = require_vit(backbone, method)
    layers = [len(clip.model.transformer.resblocks)] * text + [len(clip.image_blocks)] * vision
    if wanted > min(layers):
        logger.info("%s: prompts in all %d layers of %s (%d asked for)", method, min(layers), clip.name, wanted)
    return min(wanted, *layers)


def vision_width(backbone: Backbone, method: str) -> int:
    """V, the width of a ViT's tokens."""
    width: int = require_vit(backbone, method).model.visual.conv1.weight.shape[0]
    return width


class MaPLeModel(DeepPromptModel):
    """Layer j has text prompts P_j (n, W), and vision prompts F_j(P_j) (n, V) by a linear map of its own.

    As in the released code (muzairkhattak/multimodal-prompt-learning, trainers/maple.py at 69bce21) the first map has
    random numbers of its own, and all later ones start as copies of one other.
    """

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode) -> None:
        J = depth_within(settings.PROMPT_DEPTH, backbone, "MaPLe")
        super().__init__(backbone, classnames, settings.CTX_INIT, settings.N_CTX, J, "MaPLe")
        W, V = backbone.text_width, vision_width(backbone, "MaPLe")
        first, later = nn.Linear(W, V), nn.Linear(W, V)
        self.coupling = nn.ModuleList([first, *(deepcopy(later) for _ in range(J - 1))])

    def vision_prompts(self) -> Tensor:
        """F_j(P_j), (J, n, V)."""
        text = [self.prompt_learner.ctx, *(self.text_prompts if self.text_prompts is not None else ())]  # J of (n, W)
        return torch.stack([couple(prompts) for couple, prompts in zip(self.coupling, text, strict=True)])


@register_trainer("MAPLE", DEFAULTS, {"PROMPT_DEPTH": whole(1)})
class MaPLe(PromptTrainer):
    """Trains the text prompts of MaPLe and their couplings."""

    needs_vit = True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return MaPLeModel(backbone, task.classnames, cfg.TRAINER.MAPLE)
