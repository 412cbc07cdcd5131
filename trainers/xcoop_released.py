"""XCoOp as its released code computes it, errors included, at the cost of one image pass and one text pass.

The released code (Tommy-Bie/XCoOp at 2cec4db, prompting/xcoop.py and losses.py) runs M identical image passes and N
identical prompts a class, and encodes the prompts twice. Its copies never part, so one of each gives the same numbers.
What must be kept is the arithmetic around them, its errors included: they are named here, so that it can be compared
with the method as it was meant (`trainers/xcoop.py`). `docs/method.md` lists them.
Symbols: B images, C classes, n context tokens, T patches, D joint width, W text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.openai import require_vit
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import KNOWLEDGE, bank_or_control, bank_sentences
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import PromptLearner, start_context
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, one_of, whole

DEFAULTS = CfgNode(  # those of configs/XCoOp/vit_b16_c4_batch32_pneumonia.yaml
    {
        "KNOWLEDGE": "bank",  # bank; or a control: shuffled, random, none (see XCOOP)
        "PREC": "amp",  # fp32, amp, fp16, bf16, auto
        "N_PROMPTS": 4,  # N, equal prompts a class
        "VISUAL_FEATURES": 2,  # M, equal image features that are summed
        "N_CTX": 4,  # n, context tokens
        "CTX_INIT": "a photo of a",  # words to start from; "" for random vectors
        "PROMPT_WEIGHT": 5.0,
        "TOKEN_WEIGHT": 5.0,
        "NORM_LR_MULT": 0.1,  # learning rate of the norm layers, as a share of OPTIM.LR
        "CLIP_GRAD_NORM": 1.0,  # in every precision (there, in AMP alone); 0 is off
    }
)
RULES = {
    "KNOWLEDGE": one_of(*KNOWLEDGE),
    **dict.fromkeys(("N_PROMPTS", "VISUAL_FEATURES"), whole(1)),
    **dict.fromkeys(("PROMPT_WEIGHT", "TOKEN_WEIGHT"), number(0)),
}
LITERAL = 0.125  # prompting/xcoop.py:487: 1 / (M * N) for M = 2 and N = 4 only
LOCAL = 0.01  # prompting/xcoop.py:495
NOISE = 0.05  # prompting/xcoop.py:403


def mixed_local_similarity(patches: Tensor, text: Tensor) -> Tensor:
    """The local term with its error: the images of a batch leak into one another.

    Source: prompting/xcoop.py:482-485 reads a (B, T, C) block of memory as (T, B * C) before it averages over T.

    Args:
        patches: (B, T, D).
        text: (C, D).

    Returns:
        (B, C). For B = 1 this is the mean over the image's patches; otherwise it depends on the batch.
    """
    similarity = unit(patches) @ unit(text).T  # (B, T, C)
    B, T, C = similarity.shape
    return similarity.reshape(T, B * C).mean(0).view(B, C)


def logits(image: Tensor, patches: Tensor, text: Tensor, scale: Tensor, copies: int) -> Tensor:
    """Class logits (B, C): global similarity plus a hundredth of the local one.

    Args:
        image: (B, D).
        patches: (B, T, D).
        text: (C, D).
        scale: exp(logit_scale), a scalar.
        copies: M * N, the number of equal terms that the released code sums.
    """
    similarity = unit(image) @ unit(text).T + LOCAL * mixed_local_similarity(patches, text)
    return scale * LITERAL * copies * similarity


def noisy_clinical(clinical: Tensor, prompts: int) -> Tensor:
    """The clinical features, (C, D), in every second step with noise that is longer than they are.

    Source: prompting/xcoop.py:398-404, 411-413. The random numbers are drawn as there: one uniform number, then, if it
    is below one half, noise for each of the N copies of each class; the copies are averaged, not normalised again.

    Args:
        clinical: (C, D), not normalised.
        prompts: N.
    """
    copies = unit(clinical).repeat(prompts, 1)  # (N * C, D)
    if torch.rand(1).item() < 0.5:
        copies = copies + NOISE * torch.randn_like(copies[None])[0]
    return copies.view(prompts, *clinical.shape).mean(0)


def contrast(soft: Tensor, hard: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy over the soft index for each hard one, a scalar. Source: losses.py:6-12.

    Args:
        soft: (C, E).
        hard: (C, E).
        scale: exp(logit_scale).
    """
    affinity = scale * soft @ hard.T  # (C soft, C hard)
    return F.cross_entropy(affinity[None], torch.arange(len(soft), device=soft.device)[None])


class ReleasedModel(PromptModel):
    """The released code's model: one prompt a class stands for its N equal copies.

    Args:
        backbone: with a vision transformer; its norm layers are trained.
        classnames: in the order of the labels.
        bank: gives the clinical sentences; one a class, as in the released code.
        settings: the node XCOOPRELEASED.
    """

    uncaptured = "whether clinical sentences get noise is drawn on the host, step by step"
    needs_patches = True
    image_tower_frozen = False
    mixes_batches = True
    hard_embeddings: Tensor
    clinical: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode) -> None:
        require_vit(backbone, "XCoOpReleased")
        super().__init__(backbone, classnames)
        self.settings = settings
        self.token_weight = settings.TOKEN_WEIGHT if any(bank.classes.values()) else 0.0  # no concepts, no such term
        context = start_context(backbone, settings.CTX_INIT, settings.N_CTX)  # (n, W)
        context = context.expand(len(classnames), -1, -1)  # class-specific, (C, n, W)
        self.prompt_learner = PromptLearner(backbone, classnames, context, full_length=True)
        sentences = dict(zip(bank.classes, bank_sentences(backbone, bank), strict=True))
        for name, texts in sentences.items():
            if len(texts) > 1:
                raise ValueError(
                    f"{bank.path}: the released code takes one sentence a class, and the concepts of {name!r} need "
                    f"{len(texts)} to fit {backbone.context_length} tokens: shorten them, or use the trainer XCoOp"
                )
        tokens = backbone.tokenize([sentences[name][0] for name in classnames]).to(backbone.logit_scale.device)
        with torch.no_grad():
            hard = backbone.embed(tokens)  # (C, 77, W)
            clinical = backbone.encode_embeddings(hard, backbone.end_positions(tokens))  # (C, D)
        self.register_buffer("hard_embeddings", hard, persistent=False)
        self.register_buffer("clinical", clinical, persistent=False)
        self.tune_norms()

    def text_features(self) -> Tensor:
        """Features of the prompts, (C, D)."""
        return self.encode_prompts(*self.prompt_learner())

    def compare(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """The logits (B, C) beside prompt features (C, D); of more than one image, each depends on the others."""
        copies = self.settings.N_PROMPTS * self.settings.VISUAL_FEATURES
        return logits(features.pooled, features.patches, text, self.scale, copies)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Image-prompt, prompt-level (prompting/xcoop.py:397-433) and token-level terms, weighted.

        The token-level one (prompting/xcoop.py:436-454, losses.py:14-17) runs over all 77 positions, start, name, end
        and padding included: it is saturated from the first step.
        """
        embeddings, end = self.prompt_learner()  # (C, 77, W), (C,)
        text = self.encode_prompts(embeddings, end)
        parts = classification(self.compare(features, text), labels)
        hard = noisy_clinical(self.clinical, self.settings.N_PROMPTS)
        parts["prompt"] = self.settings.PROMPT_WEIGHT * contrast(unit(text), hard, self.scale)
        tokens = unit(embeddings).flatten(1), unit(self.hard_embeddings).flatten(1)  # each (C, 77 * W)
        parts["token"] = self.token_weight * contrast(*tokens, self.scale)
        return parts

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Norm layers at a tenth of the rate first, as the released code orders them (prompting/xcoop.py:561-570)."""
        norms = self.norm_group(lr * self.settings.NORM_LR_MULT)
        return [norms, {"params": [self.prompt_learner.ctx], "lr": lr, "name": "prompts"}]

    def backward(self, loss: Tensor, parts: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """The loss is shared by N equal copies, so each of them sees a N-th of the gradient."""
        backward(loss)
        self.prompt_learner.ctx.grad.div_(self.settings.N_PROMPTS)

    def gradient_norm(self) -> Tensor:
        """The norm over all N copies: the context's gradient counts N times."""
        parts = [norm.grad.square().sum() for norm in self.backbone.image_norms() if norm.grad is not None]
        parts.append(self.settings.N_PROMPTS * self.prompt_learner.ctx.grad.square().sum())
        return torch.stack(parts).sum().sqrt()


@register_trainer("XCOOPRELEASED", DEFAULTS, RULES)
class XCoOpReleased(PromptTrainer):
    """Trains what the released code trains; there to be compared with, not to be used."""

    side_by_side = True
    needs_vit = True
    variants = ()  # `xcoop run ... all` leaves it out: it is no method of its own

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        return True

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        return True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        settings = cfg.TRAINER.XCOOPRELEASED
        bank = bank_or_control(task.bank, settings.KNOWLEDGE, cfg.SEED)
        return ReleasedModel(backbone, task.classnames, bank, settings)
