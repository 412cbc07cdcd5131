"""XCoOp: prompts tied to clinical concepts (Bie et al., MICCAI 2024, arXiv 2403.09410).

Each class has K prompts. The context of a prompt starts from the words of its share of the class's concepts, and is
learned: t are the features of the prompts, h those of the clinical sentences that state the same concepts, u(.) is a
vector's direction, f and f_p are the features of an image and of its patches, s is CLIP's inverse temperature.

    class features   z = u( corrected( (1 - a) (h + u(t) - u(t at the start)) + a h ) )
    logits           s ( cos(f, z) + w pool_p cos(f_p, z) ) + offset, the mean over K prompts
    loss             cross entropy + contrast of prompts and sentences + anchor loss, prompts' distance from their start
                     + contrast of context tokens and concept tokens + prior of the corrections

`methods/alignment.py` has the similarities and contrasts, `methods/corrections.py` what images correct in sentences;
`docs/method.md` says where all this comes from. What the released code computes is in `trainers/xcoop_released.py`.
Symbols: B images, C classes, K prompts a class, n context tokens, D joint width, W text width.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import (
    KNOWLEDGE,
    SENTENCES,
    bank_or_control,
    plain_template,
    prompt_sentences,
    shares,
    single_features,
    words_around_class,
)
from xcoop.config.plugins import register_trainer
from xcoop.methods import alignment
from xcoop.methods.alignment import unit
from xcoop.methods.corrections import Corrections
from xcoop.methods.model import ClassVector, PromptModel, Task, classification
from xcoop.methods.prompts import PromptLearner, context_from_words, start_context
from xcoop.trainers.xcoop_released import ReleasedModel
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, one_of, whole

START_NOISE = 0.02  # tells prompts with equal words apart; the std of CLIP's own token embeddings

DEFAULTS = CfgNode(
    {
        "VARIANT": "aligned",  # or `released`, as the trainer XCoOpReleased was called before
        "KNOWLEDGE": "bank",  # bank; or a control: shuffled (other classes' concepts), random (unrelated ones), none
        "PREC": "amp",  # fp32, amp, fp16, bf16
        "N_PROMPTS": 3,  # K, prompts a class
        "N_CTX": 8,  # n, context tokens a prompt
        "CTX_INIT": "concepts",  # the words of the concepts; or other words; or "" for random vectors
        "CLASS_TOKEN_POSITION": "end",  # end, middle, front
        "SENTENCES": "both",  # of a prompt: its share, the whole class's, each concept alone, or both (share, each)
        "CLINICAL_WEIGHT": 0.5,  # share of the clinical sentence in the class feature, in [0, 1]
        "FROM_SENTENCE": True,  # prompts count by what they changed since the start: z starts at the sentence
        "RESIDUAL_SPREAD": 2.0,  # prior std, in logits, of what images may correct in a class feature; 0 is off
        "OFFSET_SPREAD": 3.0,  # that of a class's offset, in logits; 0 is off
        "TRUST_SPREAD": 0.7,  # that of the trust in what the sentences say apart, around 1; 0 is off
        "CORRECTION_LR_MULT": 100.0,  # learning rate of these three, as a multiple of OPTIM.LR
        "LOCAL_WEIGHT": 0.1,  # of the pooled local similarity, beside 1 for the global one
        "LOCAL_POOL": "softmax",  # mean, topk, softmax
        "CONCEPT_WEIGHTING": 0.0,  # share, in [0, 1], of concepts weighted by the image in the similarity
        "PROMPT_WEIGHT": 1.0,  # contrast between prompts and clinical sentences
        "TETHER_WEIGHT": 8.0,  # anchor loss: 1 - cosine of prompt and its start, or (FROM_SENTENCE False) its sentence
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
    """The method as it was meant: four alignments, each with its own weight, and what images correct in knowledge.

    Args:
        backbone: frozen.
        classnames: in the order of the labels.
        bank: of these classes; the concepts that prompts are tied to.
        settings: the node XCOOP.
        train_images: N, over which the prior of the corrections is spread.
    """

    clinical: Tensor
    start: Tensor

    def __init__(
        self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode, train_images: int = 1
    ) -> None:
        super().__init__(backbone, classnames)
        self.bank, self.settings, self.train_images = bank, settings, train_images
        self.needs_patches = settings.LOCAL_WEIGHT != 0
        self.holds_concepts = settings.FROM_SENTENCE or settings.CLINICAL_WEIGHT > 0
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
        stds = settings.RESIDUAL_SPREAD, settings.OFFSET_SPREAD, settings.TRUST_SPREAD
        self.corrections = Corrections(len(classnames), backbone.embed_dim, *stds)
        with torch.no_grad():
            start = unit(self.soft_features()) if settings.FROM_SENTENCE else self.clinical
        self.register_buffer("start", start, persistent=False)  # (K, C, D): what the prompts are held to
        self.kept = ("start",) if settings.FROM_SENTENCE else ()  # another bank or seed would start elsewhere
        if settings.TUNE_NORMS:
            self.tune_norms()

    @property
    def class_vector(self) -> ClassVector:
        """A prompt; and how far the images back what the sentences say apart."""
        trust = self.corrections.trust
        if trust is None:
            return super().class_vector
        back = f"the training images back {trust.item():.2f} (1: as told, 0: nothing)"
        about = f"Of what the bank's sentences say apart, {back}."
        return ClassVector("prompt", learned=True, about=about)

    def sentences(self, bank: ConceptBank) -> Tensor:
        """Features of the clinical sentences that a bank makes for the K prompts, (K, C, D), unit."""
        return prompt_sentences(self.backbone, bank, self.settings.N_PROMPTS, self.settings.SENTENCES)

    def with_bank(self, bank: ConceptBank) -> AlignedModel:
        """This model, with another bank's clinical sentences; a class without concepts keeps its plain sentence."""
        if not self.holds_concepts:
            return super().with_bank(bank)
        clinical = self.sentences(bank)
        bare = [label for label, concepts in enumerate(bank.classes.values()) if not concepts]
        if bare:
            plain = replace(bank, classes=dict.fromkeys(bank.classes, ()), template=plain_template(bank.template))
            clinical[:, bare] = self.sentences(plain)[:, bare]
        other = copy.copy(self)  # shares parameters and all other tensors
        other._buffers = {**self._buffers, "clinical": clinical.to(self.clinical)}
        other.bank = bank
        return other

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
        return unit(self.corrections.corrected((1 - a) * learned + a * self.clinical, self.scale))

    def text_features(self) -> Tensor:
        """The class features z that images are compared with, (K, C, D)."""
        return self.class_features(self.soft_features())

    def compare(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Global similarity plus the weighted, pooled local one, scaled: (B, C)."""
        similarity = alignment.global_similarity(features.pooled, text)
        if self.settings.LOCAL_WEIGHT:
            local = alignment.local_similarity(features.patches, text, self.settings.LOCAL_POOL)
            similarity = similarity + self.settings.LOCAL_WEIGHT * local
        if v := self.settings.CONCEPT_WEIGHTING:
            fitting = alignment.weighted_concept_similarity(features.pooled, list(self.single))
            similarity = (1 - v) * similarity + v * fitting
        return self.corrections.with_offset(self.scale * similarity)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Image-prompt, prompt-level and token-level alignment, and the prior; a part of weight 0 is not computed."""
        weights, soft = self.settings, self.soft_features()  # (K, C, D)
        logits = self.compare(features, self.class_features(soft))
        losses = classification(logits, labels)
        if weights.PROMPT_WEIGHT:
            sentence = self.clinical.mean(0)  # (C, D)
            losses["prompt"] = weights.PROMPT_WEIGHT * alignment.prompt_contrast(soft, sentence, self.scale)
        if weights.TETHER_WEIGHT:
            losses["tether"] = weights.TETHER_WEIGHT * alignment.prompt_distance(soft, self.start)
        if weights.TOKEN_WEIGHT and len(self.concepts):
            contrast = alignment.token_contrast(self.prompt_learner.ctx, list(self.concepts), weights.TOKEN_TEMPERATURE)
            losses["token"] = weights.TOKEN_WEIGHT * contrast
        if self.corrections.trained:
            losses["prior"] = self.corrections.negative_log_prior(self.train_images)
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
    K, C, n = settings.N_PROMPTS, len(bank.classes), settings.N_CTX
    plain = words_around_class(bank.template)  # for banks without concepts
    if settings.CTX_INIT == "concepts":
        rows = []
        for share in shares(bank, K):  # K banks, each with its share of every class's concepts
            for name in bank.classes:
                words = context_from_words(backbone, ", ".join(share.texts(name)) or plain)  # (m, W)
                rows.append(words.repeat(-(-n // len(words)), 1)[:n])  # (n, W), repeated or cut
        context = torch.stack(rows).unflatten(0, (K, C))
        alike = min(len(bank.texts(name)) for name in bank.classes) < K
    else:
        context = start_context(backbone, settings.CTX_INIT, n, K, C)  # (n, W) of words, or (K, C, n, W)
        context = context.expand(K, C, *context.shape[-2:])
        alike = K > 1 and bool(settings.CTX_INIT)
    noise = START_NOISE * torch.randn(context.shape) if alike else torch.zeros(())
    return context + noise.to(context)


@register_trainer("XCOOP", DEFAULTS, RULES)
class XCoOp(PromptTrainer):
    """Trains prompts that are tied to the concepts of a bank."""

    node = "XCOOP"

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        return True

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        return True  # each class has contexts of its own

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """The model, tied to the bank or to what KNOWLEDGE puts in its place."""
        settings = cfg.TRAINER.XCOOP
        bank = bank_or_control(task.bank, settings.KNOWLEDGE, cfg.SEED)
        if settings.VARIANT == "released":
            message = "TRAINER.XCOOP.VARIANT released is a trainer of its own now: XCoOpReleased"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            words = "a photo of a" if settings.CTX_INIT == "concepts" else settings.CTX_INIT
            return ReleasedModel(backbone, task.classnames, bank, CfgNode({**settings, "CTX_INIT": words}))
        return AlignedModel(backbone, task.classnames, bank, settings, max(1, task.n_train))
