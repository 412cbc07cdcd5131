"""One pass through a vision transformer that keeps what the visual methods need of it, all in one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.image_towers import vit_projected, vit_tokens
from xcoop.explain.attention import Tap, attention_tap


@dataclass(frozen=True)
class Trace:
    """What a pass left.

    Attributes:
        visual: the tower.
        tokens: before the first block, and after each: (B, 1 + T, V), class token first.
        taps: the attention of each block.
        features: what the tower gives.
    """

    visual: Any
    tokens: Sequence[Tensor]
    taps: Sequence[Tap]
    features: ImageFeatures


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
    tokens = [vit_tokens(visual, images).detach().requires_grad_()]
    blocks: Any = visual.transformer.resblocks
    with attention_tap(blocks) as taps:
        for block in blocks:
            tokens.append(block(tokens[-1].transpose(0, 1)).transpose(0, 1))
    return Trace(visual, tokens, taps, vit_projected(visual, tokens[-1]))
