"""One pass through a vision transformer that keeps what the visual methods need of it, all in one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.openai import vision_prompts
from xcoop.backbones.towers import vit_projected, vit_prompted, vit_tokens
from xcoop.explain.attention import Tap, attention_tap


@dataclass(frozen=True)
class Trace:
    """What a pass left.

    Attributes:
        visual: the tower.
        tokens: of the image, before the first block and after each: (B, 1 + T, V), class token first.
        taps: the attention of each block; where a method put prompts into the tower, they stand behind the image's
            tokens, L = 1 + T + m.
        features: what the tower gives.
        prompted: how many blocks have prompts of their own, which know nothing of the image when they enter.
    """

    visual: Any
    tokens: Sequence[Tensor]
    taps: Sequence[Tap]
    features: ImageFeatures
    prompted: int

    @property
    def own(self) -> int:
        """How many tokens are the image's, 1 + T."""
        return self.tokens[0].shape[1]

    def entering(self, index: int, rows: Tensor) -> Tensor:
        """What tokens know of the image, (B, L, ...), as they enter a block: new prompts know nothing."""
        if index >= self.prompted:
            return rows
        return torch.cat([rows[:, : self.own], torch.zeros_like(rows[:, self.own :])], dim=1)


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
    """Encodes images (B, 3, S, S); gradients flow back to the tokens before the first block."""
    visual = visual_of(backbone)
    prompts = vision_prompts(backbone)
    tokens = [vit_tokens(visual, images).detach().requires_grad_()]
    own = tokens[0].shape[1]
    blocks: Any = visual.transformer.resblocks
    rest = tokens[0][:, own:]  # of the prompts; none before the first block
    with attention_tap(blocks) as taps:
        for index, block in enumerate(blocks):
            entering = vit_prompted(visual, torch.cat([tokens[-1], rest], dim=1), own, prompts, index)
            out = block(entering.transpose(0, 1)).transpose(0, 1)
            tokens.append(out[:, :own])
            rest = out[:, own:]
    return Trace(visual, tokens, taps, vit_projected(visual, tokens[-1]), 0 if prompts is None else len(prompts))
