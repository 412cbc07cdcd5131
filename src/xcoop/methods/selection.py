"""Settings chosen on validation images: the most accurate one, and of equals the one with the lowest cross entropy."""

from __future__ import annotations

import torch
from torch import Tensor


def scores(logits: Tensor, labels: Tensor) -> Tensor:
    """How good settings are on the same images.

    Few validation images leave many settings equally accurate; the cross entropy tells them apart.

    Args:
        logits: of G settings, (G, V, C).
        labels: (V,).

    Returns:
        (G, 2): the number of correct images, and the negative mean cross entropy. Rows compare like tuples.
    """
    correct = (logits.argmax(-1) == labels).sum(-1)
    target = labels.expand(logits.shape[:-1])[..., None]
    entropy = logits.double().log_softmax(-1).gather(-1, target)[..., 0].mean(-1)
    return torch.stack([correct.double(), entropy], -1)


def best(table: Tensor) -> int:
    """The index of the best row of `scores`; of exact equals the first."""
    rows = table.tolist()
    return max(range(len(rows)), key=rows.__getitem__)
