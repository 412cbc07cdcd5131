"""Inside an image tower: one pass that keeps tokens and attention, for the heat maps that read them.

Symbols: B images, S their side, T patches, L tokens, m prompts; h heads, d width of a head, V width of the tower.
Token 0 is the class token; where a pool reads the patches instead, the first patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.openai import vision_prompts
from xcoop.backbones.pooled_vit import PooledVit
from xcoop.backbones.vit import class_tokens, projected, vit_projected, vit_prompted, vit_tokens


class Attention(NamedTuple):
    """What passed through one block's attention; all of it is part of the graph."""

    queries: Tensor  # (B, h, L, d), scaled by nothing
    keys: Tensor  # (B, h, L, d)
    values: Tensor  # (B, h, L, d)
    probs: Tensor  # (B, h, L, L), each row sums to one
    mixed: Tensor  # probs @ values with the heads side by side, (B, L, V): the output before its projection


@dataclass(frozen=True)
class Trace:
    """What a pass left.

    Attributes:
        visual: the tower.
        tokens: before the first block and after each, (B, L, V): the image's, class token first, L = 1 + T; where a
            method put m prompts into the tower, they stand behind, L = 1 + T + m.
        attention: of each block.
        features: what the tower gives.
        prompted: how many blocks have prompts of their own, which know nothing of the image when they enter.
        own: how many tokens are the image's, 1 + T, or T without a class token.
        pool: what a pool's query reads of the image's tokens, L = 1 for queries; None where the class token reads them
            in the last block.
    """

    visual: Any
    tokens: Sequence[Tensor]
    attention: Sequence[Attention]
    features: ImageFeatures
    prompted: int
    own: int
    pool: Attention | None

    @property
    def patches(self) -> slice:
        """Where the patches stand among the image's tokens."""
        return slice(class_tokens(self.visual), self.own)

    @property
    def reader(self) -> tuple[Attention, Tensor]:
        """The attention whose first query the image's feature comes from, and the weight of its projection (V, V)."""
        if self.pool is not None:
            return self.pool, self.visual.pool.attn.out_proj.weight
        return self.attention[-1], self.visual.transformer.resblocks[-1].attn.out_proj.weight


def visual_of(backbone: Backbone) -> Any:
    """The image tower of an OpenAI-style backbone.

    Raises:
        ValueError: this backbone keeps its image tower elsewhere, so its inside cannot be read here.
    """
    visual = getattr(getattr(backbone, "model", None), "visual", None)
    if visual is None:
        raise ValueError(f"{backbone.name}: only image towers at `model.visual` can be looked into")
    return visual


def trace(backbone: Backbone, images: Tensor) -> Trace:
    """Encodes images (B, 3, S, S) as the tower does, step by step from its own modules; nothing of it is changed.

    Gradients flow back to the tokens before the first block.
    """
    visual, prompts = visual_of(backbone), vision_prompts(backbone)
    x = vit_tokens(visual, images).detach().requires_grad_()
    own, tokens, seen = x.shape[1], [x], []
    for index, block in enumerate(visual.transformer.resblocks):
        x = vit_prompted(visual, x, own, prompts, index)
        attention = attend(block.attn, block.ln_1(x))
        x = x + block.attn.out_proj(attention.mixed)
        x = x + block.mlp(block.ln_2(x))
        seen.append(attention)
        tokens.append(x)
    prompted = 0 if prompts is None else len(prompts)
    features, pool = vit_projected(visual, x[:, :own]), None
    if isinstance(visual, PooledVit):
        pool = mixed_by(*visual.pool.parts(visual.ln_post(x[:, :own])))
        features = ImageFeatures(visual.pool.finished(pool.mixed)[:, 0], features.patches)
    return Trace(visual, tokens, seen, features, prompted, own, pool)


def attend(attn: Any, x: Tensor) -> Attention:
    """What an `nn.MultiheadAttention` makes of (B, L, V), before its output's projection."""
    q, k, v = projected(attn, x).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, h, L, d)
    return mixed_by(q, k, v)


def mixed_by(q: Tensor, k: Tensor, v: Tensor) -> Attention:
    """What queries (B, h, L, d) make of keys and values."""
    probs = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return Attention(q, k, v, probs, (probs @ v).transpose(1, 2).flatten(2))
