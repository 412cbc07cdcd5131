"""What the released code computes, term by term, at the cost of one image pass and one text pass.

The released code (Tommy-Bie/XCoOp at 2cec4db, prompting/xcoop.py and losses.py) runs M identical image passes and N
identical prompts a class, and encodes the prompts twice. Its copies never part, so one of each gives the same numbers.
What must be kept is the arithmetic around them, its errors included: they are named here, so that both variants of
the method can be compared. `docs/method.md` lists them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import clinical_sentences
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, accuracy
from xcoop.methods.prompts import PromptLearner, start_context

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
    """Class logits: global similarity plus a hundredth of the local one.

    Args:
        image: (B, D).
        patches: (B, T, D).
        text: (C, D).
        scale: exp(logit_scale), a scalar.
        copies: M * N, the number of equal terms that the released code sums.

    Returns:
        (B, C).
    """
    similarity = unit(image) @ unit(text).T + LOCAL * mixed_local_similarity(patches, text)
    return scale * LITERAL * copies * similarity


def noisy_clinical(clinical: Tensor, prompts: int) -> Tensor:
    """The clinical features, in every second step with noise that is longer than they are.

    Source: prompting/xcoop.py:398-404, 411-413. The random numbers are drawn as there: one uniform number, then, if it
    is below one half, noise for each of the N copies of each class; the copies are averaged, not normalised again.

    Args:
        clinical: (C, D), not normalised.
        prompts: N.

    Returns:
        (C, D).
    """
    copies = unit(clinical).repeat(prompts, 1)  # (N * C, D)
    if torch.rand(1).item() < 0.5:
        copies = copies + NOISE * torch.randn_like(copies[None])[0]
    return copies.view(prompts, *clinical.shape).mean(0)


def contrast(soft: Tensor, hard: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy over the soft index for each hard one. Source: losses.py:6-12.

    Args:
        soft: (C, E).
        hard: (C, E).
        scale: exp(logit_scale).

    Returns:
        A scalar.
    """
    affinity = scale * soft @ hard.T  # (C soft, C hard)
    return F.cross_entropy(affinity[None], torch.arange(len(soft), device=soft.device)[None])


def prompt_loss(text: Tensor, clinical: Tensor, scale: Tensor, prompts: int) -> Tensor:
    """Prompt-level term. Source: prompting/xcoop.py:397-433.

    Args:
        text: features of the learned prompts, (C, D).
        clinical: (C, D), not normalised.
        scale: exp(logit_scale).
        prompts: N, which sets how many noise vectors are drawn.

    Returns:
        A scalar.
    """
    return contrast(unit(text), noisy_clinical(clinical, prompts), scale)


def token_loss(embeddings: Tensor, clinical_embeddings: Tensor, scale: Tensor) -> Tensor:
    """Token-level term over all positions, start, name, end and padding included; saturated from the first step.

    Source: prompting/xcoop.py:436-454 and losses.py:14-17.

    Args:
        embeddings: input embeddings of the learned prompts, (C, L, W).
        clinical_embeddings: those of the clinical sentences, (C, L, W).
        scale: exp(logit_scale).

    Returns:
        A scalar.
    """
    return contrast(unit(embeddings).flatten(1), unit(clinical_embeddings).flatten(1), scale)


class ReleasedModel(PromptModel):
    """The released code's model: one prompt a class stands for its N equal copies.

    Args:
        backbone: with a vision transformer; its norm layers are trained.
        classnames: in the order of the labels.
        bank: gives the clinical sentences; one a class, as in the released code.
        settings: TRAINER.XCOOP.
    """

    needs_patches = True
    image_tower_frozen = False
    hard_embeddings: Tensor
    clinical: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: Any) -> None:
        super().__init__(backbone, classnames)
        self.settings = settings
        self.token_weight = settings.TOKEN_WEIGHT if any(bank.classes.values()) else 0.0  # no concepts, no such term
        words = "a photo of a" if settings.CTX_INIT == "concepts" else settings.CTX_INIT
        context = start_context(backbone, words, settings.N_CTX)  # (n, W)
        context = context.expand(len(classnames), -1, -1)  # class-specific, (C, n, W)
        self.prompt_learner = PromptLearner(backbone, classnames, context, full_length=True)
        tokens = backbone.tokenize([self._sentence(backbone, bank, name) for name in classnames])
        tokens = tokens.to(backbone.logit_scale.device)
        with torch.no_grad():
            hard = backbone.embed(tokens)  # (C, 77, W)
            clinical = backbone.encode_embeddings(hard, backbone.end_positions(tokens))  # (C, D)
        self.register_buffer("hard_embeddings", hard, persistent=False)
        self.register_buffer("clinical", clinical, persistent=False)
        for parameter in backbone.image_norms():
            parameter.requires_grad_(True)

    @staticmethod
    def _sentence(backbone: Backbone, bank: ConceptBank, classname: str) -> str:
        sentences = clinical_sentences(
            bank, classname, lambda text: backbone.count_tokens(text) <= backbone.context_length
        )
        if len(sentences) > 1:
            raise ValueError(
                f"{bank.path}: the released code takes one sentence a class, and the concepts of {classname!r} need "
                f"{len(sentences)} to fit {backbone.context_length} tokens: shorten them, or use VARIANT aligned"
            )
        return sentences[0]

    def text_features(self) -> Tensor:
        """Features of the prompts, (C, D)."""
        return self.encode_prompts(*self.prompt_learner())

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the images, (B, C); for more than one image each depends on the others."""
        return self._image_logits(features, self.text_features())

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Image-prompt, prompt-level and token-level terms, weighted."""
        embeddings, end = self.prompt_learner()  # (C, 77, W), (C,)
        text = self.encode_prompts(embeddings, end)
        scores = self._image_logits(features, text)
        weights = self.settings
        prompt = prompt_loss(text, self.clinical, self.scale, weights.N_PROMPTS)
        token = token_loss(embeddings, self.hard_embeddings, self.scale)
        return {
            "ce": F.cross_entropy(scores, labels),
            "prompt": weights.PROMPT_WEIGHT * prompt,
            "token": self.token_weight * token,
            "acc": accuracy(scores, labels),
        }

    def _image_logits(self, features: ImageFeatures, text: Tensor) -> Tensor:
        copies = self.settings.N_PROMPTS * self.settings.VISUAL_FEATURES
        return logits(features.pooled, features.patches, text, self.scale, copies)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Norm layers at a tenth of the rate first, as the released code orders them (prompting/xcoop.py:561-570)."""
        rate = lr * self.settings.NORM_LR_MULT
        return [
            {"params": self.backbone.image_norms(), "lr": rate, "name": "norm layers"},
            {"params": [self.prompt_learner.ctx], "lr": lr, "name": "prompts"},
        ]

    def adjust_gradients(self) -> None:
        """The loss is shared by N equal copies, so each of them sees a N-th of this gradient."""
        gradient = self.prompt_learner.ctx.grad
        if gradient is not None:
            gradient.div_(self.settings.N_PROMPTS)

    def gradient_norm(self) -> Tensor:
        """The norm over all N copies: the context's gradient counts N times."""
        parts = [
            parameter.grad.square().sum() for parameter in self.backbone.image_norms() if parameter.grad is not None
        ]
        gradient = self.prompt_learner.ctx.grad
        if gradient is not None:
            parts.append(self.settings.N_PROMPTS * gradient.square().sum())
        return torch.stack(parts).sum().sqrt()
