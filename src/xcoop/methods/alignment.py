"""The method as pure functions: images, learned prompts and clinical concepts, aligned at four granularities.

Symbols: B images, C classes, K prompts a class, n context tokens, m concept tokens, T patches, D joint width,
W text width. Formulas are those of the XCoOp paper's abstract (arXiv 2403.09410) and of its released code
(Tommy-Bie/XCoOp at 2cec4db, cited below as `file:line`); `docs/method.md` tells where and why ours differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import ImageFeatures

POOLINGS = ("mean", "topk", "softmax")


def unit(x: Tensor) -> Tensor:
    """Vectors of length one along the last axis; a zero vector stays zero."""
    return F.normalize(x, dim=-1)


def global_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Cosine of each image with each class, averaged over the class's prompts.

    Source: prompting/xcoop.py:478-488, with the mean over the prompts in place of the literal 0.125.

    Args:
        image: global features, (B, D).
        text: prompt features, (K, C, D).

    Returns:
        (B, C), in [-1, 1].
    """
    return unit(image) @ unit(text).mean(0).T  # by linearity, the mean of K cosines


def local_similarity(patches: Tensor, text: Tensor, pool: str = "mean", sharpness: float = 10.0) -> Tensor:
    """Cosine of each image's own patches with each class, pooled over the patches.

    Source of the mean: prompting/xcoop.py:482-489 as intended; the released code mixes the images of a batch there.
    `topk` averages the quarter of the patches that fit a class best; `softmax` weighs patch t with
    softmax_t(sharpness * cosine). Both look at where a finding is, instead of everywhere.

    Args:
        patches: local features, (B, T, D).
        text: prompt features, (K, C, D).
        pool: one of `POOLINGS`.
        sharpness: inverse temperature of `softmax`.

    Returns:
        (B, C), in [-1, 1].

    Raises:
        ValueError: an unknown pooling.
    """
    classes = unit(text).mean(0)  # (C, D)
    if pool == "mean":
        return unit(patches).mean(1) @ classes.T
    similarity = unit(patches) @ classes.T  # (B, T, C)
    if pool == "topk":
        return similarity.topk(max(1, similarity.shape[1] // 4), dim=1).values.mean(1)
    if pool == "softmax":
        return (similarity * (sharpness * similarity).softmax(1)).sum(1)
    raise ValueError(f"unknown pooling {pool!r}; known: {', '.join(POOLINGS)}")


def prompt_similarities(features: ImageFeatures, text: Tensor, local_weight: float, pool: str = "softmax") -> Tensor:
    """Each image beside each prompt: their cosine, plus the weighted one with its patches, pooled for each prompt.

    Args:
        features: of B images; their patches are needed if they count.
        text: prompt features, (K, C, D).
        local_weight: of the pooled local cosine, beside 1 for the global one; 0 leaves it out.
        pool: see `local_similarity`.

    Returns:
        (B, K, C).
    """
    flat = text.flatten(0, 1)[None]  # (1, K C, D): as if each prompt were a class
    similarity = global_similarity(features.pooled, flat)
    if local_weight:
        similarity = similarity + local_weight * local_similarity(features.patches, flat, pool)
    return similarity.unflatten(1, text.shape[:2])


def prompt_contrast(soft: Tensor, clinical: Tensor, scale: Tensor | float) -> Tensor:
    """Prompt-level contrast: each clinical sentence must find the learned prompt of its own class.

        L = -(1/C) sum_d log( exp(s cos(t_d, h_d)) / sum_c exp(s cos(t_c, h_d)) )

    Source: prompting/xcoop.py:397-433 and losses.py:6-12.

    Args:
        soft: features of the learned prompts, (C, D) or (K, C, D) (averaged before they are normalised).
        clinical: features of the clinical sentences, (C, D).
        scale: s, the inverse temperature.

    Returns:
        A scalar, >= 0.
    """
    soft = soft.mean(0) if soft.dim() == 3 else soft
    logits = scale * unit(clinical) @ unit(soft).T  # (C hard, C soft)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def prompt_distance(soft: Tensor, clinical: Tensor) -> Tensor:
    """Mean of 1 - cosine between the learned prompts and the clinical sentence of their class.

    The contrast above is satisfied as soon as the classes are told apart, and then lets go; this holds on.

    Args:
        soft: (K, C, D) or (C, D).
        clinical: (C, D), or (K, C, D) where each prompt has a sentence of its own.

    Returns:
        A scalar in [0, 2].
    """
    return (1 - (unit(soft) * unit(clinical)).sum(-1)).mean()


def token_similarity(context: Tensor, concepts: Sequence[Tensor]) -> Tensor:
    """How well the context tokens of each class are explained by the concept tokens of each class.

    Each context token looks for the concept token that is nearest to it; the mean over the context tokens counts.

    Args:
        context: context tokens, (K, C, n, W).
        concepts: for each class its concept tokens, (m_c, W).

    Returns:
        (C, C): row c a class's context, column d a class's concepts; in [-1, 1].
    """
    context = unit(context)
    columns = [(context @ unit(tokens).T).amax(-1).mean((0, 2)) for tokens in concepts]  # each (C,)
    return torch.stack(columns, dim=1)


def token_contrast(context: Tensor, concepts: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Token-level contrast: each class's context tokens must resemble its own concept tokens most.

        L = -(1/C) sum_c log( exp(a_cc / tau) / sum_d exp(a_cd / tau) ),   a = token_similarity

    The released term (losses.py:14-17) sums 77 positions, padding included, at the scale of the image logits; it
    saturates, and its gradient is zero. Here only context and concept tokens count, at a temperature of its own.

    Args:
        context: context tokens, (K, C, n, W).
        concepts: for each class its concept tokens, (m_c, W).
        temperature: tau > 0.

    Returns:
        A scalar, >= 0.
    """
    logits = token_similarity(context, concepts) / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
