"""Trained tensors averaged over the epochs of a run, each epoch with the weight of a normal density at it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """exp( -(t - mean)^2 / (2 std^2) ) for t = 1 to `epochs`, scaled to a sum of 1.

    Args:
        epochs: T, at least 1.
        mean: the epoch with the largest weight, counted from 1; may lie outside of the run.
        std: in epochs, above 0.
    """
    t = torch.arange(1, epochs + 1, dtype=torch.float64)
    weights: list[float] = (-((t - mean) ** 2) / (2 * std**2)).softmax(0).tolist()  # never 0 / 0, however far the mean
    return weights


class GaussianAverage:
    """The weighted sum of what a run trained, epoch by epoch.

    Args:
        epochs: how many there will be.
        mean: see `gaussian_weights`.
        std: see `gaussian_weights`.
    """

    def __init__(self, epochs: int, mean: float, std: float) -> None:
        self.weights = gaussian_weights(epochs, mean, std)
        self.total: dict[str, Tensor] = {}

    def add(self, epoch: int, state: Mapping[str, Tensor]) -> None:
        """Adds what is trained after an epoch, counted from 0."""
        weight = self.weights[epoch]
        self.total = {
            name: self.total[name] + weight * tensor if name in self.total else weight * tensor
            for name, tensor in state.items()
        }
