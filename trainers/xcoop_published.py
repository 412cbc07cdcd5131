"""XCoOp as it was published (Bie et al., MICCAI 2024, arXiv 2403.09410), without the errors of its released code.

Each class has K prompts of learned context; they alone decide. Clinical sentences, which state the class's concepts,
only guide the training: t are the features of the prompts, h those of the sentences, u(.) is a vector's direction, f
and f_p are the features of an image and of its patches, s is CLIP's inverse temperature.

    logits           s ( cos(f, t) + w pool_p cos(f_p, t) ), the mean over K prompts
    loss             cross entropy + contrast of prompts and clinical sentences + contrast of context and concept tokens

`methods/alignment.py` has the similarities and contrasts; `docs/method.md` says what is known of the publication and
where the released code, which `trainers/xcoop_released.py` computes, departs from it.
Symbols: B images, C classes, K prompts a class, n context tokens, D joint width, W text width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import KNOWLEDGE, bank_or_control, clinical_features, shares, words_around_class
from xcoop.config.plugins import register_trainer
from xcoop.methods import alignment
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import PromptLearner, context_from_words, start_context
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, one_of, whole

START_NOISE = 0.02  # tells prompts with equal words apart; the std of CLIP's own token embeddings

DEFAULTS = CfgNode(  # those of the released configs/XCoOp/vit_b16_c4_batch32_pneumonia.yaml where it has them
    {
        "KNOWLEDGE": "bank",  # bank; or a control: shuffled (other classes' concepts), random (unrelated ones), none
        "PREC": "amp",  # fp32, amp, fp16, bf16, auto
        "N_PROMPTS": 4,  # K, prompts a class
        "N_CTX": 4,  # n, context tokens a prompt
        "CTX_INIT": "a photo of a",  # words; `concepts` for the words of the class's concepts; "" for random vectors
        "CLASS_TOKEN_POSITION": "end",  # end, middle, front
        "LOCAL_WEIGHT": 0.01,  # of the pooled local similarity, beside 1 for the global one
        "LOCAL_POOL": "mean",  # mean, topk, softmax
        "PROMPT_WEIGHT": 5.0,  # contrast between prompts and clinical sentences
        "TOKEN_WEIGHT": 5.0,  # contrast between context tokens and concept tokens
        "TOKEN_TEMPERATURE": 0.1,
        "TUNE_NORMS": False,  # train ln_1 and ln_2 of the image tower, too
        "NORM_LR_MULT": 0.1,  # their learning rate, as a share of OPTIM.LR
        "CLIP_GRAD_NORM": 1.0,  # in every precision; 0 is off
    }
)
RULES = {
    "KNOWLEDGE": one_of(*KNOWLEDGE),
    "LOCAL_POOL": one_of(*alignment.POOLINGS),
    "N_PROMPTS": whole(1),
    **dict.fromkeys(("LOCAL_WEIGHT", "PROMPT_WEIGHT", "TOKEN_WEIGHT"), number(0)),
    "TOKEN_TEMPERATURE": number(above=0),
}


class PublishedModel(PromptModel):
    """Prompts that decide, and clinical sentences that guide them.

    Args:
        backbone: frozen.
        classnames: in the order of the labels.
        bank: of these classes; the concepts that prompts are guided by.
        settings: the node XCOOPPUBLISHED.
    """

    uncaptured = ""
    clinical: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        self.settings = settings
        self.needs_patches = settings.LOCAL_WEIGHT != 0
        context = starting_context(backbone, bank, settings)
        self.prompt_learner = PromptLearner(backbone, classnames, context, settings.CLASS_TOKEN_POSITION)
        self.register_buffer("clinical", clinical_features(backbone, bank), persistent=False)  # (C, D), unit
        self.concepts = nn.ParameterList(  # per class (m_c, W); none at all without concepts
            nn.Parameter(torch.cat([context_from_words(backbone, text) for text in bank.texts(name)]), False)
            for name in classnames
            if bank.classes[name]
        )
        if settings.TUNE_NORMS:
            self.tune_norms()

    def text_features(self) -> Tensor:
        """Features of the learned prompts, (K, C, D), not normalised."""
        return self.encode_prompts(*self.prompt_learner())

    def compare(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Global similarity plus the weighted, pooled local one, scaled: (B, C)."""
        similarity = alignment.global_similarity(features.pooled, text)
        if self.settings.LOCAL_WEIGHT:
            local = alignment.local_similarity(features.patches, text, self.settings.LOCAL_POOL)
            similarity = similarity + self.settings.LOCAL_WEIGHT * local
        return self.scale * similarity

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Image-prompt, prompt-level and token-level alignment; a part of weight 0 is not computed."""
        weights, text = self.settings, self.text_features()  # (K, C, D)
        losses = classification(self.compare(features, text), labels)
        if weights.PROMPT_WEIGHT:
            losses["prompt"] = weights.PROMPT_WEIGHT * alignment.prompt_contrast(text, self.clinical, self.scale)
        if weights.TOKEN_WEIGHT and len(self.concepts):
            contrast = alignment.token_contrast(self.prompt_learner.ctx, list(self.concepts), weights.TOKEN_TEMPERATURE)
            losses["token"] = weights.TOKEN_WEIGHT * contrast
        return losses

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Contexts at the full rate, norm layers at a share of it."""
        groups = [{"params": [self.prompt_learner.ctx], "lr": lr, "name": "prompts"}]
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


@register_trainer("XCOOPPUBLISHED", DEFAULTS, RULES)
class XCoOpPublished(PromptTrainer):
    """Trains prompts that a bank's clinical sentences guide."""

    side_by_side = True

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        return True

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        return True  # each class has contexts of its own

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """The model, guided by the bank or by what KNOWLEDGE puts in its place."""
        settings = cfg.TRAINER.XCOOPPUBLISHED
        bank = bank_or_control(task.bank, settings.KNOWLEDGE, cfg.SEED)
        return PublishedModel(backbone, task.classnames, bank, settings)
