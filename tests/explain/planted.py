"""A scorer that looks at one patch alone, so that the right map is known."""

from __future__ import annotations

import torch
from torch import Tensor

SIDE, GRID = 32, 8
CELL = SIDE // GRID


def images(count: int, seed: int = 0) -> Tensor:
    """Noise, (B, 3, 32, 32)."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def score(row: int, column: int):
    """The mean absolute value of one patch: about 0.8 on noise, 0 on the mean baseline."""

    def read(batch: Tensor) -> Tensor:
        patch = batch[:, :, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        return patch.abs().mean((1, 2, 3))

    return read


def true_maps(count: int, row: int, column: int) -> Tensor:
    """1 at the patch that counts, (B, 8, 8); less, and different everywhere, elsewhere."""
    maps = torch.rand(count, GRID, GRID, generator=torch.Generator().manual_seed(5)) / 2
    maps[:, row, column] = 1
    return maps
