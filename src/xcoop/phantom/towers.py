"""OpenAI's CLIP modules, evaluated the fast way on a CPU: the same numbers, fewer passes over memory.

Only what training the phantom needs: pictures with a part of their patches, texts cropped to the longest one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xcoop.backbones.blocks import QUICK, self_attention

# The normalisation of OpenAI's CLIP.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, S, S) in [0, 1] to the range that CLIP is fed with."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std


def image_features(visual: Any, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
    """The global feature of each picture, (B, D); equals `visual(pixels)` if all patches are kept."""
    return image_tokens(visual, pixels, keep)[:, 0]


def image_tokens(visual: Any, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
    """The global feature of each picture, and then that of each patch, in the joint space.

    Args:
        visual: `clip.model.VisionTransformer`.
        pixels: (B, 3, S, S), normalised.
        keep: (B, T') numbers of the patches to look at; None: all (FLIP, arXiv:2212.00794, drops half of them).

    Returns:
        (B, 1 + T', D), not normalised.
    """
    width, _, side, _ = visual.conv1.weight.shape
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2)  # (B, T, 3 * side * side)
    places = visual.positional_embedding[1:].expand(len(pixels), -1, -1)  # (B, T, W)
    if keep is not None:
        patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
        places = places.gather(1, keep[..., None].expand(-1, -1, width))
    x = patches @ visual.conv1.weight.flatten(1).T + places
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], dim=1))  # (B, 1 + T', W)
    for block in visual.transformer.resblocks:
        x = _block(block, x, causal=False)
    return visual.ln_post(x) @ visual.proj


def text_features(clip: Any, embeddings: Tensor, end: Tensor) -> Tensor:
    """The feature of each text, from its token embeddings.

    Args:
        clip: `clip.model.CLIP`.
        embeddings: (N, L, W) token embeddings, cropped to L tokens.
        end: (N,) position of the end token.

    Returns:
        (N, D), not normalised.
    """
    x = embeddings + clip.positional_embedding[: embeddings.shape[1]]
    for block in clip.transformer.resblocks:
        x = _block(block, x, causal=True)
    return clip.ln_final(x[torch.arange(len(x), device=x.device), end]) @ clip.text_projection


def _block(block: Any, x: Tensor, causal: bool) -> Tensor:
    """One residual attention block, on (B, L, W)."""
    x = x + self_attention(block.attn, block.ln_1(x), causal)
    inner, outer = block.mlp.c_fc, block.mlp.c_proj
    # QuickGELU(h) = silu(1.702 h) / 1.702: one fused pass instead of three over the widest tensor there is.
    hidden = F.silu(F.linear(block.ln_2(x), inner.weight * QUICK, inner.bias * QUICK))
    return x + F.linear(hidden, outer.weight / QUICK, outer.bias)
