"""CLIP's towers, evaluated from the modules of an unmodified `clip` model, with global and local image features.

No hook is set and no module replaced. Learned prompts can stand among the tokens of each layer.

Symbols: N texts, L tokens, W text width, n context tokens; B images, T patches, V width of the image tower, m vision
prompts; D joint width; J layers with prompts; h heads, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones.base import ImageFeatures

QUICK = 1.702  # QuickGELU is x * sigmoid(1.702 x)


def text_features(model: Any, embeddings: Tensor, end: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Text features from token embeddings, over the shortest prefix that holds every end token.

    Attention is causal, so nothing after an end token can reach it: cropping is exact. The modules are called in the
    order of CLIP's `encode_text` and `ResidualAttentionBlock.forward`. Only the mask is ours: each block keeps one of
    full length, which clip-anytorch crops to its input and OpenAI's and CoOp's copies do not. Handing the mask over,
    rather than changing the blocks', leaves nothing to restore, whatever fails or runs beside it.

    Args:
        model: a `clip.model.CLIP`.
        embeddings: (N, L, W), without positions.
        end: (N,) int64.
        prompts: (J, n, W), of the second block to block 1 + J: they take the places of tokens 1 to n, behind the start
            token, before each of these blocks.

    Returns:
        (N, D), not normalised.

    Raises:
        ValueError: an end token lies outside the embeddings, or beyond the model's context.
    """
    context, length = len(model.positional_embedding), int(end.max()) + 1
    if length > min(embeddings.shape[1], context) or int(end.min()) < 0:
        raise ValueError(
            f"end tokens at {end.tolist()} do not lie within {embeddings.shape[1]} embeddings "
            f"and a context of {context} tokens"
        )
    x = embeddings[:, :length].to(model.dtype) + model.positional_embedding[:length].to(model.dtype)  # (N, L, W)
    x = x.transpose(0, 1)  # (L, N, W)
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu_(1)
    for index, block in enumerate(model.transformer.resblocks):
        if prompts is not None and 0 < index <= len(prompts):
            new = prompts[index - 1].to(x.dtype)[:, None].expand(-1, x.shape[1], -1)  # (n, N, W)
            x = torch.cat([x[:1], new, x[1 + len(new) :]])
        normed = block.ln_1(x)
        x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        x = x + block.mlp(block.ln_2(x))
    x = x[end, torch.arange(len(end), device=x.device)]  # (N, W)
    return model.ln_final(x) @ model.text_projection


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


def vit_tokens(visual: Any, images: Tensor) -> Tensor:
    """The tokens that enter a vision transformer's first block, class token first: (B, 1 + T, V)."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, T, V)
    first = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)  # (B, 1, V)
    tokens: Tensor = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding.to(x.dtype))
    return tokens


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


def vit_projected(visual: Any, tokens: Tensor) -> ImageFeatures:
    """Tokens that left the last block, (B, 1 + T, V), through `ln_post` and `proj`."""
    joint = visual.ln_post(tokens) @ visual.proj  # (B, 1 + T, D)
    return ImageFeatures(pooled=joint[:, 0], patches=joint[:, 1:])


def run_block(block: Any, x: Tensor) -> Tensor:
    """What `clip.model.ResidualAttentionBlock.forward` computes without a mask, batch first: the same, fewer copies.

    QuickGELU(h) = silu(1.702 h) / 1.702 takes fewer passes over the widest tensor there is, forward and backward, and
    keeps one tensor of its size for the backward pass instead of two.

    A block that somebody looks into, by a hook on any of its modules or by covering its method `attention` on the
    instance, is called as it is, so that they see what CLIP would show them: (L, B, V).

    Args:
        block: a `clip.model.ResidualAttentionBlock`.
        x: (B, L, V).

    Returns:
        (B, L, V).
    """
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    if "attention" in vars(block) or any(getattr(module, kind) for module in block.modules() for kind in kinds):
        called: Tensor = block(x.transpose(0, 1)).transpose(0, 1)
        return called
    x = x + self_attention(block.attn, block.ln_1(x))
    hidden = F.silu(QUICK * block.mlp.c_fc(block.ln_2(x))) / QUICK  # (B, L, 4 V)
    out: Tensor = x + block.mlp.c_proj(hidden)
    return out


def self_attention(attention: Any, x: Tensor, causal: bool = False) -> Tensor:
    """What an `nn.MultiheadAttention` without dropout makes of (B, L, V) as queries, keys and values."""
    B, L, V = x.shape
    packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # (B, L, 3 V)
    heads = packed.view(B, L, 3, attention.num_heads, V // attention.num_heads)
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, h, L, d)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(B, L, V))
    return out


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
