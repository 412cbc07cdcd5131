"""How far training images let prompts move: Laplace's evidence against other formulations, and planted truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from torch.nn import functional as F

from xcoop.methods.evidence import MOST, SPREADS, log_evidence, probable_spread


def dense(mean: torch.Tensor, kernel: torch.Tensor, labels: torch.Tensor) -> float:
    """The same without its structure: gradient ascent to the mode, the Hessian by automatic differentiation."""
    N, C = mean.shape
    K = torch.block_diag(*[kernel] * C) + 1e-10 * torch.eye(N * C, dtype=torch.float64)
    L = torch.linalg.cholesky(K)

    def log_likelihood(g: torch.Tensor) -> torch.Tensor:
        return -F.cross_entropy((mean.T.flatten() + g).view(C, N).T, labels, reduction="sum")

    white = torch.zeros(N * C, dtype=torch.float64, requires_grad=True)  # g = L white
    optimiser = torch.optim.LBFGS([white], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = white.square().sum() / 2 - log_likelihood(L @ white)
        loss.backward()
        return loss

    optimiser.step(closure)
    g = (L @ white).detach()
    W = -torch.autograd.functional.hessian(log_likelihood, g)
    determinant = torch.linalg.slogdet(torch.eye(N * C, dtype=torch.float64) + K @ W)[1]
    return float(log_likelihood(g) - white.detach().square().sum() / 2 - determinant / 2)


@pytest.mark.parametrize(("C", "N"), [(2, 2), (2, 7), (3, 5), (4, 9)])
def test_it_equals_a_formulation_without_structure(C: int, N: int) -> None:
    generator = torch.Generator().manual_seed(10 * C + N)
    features = F.normalize(torch.randn(N, 6, generator=generator, dtype=torch.float64), dim=-1)
    mean = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (N,), generator=generator)
    kernel = 9 * features @ features.T + 4
    assert log_evidence(mean, kernel, labels) == pytest.approx(dense(mean, kernel, labels), abs=1e-5)


def test_it_is_near_the_integral_that_it_approximates() -> None:
    """One image, two classes: log of E[softmax] over two normal logits, by quadrature."""
    std, mean = 0.8, (0.4, -0.3)

    def density(a: float, b: float) -> float:
        likely = 1 / (1 + math.exp(mean[1] + b - mean[0] - a))
        return likely * math.exp(-(a * a + b * b) / (2 * std**2)) / (2 * math.pi * std**2)

    exact = math.log(dblquad(density, -8, 8, -8, 8)[0])
    got = log_evidence(torch.tensor([mean]), torch.tensor([[std**2]]), torch.tensor([0]))
    assert got == pytest.approx(exact, abs=0.02)


def test_without_room_to_move_it_is_the_likelihood_of_the_start() -> None:
    mean = torch.tensor([[2.0, -1.0], [0.5, 0.0], [-3.0, 1.0]])
    labels = torch.tensor([0, 1, 0])
    got = log_evidence(mean, torch.zeros(3, 3), labels)
    assert got == pytest.approx(-float(F.cross_entropy(mean, labels, reduction="sum")), abs=1e-6)


def drawn(spread: float, seed: int, images: int = 200, width: int = 16) -> tuple[torch.Tensor, ...]:
    """Images whose labels were drawn from logits that moved by `spread` in every direction."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.standard_normal((images, width)))
    start, moved = torch.from_numpy(3 * rng.standard_normal((width, 3))), rng.standard_normal((width, 3))
    directions = F.normalize(features, dim=-1)
    logits = directions @ start
    true = logits + spread * directions @ torch.from_numpy(moved)
    labels = torch.from_numpy(np.array([rng.choice(3, p=row) for row in true.softmax(1).numpy()]))
    return features, logits, labels


@pytest.mark.parametrize("spread", [1.0, 4.0, 16.0])
def test_the_spread_that_labels_were_drawn_with_is_found(spread: float) -> None:
    found = [probable_spread(*drawn(spread, seed), offset_std=0.0) for seed in range(3)]
    assert spread / 2 < math.exp(np.mean(np.log(found))) < spread * 2


def test_images_that_contradict_the_start_ask_for_more_than_images_that_bear_it_out() -> None:
    """Two clusters of images; at the start each is told to be its own class, or the other one."""
    features = torch.eye(4)[[0, 0, 0, 1, 1, 1]] + 0.1 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    borne_out = 4 * F.one_hot(labels, 2).float()
    right, wrong = (probable_spread(features, logits, labels, 12.0) for logits in (borne_out, -borne_out))
    assert 1.5 * right < wrong
    assert SPREADS[0] <= right <= wrong <= SPREADS[-1]


def test_a_lean_to_one_class_is_left_to_the_offset() -> None:
    features, logits, labels = drawn(0.0, seed=3, images=60)
    leaning = logits + torch.tensor([6.0, 0.0, 0.0])
    assert probable_spread(features, leaning, labels, 12.0) < 0.7 * probable_spread(features, leaning, labels, 0.0)


def test_of_many_images_an_even_part_is_asked() -> None:
    features, logits, labels = drawn(4.0, seed=1, images=3 * MOST)
    assert 2 < probable_spread(features, logits, labels, 0.0) < 8


def at_clips_scale(spread: float, seed: int, lean: float) -> tuple[torch.Tensor, ...]:
    """As `drawn`, as CLIP would see them: D 512, cosines of 0.9 between images, scale 100, a lean to one class."""
    rng = np.random.default_rng(seed)
    cone, *own = F.normalize(torch.from_numpy(rng.standard_normal((101, 512))), dim=-1)
    features = 0.9**0.5 * cone + 0.1**0.5 * torch.stack(own)
    text = F.normalize(0.25 * cone + torch.from_numpy(rng.standard_normal((3, 512))) / 512**0.5, dim=-1)
    moved = torch.from_numpy(rng.standard_normal((3, 512)))
    moved = moved - (moved @ cone)[:, None] * cone  # the classes stay balanced
    logits = 100 * F.normalize(features, dim=-1) @ text.T
    true = logits - logits.mean(0) + spread * features @ moved.T
    labels = torch.from_numpy(np.array([rng.choice(3, p=row) for row in true.softmax(1).numpy()]))
    return features, logits - logits.mean(0) + torch.tensor([lean, 0, 0]), labels


@pytest.mark.parametrize(("spread", "lean"), [(1.0, 15.0), (8.0, 0.0), (32.0, 15.0)])
def test_at_clips_scale_it_is_in_logits_too(spread: float, lean: float) -> None:
    found = [probable_spread(*at_clips_scale(spread, seed, lean), offset_std=12.0) for seed in range(2)]
    assert spread / 2.5 < math.exp(np.mean(np.log(found))) < spread * 2.5, found


def test_a_start_that_is_wrong_by_hundreds_of_logits_asks_for_all_there_is() -> None:
    features, logits, labels = at_clips_scale(1.0, seed=0, lean=0.0)
    wrong = 10 * logits - 300 * F.one_hot(labels, 3)
    assert probable_spread(features, wrong, labels, 12.0) == pytest.approx(SPREADS[-1])
