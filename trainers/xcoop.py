"""XCoOp: prompts tied to clinical concepts (Bie et al., MICCAI 2024, arXiv 2403.09410).

`docs/method.md` has every formula, and what the two variants have in common with the released code.
Symbols: B images, C classes, K prompts a class, n context tokens, D joint width, W text width.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop import alignment
from xcoop.alignment import unit
from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.features import clinical_features
from xcoop.concepts.knowledge import KNOWLEDGE, question, words_around_class
from xcoop.concepts.shares import shares
from xcoop.model import PromptModel, accuracy
from xcoop.names import unknown
from xcoop.plugins import register_trainer
from xcoop.prompts import PromptLearner, context_from_words, start_context
from xcoop.released import ReleasedModel
from xcoop.training import PromptTrainer

logger = logging.getLogger(__name__)

VARIANTS = ("aligned", "released")
START_NOISE = 0.02  # tells prompts with equal words apart; the spread of CLIP's own token embeddings

DEFAULTS = CfgNode(
    {
        "VARIANT": "aligned",  # the method as meant; or `released`: the numbers of the released code
        "KNOWLEDGE": "bank",  # bank; or a control: shuffled (other classes' concepts), random (unrelated ones), none
        "PREC": "amp",  # fp32, amp, fp16, bf16
        "N_PROMPTS": 2,  # K, prompts a class
        "N_CTX": 8,  # n, context tokens a prompt
        "CTX_INIT": "concepts",  # the words of the concepts; or other words; or "" for random vectors
        "CLASS_TOKEN_POSITION": "end",  # end, middle, front
        "CLINICAL_WEIGHT": 0.5,  # share of the clinical sentence in the class feature, in [0, 1]
        "LOCAL_WEIGHT": 0.1,  # of the pooled local similarity, beside 1 for the global one
        "LOCAL_POOL": "softmax",  # mean, topk, softmax
        "PROMPT_WEIGHT": 1.0,  # contrast between prompts and clinical sentences
        "TETHER_WEIGHT": 8.0,  # 1 - cosine between a prompt and its clinical sentence
        "TOKEN_WEIGHT": 1.0,  # contrast between context tokens and concept tokens
        "TOKEN_TEMPERATURE": 0.1,
        "TUNE_NORMS": False,  # train ln_1 and ln_2 of the image tower, too
        "NORM_LR_MULT": 0.1,  # their learning rate, as a share of OPTIM.LR
        "CLIP_GRAD_NORM": 1.0,  # in every precision; 0 is off
        "VISUAL_FEATURES": 2,  # `released` only: M, the copies of the image feature that it sums
    }
)


class AlignedModel(PromptModel):
    """The method as it was meant: four alignments, each with its own weight."""

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        self.settings = settings
        self.needs_patches = settings.LOCAL_WEIGHT != 0
        context = starting_context(backbone, bank, settings)
        self.prompt_learner = PromptLearner(backbone, classnames, context, settings.CLASS_TOKEN_POSITION)
        clinical = [clinical_features(backbone, share) for share in shares(bank, settings.N_PROMPTS)]
        self.register_buffer("clinical", torch.stack(clinical), persistent=False)  # (K, C, D), unit
        self.concepts = nn.ParameterList(  # per class (m_c, W); none at all without concepts
            nn.Parameter(torch.cat([context_from_words(backbone, text) for text in bank.texts(name)]), False)
            for name in classnames
            if bank.classes[name]
        )
        if settings.TUNE_NORMS:
            self.tune_norms()

    def soft_features(self) -> Tensor:
        """Features of the learned prompts alone, (K, C, D), not normalised."""
        return self.encode_prompts(*self.prompt_learner())

    def class_features(self, soft: Tensor) -> Tensor:
        """Learned prompts with a part of the clinical sentences, z = u((1 - a) u(t) + a h): (K, C, D), unit."""
        a = self.settings.CLINICAL_WEIGHT
        return unit((1 - a) * unit(soft) + a * self.clinical)

    def text_features(self) -> Tensor:
        """What images are compared with, (K, C, D)."""
        return self.class_features(self.soft_features())

    def image_logits(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Global similarity plus the weighted, pooled local one, scaled: (B, C)."""
        similarity = alignment.global_similarity(features.pooled, text)
        if self.needs_patches:
            local = alignment.local_similarity(features.patches, text, self.settings.LOCAL_POOL)
            similarity = similarity + self.settings.LOCAL_WEIGHT * local
        return self.scale * similarity

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the images, (B, C)."""
        return self.image_logits(features, self.text_features())

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Image-prompt, prompt-level and token-level alignment; a part of weight 0 is not computed."""
        weights, soft = self.settings, self.soft_features()  # (K, C, D)
        logits = self.image_logits(features, self.class_features(soft))
        losses = {"ce": F.cross_entropy(logits, labels), "acc": accuracy(logits, labels)}
        if weights.PROMPT_WEIGHT:
            sentence = self.clinical.mean(0)  # (C, D)
            losses["prompt"] = weights.PROMPT_WEIGHT * alignment.prompt_contrast(soft, sentence, self.scale)
        if weights.TETHER_WEIGHT:
            losses["tether"] = weights.TETHER_WEIGHT * alignment.prompt_distance(soft, self.clinical)
        if weights.TOKEN_WEIGHT and len(self.concepts):
            contrast = alignment.token_contrast(self.prompt_learner.ctx, list(self.concepts), weights.TOKEN_TEMPERATURE)
            losses["token"] = weights.TOKEN_WEIGHT * contrast
        return losses

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Contexts at the full rate, norm layers (if tuned) at `NORM_LR_MULT` of it."""
        groups = [{"params": [self.prompt_learner.ctx], "lr": lr, "name": "prompts"}]
        if self.settings.TUNE_NORMS:
            rate = lr * self.settings.NORM_LR_MULT
            groups.append({"params": self.backbone.image_norms(), "lr": rate, "name": "norm layers"})
        return groups


def starting_context(backbone: Backbone, bank: ConceptBank, settings: CfgNode) -> Tensor:
    """Where the K prompts of each class start, (K, C, n, W); no two of a class are equal.

    Without concepts, `CTX_INIT concepts` starts from the words round the class name, cut or repeated to n tokens, too.
    """
    K, C = settings.N_PROMPTS, len(bank.classes)
    plain = words_around_class(bank.template)  # for banks without concepts
    if settings.CTX_INIT == "concepts":
        rows = [
            _filled(context_from_words(backbone, ", ".join(share.texts(name)) or plain), settings.N_CTX)
            for share in shares(bank, K)
            for name in bank.classes
        ]
        context = torch.stack(rows).unflatten(0, (K, C))
        alike = min(len(bank.texts(name)) for name in bank.classes) < K
    else:
        context = start_context(backbone, settings.CTX_INIT, settings.N_CTX, K, C)
        context = context.expand(K, C, *context.shape[-2:])
        alike = K > 1 and bool(settings.CTX_INIT)
    noise = START_NOISE * torch.randn(context.shape) if alike else torch.zeros(())
    return context + noise.to(context)


def _filled(tokens: Tensor, n: int) -> Tensor:
    """Exactly n tokens: (m, W) cut, or repeated from the front."""
    return tokens.repeat(-(-n // len(tokens)), 1)[:n]


@register_trainer("XCOOP", DEFAULTS)
class XCoOp(PromptTrainer):
    """Trains prompts that are tied to the concepts of a bank."""

    node = "XCOOP"

    def check_cfg(self, cfg: Any) -> None:
        """Refuses settings that could not work."""
        super().check_cfg(cfg)
        settings = cfg.TRAINER.XCOOP
        for key, known in (("VARIANT", VARIANTS), ("LOCAL_POOL", alignment.POOLINGS)):
            if settings[key] not in known:
                raise ValueError(f"TRAINER.XCOOP.{key} is {settings[key]!r}; known: {', '.join(known)}")
        if settings.KNOWLEDGE not in KNOWLEDGE:
            raise ValueError(unknown("TRAINER.XCOOP.KNOWLEDGE", settings.KNOWLEDGE, KNOWLEDGE))
        if settings.N_PROMPTS < 1 or settings.N_CTX < 1:
            raise ValueError("TRAINER.XCOOP.N_PROMPTS and N_CTX must be at least 1")
        if not 0 <= settings.CLINICAL_WEIGHT <= 1:
            raise ValueError(f"TRAINER.XCOOP.CLINICAL_WEIGHT is {settings.CLINICAL_WEIGHT}; it is a share, in [0, 1]")
        if settings.TOKEN_TEMPERATURE <= 0:
            raise ValueError("TRAINER.XCOOP.TOKEN_TEMPERATURE must be above 0")

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: each class has contexts of its own."""
        return True

    def uses_bank(self) -> bool:
        """Always: the concepts are what the prompts are tied to."""
        return True

    def build_method(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> PromptModel:
        """The model of the chosen variant, tied to the bank or to what KNOWLEDGE puts in its place."""
        if bank is None:
            raise ValueError("XCoOp needs a concept bank")
        bank = self.bank = question(bank, self.settings.KNOWLEDGE, self.cfg.SEED)
        make = AlignedModel if self.settings.VARIANT == "aligned" else ReleasedModel
        return make(backbone, classnames, bank, self.settings)
