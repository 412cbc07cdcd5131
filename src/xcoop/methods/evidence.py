"""How far a few labelled images may move a classifier that was stated beforehand: the evidence decides.

A prior that holds class features near their start needs a standard deviation S. Where the start is right a small one is
best, where the backbone never saw such images a large one, and images are too few to try them all. But labelled images
tell by themselves how probable they are under each S, everything that could be learned averaged out.

If the features of C classes may move by normal amounts, of standard deviation S / s in every direction, then the logits
are those at the start plus a Gaussian process: independent between classes, with the covariance

    k(x, x') = S^2 cos(f(x), f(x')) + S_b^2

for images with features f and an offset of standard deviation S_b. The probability of the labels is its integral
against the softmax, here by Laplace's approximation (Rasmussen and Williams, "Gaussian Processes for Machine Learning",
2006, sections 3.5 and 5.2).

Symbols: N images, C classes, D joint width, s the backbone's inverse temperature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xcoop.methods.alignment import unit

SPREADS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # logits
MOST = 256  # images that are asked: the cost grows with the cube of their number
STEPS = 100
TOLERANCE = 1e-10


def log_evidence(mean: Tensor, kernel: Tensor, labels: Tensor) -> float:
    """The log probability of the labels of a softmax over Gaussian processes, by Laplace's approximation.

        log q = -1/2 a^T g + sum_i log softmax(mean + g)_{i, y_i} - 1/2 log |I + K W|

    at the mode g = K a, found by Newton's method; W is the negative Hessian of the log likelihood. With
    E_c = (K + D_c^-1)^-1 and D_c = diag(p_c), the determinant is prod_c |I + D_c^1/2 K D_c^1/2| times |sum_c E_c|.

    Args:
        mean: of the logits, (N, C).
        kernel: K, the covariance of one class's logits between images, (N, N), positive semi-definite.
        labels: (N,) int64.

    Returns:
        A number <= 0.
    """
    mean, kernel = mean.double(), kernel.double()
    N, C = mean.shape
    target = torch.zeros(C, N, dtype=mean.dtype, device=mean.device)
    target[labels, torch.arange(N, device=mean.device)] = 1
    eye = torch.eye(N, dtype=mean.dtype, device=mean.device)

    def objective(a: Tensor, g: Tensor) -> Tensor:
        return ((mean.T + g).log_softmax(0) * target).sum() - (a * g).sum() / 2

    a, g = torch.zeros_like(target), torch.zeros_like(target)  # (C, N)
    for _ in range(STEPS):
        p = (mean.T + g).softmax(0)  # (C, N)
        root = p.sqrt()
        cholesky = torch.linalg.cholesky(eye + root[:, :, None] * kernel * root[:, None, :])  # (C, N, N)
        E = root[:, :, None] * torch.cholesky_solve(torch.diag_embed(root), cholesky)  # (C, N, N)
        summed = torch.linalg.cholesky(E.sum(0))  # (N, N)
        b = p * g - p * (p * g).sum(0) + target - p
        c = (E @ (b @ kernel)[..., None])[..., 0]  # (C, N)
        newton = b - c + (E @ torch.cholesky_solve(c.sum(0)[:, None], summed))[..., 0]
        before, step = objective(a, g), 1.0
        while True:  # half the way, where a whole step overshoots
            next_a = a + step * (newton - a)
            next_g = next_a @ kernel
            if objective(next_a, next_g) >= before - TOLERANCE or step < 1e-6:
                break
            step /= 2
        moved = (next_g - g).abs().max()
        a, g = next_a, next_g
        if moved < TOLERANCE * (1 + g.abs().max()):
            break
    halves = cholesky.diagonal(dim1=-2, dim2=-1).log().sum() + summed.diagonal().log().sum()
    return float(objective(a, g) - halves)


def probable_spread(features: Tensor, logits: Tensor, labels: Tensor, offset_std: float) -> float:
    """The standard deviation S, in logits, that labelled images ask for.

    It is the posterior mean of log S, with all of `SPREADS` equally probable beforehand: a single best value jumps from
    one end to the other where images are few.

    Args:
        features: of the images, (N, D).
        logits: of these images at the start, (N, C).
        labels: (N,) int64.
        offset_std: S_b, that of the offset of a class, in logits; 0 if there is none.

    Returns:
        S, between the first and the last of `SPREADS`.
    """
    if len(labels) > MOST:  # evenly, as images are listed class by class
        chosen = torch.linspace(0, len(labels) - 1, MOST, device=labels.device).round().long()
        features, logits, labels = features[chosen], logits[chosen], labels[chosen]
    directions = unit(features.double())
    cosines = directions @ directions.T  # (N, N)
    evidence = [log_evidence(logits, spread**2 * cosines + offset_std**2, labels) for spread in SPREADS]
    weights = torch.tensor(evidence, dtype=torch.float64).softmax(0)
    return math.exp(float(weights @ torch.tensor(SPREADS, dtype=torch.float64).log()))
