"""XCoOp: every prompt is a clinical sentence whose words are learned, and the prompts decide.

Each concept of a class makes one prompt, its clinical sentence ("a dermoscopic photo of a melanoma, irregular
streaks."). The words of the sentence are learned; how far they may carry a prompt from its sentence, the labelled
images decide. A class scores the mean over its prompts, so that a logit is a sum over concepts, to the last digit:

    prompt   t_j = u( text tower( e_j + d_j ) )        e: embeddings of the words, d: what was learned, 0 at first
    logit    l_c = s sum_j w_j ( cos(f, t_j) + l pool_p cos(f_p, t_j) ) + b_c          over the prompts j of class c
    loss     cross entropy + 1/N ( sum_j w_j s^2 |t_j - t_j at the start|^2 / (2 S^2) + |b|^2 / (2 S_b^2)
                                   + CONTRAST_WEIGHT sum_c of the contrast of class c )

The contrast asks that the clinical sentence of a class with all its concepts, h_c, finds the mean direction of the
prompts of its own class among those of all (`prompt_contrast`): it counts as so many labelled images of its class.
u(.) is a vector's direction, f and f_p are the features of an image and of its patches, w_j is one over the number of
prompts of the class, s is CLIP's inverse temperature, b the calibration of the class prior. S is the prior standard
deviation, in logits, of what prompts learn: `methods/evidence.py` finds it in the labelled images.
Two parts are off, because they changed nothing for the better that could be measured (docs/method.md): the local
similarity, LOCAL_WEIGHT l; and TOKEN_WEIGHT times the mean of |d|^2 / |e|^2 over the words.
The method as it was published is in `trainers/xcoop_published.py`, what its released code computes in
`trainers/xcoop_released.py`; `docs/method.md` says where all this comes from.
Symbols: B images, C classes, K prompts of the class that has most, M prompts in all, L tokens, D joint width, W text
width, N training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import KNOWLEDGE, bank_or_control, clinical_features, fill, plain_template
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import POOLINGS, prompt_contrast, prompt_similarities, unit
from xcoop.methods.evidence import SPREADS, probable_spread
from xcoop.methods.model import (
    ClassVector,
    LearnedSentence,
    PromptModel,
    PromptSum,
    Task,
    Told,
    Usual,
    classification,
    usual_values,
)
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, one_of

DEFAULTS = CfgNode(
    {
        "KNOWLEDGE": "bank",  # bank; or a control: shuffled (other classes' concepts), random (unrelated ones), none
        "PREC": "amp",  # fp32, amp, fp16, bf16, auto
        "SPREAD": 0.0,  # S, in logits; 0: the labelled images choose it
        "OFFSET_SPREAD": 12.0,  # S_b, the same of a class's offset; 0: no offset
        "OFFSET_LR_MULT": 100.0,  # learning rate of the offsets, as a multiple of OPTIM.LR
        "LOCAL_WEIGHT": 0.0,  # l, of the pooled local similarity, beside 1 for the global one
        "LOCAL_POOL": "softmax",  # mean, topk, softmax
        "TOKEN_WEIGHT": 0.0,  # of the relative change of the words: each token is held to its word
        "CONTRAST_WEIGHT": 2.0,  # as how many labelled images of its class a clinical sentence counts
        "TUNE_NORMS": False,  # train ln_1 and ln_2 of the image tower, too
        "NORM_LR_MULT": 0.1,  # their learning rate, as a share of OPTIM.LR
        "CLIP_GRAD_NORM": 0.0,  # in every precision; 0 is off
    }
)
VALIDATION = 4  # images a class that choose S beside the training images: what CoOp's protocol has, min(shots, 4)
RULES = {
    "KNOWLEDGE": one_of(*KNOWLEDGE),
    "LOCAL_POOL": one_of(*POOLINGS),
    **dict.fromkeys(("SPREAD", "OFFSET_SPREAD", "OFFSET_LR_MULT"), number(0)),
    **dict.fromkeys(("LOCAL_WEIGHT", "TOKEN_WEIGHT", "CONTRAST_WEIGHT"), number(0)),
}


class SentencePrompts(nn.Module):
    """Clinical sentences, one a concept, whose words are learned.

    A class without concepts has one prompt, its name in the bank's template.

    Args:
        backbone: gives tokens and their embeddings; it is not kept.
        bank: of the classes, in the order of the labels.

    Attributes:
        told: the class and the concept of each of the M prompts, class by class; "" where a class has no concept.
        texts: their sentences.
        labels: the class of each, (M,).
        words: what was learned of each word: (number of words, W), those of the first sentence first.

    Raises:
        ValueError: a sentence is longer than the backbone's context; the message names it.
    """

    labels: Tensor
    embeddings: Tensor
    learned: Tensor
    places: Tensor
    end: Tensor

    def __init__(self, backbone: Backbone, bank: ConceptBank) -> None:
        super().__init__()
        names, plain = list(bank.classes), plain_template(bank.template)
        self.told = [(name, text) for name in names for text in bank.texts(name) or [""]]
        self.texts = [
            fill(bank.template if text else plain, name.replace("_", " "), [text]) for name, text in self.told
        ]
        for text in self.texts:
            if backbone.count_tokens(text) > backbone.context_length:
                raise ValueError(f"{bank.path}: {text!r} is longer than the context of this backbone; word it shorter")
        tokens = backbone.tokenize(self.texts).to(backbone.logit_scale.device)
        end = backbone.end_positions(tokens)  # (M,)
        length = int(end.max()) + 1
        with torch.no_grad():
            embeddings = backbone.embed(tokens)[:, :length].clone()  # (M, L, W)
        place = torch.arange(length, device=end.device)
        learned = (place > 0) & (place < end[:, None])  # (M, L): what stands between start and end
        self.words = nn.Parameter(embeddings.new_zeros(int(learned.sum()), embeddings.shape[-1], dtype=torch.float32))
        labels = torch.tensor([names.index(name) for name, _ in self.told], device=end.device)
        buffers = {"labels": labels, "embeddings": embeddings, "learned": learned, "end": end}
        buffers["places"] = learned.nonzero().T  # (2, number of words): indexing with `learned` would wait for a GPU
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The prompts as embeddings, (M, L, W), and where their end tokens stand, (M,); `words` replace the learned."""
        change = torch.zeros_like(self.embeddings, dtype=self.words.dtype)
        change[tuple(self.places)] = self.words if words is None else words
        return self.embeddings + change, self.end

    def relative_change(self) -> Tensor:
        """|d|^2 / |e|^2 of each word: how far it was moved, beside the length of its embedding; (number of words,)."""
        return self.words.square().sum(-1) / self.embeddings[tuple(self.places)].square().sum(-1)

    def words_of_prompts(self) -> dict[tuple[str, str], Tensor]:
        """By class and concept, what was learned of each word of its sentence, (number of words, W): views."""
        parts = self.words.split(self.learned.sum(1).tolist())
        return dict(zip(self.told, parts, strict=True))


class SentenceModel(PromptModel):
    """Prompts that are clinical sentences with learned words; nothing else decides but an offset a class.

    Args:
        backbone: frozen.
        classnames: in the order of the labels.
        bank: of these classes.
        settings: the node XCOOP.
        n_train: N, over which the prior is spread.

    Attributes:
        offset: b, (C,): the calibration of the class prior, in logits; None if there is none.
        clinical: h, of the sentences that name all concepts of a class, (C, D), unit.
        spread: S, a scalar.
        typical: the mean contribution of each prompt in the training images, every class counting alike, (M,).
        deviation: the standard deviation of the same, (M,).
        place: which of the M prompts is the k-th of a class, (K, C); a class with fewer repeats its own.
        weights: w, (K, C): one over the number of prompts of the class, 0 for repeated ones.
    """

    uncaptured = ""
    holds_concepts = True
    sums_concepts = True
    kept = ("typical", "deviation")  # what explanations measure an image against
    start: Tensor
    clinical: Tensor
    spread: Tensor
    typical: Tensor
    deviation: Tensor
    place: Tensor
    weights: Tensor

    def __init__(
        self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode, n_train: int = 1
    ) -> None:
        super().__init__(backbone, classnames)
        self.settings, self.n_train = settings, n_train
        self.needs_patches = settings.LOCAL_WEIGHT != 0
        self.prompt_learner = SentencePrompts(backbone, bank)
        offset = torch.zeros(len(classnames)) if settings.OFFSET_SPREAD else None
        self.register_parameter("offset", None if offset is None else nn.Parameter(offset))
        spread = torch.tensor(settings.SPREAD or math.sqrt(SPREADS[0] * SPREADS[-1]))  # until `prepare` knows better
        self.register_buffer("spread", spread, persistent=False)
        self.fitted = self.kept if settings.SPREAD else ("spread", *self.kept)
        own = [(self.prompt_learner.labels == c).nonzero()[:, 0] for c in range(len(classnames))]
        K = max(len(prompts) for prompts in own)
        place = torch.stack([prompts[torch.arange(K) % len(prompts)] for prompts in own], dim=1)
        counts = torch.tensor([len(prompts) for prompts in own])
        weights = (torch.arange(K)[:, None] < counts) / counts
        with torch.no_grad():
            start = unit(self.prompts())  # (M, D)
        buffers = {"place": place, "weights": weights.to(start), "start": start}
        buffers["clinical"] = clinical_features(backbone, bank)
        buffers |= {name: start.new_zeros(len(start), dtype=torch.float32) for name in self.kept}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        if settings.TUNE_NORMS:
            self.tune_norms()

    def prompts(self) -> Tensor:
        """Features of all prompts, (M, D), not normalised."""
        return self.encode_prompts(*self.prompt_learner())

    def text_features(self) -> Tensor:
        """The prompts of each class, (K, C, D); what stands there twice counts once (`weights`)."""
        return self.prompts()[self.place]

    def class_features(self) -> Tensor:
        """The mean direction of each class's prompts, (C, D), unit."""
        return self.mean_direction(self.text_features())

    def mean_direction(self, text: Tensor) -> Tensor:
        """Of the prompts of each class, (K, C, D) to (C, D), unit."""
        return unit((self.weights[..., None] * unit(text)).sum(0))

    def compare(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """The scaled mean similarity of images with a class's prompts, and its offset: (B, C)."""
        logits = self.contributions(features, text).sum(1)
        return logits if self.offset is None else logits + self.offset

    def contributions(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """What each prompt adds to the logit of its class, (B, K, C); with the offset they sum to it."""
        settings = self.settings
        similarity = prompt_similarities(features, text, settings.LOCAL_WEIGHT, settings.LOCAL_POOL)  # (B, K, C)
        return self.scale * self.weights * similarity

    @property
    def told(self) -> list[Told]:
        """Class and concept of each prompt."""
        labels, told = self.prompt_learner.labels.tolist(), self.prompt_learner.told
        return [Told(label, concept) for label, (_, concept) in zip(labels, told, strict=True)]

    def prompt_sum(self, features: ImageFeatures) -> PromptSum:
        """The logits as sums over prompts, each of which stands there once: (B, M) and (C,)."""
        return self._sum_over(self.prompts(), features)

    @torch.no_grad()
    def fixed_sum(self) -> Callable[[ImageFeatures], PromptSum]:
        """The same of the prompts as they are now."""
        return partial(self._sum_over, self.prompts())

    def _sum_over(self, prompts: Tensor, features: ImageFeatures) -> PromptSum:
        settings, labels = self.settings, self.prompt_learner.labels
        similarity = prompt_similarities(features, prompts[None], settings.LOCAL_WEIGHT, settings.LOCAL_POOL)[:, 0]
        offsets = self.start.new_zeros(len(self.classnames)) if self.offset is None else self.offset
        return PromptSum(self.scale * self.weights[0, labels] * similarity, offsets)

    def learned_sentences(self) -> list[LearnedSentence]:
        """Of each prompt its sentence, the embeddings of its words, and what was learned of them."""
        own = self.prompt_learner
        counts = own.learned.sum(1).tolist()
        embeddings, changes = own.embeddings[own.learned].split(counts), own.words.detach().split(counts)
        return [LearnedSentence(*one) for one in zip(own.texts, embeddings, changes, strict=True)]

    def encode_changes(self, changes: Tensor) -> Tensor:
        """Features of the prompts, had this been learned of their words, (M, D)."""
        return self.encode_prompts(*self.prompt_learner(changes))

    @property
    def usual(self) -> Usual:
        """Of the training images; zeros before any were seen."""
        return Usual(self.typical, self.deviation)

    @property
    def class_vector(self) -> ClassVector:
        """A prompt; and how far it may be from its sentence."""
        allowed = f"The labelled images let a prompt move from its sentence by about {self.spread.item():.1f} logits."
        return ClassVector("prompt", learned=True, about=allowed)

    @property
    def class_specific(self) -> bool:
        """Always: each class has sentences of its own."""
        return True

    @torch.no_grad()
    def with_bank(self, bank: ConceptBank) -> SentenceModel:
        """This model with the sentences of another bank: those it has are as learned, others as they are written."""
        other = SentenceModel(self.backbone, self.classnames, bank, self.settings, self.n_train)
        own = self.prompt_learner.words_of_prompts()
        where = {told: m for m, told in enumerate(own)}
        for m, (told, words) in enumerate(other.prompt_learner.words_of_prompts().items()):
            if told in own:
                words.copy_(own[told])
                other.typical[m], other.deviation[m] = self.typical[where[told]], self.deviation[where[told]]
        other.spread.copy_(self.spread)
        if self.offset is not None and other.offset is not None:
            other.offset.copy_(self.offset)
        return other.to(self.start.device).requires_grad_(False)

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Asks the labelled images how far prompts may move.

        Those of the training, and beside them a few of the validation split: as many a class, at most `VALIDATION`.
        """
        if not self.settings.SPREAD:
            images = [training] if validation is None else [training, few_of(validation, training.labels)]
            labels = torch.cat([part.labels for part in images])
            pooled = torch.cat([part.features.pooled for part in images])
            at_start = torch.cat([self.compare(part.features, self.start[self.place]) for part in images])
            self.spread.fill_(probable_spread(pooled, at_start, labels, self.settings.OFFSET_SPREAD))
        self.conclude(training, validation)  # of the start, should there be no epochs

    @torch.no_grad()
    def conclude(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Keeps what the prompts contribute in the training images, which explanations measure others against."""
        found = usual_values(self.prompt_sum(training.features).parts, training.labels)
        self.typical.copy_(found.mean)
        self.deviation.copy_(found.deviation)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, the prior on what prompts and offsets learn, and the contrast; what weighs 0 is left out."""
        settings, text, start = self.settings, self.text_features(), self.start[self.place]  # (K, C, D)
        losses = classification(self.compare(features, text), labels)
        moved = (unit(text) - start).square().sum(-1)  # (K, C)
        prior = self.scale**2 * (self.weights * moved).sum() / (2 * self.spread**2)
        if self.offset is not None:
            prior = prior + self.offset.square().sum() / (2 * settings.OFFSET_SPREAD**2)
        losses["prior"] = prior / self.n_train
        if settings.TOKEN_WEIGHT:
            losses["token"] = settings.TOKEN_WEIGHT * self.prompt_learner.relative_change().mean()
        if settings.CONTRAST_WEIGHT:
            contrast = prompt_contrast(self.mean_direction(text), self.clinical, self.scale)
            losses["contrast"] = settings.CONTRAST_WEIGHT * len(self.classnames) * contrast / self.n_train
        return losses

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Words at the full rate, offsets and norm layers at multiples of it."""
        groups = [{"params": [self.prompt_learner.words], "lr": lr, "name": "prompts"}]
        if self.offset is not None:
            groups.append({"params": [self.offset], "lr": lr * self.settings.OFFSET_LR_MULT, "name": "offsets"})
        if self.settings.TUNE_NORMS:
            groups.append(self.norm_group(lr * self.settings.NORM_LR_MULT))
        return groups


def few_of(images: LabelledFeatures, training: Tensor) -> LabelledFeatures:
    """The first images of each class, as many as it has among the training labels (N,), at most `VALIDATION`."""
    counts = torch.bincount(training, minlength=int(images.labels.max()) + 1).clamp(max=VALIDATION)
    chosen = torch.cat([(images.labels == c).nonzero()[:n, 0] for c, n in enumerate(counts.tolist())])
    features = ImageFeatures(images.features.pooled[chosen], images.features.patches[chosen])
    return LabelledFeatures(features, images.labels[chosen])


@register_trainer("XCOOP", DEFAULTS, RULES)
class XCoOp(PromptTrainer):
    """Trains the words of a bank's clinical sentences."""

    side_by_side = True
    node = "XCOOP"

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        return True

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        return True  # each class has sentences of its own

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """The model, with the sentences of the bank or of what KNOWLEDGE puts in its place."""
        settings = cfg.TRAINER.XCOOP
        bank = bank_or_control(task.bank, settings.KNOWLEDGE, cfg.SEED)
        return SentenceModel(backbone, task.classnames, bank, settings, max(1, task.n_train))
