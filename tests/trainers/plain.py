"""CoOp and CoCoOp written out plainly: 77 tokens, one class and one image at a time, CLIP's own modules.

Nothing of `xcoop.methods.prompts`, `xcoop.methods.model` or the text tower of the backbones is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones.clip_model import import_clip

START, END = 49406, 49407


def ids(text: str) -> list[int]:
    """A text's tokens, without start and end."""
    return list(import_clip().clip._tokenizer.encode(text))


def sequence(n_ctx: int, name: str, position: str) -> list[int | str]:
    """The prompt token by token; context slot i is the string "ctx<i>"."""
    context: list[int | str] = [f"ctx{i}" for i in range(n_ctx)]
    half = n_ctx // 2
    middle: list[int | str] = {
        "end": context + ids(name),
        "middle": context[:half] + ids(name) + context[half:],
        "front": ids(name) + context,
    }[position]
    return [START, *middle, *ids("."), END]


def embed(clip: Any, prompt: list[int | str], context: Tensor) -> tuple[Tensor, int]:
    """The 77 embeddings (77, W) of a prompt, and where its end token stands."""
    padded = prompt + [0] * (77 - len(prompt))
    rows = [
        context[int(token[3:])] if isinstance(token, str) else clip.token_embedding.weight[token] for token in padded
    ]
    return torch.stack(rows), prompt.index(END)


def encode(clip: Any, embeddings: Tensor, end: int) -> Tensor:
    """CLIP's text tower over one full-length sequence, (D,)."""
    x = (embeddings + clip.positional_embedding)[None]
    x = clip.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    return clip.ln_final(x)[0, end] @ clip.text_projection


def coop_logits(
    clip: Any, images: Tensor, names: list[str], contexts: Callable[[int, Tensor], Tensor], position: str = "end"
) -> Tensor:
    """Logits (B, C), one prompt after the other.

    Args:
        clip: the CLIP model.
        images: (B, 3, H, W).
        names: class names.
        contexts: (n, W) for a class's number and an image's unit feature.
        position: of the class token.
    """
    rows = []
    for feature in clip.encode_image(images):
        image = feature / feature.norm()
        row = []
        for c, name in enumerate(names):
            context = contexts(c, image)
            embeddings, end = embed(clip, sequence(len(context), name.replace("_", " "), position), context)
            text = encode(clip, embeddings, end)
            row.append(clip.logit_scale.exp() * image @ (text / text.norm()))
        rows.append(torch.stack(row))
    return torch.stack(rows)
