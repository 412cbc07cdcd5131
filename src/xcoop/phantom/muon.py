"""Muon: gradient descent whose step on a matrix is made orthogonal, so that rare directions are learned as fast.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale of the step, with which one learning rate
serves Muon and AdamW, is that of Liu et al. 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# The quintic of the Newton-Schulz iteration; it brings all singular values near one in five steps.
_A, _B, _C, _STEPS = 3.4445, -4.7750, 2.0315, 5
_SCALE = 0.2  # the root mean square of AdamW's usual step


class Muon(torch.optim.Optimizer):
    """For matrices alone; a matrix (3W, W) that packs query, key and value is taken as three.

    Args:
        params: matrices, or groups of them.
        lr: learning rate.
        momentum: of the running mean of the gradients, in [0, 1).
        weight_decay: decoupled, as AdamW's.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; see `torch.optim.Optimizer`."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
        mean.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"])  # Nesterov's
        rows, columns = ahead.shape
        parts = ahead.chunk(3) if rows == 3 * columns else (ahead,)
        step = torch.cat([orthogonal(part) * math.sqrt(max(part.shape)) for part in parts])
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-_SCALE * group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """(M, N) -> (M, N): nearly the orthogonal factor U V' of U S V', with singular values of 0.7 to 1.2."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x
