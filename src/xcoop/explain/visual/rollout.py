"""Attention rollout (Abnar and Zuidema, ACL 2020): what attention alone carries to the class token, whatever is asked.

A' = rownorm( mean_h A + I );   R = A'_L ... A'_1;   map = R[0, 1:]
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer
from xcoop.explain.visual.trace import trace


@register_explainer(
    "rollout", ("vit",), "What attention carries to the class token, for every class the same.", "1 forward", False
)
@torch.no_grad()
def rollout(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass; see `registry.explain_maps`. A baseline: it does not depend on the target."""
    seen = trace(backbone, images)
    taps = seen.taps
    eye = torch.eye(taps[0].probs.shape[-1], device=images.device)
    total = eye.expand(len(images), -1, -1)
    for index, tap in enumerate(taps):
        total = (tap.probs.float().mean(1) + eye) / 2 @ seen.entering(index, total)  # rows of probs sum to one
    return as_grid(backbone, total[:, 0, 1 : seen.own])
