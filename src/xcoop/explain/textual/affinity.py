"""How near each class's learned prompt is to each concept, before and after training.

Symbols: C classes, J concepts, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from xcoop.methods.alignment import unit

MANY = 5000  # assignments of classes that are tried at most


@dataclass(frozen=True)
class Affinity:
    """Cosines of prompts with concepts.

    Attributes:
        before: (C, J), of the prompts that training started from.
        after: (C, J), of the learned ones.
    """

    before: Tensor
    after: Tensor

    @property
    def shift(self) -> Tensor:
        """What training changed, (C, J)."""
        return self.after - self.before


def affinity(before: Tensor, after: Tensor, concepts: Tensor) -> Affinity:
    """Compares class vectors (C, D), before and after training, with concept vectors (J, D)."""
    h = unit(concepts)
    return Affinity(unit(before) @ h.T, unit(after) @ h.T)


def own_margin(cosines: Tensor, own: Tensor) -> Tensor:
    """Mean cosine with a class's own concepts less that with the others, averaged over classes; higher is better.

    Args:
        cosines: (C, J).
        own: (C, J) bool.

    Returns:
        A scalar in [-2, 2]; NaN if a class has no concepts, or all of them.
    """
    inside = (cosines * own).sum(1) / own.sum(1)
    outside = (cosines * ~own).sum(1) / (~own).sum(1)
    return (inside - outside).mean()


def permutation_p(cosines: Tensor, own: Tensor, seed: int = 0) -> float:
    """How often classes that exchange their prompts have a margin at least as large; 1 / C! at the least.

    All C! assignments are tried where they are few, otherwise `MANY` random ones and the true one.
    With two classes there are but two, and no p-value below 0.5.
    """
    C = len(cosines)
    true = own_margin(cosines, own)
    if C <= 7:
        orders = [torch.tensor(order) for order in permutations(range(C))]
    else:
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.arange(C)] + [torch.randperm(C, generator=generator) for _ in range(MANY)]
    margins = torch.stack([own_margin(cosines[order], own) for order in orders])
    return float((margins >= true - 1e-9).double().mean())
