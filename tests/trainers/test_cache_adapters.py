"""Tip-Adapter, Tip-Adapter-F and CLIP-Adapter against their formulas, written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_run
import torch
from helpers_clip import tiny_backbone
from small_cases import D, one, settings
from tiny_run import ConfigMaker

from xcoop.backbones import ImageFeatures, LabelledFeatures
from xcoop.trainers.clipadapter import DEFAULTS as ADAPTER
from xcoop.trainers.clipadapter import CLIPAdapterModel
from xcoop.trainers.tipadapter import DEFAULTS, TipAdapterModel, search_grid

NAMES = ["nevus", "melanoma", "other"]


def features(seed: int, n: int) -> ImageFeatures:
    pooled = 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    return ImageFeatures(pooled, torch.zeros(n, 0, D))


TRAINING = LabelledFeatures(features(1, 7), torch.tensor([0, 2, 1, 1, 0, 2, 2]))
VALIDATION = LabelledFeatures(features(2, 9), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]))
TEXT = torch.randn(3, D, generator=torch.Generator().manual_seed(3))


def tip(**changes: object) -> TipAdapterModel:
    model = TipAdapterModel(tiny_backbone(), NAMES, TEXT, settings(DEFAULTS, **changes))
    model.prepare(TRAINING, VALIDATION)
    return model


def plain_logits(image: np.ndarray, alpha: float, beta: float, scale: float) -> list[float]:
    """Of one image: CLIP's cosine, plus the votes of the training images."""
    f = one(image)
    out = [scale * float(f @ one(t)) for t in TEXT.double().numpy()]
    for key, label in zip(TRAINING.features.pooled.double().numpy(), TRAINING.labels.tolist(), strict=True):
        out[label] += alpha * math.exp(-beta * (1 - float(f @ one(key))))
    return out


def test_logits_are_those_of_the_paper() -> None:
    model = tip(SEARCH_HP=False, INIT_ALPHA=1.7, INIT_BETA=2.3)
    images = features(4, 5)
    want = [plain_logits(image, 1.7, 2.3, float(model.scale)) for image in images.pooled.double().numpy()]
    np.testing.assert_allclose(model.logits(images).detach(), want, rtol=1e-4, atol=1e-4)


def test_an_empty_cache_is_zero_shot_clip() -> None:
    model = TipAdapterModel(tiny_backbone(), NAMES, TEXT, settings(DEFAULTS))
    images = features(4, 5)
    want = model.scale * torch.cosine_similarity(images.pooled[:, None], TEXT[None], dim=-1)
    torch.testing.assert_close(model.logits(images), want)


def test_alpha_and_beta_are_the_best_pair_on_the_validation_images() -> None:
    model = tip(SEARCH_SCALE=[7.0, 30.0], SEARCH_STEP=[6, 5])
    scores = {}
    for i in range(5):
        for j in range(6):
            alpha, beta = 0.1 + i * 29.9 / 5, 0.1 + j * 6.9 / 6
            correct, entropy = 0, 0.0
            for image, label in zip(
                VALIDATION.features.pooled.double().numpy(), VALIDATION.labels.tolist(), strict=True
            ):
                row = plain_logits(image, alpha, beta, float(model.scale))
                correct += int(np.argmax(row)) == label
                entropy += math.log(sum(math.exp(x) for x in row)) - row[label]
            scores[alpha, beta] = (correct, -entropy)
    assert len({correct for correct, _ in scores.values()}) > 1
    assert len([1 for correct, _ in scores.values() if correct == max(scores.values())[0]]) > 1  # equals, to be parted
    assert (float(model.alpha), float(model.beta)) == pytest.approx(max(scores, key=scores.__getitem__), rel=1e-5)


def test_a_planted_pair_is_found() -> None:
    """Zero-shot is wrong by 1 on the one image; of these weights only 3 turns it without turning the other."""
    affinity, values = torch.tensor([[1.0, -9.0], [0.0, -9.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    zero_shot, labels = torch.tensor([[0.0, 2.0], [0.0, 1.2]]), torch.tensor([0, 1])
    # The key speaks for class 0: alpha in the first image, alpha exp(-beta) in the second.
    assert search_grid(affinity, values, zero_shot, labels, [1.0, 3.0, 9.0], [1.0]) == (3.0, 1.0)
    assert search_grid(affinity, values, zero_shot, labels, [9.0], [1.0, 2.5]) == (9.0, 2.5)


def test_the_keys_start_as_the_cache_and_leave_it(make_cfg: ConfigMaker) -> None:
    cache = tiny_run.trained(make_cfg("TipAdapter")).model
    learned = tiny_run.trained(make_cfg("TipAdapterF", output="f")).model
    still = tiny_run.trained(make_cfg("TipAdapterF", "OPTIM.LR", 1e-12, output="still")).model
    torch.testing.assert_close(still.keys.detach(), cache.keys)
    assert torch.equal(still.values, cache.values)
    assert (float(still.alpha), float(still.beta)) == (float(cache.alpha), float(cache.beta))
    assert not torch.allclose(learned.keys.detach(), cache.keys, atol=1e-4)


def test_an_adapted_feature_is_the_blend_of_the_paper() -> None:
    torch.manual_seed(0)
    model = CLIPAdapterModel(tiny_backbone(), NAMES, TEXT, settings(ADAPTER, RATIO=0.3))
    images = features(4, 3)
    first, second = (tensor.detach().double().numpy() for tensor in model.adapter.parameters())
    assert (first.shape, second.shape) == ((D // 4, D), (D, D // 4))
    for image, row in zip(images.pooled.double().numpy(), model.logits(images).tolist(), strict=True):
        hidden = [max(0.0, float(weights @ image)) for weights in first]
        adapted = [max(0.0, sum(w * h for w, h in zip(weights, hidden, strict=True))) for weights in second]
        f = one(0.3 * np.array(adapted) + 0.7 * image)
        want = [float(model.scale) * float(f @ one(t)) for t in TEXT.double().numpy()]
        assert row == pytest.approx(want, rel=1e-4, abs=1e-4)
