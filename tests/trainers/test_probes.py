"""Linear probe and LP++ against what they minimise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers_clip import tiny_backbone
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures
from xcoop.features import LabelledFeatures
from xcoop.trainers import linearprobe
from xcoop.trainers.linearprobe import LinearProbeModel
from xcoop.trainers.lpplusplus import DEFAULTS, LPPlusPlusModel, step_sizes

D = 48


def split(seed: int, n: int, classes: int) -> LabelledFeatures:
    """Noisy clusters, far from the origin as CLIP's features are."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, D, generator=torch.Generator().manual_seed(0))
    pooled = 1 + centres[labels] + 2 * torch.randn(n, D, generator=draw)
    return LabelledFeatures(ImageFeatures(pooled, torch.zeros(n, 0, D)), labels)


def settings(defaults: CfgNode, **changes: object) -> CfgNode:
    node = defaults.clone()
    node.merge_from_list([item for pair in changes.items() for item in pair])
    return node


def probe(classes: int, **changes: object) -> LinearProbeModel:
    names = ["a", "b", "c"][:classes]
    return LinearProbeModel(tiny_backbone(), names, settings(linearprobe.DEFAULTS, **changes))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_probabilities_are_those_of_scikit_learn(classes: int, normalize: bool) -> None:
    training, test = split(1, 12, classes), split(2, 9, classes)
    model = probe(classes, C=0.7, NORMALIZE=normalize)
    model.prepare(training, None)
    x, z = (
        pooled / np.linalg.norm(pooled, axis=1, keepdims=True) if normalize else pooled
        for pooled in (training.features.pooled.double().numpy(), test.features.pooled.double().numpy())
    )
    want = LogisticRegression(C=0.7, max_iter=1000).fit(x, training.labels.numpy()).predict_proba(z)
    got = model.logits(test.features).double().softmax(1)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got.std(0).min() > 0.01


def test_it_is_the_minimum_of_the_regularised_cross_entropy() -> None:
    training = split(1, 30, 3)
    model = probe(3, C=0.05, SEARCH_C=False)
    model.prepare(training, None)
    W, b = (tensor.double().requires_grad_() for tensor in (model.weight, model.bias))
    x = training.features.pooled.double()
    loss = 0.05 * F.cross_entropy(x @ W.T + b, training.labels, reduction="sum") + W.square().sum() / 2
    loss.backward()
    assert W.grad.abs().max() < 1e-3 * W.abs().max() + 1e-3
    assert b.grad.abs().max() < 1e-3


def test_before_it_is_fitted_all_classes_are_alike() -> None:
    assert torch.equal(probe(3).logits(split(1, 4, 3).features), torch.zeros(4, 3))


def test_the_sweep_finds_a_peak_to_an_eighth_of_a_decade(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[float] = []
    asked: list[float] = []

    def score(self: object, training: object, validation: object, exponent: float) -> Tensor:
        asked.append(exponent)
        return torch.tensor([10 - abs(exponent - 1.375), 0.0])

    monkeypatch.setattr(LinearProbeModel, "_score", score)
    monkeypatch.setattr(LinearProbeModel, "_fit", lambda self, training, C: fitted.append(C))
    probe(3).prepare(split(1, 6, 3), split(2, 6, 3))
    assert asked[:7] == [-6, -4, -2, 0, 2, 4, 6]
    assert fitted == [pytest.approx(10**1.375)]
    assert len(asked) <= 7 + 2 * 4


def test_the_validation_images_choose_the_regularisation() -> None:
    """Images that the probe knows call for large weights; the same ones with wrong labels for hardly any."""
    training = split(1, 30, 3)
    norms = []
    for labels in (training.labels, training.labels.roll(1)):
        model = probe(3)
        model.prepare(training, LabelledFeatures(training.features, labels))
        norms.append(float(model.weight.norm()))
    assert norms[0] > 100 * norms[1]


# LP++


TEXT = F.normalize(0.2 + torch.randn(3, D, generator=torch.Generator().manual_seed(5)), dim=1)


def lp(**changes: object) -> LPPlusPlusModel:
    return LPPlusPlusModel(tiny_backbone(), ["a", "b", "c"], 7 * TEXT, settings(DEFAULTS, **changes))


def started(training: LabelledFeatures) -> tuple[LPPlusPlusModel, Tensor, Tensor]:
    model, target = lp(), F.one_hot(training.labels, 3)
    images = F.normalize(training.features.pooled, dim=1)
    model.start(images, target.float())
    return model, images, target


def loss(w: Tensor, alpha: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of f_i (w_k + alpha_k t_k), image by image."""
    rows = [torch.stack([f @ (w[k] + alpha[k] * TEXT[k].to(w)) for k in range(3)]) for f in images.to(w)]
    return torch.stack([row.logsumexp(0) - row[y] for row, y in zip(rows, labels, strict=True)]).mean()


def test_it_starts_from_the_class_means() -> None:
    training = split(1, 13, 3)  # not equally many of each
    model, images, _ = started(training)
    means = torch.stack([images[training.labels == k].mean(0) for k in range(3)])
    torch.testing.assert_close(model.w, means)
    want = 250 * sum(float(means[k] @ TEXT[k]) for k in range(3)) / 3
    assert model.alpha.tolist() == pytest.approx([want] * 3, rel=1e-4)


def test_texts_on_the_far_side_are_not_read_the_wrong_way_round() -> None:
    training = split(1, 13, 3)
    images = F.normalize(training.features.pooled, dim=1)
    model = lp()
    model.text = -images[:3]
    model.start(images, F.one_hot(training.labels, 3).float())
    assert model.alpha.tolist() == pytest.approx([float(model.scale)] * 3)


@pytest.mark.parametrize("block", ["w", "alpha"])
def test_a_step_goes_down_the_gradient(block: str) -> None:
    training = split(1, 13, 3)
    model, images, target = started(training)
    model.alpha.copy_(torch.tensor([3.0, 4.0, 5.0]))
    before = {name: getattr(model, name).clone() for name in ("w", "alpha")}
    leaves = {name: tensor.double().requires_grad_() for name, tensor in before.items()}
    loss(**leaves, images=images, labels=training.labels).backward()
    getattr(model, f"step_{block}")(images, target, 0.8)
    moved = before[block].double() - 0.8 * leaves[block].grad
    torch.testing.assert_close(getattr(model, block).double(), moved, atol=1e-6, rtol=1e-5)
    other = "alpha" if block == "w" else "w"
    assert torch.equal(getattr(model, other), before[other])


@pytest.mark.parametrize("seed", range(4))
def test_no_step_of_either_block_increases_the_loss(seed: int) -> None:
    training = split(seed, 10 + 5 * seed, 3)
    model, images, target = started(training)
    sizes = step_sizes(images, TEXT)
    losses = [float(loss(model.w, model.alpha, images, training.labels))]
    for _ in range(40):
        model.step_w(images, target, sizes[0])
        losses.append(float(loss(model.w, model.alpha, images, training.labels)))
        model.step_alpha(images, target, sizes[1])
        losses.append(float(loss(model.w, model.alpha, images, training.labels)))
    assert all(after <= before + 1e-6 for before, after in pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]


def test_step_sizes_bound_the_curvature() -> None:
    """The largest eigenvalue of the Hessian of a block is at most 1 / step, and not far below it at p = 1/2."""
    images = F.normalize(split(3, 12, 3).features.pooled, dim=1).double()
    text, labels = TEXT.double(), split(3, 12, 3).labels
    of_w, of_alpha = step_sizes(images, text)
    assert of_w == pytest.approx(2 * 12 / np.linalg.eigvalsh(images.T @ images)[-1])
    assert of_alpha == pytest.approx(2 * 12 / max(sum(float(f @ t) ** 2 for f in images) for t in text))
    zero, w = torch.zeros(3, dtype=torch.double), torch.zeros(3, D, dtype=torch.double)
    w[2] = -100 * images.mean(0)  # one class is out: two are left, at one half each
    for size, function, at in (
        (of_w, lambda x: loss(x.view(3, D), zero, images, labels), w.flatten()),
        (of_alpha, lambda x: loss(w, x, images, labels), zero),
    ):
        hessian = torch.autograd.functional.hessian(function, at)
        largest = float(torch.linalg.eigvalsh(hessian)[-1])
        assert 0.3 / size < largest <= 1 / size


def test_the_fit_is_the_descent_and_needs_no_validation() -> None:
    training = split(1, 15, 3)
    by_hand, images, target = started(training)
    sizes = step_sizes(images, TEXT)
    for iteration in range(6):
        by_hand.step_w(images, target, sizes[0])
        if iteration in (2, 5):
            by_hand.step_alpha(images, target, sizes[1])
    for validation in (None, split(2, 6, 3)):
        model = lp(ITERATIONS=6, ALPHA_EVERY=3)
        model.prepare(training, validation)
        torch.testing.assert_close(model.w, by_hand.w, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(model.alpha, by_hand.alpha, atol=1e-3, rtol=1e-3)
    logits = model.logits(training.features).detach()
    own = float(F.cross_entropy(logits, training.labels))
    assert own == pytest.approx(float(loss(model.w, model.alpha, images, training.labels)), rel=1e-4)


def test_before_it_is_fitted_it_is_zero_shot_clip() -> None:
    model, images = lp(), split(1, 4, 3).features
    want = model.scale * torch.cosine_similarity(images.pooled[:, None], TEXT[None], dim=-1)
    torch.testing.assert_close(model.logits(images), want)
