"""Global and local features of CLIP's two kinds of image towers, from the modules of an unmodified model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones.base import ImageFeatures
from xcoop.backbones.blocks import run_block


def vit_features(visual: Any, images: Tensor, patches: bool, prompts: Tensor | None = None) -> ImageFeatures:
    """A vision transformer's class token and, if asked for, its patch tokens, each through `ln_post` and `proj`.

    CLIP itself projects the class token alone (`VisionTransformer.forward`); the same layers take the patch tokens into
    the joint space, as in XCoOp's released code.

    Args:
        visual: a `clip.model.VisionTransformer`.
        images: (B, 3, S, S).
        patches: whether the patch tokens are wanted.
        prompts: learned tokens beside the image's own, see `vit_prompted`.
    """
    x = vit_tokens(visual, images)
    own = x.shape[1]
    for index, block in enumerate(visual.transformer.resblocks):
        x = run_block(block, vit_prompted(visual, x, own, prompts, index))
    return vit_projected(visual, x[:, : own if patches else 1])


def vit_prompted(visual: Any, x: Tensor, own: int, prompts: Tensor | None, index: int) -> Tensor:
    """What enters a block: the image's own tokens, and prompts behind them.

    Each of the first J blocks has prompts of its own, in the place of what the block before made of the earlier ones;
    later blocks go on with those. The first ones pass `ln_pre`, as all tokens that enter the first block do (deep
    prompts: Jia et al., "Visual Prompt Tuning", ECCV 2022).

    Args:
        visual: a `clip.model.VisionTransformer`.
        x: what left the block before, (B, own, V) or (B, own + m, V).
        own: how many tokens are the image's, 1 + T.
        prompts: (J, m, V); None for none at all.
        index: of the block, from 0.

    Returns:
        (B, own + m, V); x itself if this block has no prompts of its own.
    """
    if prompts is None or index >= len(prompts):
        return x
    new = prompts[index].to(x.dtype)
    new = new if index else visual.ln_pre(new)
    return torch.cat([x[:, :own], new.expand(len(x), -1, -1)], dim=1)


def vit_tokens(visual: Any, images: Tensor) -> Tensor:
    """The tokens that enter a vision transformer's first block, class token first: (B, 1 + T, V), V its width."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, T, V)
    first = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)  # (B, 1, V)
    tokens: Tensor = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding.to(x.dtype))
    return tokens


def vit_projected(visual: Any, tokens: Tensor) -> ImageFeatures:
    """Tokens that left the last block, (B, 1 + T, V), through `ln_post` and `proj`."""
    joint = visual.ln_post(tokens) @ visual.proj  # (B, 1 + T, D)
    return ImageFeatures(pooled=joint[:, 0], patches=joint[:, 1:])


def resnet_features(visual: Any, images: Tensor, patches: bool) -> ImageFeatures:
    """A ResNet's attention-pooled feature and, if asked for, each position's way through that pool.

    The pool returns c_proj(sum_i a_i v_proj(x_i + p_i)), with attention a_i that sums to one in each head. A position
    that had all the attention would give c_proj(v_proj(x_i + p_i)): this is its local feature. (MaskCLIP, Zhou et al.,
    ECCV 2022, reads CLIP's value path so.)

    Args:
        visual: a `clip.model.ModifiedResNet`.
        images: (B, 3, S, S).
        patches: whether the local features are wanted.
    """
    return resnet_pooled(visual, resnet_map(visual, images), patches)


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
    """A ResNet's last map (B, V, S / 32, S / 32) through its attention pool; see `resnet_features`."""
    pool = visual.attnpool
    pooled = pool(x)  # (B, D)
    if not patches:
        return ImageFeatures(pooled, pooled.new_empty(len(pooled), 0, pooled.shape[1]))
    positions = x.flatten(2).transpose(1, 2) + pool.positional_embedding[1:].to(x.dtype)  # (B, T, V)
    return ImageFeatures(pooled, pool.c_proj(pool.v_proj(positions)))
