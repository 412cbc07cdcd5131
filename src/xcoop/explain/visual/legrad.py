"""LeGrad (Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers", ICCV 2025).

    S_l = score of the tokens that leave block l;   map = minmax( sum_l mean_{h, queries} relu( dS_l / dA_l ) )

A_l: attention of block l, on its patch keys. Of each block, the mean of the projected tokens stands for the global
feature and its projected patch tokens for the local ones, so the score is the same function in every block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.towers import vit_projected
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer
from xcoop.explain.visual.trace import trace


@register_explainer(
    "legrad",
    ("vit",),
    "In all blocks together: where more attention would raise the score.",
    "1 forward, 1 backward a block, of that block alone",
)
def legrad(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass, and a backward pass of each block by itself; see `registry.explain_maps`."""
    seen = trace(backbone, images)
    total = torch.zeros(len(images), seen.tokens[0].shape[1] - 1, device=images.device)  # (B, T)
    for tap, tokens in zip(seen.taps, seen.tokens[1:], strict=True):
        mean = vit_projected(seen.visual, tokens.mean(1, keepdim=True)).pooled
        features = ImageFeatures(mean, vit_projected(seen.visual, tokens).patches)
        (gradient,) = torch.autograd.grad(target.score(features).sum(), [tap.probs], retain_graph=True)
        total = total + gradient.relu().mean((1, 2))[:, 1 : seen.own].float()
    low, high = total.amin(1, keepdim=True), total.amax(1, keepdim=True)
    return as_grid(backbone, (total - low) / (high - low).clamp(min=1e-12))
