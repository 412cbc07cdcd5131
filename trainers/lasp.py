"""LASP: prompts that are classified among hand-written ones (Bulat and Tzimiropoulos, CVPR 2023, arXiv 2210.01115).

Symbols: B images, C classes, V virtual classes, G groups of prompts, L templates, D joint width, W text width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import global_similarity, unit
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import ALL, PromptLearner, start_context, template_features
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import TEMPLATES, TEXT, each, number, whole

DEFAULTS = CfgNode(
    {
        "N_CTX": 4,  # context tokens
        "CTX_INIT": "a photo of a",  # words to start from; "" for random vectors
        "PREC": "amp",  # fp32, amp, fp16, bf16, auto
        "N_GROUPS": 1,  # G, contexts; each learns from its own share of the templates
        "LASP_PROMPTS": [],  # L templates with {} for the class name; [] is `xcoop.methods.prompts.ALL`
        "LASP_LOSS_WEIGHT": 5.0,  # of the text-to-text loss
        "VIRTUAL_CLASSES": [],  # names of classes without images, which the text-to-text loss tells apart, too
        "ENABLE_CORRECTION": True,  # learn one vector that is added to all class features
        "FINETUNE_VIT_LN": False,  # train ln_1 and ln_2 of the image tower, too
        "NORM_LR_MULT": 0.1,  # their learning rate, as a share of OPTIM.LR
        "CLIP_GRAD_NORM": 1.0,  # 0 is off
    }
)
RULES = {"N_GROUPS": whole(1), "LASP_PROMPTS": TEMPLATES, "LASP_LOSS_WEIGHT": number(0), "VIRTUAL_CLASSES": each(TEXT)}


def text_to_text(learned: Tensor, written: Tensor, scale: Tensor | float) -> Tensor:
    """Each hand-written prompt must find the learned prompt of its own class among those of all classes.

        L = -mean_{l, c} log( exp(s cos(t_c, h_lc)) / sum_k exp(s cos(t_k, h_lc)) )

    Template l belongs to the l-th group, counted round; t are the learned prompts of that group.

    Source: section 3.2 of the paper, in the direction of the released code (1adrianb/lasp, prompting/lasp.py).

    Args:
        learned: (G, C, D).
        written: (C, L, D), with L >= G.
        scale: s, the inverse temperature.

    Returns:
        A scalar, >= 0.
    """
    L = written.shape[1]
    groups = unit(learned)[torch.arange(L, device=learned.device) % len(learned)]  # (L, C, D)
    logits = scale * torch.einsum("lkd,cld->lck", groups, unit(written))  # (L, C written, C learned)
    own = torch.arange(logits.shape[-1], device=logits.device)
    return F.cross_entropy(logits.flatten(0, 1), own.repeat(L))


class LASPModel(PromptModel):
    """Cross entropy on images + LASP_LOSS_WEIGHT * text-to-text loss.

    An image is compared with the mean over G groups of the unit class features t + w, where w is one learned vector
    for all classes. Departures from the released code (1adrianb/lasp, prompting/lasp.py at 5b1e8d9): groups are those
    of the paper's section 3.3 (the release has one), virtual classes take part in the text-to-text loss alone, as its
    section on them says, the hand-written features get no random noise (there, in every second step), templates are
    ours (the release's speak of flowers, aircraft, textures and satellite photos, too), and the norm layers of the
    image tower stay frozen unless asked for, so that image features are computed once; the files for ViTs do ask.
    They run 25 epochs, as the release does for half of its sets (50 or 300 for others, 10 of batch 1 for one).
    """

    uncaptured = ""
    written: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        self.settings = settings
        known = [*classnames, *settings.VIRTUAL_CLASSES]
        context = start_context(backbone, settings.CTX_INIT, settings.N_CTX, settings.N_GROUPS, 1)
        context = context.expand(settings.N_GROUPS, 1, *context.shape[-2:])  # words are the same in all groups
        self.prompt_learner = PromptLearner(backbone, known, context)
        self.w = nn.Parameter(torch.zeros(backbone.embed_dim)) if settings.ENABLE_CORRECTION else None
        written = template_features(backbone, settings.LASP_PROMPTS or ALL, known)
        self.register_buffer("written", written, persistent=False)  # (C + V, L, D)
        if settings.FINETUNE_VIT_LN:
            self.tune_norms()

    def text_features(self) -> Tensor:
        """Features of the prompts of the classes that have images, (G, C, D)."""
        return self.all_features()[:, : len(self.classnames)]

    def all_features(self) -> Tensor:
        """Features of the prompts of all classes, (G, C + V, D)."""
        features = self.encode_prompts(*self.prompt_learner())
        return features if self.w is None else features + self.w

    def compare(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """The scaled cosine with prompts (G, C, D), averaged over the groups: (B, C)."""
        return self.scale * global_similarity(features.pooled, text)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, and the text-to-text loss."""
        prompts = self.all_features()
        logits = self.compare(features, prompts[:, : len(self.classnames)])
        parts = classification(logits, labels)
        if weight := self.settings.LASP_LOSS_WEIGHT:
            parts["text"] = weight * text_to_text(prompts, self.written, self.scale)
        return parts

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Contexts and correction at the full rate, norm layers (if tuned) at `NORM_LR_MULT` of it."""
        own = [self.prompt_learner.ctx] if self.w is None else [self.prompt_learner.ctx, self.w]
        groups: list[dict[str, Any]] = [{"params": own, "lr": lr, "name": "prompts"}]
        if self.settings.FINETUNE_VIT_LN:
            groups.append(self.norm_group(lr * self.settings.NORM_LR_MULT))
        return groups


@register_trainer("LASP", DEFAULTS, RULES)
class LASP(PromptTrainer):
    """Trains LASP's contexts."""

    side_by_side = True

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        """Refuses settings that could not work."""
        super().check_cfg(cfg)
        settings = cfg.TRAINER.LASP
        templates = settings.LASP_PROMPTS or ALL
        if len(templates) < settings.N_GROUPS:
            raise ValueError(
                f"TRAINER.LASP.N_GROUPS is {settings.N_GROUPS}; each group needs one of the {len(templates)} templates"
            )

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return LASPModel(backbone, task.classnames, cfg.TRAINER.LASP)
