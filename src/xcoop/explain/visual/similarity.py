"""Raw similarity of each patch feature with the text: map_i = cos(f_i, t).

What XCoOp's own local term looks at. Patch features of CLIPs that were trained on whole images often prefer the
background ("opposite visualisation"; Li et al., "CLIP Surgery", arXiv 2304.05653): never the default here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer


@register_explainer(
    "similarity", ("vit", "resnet"), "How near each patch is to the text; may prefer the background.", "1 forward"
)
@torch.no_grad()
def similarity(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass; see `registry.explain_maps`."""
    features = backbone.encode_image(images, patches=True)
    text = target.direction(features)  # (B, D)
    return as_grid(backbone, F.cosine_similarity(features.patches, text[:, None], dim=-1))
