"""Grad-ECLIP (Zhao et al., "Gradient-based Visual Explanation for Transformer-based CLIP", ICML 2024).

    map_i = relu( sum_ch  dS/dO[0] * v_i * w_i ),   w_i = minmax_i( cos( W_o q_0, W_o k_i ) )

O: the last attention's output before its projection, token 0 the class token; q, k, v with their heads side by side.
The formula follows the class token; of the score's local term only what passes there counts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer
from xcoop.explain.visual.trace import trace


@register_explainer(
    "gradeclip",
    ("vit",),
    "Values of the last attention that raise the score, where query and key agree.",
    "1 forward, 1 backward of the last layers",
)
def gradeclip(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass, and a backward pass of the last block; see `registry.explain_maps`."""
    seen = trace(backbone, images)
    tap, weight = seen.taps[-1], seen.visual.transformer.resblocks[-1].attn.out_proj.weight
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [tap.mixed])
    q, k, v = (part.transpose(1, 2).flatten(2) for part in (tap.queries, tap.keys, tap.values))  # (B, 1 + T, V)
    near = F.cosine_similarity(q[:, :1] @ weight.T, k[:, 1 : seen.own] @ weight.T, dim=-1)  # (B, T)
    low, high = near.amin(1, keepdim=True), near.amax(1, keepdim=True)
    near = (near - low) / (high - low).clamp(min=1e-12)
    return as_grid(backbone, ((gradient[:, :1] * v[:, 1 : seen.own]).sum(-1) * near).relu())
