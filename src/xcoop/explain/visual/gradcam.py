"""Grad-CAM (Selvaraju et al., ICCV 2017): map = relu( sum_ch w_ch F_ch ), w = mean over positions of dS/dF.

F: for a ViT the patch tokens that enter the last block (the class token reads them there; those that leave it no longer
reach it), for a ResNet what leaves its last stage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.backbones.towers import resnet_map, resnet_pooled
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer, tower_of
from xcoop.explain.visual.trace import trace, visual_of


@register_explainer(
    "gradcam",
    ("vit", "resnet"),
    "Channels of the last features that raise the score.",
    "1 forward, 1 backward of the last layers",
)
def gradcam(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass, and a backward pass of the last layers; see `registry.explain_maps`."""
    if tower_of(backbone) == "resnet":
        visual = visual_of(backbone)
        with torch.no_grad():
            last = resnet_map(visual, images)
        last.requires_grad_()
        (gradient,) = torch.autograd.grad(target.score(resnet_pooled(visual, last, True)).sum(), [last])
        return (gradient.mean((2, 3), keepdim=True) * last).sum(1).relu()
    seen = trace(backbone, images)
    tokens = seen.tokens[-2]
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [tokens])
    weights = gradient[:, 1:].mean(1, keepdim=True)  # (B, 1, V)
    return as_grid(backbone, (weights * tokens[:, 1:]).sum(-1).relu())
