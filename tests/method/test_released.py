"""The released arithmetic against loops written from its description (docs/method.md)."""

from __future__ import annotations

import math

import pytest
import torch

from xcoop.methods import alignment
from xcoop.trainers import xcoop_released as released


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mixed_local_similarity_averages_the_rows_that_the_misread_view_averages():
    B, T, C = 3, 5, 2
    patches, text = random(B, T, 8), random(C, 8, seed=1)
    cosines = alignment.unit(patches) @ alignment.unit(text).T
    want = torch.zeros(B, C)
    for b in range(B):
        rows = [divmod(r, T) for r in range(B * T) if r % B == b]  # (image, patch) pairs that end up in image b
        want[b] = torch.stack([cosines[image, patch] for image, patch in rows]).mean(0)
    assert torch.allclose(released.mixed_local_similarity(patches, text), want, atol=1e-6)


def test_mixing_vanishes_for_one_image_and_shows_for_more():
    patches, text = random(4, 6, 8), random(3, 8, seed=1)
    right = alignment.local_similarity(patches, text[None])
    assert torch.allclose(released.mixed_local_similarity(patches[:1], text), right[:1], atol=1e-6)
    assert (released.mixed_local_similarity(patches, text) - right).abs().max() > 0.01


def test_logits_carry_the_literal_factor():
    image, patches, text = random(1, 8), random(1, 6, 8), random(3, 8, seed=1)
    plain = alignment.global_similarity(image, text[None]) + 0.01 * alignment.local_similarity(patches, text[None])
    scale = torch.tensor(20.0)
    assert torch.allclose(released.logits(image, patches, text, scale, copies=8), 20 * plain, atol=1e-5)
    assert torch.allclose(released.logits(image, patches, text, scale, copies=2), 5 * plain, atol=1e-5)


def test_noise_comes_in_half_of_the_steps_and_shrinks_with_the_copies():
    clinical = random(2, 64)
    exact, spread = 0, []
    for seed in range(200):
        torch.manual_seed(seed)
        difference = released.noisy_clinical(clinical, prompts=4) - alignment.unit(clinical)
        if difference.abs().max() < 1e-6:
            exact += 1
        else:
            spread.append(difference)
    assert 75 <= exact <= 125
    assert torch.stack(spread).std().item() == pytest.approx(0.05 / math.sqrt(4), rel=0.05)


def test_noise_draws_the_random_numbers_of_the_released_code():
    clinical = random(2, 8)
    seed = next(s for s in range(50) if torch.manual_seed(s) and torch.rand(1).item() < 0.5)
    torch.manual_seed(seed)
    torch.rand(1)
    noise = torch.randn(1, 8, 8)  # (1, N * C, D), row k * C + c
    want = alignment.unit(clinical) + 0.05 * torch.stack([noise[0, c::2].mean(0) for c in range(2)])
    torch.manual_seed(seed)
    assert torch.allclose(released.noisy_clinical(clinical, prompts=4), want, atol=1e-6)


def test_contrast_runs_over_the_soft_index():
    soft, hard = alignment.unit(random(3, 8)), alignment.unit(random(3, 8, seed=1))
    rows = []
    for d in range(3):
        scores = [7 * float(soft[c] @ hard[d]) for c in range(3)]
        rows.append(math.log(sum(math.exp(score) for score in scores)) - scores[d])
    assert released.contrast(soft, hard, torch.tensor(7.0)).item() == pytest.approx(sum(rows) / 3, abs=1e-5)


def test_token_loss_sums_over_positions_and_saturates():
    embeddings = random(2, 77, 16).requires_grad_()
    hard = embeddings.detach() + 0.1 * random(2, 77, 16, seed=1)
    logits = 14.3 * torch.stack(
        [torch.stack([(alignment.unit(e) * alignment.unit(h)).sum() for h in hard]) for e in embeddings.detach()]
    )
    assert logits.diagonal().min() > 500  # 77 cosines near one, times the scale
    rows = [alignment.unit(each).flatten(1) for each in (embeddings, hard)]
    loss = released.contrast(*rows, torch.tensor(14.3))
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert loss.item() == 0.0
    assert gradient.abs().max().item() == 0.0
