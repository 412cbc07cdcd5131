"""CLIPs with random weights: small ones, made in milliseconds, those of published shapes; OpenAI's form of file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from xcoop.backbones.clip_model import NOT_WEIGHTS, build_clip, import_clip
from xcoop.backbones.openai import PUBLISHED, ClipBackbone

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
    pixels, blocks = (32, layers) if vit else (64, (1, 1, 1, 1))
    width = vision_width or (128 if vit else 8)
    return _state(seed, embed_dim, image_size or pixels, blocks, width, patch if vit else None, text_width, layers)


def published_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The same in the shapes that OpenAI published under a name, and with the logit scale of its weights, 100."""
    layers, width, patch, pixels, joint, text = PUBLISHED[name]
    state = _state(seed, joint, pixels, layers, width, patch or None, text, 12)
    return state | {"logit_scale": torch.tensor(100.0).log()}


def _state(
    seed: int, joint: int, pixels: int, blocks: object, width: int, patch: int | None, text: int, layers: int
) -> dict[str, Tensor]:
    """Random weights of the model that `clip.model.CLIP` makes of these sizes."""
    with torch.device("meta"):
        model = import_clip().model.CLIP(joint, pixels, blocks, width, patch, 77, VOCABULARY, text, text // 64, layers)
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, tensor.shape, generator) for name, tensor in model.state_dict().items()}


def save_archive(state: dict[str, Tensor], path: Path) -> None:
    """A file like OpenAI's: a traced model in half precision, with three numbers beside its weights."""
    model = build_clip(state, "random weights")
    pixels = model.visual.input_resolution
    for name, value in zip(NOT_WEIGHTS, (pixels, 77, VOCABULARY), strict=True):
        delattr(model, name) if hasattr(model, name) else None
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 3, pixels, pixels)
        traced = torch.jit.trace_module(model, {"encode_image": image}, check_trace=False)
        traced.half().save(str(path))


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
