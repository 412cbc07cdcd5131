"""Local similarity through the value path (MaskCLIP: Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022).

    u_i = proj( ln_post( x_i + W_o v_i, then + MLP ) ) in the last block;   map_i = cos(u_i, t)

Each patch keeps to itself in the last block: it attends to nothing but its own value. t: the target's text. For ResNets
the local features are made in this way already (`image_towers.resnet_features`). No gradient is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.backbones.towers import vit_projected
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import as_grid, register_explainer, tower_of
from xcoop.explain.visual.trace import trace


@register_explainer("maskclip", ("vit", "resnet"), "How near each patch's own value is to the text.", "1 forward")
@torch.no_grad()
def maskclip(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass; see `registry.explain_maps`."""
    if tower_of(backbone) == "resnet":
        features = backbone.encode_image(images, patches=True)
        patches = features.patches
    else:
        seen = trace(backbone, images)
        features, block = seen.features, seen.visual.transformer.resblocks[-1]
        patches = vit_projected(seen.visual, _value_path(block, seen.tokens[-2])).patches
    text = target.direction(features)  # (B, D)
    return as_grid(backbone, F.cosine_similarity(patches, text[:, None], dim=-1))


def _value_path(block: Any, tokens: Tensor) -> Tensor:
    """A block in which each token (B, L, V) attends to itself alone."""
    attn = block.attn
    width = tokens.shape[-1]
    bias = attn.in_proj_bias[2 * width :] if attn.in_proj_bias is not None else None
    values = F.linear(block.ln_1(tokens), attn.in_proj_weight[2 * width :], bias)
    tokens = tokens + attn.out_proj(values)
    moved: Tensor = tokens + block.mlp(block.ln_2(tokens))
    return moved
