"""CLIP's text tower over the shortest prefix that holds every end token.

Attention is causal, so nothing after an end token can reach it: cropping is exact. The modules are those of an
unmodified `clip` model, called in the order of its `encode_text` and `ResidualAttentionBlock.forward`. Only the mask is
ours: each block keeps one of full length, which clip-anytorch crops to its input and OpenAI's and CoOp's copies do not.
Handing the mask over, rather than changing the blocks', leaves nothing to restore, whatever fails or runs beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode(model: Any, embeddings: Tensor, end: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Text features from token embeddings.

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
    length = _prefix(embeddings, end, len(model.positional_embedding))
    x = embeddings[:, :length].to(model.dtype) + model.positional_embedding[:length].to(model.dtype)  # (N, L, W)
    x = x.transpose(0, 1)  # (L, N, W)
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu_(1)
    for index, block in enumerate(model.transformer.resblocks):
        if prompts is not None and 0 < index <= len(prompts):
            x = _prompted(x, prompts[index - 1])
        normed = block.ln_1(x)
        x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        x = x + block.mlp(block.ln_2(x))
    x = x[end, torch.arange(len(end), device=x.device)]  # (N, W)
    return model.ln_final(x) @ model.text_projection


def _prompted(x: Tensor, prompts: Tensor) -> Tensor:
    """Tokens (L, N, W) with prompts (n, W) in the places behind the first."""
    new = prompts.to(x.dtype)[:, None].expand(-1, x.shape[1], -1)  # (n, N, W)
    return torch.cat([x[:1], new, x[1 + len(prompts) :]])


def _prefix(embeddings: Tensor, end: Tensor, context: int) -> int:
    """The length of the shortest prefix that holds every end token."""
    length = int(end.max()) + 1
    if length > min(embeddings.shape[1], context) or int(end.min()) < 0:
        raise ValueError(
            f"end tokens at {end.tolist()} do not lie within {embeddings.shape[1]} embeddings "
            f"and a context of {context} tokens"
        )
    return length
