"""A learned prompt as a sparse, non-negative sum of concepts (after SpLiCE: Bhalla et al., NeurIPS 2024).

    min_w  1/2 || z_c - sum_j w_j g_j ||^2 + alpha sum_j w_j,   w >= 0
    z_c = t_c - m,   g_j = u(h_j - mu),   mu = mean_j h_j,   m = mean_c t_c

All sentences of a bank lie close together on the sphere; mu is what they share, and says nothing of any concept. What
all prompts share, m, adds the same to every class's logit and decides nothing: z_c is what sets a class's prompt apart.
(From the bank's mean, m = mu, prompts that all lean to one class would each seem to be made of its concepts.) The Lasso
chooses concepts, with alpha = 1/10 of the value at which none is left; then their weights are fitted anew without
the penalty, which would shrink them.

Symbols: C classes, J concepts, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso
from torch import Tensor

from xcoop.methods.alignment import unit

SPARSITY = 0.1  # alpha, as a share of the value at which no concept is left


@dataclass(frozen=True)
class Decomposition:
    """What each class's prompt is made of.

    Attributes:
        weights: (C, J), >= 0, most of them 0.
        directions: g, (J, D), unit.
        centre: m, (D,).
        explained: (C,), 1 - |rest|^2 / |z|^2, in [0, 1]: higher is better.
    """

    weights: Tensor
    directions: Tensor
    centre: Tensor
    explained: Tensor

    def own_share(self, own: Tensor) -> Tensor:
        """The share of a class's weights that lies on its own concepts, (C,), in [0, 1]; NaN without any weight.

        Args:
            own: (C, J) bool.
        """
        return (self.weights * own.to(self.weights)).sum(1) / self.weights.sum(1)


def decompose(
    prompts: Tensor, concepts: Tensor, sparsity: float = SPARSITY, centre: Tensor | None = None
) -> Decomposition:
    """Decomposes class vectors (C, D) over concept vectors (J, D); both are taken at length one.

    Args:
        prompts: t.
        concepts: h.
        sparsity: alpha, as a share of the value at which no concept is left, in (0, 1).
        centre: m, (D,); by default the mean of the prompts, or with one prompt alone that of the concepts.

    Raises:
        ValueError: fewer than two concepts, or `sparsity` not in (0, 1).
    """
    if len(concepts) < 2:
        raise ValueError(f"a decomposition needs at least two concepts, not {len(concepts)}")
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must be in (0, 1), not {sparsity}")
    t, h = unit(prompts.detach().double().cpu()), unit(concepts.detach().double().cpu())
    mu = h.mean(0)
    m = centre.detach().double().cpu() if centre is not None else t.mean(0) if len(t) > 1 else mu
    g, z = unit(h - mu), t - m
    weights = torch.stack([torch.from_numpy(_weights(row.numpy(), g.numpy(), sparsity)) for row in z])
    rest = z - weights @ g
    explained = 1 - rest.square().sum(1) / z.square().sum(1).clamp_min(1e-30)
    found = (weights, g, m, explained)
    return Decomposition(*(part.to(prompts.device, torch.float32) for part in found))


def _weights(z: np.ndarray, g: np.ndarray, sparsity: float) -> np.ndarray:
    """Weights (J,) of one vector (D,) over the rows of g (J, D)."""
    weights = np.zeros(len(g))
    largest = float((g @ z).max())
    if largest <= 0:  # no concept points its way
        return weights
    # scikit-learn's loss is that of the formula divided by D.
    lasso = Lasso(alpha=sparsity * largest / len(z), positive=True, fit_intercept=False, max_iter=10_000, tol=1e-8)
    chosen = lasso.fit(g.T, z).coef_ > 0
    weights[chosen], _ = nnls(g[chosen].T, z)
    return weights
