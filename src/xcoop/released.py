"""What the released code computes, term by term, at the cost of one image pass and one text pass.

The released code (Tommy-Bie/XCoOp at 2cec4db, prompting/xcoop.py and losses.py) runs M identical image passes and N
identical prompts a class, and encodes the prompts twice. Its copies never part, so one of each gives the same numbers.
What must be kept is the arithmetic around them, its errors included: they are named here, so that both variants of
the method can be compared. `docs/method.md` lists them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.alignment import unit

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
