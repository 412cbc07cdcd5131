"""Towers with prompts in their first layers, written out plainly: one image or text at a time, CLIP's own blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones.clip_model import import_clip


def image_features(model: Any, image: Tensor, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Global (D,) and local (T, D) features of an image (3, S, S); `prompts` are (m, V), a layer each."""
    visual = model.visual
    patches = visual.conv1(image[None])[0].flatten(1).T  # (T, V)
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    count = len(x)
    if prompts:
        x = torch.cat([x, prompts[0]])
    x = visual.ln_pre(x)
    for layer, block in enumerate(visual.transformer.resblocks):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:count], prompts[layer]])
        x = block(x[:, None])[:, 0]
    joint = visual.ln_post(x[:count]) @ visual.proj
    return joint[0], joint[1:]


def text_feature(model: Any, words: str, prompts: Sequence[Tensor]) -> Tensor:
    """The feature (D,) of `[start] context words [end]`, 77 tokens; `prompts` are contexts (n, W), a layer each."""
    n = len(prompts[0])
    tokens = import_clip().tokenize(" ".join(["X"] * n) + " " + words)[0]
    x = model.token_embedding(tokens)
    for layer, block in enumerate(model.transformer.resblocks):
        if layer < len(prompts):
            x = torch.stack([x[0], *prompts[layer], *x[1 + n :]])
        if layer == 0:
            x = x + model.positional_embedding
        x = block(x[:, None])[:, 0]
    return model.ln_final(x)[tokens.argmax()] @ model.text_projection
