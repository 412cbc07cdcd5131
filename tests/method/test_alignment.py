"""The alignment functions against hand-computed values and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from xcoop.methods import alignment

X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
DIAGONAL = torch.tensor([1.0, 1.0])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_global_similarity_is_the_mean_cosine_over_prompts():
    image, text = random(3, 8), random(4, 5, 8, seed=1)
    want = [[sum(cosine(image[b], text[k, c]) for k in range(4)) / 4 for c in range(5)] for b in range(3)]
    assert torch.allclose(alignment.global_similarity(image, text), torch.tensor(want), atol=1e-6)


@pytest.mark.parametrize(("pool", "want"), [("topk", 1.0), ("softmax", 1.0)])
def test_sharp_poolings_find_the_one_patch_that_fits(pool: str, want: float):
    patches = torch.stack([X, Y, Y, Y])[None]  # a quarter of the patches fits
    got = alignment.local_similarity(patches, X[None, None], pool, sharpness=100.0)
    assert got.item() == pytest.approx(want, abs=1e-4)
    assert alignment.local_similarity(patches, X[None, None]).item() == pytest.approx(0.25)


def test_softmax_pooling_by_loop():
    patches, text = random(2, 6, 8), random(3, 4, 8, seed=1)
    for b in range(2):
        for c in range(4):
            cosines = [sum(cosine(patches[b, t], text[k, c]) for k in range(3)) / 3 for t in range(6)]
            weights = [math.exp(5 * value) for value in cosines]
            want = sum(w * v for w, v in zip(weights, cosines, strict=True)) / sum(weights)
            got = alignment.local_similarity(patches, text, "softmax", sharpness=5.0)[b, c]
            assert got.item() == pytest.approx(want, abs=1e-5)


def test_unknown_pooling_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'max'.*mean, topk, softmax"):
        alignment.local_similarity(random(1, 2, 3), random(1, 2, 3), "max")


def test_prompt_contrast_runs_over_the_soft_index():
    soft, clinical = random(3, 8), random(3, 8, seed=1)
    rows = []
    for d in range(3):
        scores = [4 * cosine(soft[c], clinical[d]) for c in range(3)]
        rows.append(math.log(sum(math.exp(score) for score in scores)) - scores[d])
    assert alignment.prompt_contrast(soft, clinical, 4.0).item() == pytest.approx(sum(rows) / 3, abs=1e-5)


def test_prompt_contrast_averages_the_prompts_first():
    soft, clinical = random(2, 3, 8), random(3, 8, seed=1)
    assert torch.equal(
        alignment.prompt_contrast(soft, clinical, 4.0), alignment.prompt_contrast(soft.mean(0), clinical, 4.0)
    )


def test_prompt_distance_by_hand():
    soft = torch.stack([torch.stack([X, Y]), torch.stack([-X, DIAGONAL])])
    want = (0 + 0 + 2 + (1 - math.sqrt(0.5))) / 4
    assert alignment.prompt_distance(soft, torch.stack([X, Y])).item() == pytest.approx(want, abs=1e-6)


def test_token_similarity_takes_the_nearest_concept_token():
    context = torch.stack([torch.stack([X, Y]), torch.stack([Y, Y])])[None]  # (1, C=2, n=2, 2)
    concepts = [torch.stack([X, DIAGONAL]), Y[None]]
    want = torch.tensor([[(1 + math.sqrt(0.5)) / 2, 0.5], [math.sqrt(0.5), 1.0]])
    assert torch.allclose(alignment.token_similarity(context, concepts), want, atol=1e-6)


def test_token_contrast_by_hand():
    context = torch.stack([X, Y])[None, :, None]  # each class's one token is its own concept token
    loss = alignment.token_contrast(context, [X[None], Y[None]], temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
