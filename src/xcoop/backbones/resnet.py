"""The image tower of a CLIP that is a ResNet, from the modules of `clip.model`.

Symbols: B images, T positions of the last map, V its width, S pixels, D joint width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones.base import ImageFeatures


def resnet_map(visual: Any, images: Tensor) -> Tensor:
    """What leaves a ResNet's last stage, (B, V, S / 32, S / 32)."""
    x = images
    for index in (1, 2, 3):  # the stem: OpenAI's copies name its activations differently, and all are plain ReLUs
        x = F.relu(getattr(visual, f"bn{index}")(getattr(visual, f"conv{index}")(x)))
    x = visual.avgpool(x)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    return x


def resnet_pooled(visual: Any, x: Tensor, patches: bool) -> ImageFeatures:
    """Feature of a ResNet's last map (B, V, S / 32, S / 32) and, if asked for, each position's way through the pool.

    The pool returns c_proj(sum_i a_i v_proj(x_i + p_i)), with attention a_i that sums to one in each head. A position
    that had all the attention would give c_proj(v_proj(x_i + p_i)): this is its local feature. (MaskCLIP, Zhou et al.,
    ECCV 2022, reads CLIP's value path so.)
    """
    pool = visual.attnpool
    pooled = pool(x)  # (B, D)
    if not patches:
        return ImageFeatures(pooled, pooled.new_empty(len(pooled), 0, pooled.shape[1]))
    positions = x.flatten(2).transpose(1, 2) + pool.positional_embedding[1:].to(x.dtype)  # (B, T, V)
    return ImageFeatures(pooled, pool.c_proj(pool.v_proj(positions)))
