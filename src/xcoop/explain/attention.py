"""One tap on the attention of unmodified CLIP blocks: what each token looked at, in the graph.

Symbols: B images, h heads, L tokens, d width of a head, V width of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "attention"  # the method of clip.model.ResidualAttentionBlock that is covered while tapping


@dataclass
class Tap:
    """What passed through one block's attention; all of it is part of the graph.

    Attributes:
        queries: (B, h, L, d), scaled by nothing.
        keys: (B, h, L, d).
        values: (B, h, L, d).
        probs: (B, h, L, L), each row sums to one.
        mixed: probs @ values with the heads side by side, (B, L, V): the output before its projection.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    probs: Tensor
    mixed: Tensor


@contextmanager
def attention_tap(blocks: Sequence[Any]) -> Iterator[list[Tap]]:
    """Records the attention of some blocks while it is open; every block is as before after it, whatever fails.

    The blocks' own method `attention` is covered by an attribute of the instance that computes the same from the same
    weights, step by step. If no input of the towers needs gradients, the tap makes the attention a leaf of the graph.

    Args:
        blocks: `clip.model.ResidualAttentionBlock`s.

    Yields:
        A list that each pass through a block lengthens by one `Tap`, in the order of the passes.

    Raises:
        RuntimeError: a block is tapped already.
    """
    taken = [index for index, block in enumerate(blocks) if NAME in vars(block)]
    if taken:
        raise RuntimeError(f"the attention of blocks {taken} is tapped already")
    taps: list[Tap] = []
    try:
        for block in blocks:
            setattr(block, NAME, _Recorder(block, taps))
        yield taps
    finally:
        for block in blocks:
            vars(block).pop(NAME, None)


class _Recorder:
    """Stands for one block's `attention`."""

    def __init__(self, block: Any, taps: list[Tap]) -> None:
        self.block = block
        self.taps = taps

    def __call__(self, x: Tensor) -> Tensor:
        """(L, B, V) to (L, B, V), as the block's own method."""
        attn = self.block.attn
        tokens = x.transpose(0, 1)  # (B, L, V)
        q, k, v = F.linear(tokens, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, h, L, d)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        mask = self.block.attn_mask
        if mask is not None:
            scores = scores + mask[: x.shape[0], : x.shape[0]].to(scores)
        probs = scores.softmax(-1)
        if torch.is_grad_enabled() and not probs.requires_grad:
            probs = probs.detach().requires_grad_()
        mixed = (probs @ v).transpose(1, 2).flatten(2)  # (B, L, V)
        self.taps.append(Tap(q, k, v, probs, mixed))
        return attn.out_proj(mixed).transpose(0, 1)
