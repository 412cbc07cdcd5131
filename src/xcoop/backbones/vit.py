"""The modules of `clip.model`'s vision transformers and blocks, evaluated batch first, without changing any of them.

Symbols: B images, T patches, L tokens, V width of a tower, m vision prompts; D joint width; h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones.base import ImageFeatures
from xcoop.backbones.pooled_vit import PooledVit
from xcoop.backbones.saving import layer_norm

QUICK = 1.702  # QuickGELU is x * sigmoid(1.702 x)


class AdaptedAttention(nn.Module):
    """An `nn.MultiheadAttention`, all of whose tensors it shares, with something added to its projections.

    Args:
        plain: without dropout.
        added: of the input (..., V) what is added to queries, keys and values, packed in this order: (..., 3 V).
    """

    added: Callable[[Tensor], Tensor]

    def __init__(self, plain: Any, added: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = plain.in_proj_weight, plain.in_proj_bias
        self.out_proj, self.num_heads = plain.out_proj, plain.num_heads
        self.__dict__["added"] = added  # whoever trains it owns it

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """As the blocks of `clip.model` call it: thrice the same (L, B, V), with a causal mask or none."""
        return self_attention(self, query.transpose(0, 1), attn_mask is not None).transpose(0, 1), None


def vit_tokens(visual: Any, images: Tensor) -> Tensor:
    """The tokens that enter a vision transformer's first block, its class token, if any, first: (B, 1 + T, V)."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, T, V)
    if class_tokens(visual):
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    tokens: Tensor = visual.ln_pre(x + visual.positional_embedding.to(x.dtype))
    return tokens


def class_tokens(visual: Any) -> int:
    """How many tokens stand before the patches of a vision transformer: 1, or 0 where attention pools the patches."""
    return 0 if isinstance(visual, PooledVit) else 1


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


def vit_projected(visual: Any, tokens: Tensor, patches: bool = True) -> ImageFeatures:
    """Tokens that left the last block, (B, 1 + T, V), through `ln_post` and `proj`, or the pool of a `PooledVit`.

    CLIP itself projects the class token alone (`VisionTransformer.forward`); the same layers take the patch tokens into
    the joint space, as in XCoOp's released code.

    Args:
        visual: a `clip.model.VisionTransformer`, or a `PooledVit`, whose tokens are patches alone.
        tokens: of the image.
        patches: whether the local features are wanted.
    """
    if isinstance(visual, PooledVit):
        return visual.projected(tokens, patches)
    joint = visual.ln_post(tokens if patches else tokens[:, :1]) @ visual.proj  # (B, 1 + T, D)
    return ImageFeatures(pooled=joint[:, 0], patches=joint[:, 1:])


def run_block(block: Any, x: Tensor, causal: bool = False) -> Tensor:
    """What `clip.model.ResidualAttentionBlock.forward` computes, batch first: the same, fewer copies.

    QuickGELU(h) = silu(1.702 h) / 1.702 takes fewer passes over the widest tensor there is, forward and backward, and
    keeps one tensor of its size for the backward pass instead of two.

    A block that somebody looks into, by a hook on any of its modules or by covering its method `attention` on the
    instance, has its own modules called, so that they see what CLIP would show them: (L, B, V).

    Args:
        block: a `clip.model.ResidualAttentionBlock`.
        x: (B, L, V).
        causal: whether tokens see none that stand behind them, as in the text tower.

    Returns:
        (B, L, V).
    """
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    if "attention" in vars(block) or any(getattr(module, kind) for module in block.modules() for kind in kinds):
        return _looked_into(block, x.transpose(0, 1), causal).transpose(0, 1)
    less = not causal  # of the image tower, which has by far more tokens
    x = x + self_attention(block.attn, layer_norm(block.ln_1, x, less), causal)
    hidden = activated(block.mlp, block.mlp.c_fc(layer_norm(block.ln_2, x, less)))  # (B, L, 4 V)
    out: Tensor = x + block.mlp.c_proj(hidden)
    return out


def activated(mlp: Any, hidden: Tensor) -> Tensor:
    """The activation of a block's MLP, of what its first layer gave; QuickGELU in the form that `run_block` names."""
    if isinstance(mlp.gelu, nn.GELU):
        out: Tensor = mlp.gelu(hidden)
        return out
    return F.silu(QUICK * hidden) / QUICK


def _looked_into(block: Any, x: Tensor, causal: bool) -> Tensor:
    """The block's own modules on (L, B, V); with a mask of the length of x, which the block's own is not."""
    if not causal:
        called: Tensor = block(x)
        return called
    mask = torch.full((len(x), len(x)), float("-inf"), dtype=x.dtype, device=x.device).triu_(1)
    normed = block.ln_1(x)
    x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
    out: Tensor = x + block.mlp(block.ln_2(x))
    return out


def text_prompted(x: Tensor, prompts: Tensor | None, index: int, before: int = 1) -> Tensor:
    """What enters a block of a text tower: from the second on, its own prompts in the place of the context.

    Args:
        x: what left the block before, (N, L, W); the context stands right behind the start token.
        prompts: (J, n, W), of the second block to block 1 + J; None: the context is never replaced.
        index: of the block, from 0.
        before: how many tokens stand before the context; 0 in a tower whose texts have no start token.
    """
    if prompts is None or not 0 < index <= len(prompts):
        return x
    new = prompts[index - 1].to(x.dtype).expand(len(x), -1, -1)  # (N, n, W)
    return torch.cat([x[:, :before], new, x[:, before + new.shape[1] :]], dim=1)


def self_attention(attention: Any, x: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """What an `nn.MultiheadAttention` without dropout makes of (B, L, V) as queries, keys and values.

    Args:
        attention: the module, or an adapted one.
        x: (B, L, V).
        causal: whether tokens see none that stand behind them.
        mask: which tokens are seen otherwise, (B, 1, 1 or L, L), true for those that are; None: all.
    """
    B, L, V = x.shape
    heads = projected(attention, x).view(B, L, 3, attention.num_heads, V // attention.num_heads)
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, h, L, d)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(B, L, V))
    return out


def projected(attention: Any, x: Tensor) -> Tensor:
    """Queries, keys and values of (B, L, V) in an `nn.MultiheadAttention`, or an adapted one, packed: (B, L, 3 V)."""
    packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    return packed + attention.added(x) if isinstance(attention, AdaptedAttention) else packed
