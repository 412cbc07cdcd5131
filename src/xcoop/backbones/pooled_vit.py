"""A vision transformer without a class token, whose patches a learned query reads by attention: SigLIP's image tower.

    pooled = u + MLP(LN(u)),   u = W_o sum_i a_i v_i + b_o,   a = softmax_i(q k_i / sqrt(d)) in each head

Keys and values are those of the patches that left the last block and `ln_post`; the query is the same for all images
(Zhai et al., "Scaling Vision Transformers", CVPR 2022). There is no projection: D = V. A patch that had all the
attention would give u = W_o v_i + b_o, and this is its local feature, as of the pool of CLIP's ResNets.

Symbols: B images, T patches, V width of the tower; h heads, d width of a head; D joint width.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones.base import ImageFeatures
from xcoop.backbones.clip_model import count_blocks, import_clip, set_up
from xcoop.backbones.making import Tower, activation_module


class AttentionPool(nn.Module):
    """The query, its attention, and the MLP behind it."""

    def __init__(self, width: int, heads: int, hidden: int, tower: Tower) -> None:
        super().__init__()
        clip = import_clip().model
        self.probe = nn.Parameter(torch.empty(width))
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln = clip.LayerNorm(width, eps=tower.eps)
        gelu = activation_module(tower.activation) or clip.QuickGELU()
        layers = {"c_fc": nn.Linear(width, hidden), "gelu": gelu, "c_proj": nn.Linear(hidden, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, h, 1, d), keys and values (B, h, T, d) of patches (B, T, V)."""
        V, attn = x.shape[-1], self.attn
        query = F.linear(self.probe.to(x.dtype), attn.in_proj_weight[:V], attn.in_proj_bias[:V]).expand(len(x), 1, V)
        both = F.linear(x, attn.in_proj_weight[V:], attn.in_proj_bias[V:])  # (B, T, 2 V)
        heads = [part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in (query, *both.chunk(2, dim=-1))]
        return heads[0], heads[1], heads[2]

    def finished(self, mixed: Tensor) -> Tensor:
        """What becomes of values that attention has mixed, with their heads side by side: (B, L, V) to the same."""
        u = self.attn.out_proj(mixed)
        out: Tensor = u + self.mlp(self.ln(u))
        return out


class PooledVit(nn.Module):
    """The tower, named as `clip.model.VisionTransformer`, of the sizes of the weights that are named `visual.`.

    Raises:
        KeyError: one of the weights that tell the sizes is not there.
        RuntimeError: the positions are those of no square of patches.
        ValueError: it does not consist of the heads that `tower` states.
    """

    def __init__(self, weights: Mapping[str, Tensor], tower: Tower, source: str) -> None:
        super().__init__()
        clip, patches = import_clip().model, weights["visual.conv1.weight"]
        count, width = weights["visual.positional_embedding"].shape
        side, patch = math.isqrt(count), patches.shape[-1]
        if side < 1 or side * side != count:
            raise RuntimeError(f"{count} positions of the image tower are not those of a square of patches")
        heads = tower.heads_of(width, f"{source}: its image tower")
        layers = count_blocks(weights, "visual.transformer.resblocks.")
        self.input_resolution = patch * side
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(count, width))
        self.ln_pre = nn.Identity()
        self.transformer = clip.Transformer(width, layers, heads)
        set_up(self.transformer, tower, weights, "visual.transformer.")
        self.ln_post = clip.LayerNorm(width, eps=tower.eps)
        self.pool = AttentionPool(width, heads, len(weights["visual.pool.mlp.c_fc.weight"]), tower)

    def projected(self, tokens: Tensor, patches: bool) -> ImageFeatures:
        """Features of patches that left the last block, (B, T, V); the local ones only if they are asked for."""
        query, keys, values = self.pool.parts(self.ln_post(tokens))
        mixed = F.scaled_dot_product_attention(query, keys, values)
        pooled = self.pool.finished(mixed.transpose(1, 2).flatten(2))[:, 0]
        local = self.pool.finished(values.transpose(1, 2).flatten(2)) if patches else pooled[:, None][:, :0]
        return ImageFeatures(pooled, local)
