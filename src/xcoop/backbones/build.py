"""A `clip` model from a state dict in OpenAI's layout; the shapes decide its kind and sizes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones.clip_import import import_clip

COUNTS = "num_batches_tracked"  # the one integer among the weights
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's archives carry these along

MOST_POSITIONS = 4096  # CLIP has 77; the mask is square


def build_clip(state: dict[str, Tensor], source: str) -> Any:
    """An unmodified `clip.model.CLIP` in fp32 that holds a copy of these weights.

    `clip.model.build_model` is asked for the model's shape alone, on the meta device: nothing is drawn at random only
    to be overwritten (most of its time, and it would shift the caller's random numbers), and fp32 weights do not pass
    through the fp16 that it converts models to.

    Args:
        state: OpenAI's names to tensors.
        source: what the weights come from, for messages.

    Raises:
        ValueError: the names or shapes are not those of a CLIP, or a tensor holds anything but finite numbers.
    """
    weights = {name: _own(tensor, name, source) for name, tensor in state.items() if name not in NOT_WEIGHTS}
    build_model = import_clip().model.build_model
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning a tensor: copying into a meta tensor does nothing
            model = build_model(dict(weights))
        model.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError, IndexError, AssertionError, AttributeError, ZeroDivisionError) as error:
        some = ", ".join(list(weights)[:3])
        raise ValueError(
            f"{source} is no CLIP in OpenAI's layout: {_short(error)} (its weights are named {some}, ...)"
        ) from error
    _restore_masks(model, source)
    return model.eval()


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of a file holds plain floating-point numbers, and neither NaN nor infinity."""
    plain = tensor.layout is torch.strided and not tensor.is_meta and tensor.is_floating_point()
    return plain and bool(torch.isfinite(tensor).all())


def _own(tensor: Tensor, name: str, source: str) -> Tensor:
    """A copy, in fp32 unless it counts something."""
    if tensor.layout is torch.strided and tensor.numel() > tensor.untyped_storage().nbytes():
        # A view that repeats a few numbers: it could claim any size.
        raise ValueError(f"{source}: {name!r} of shape {tuple(tensor.shape)} is larger than what is stored of it")
    if not (is_finite(tensor) or name.endswith(COUNTS)):
        raise ValueError(f"{source}: {name!r} does not hold finite numbers")
    return tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def _restore_masks(model: Any, source: str) -> None:
    """The causal masks are plain attributes, no weights: they are still on the meta device.

    Raises:
        ValueError: a file with so many positions would ask for a mask of gigabytes.
    """
    if model.context_length > MOST_POSITIONS:
        raise ValueError(f"{source}: texts of {model.context_length} tokens; at most {MOST_POSITIONS}")
    mask = model.build_attention_mask()
    for block in model.transformer.resblocks:
        block.attn_mask = mask


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    text = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(lines) or type(error).__name__
    return text if len(text) <= 600 else f"{text[:600]} ..."
