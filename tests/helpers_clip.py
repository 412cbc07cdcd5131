"""Small CLIPs with random weights, in OpenAI's state-dict format, built in milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor

from xcoop.backbones.clip_model import build_clip, import_clip
from xcoop.backbones.openai import ClipBackbone

VOCABULARY = 49408  # OpenAI's tokenizer


def tiny_clip_state(
    seed: int = 0,
    vision: str = "vit",
    *,
    layers: int = 3,
    text_width: int = 64,
    vision_width: int | None = None,
    embed_dim: int = 48,
    image_size: int | None = None,
    patch: int = 8,
) -> dict[str, Tensor]:
    """An OpenAI-format state dict in fp32, with every weight random (norms and batch statistics too).

    Args:
        seed: the same seed gives the same weights; the global random state is left alone.
        vision: "vit" (by default 32 px in a 4 x 4 grid, two heads) or "resnet" (64 px, 2 x 2).
        layers: of the text tower, and of a ViT.
        text_width: W, a multiple of 64.
        vision_width: a multiple of 64 for a ViT, by default 128; of 2 for a ResNet, by default 8.
        embed_dim: D.
        image_size: in pixels; a multiple of `patch` for a ViT, of 32 for a ResNet.
        patch: side of a patch in pixels (ViT).
    """
    vit = vision == "vit"
    with torch.device("meta"):
        model = import_clip().model.CLIP(
            embed_dim,
            image_size or (32 if vit else 64),
            layers if vit else (1, 1, 1, 1),
            vision_width or (128 if vit else 8),
            patch if vit else None,
            77,
            VOCABULARY,
            text_width,
            text_width // 64,
            layers,
        )
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, tensor.shape, generator) for name, tensor in model.state_dict().items()}


def tiny_backbone(seed: int = 0, vision: str = "vit", **sizes: int) -> ClipBackbone:
    """A frozen backbone over `tiny_clip_state`."""
    backbone = ClipBackbone(f"tiny-{vision}", build_clip(tiny_clip_state(seed, vision, **sizes), "random weights"))
    backbone.requires_grad_(False)
    return backbone


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A tensor of a scale at which signals neither die nor grow from layer to layer."""
    if name == "logit_scale":
        return torch.tensor(1 / 0.07).log()
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return values.mul_(0.2).add_(1.0 if name.endswith(".weight") else 0.0)
    if name == "token_embedding.weight" or name == "positional_embedding":
        return values.mul_(0.02)
    if name.endswith("positional_embedding"):
        return values.mul_(shape[1] ** -0.5)
    if name.endswith("proj"):
        return values.mul_(shape[0] ** -0.5)
    return values.mul_((len(shape) / 2 / shape[1:].numel()) ** 0.5)  # twice the variance before a ReLU
