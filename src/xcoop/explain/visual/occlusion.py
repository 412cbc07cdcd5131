"""Occlusion: how far the score falls without one patch, map_i = S(x) - S(x without patch i). A slow, black-box referee.

A patch is replaced by 0, the mean colour of what the backbone was trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer


@register_explainer(
    "occlusion", ("vit", "resnet"), "How far the score falls when a patch is covered.", "1 forward a patch, and 1"
)
@torch.no_grad()
def occlusion(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass a patch; see `registry.explain_maps`."""
    rows, columns = backbone.grid
    high, wide = images.shape[2] // rows, images.shape[3] // columns

    def score(batch: Tensor) -> Tensor:
        return target.score(backbone.encode_image(batch, patches=True))

    falls = []
    whole = score(images)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        covered = images.clone()
        covered[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = 0
        falls.append(whole - score(covered))
    return as_grid(backbone, torch.stack(falls, dim=1))
