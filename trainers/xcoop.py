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

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.controls import KNOWLEDGE, question, words_around_class
from xcoop.concepts.sentences import SENTENCES, prompt_sentences, shares, single_features
from xcoop.config.plugins import register_trainer
from xcoop.methods import alignment
from xcoop.methods.alignment import unit
from xcoop.methods.corrections import Corrections
from xcoop.methods.model import Compared, PromptModel, accuracy
from xcoop.methods.prompts import PromptLearner, context_from_words, start_context
from xcoop.methods.released import ReleasedModel
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, one_of, whole

logger = logging.getLogger(__name__)

START_NOISE = 0.02  # tells prompts with equal words apart; the spread of CLIP's own token embeddings

DEFAULTS = CfgNode(
    {
        "VARIANT": "aligned",  # the method as meant; or `released`: the numbers of the released code
        "KNOWLEDGE": "bank",  # bank; or a control: shuffled (other classes' concepts), random (unrelated ones), none
        "PREC": "amp",  # fp32, amp, fp16, bf16
        "N_PROMPTS": 3,  # K, prompts a class
        "N_CTX": 8,  # n, context tokens a prompt
        "CTX_INIT": "concepts",  # the words of the concepts; or other words; or "" for random vectors
        "CLASS_TOKEN_POSITION": "end",  # end, middle, front
        "SENTENCES": "both",  # of a prompt: its share, the whole class's, each concept alone, or both (share, each)
        "CLINICAL_WEIGHT": 0.5,  # share of the clinical sentence in the class feature, in [0, 1]
        "FROM_SENTENCE": True,  # prompts count by what they changed since the start: z starts at the sentence
        "RESIDUAL_SPREAD": 2.0,  # prior spread, in logits, of what images may correct in a class feature; 0 is off
        "OFFSET_SPREAD": 3.0,  # that of a class's offset, in logits; 0 is off
        "TRUST_SPREAD": 0.7,  # that of the trust in what the sentences say apart, around 1; 0 is off
        "CORRECTION_LR_MULT": 100.0,  # learning rate of these three, as a multiple of OPTIM.LR
        "LOCAL_WEIGHT": 0.1,  # of the pooled local similarity, beside 1 for the global one
        "LOCAL_POOL": "softmax",  # mean, topk, softmax
        "CONCEPT_WEIGHTING": 0.0,  # share, in [0, 1], of concepts weighted by the image in the similarity
        "PROMPT_WEIGHT": 1.0,  # contrast between prompts and clinical sentences
        "TETHER_WEIGHT": 8.0,  # 1 - cosine between a prompt and its start, or (FROM_SENTENCE False) its sentence
        "TOKEN_WEIGHT": 1.0,  # contrast between context tokens and concept tokens
        "TOKEN_TEMPERATURE": 0.1,
        "TUNE_NORMS": False,  # train ln_1 and ln_2 of the image tower, too
        "NORM_LR_MULT": 0.1,  # their learning rate, as a share of OPTIM.LR
        "CLIP_GRAD_NORM": 1.0,  # in every precision; 0 is off
        "VISUAL_FEATURES": 2,  # `released` only: M, the copies of the image feature that it sums
    }
)
RULES = {
    "VARIANT": one_of("aligned", "released"),
    "KNOWLEDGE": one_of(*KNOWLEDGE),
    "SENTENCES": one_of(*SENTENCES),
    "LOCAL_POOL": one_of(*alignment.POOLINGS),
    **dict.fromkeys(("N_PROMPTS", "VISUAL_FEATURES"), whole(1)),
    **dict.fromkeys(("CLINICAL_WEIGHT", "CONCEPT_WEIGHTING"), number(0, 1)),
    **dict.fromkeys(("RESIDUAL_SPREAD", "OFFSET_SPREAD", "TRUST_SPREAD", "CORRECTION_LR_MULT"), number(0)),
    **dict.fromkeys(("LOCAL_WEIGHT", "PROMPT_WEIGHT", "TETHER_WEIGHT", "TOKEN_WEIGHT"), number(0)),
    "TOKEN_TEMPERATURE": number(above=0),
}


class AlignedModel(PromptModel):
    """The method as it was meant: four alignments, each with its own weight, and what images correct in knowledge."""

    train_images = 1  # N, over which the prior is spread; the trainer sets it
    clinical: Tensor
    start: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        self.settings = settings
        self.needs_patches = settings.LOCAL_WEIGHT != 0
        context = starting_context(backbone, bank, settings)
        self.prompt_learner = PromptLearner(backbone, classnames, context, settings.CLASS_TOKEN_POSITION)
        self.register_buffer("clinical", self.sentences(bank), persistent=False)  # (K, C, D), unit
        self.concepts = nn.ParameterList(  # per class (m_c, W); none at all without concepts
            nn.Parameter(torch.cat([context_from_words(backbone, text) for text in bank.texts(name)]), False)
            for name in classnames
            if bank.classes[name]
        )
        single = single_features(backbone, bank) if settings.CONCEPT_WEIGHTING else []
        self.single = nn.ParameterList(nn.Parameter(own, requires_grad=False) for own in single)  # per class (m_c, D)
        spreads = settings.RESIDUAL_SPREAD, settings.OFFSET_SPREAD, settings.TRUST_SPREAD
        self.corrections = Corrections(len(classnames), backbone.embed_dim, *spreads)
        with torch.no_grad():
            start = unit(self.soft_features()) if settings.FROM_SENTENCE else self.clinical
        self.register_buffer("start", start, persistent=False)  # (K, C, D): what the prompts are held to
        self.kept = ("start",) if settings.FROM_SENTENCE else ()  # another bank or seed would start elsewhere
        if settings.TUNE_NORMS:
            self.tune_norms()

    @property
    def class_vector(self) -> Compared:
        """A prompt; and how far the images back what the sentences say apart."""
        trust = self.corrections.trust
        if trust is None:
            return super().class_vector
        back = f"the training images back {trust.item():.2f} (1: as told, 0: nothing)"
        about = f"Of what the bank's sentences say apart, {back}."
        return Compared("prompt", learned=True, about=about)

    def sentences(self, bank: ConceptBank) -> Tensor:
        """Features of the clinical sentences that a bank makes for the K prompts, (K, C, D), unit."""
        return prompt_sentences(self.backbone, bank, self.settings.N_PROMPTS, self.settings.SENTENCES)

    def soft_features(self) -> Tensor:
        """Features of the learned prompts alone, (K, C, D), not normalised."""
        return self.encode_prompts(*self.prompt_learner())

    def class_features(self, soft: Tensor) -> Tensor:
        """Clinical sentences h, what the prompts learned, and what images correct: (K, C, D), unit.

        z = u(trusted((1 - a) t' + a h) + r / s), where t' is u(t) or, FROM_SENTENCE, h + u(t) - u(t at the start).
        """
        a, learned = self.settings.CLINICAL_WEIGHT, unit(soft)
        if self.settings.FROM_SENTENCE:
            learned = self.clinical + learned - self.start
        return unit(self.corrections.moved((1 - a) * learned + a * self.clinical, self.scale))

    def text_features(self) -> Tensor:
        """What images are compared with, (K, C, D)."""
        return self.class_features(self.soft_features())

    def image_logits(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Global similarity plus the weighted, pooled local one, scaled: (B, C)."""
        similarity = alignment.global_similarity(features.pooled, text)
        if self.settings.LOCAL_WEIGHT:
            local = alignment.local_similarity(features.patches, text, self.settings.LOCAL_POOL)
            similarity = similarity + self.settings.LOCAL_WEIGHT * local
        if v := self.settings.CONCEPT_WEIGHTING:
            fitting = alignment.weighted_concept_similarity(features.pooled, list(self.single))
            similarity = (1 - v) * similarity + v * fitting
        return self.corrections.shifted(self.scale * similarity)

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the images, (B, C)."""
        return self.image_logits(features, self.text_features())

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Image-prompt, prompt-level and token-level alignment, and the prior; a part of weight 0 is not computed."""
        weights, soft = self.settings, self.soft_features()  # (K, C, D)
        logits = self.image_logits(features, self.class_features(soft))
        losses = {"ce": F.cross_entropy(logits, labels), "acc": accuracy(logits, labels)}
        if weights.PROMPT_WEIGHT:
            sentence = self.clinical.mean(0)  # (C, D)
            losses["prompt"] = weights.PROMPT_WEIGHT * alignment.prompt_contrast(soft, sentence, self.scale)
        if weights.TETHER_WEIGHT:
            losses["tether"] = weights.TETHER_WEIGHT * alignment.prompt_distance(soft, self.start)
        if weights.TOKEN_WEIGHT and len(self.concepts):
            contrast = alignment.token_contrast(self.prompt_learner.ctx, list(self.concepts), weights.TOKEN_TEMPERATURE)
            losses["token"] = weights.TOKEN_WEIGHT * contrast
        if self.corrections.trained:
            losses["prior"] = self.corrections.penalty(self.train_images)
        return losses

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Contexts at the full rate, corrections and norm layers at multiples of it."""
        groups = [{"params": [self.prompt_learner.ctx], "lr": lr, "name": "prompts"}]
        if self.corrections.trained:
            rate = lr * self.settings.CORRECTION_LR_MULT
            groups.append({"params": self.corrections.trained, "lr": rate, "name": "corrections"})
        if self.settings.TUNE_NORMS:
            groups.append(self.norm_group(lr * self.settings.NORM_LR_MULT))
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


@register_trainer("XCOOP", DEFAULTS, RULES)
class XCoOp(PromptTrainer):
    """Trains prompts that are tied to the concepts of a bank."""

    node = "XCOOP"

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
        if self.settings.VARIANT == "released":
            return ReleasedModel(backbone, classnames, bank, self.settings)
        model = AlignedModel(backbone, classnames, bank, self.settings)
        if hasattr(self, "dm"):  # not where a finished run is loaded
            model.train_images = len(self.dm.dataset.train_x)
        return model
