"""Attention relevancy, weighted by gradients (Chefer et al., "Generic Attention-model Explainability", ICCV 2021).

    R = I;   R <- R + mean_h( relu( dS/dA * A ) ) R   for each block from `start` on;   map = R[0, 1:]

A: attention of a block. Read off is what reaches the class token; the score S is the whole one, local term included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer
from xcoop.explain.visual.trace import trace

START = -1  # the last block alone, as the authors advise for CLIP


@register_explainer(
    "relevancy",
    ("vit",),
    "What reaches the class token through attention that raises the score.",
    "1 forward, 1 backward of the last layers",
)
def relevancy(backbone: Backbone, images: Tensor, target: Target, start: int = START) -> Tensor:
    """One forward and one backward pass; see `registry.explain_maps`."""
    seen = trace(backbone, images)
    probs = [tap.probs for tap in seen.taps][start:]
    gradients = torch.autograd.grad(target.score(seen.features).sum(), probs)
    relevance = torch.eye(probs[0].shape[-1], device=images.device).expand(len(images), -1, -1)  # (B, L, L)
    first = len(seen.taps) - len(probs)
    for index, (A, gradient) in enumerate(zip(probs, gradients, strict=True), first):
        relevance = seen.entering(index, relevance)
        relevance = relevance + (gradient * A).relu().mean(1).float() @ relevance
    return as_grid(backbone, relevance[:, 0, 1 : seen.own])
