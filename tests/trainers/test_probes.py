"""Linear probe against what it minimises, and LP++ (whose arithmetic is in `test_released_peers.py`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_clip import tiny_backbone
from sklearn.linear_model import LogisticRegression
from small_cases import D, clusters, settings
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import LabelledFeatures
from xcoop.trainers import linearprobe
from xcoop.trainers.linearprobe import LinearProbeModel
from xcoop.trainers.lpplusplus import DEFAULTS, LPPlusPlusModel


def probe(classes: int, **changes: object) -> LinearProbeModel:
    names = ["a", "b", "c"][:classes]
    return LinearProbeModel(tiny_backbone(), names, settings(linearprobe.DEFAULTS, **changes))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_probabilities_are_those_of_scikit_learn(classes: int, normalize: bool) -> None:
    training, test = clusters(1, 12, classes), clusters(2, 9, classes)
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


def test_the_sweep_finds_a_peak_to_an_eighth_of_a_decade(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[float] = []
    asked: list[float] = []

    def score(self: object, training: object, validation: object, exponent: float) -> Tensor:
        asked.append(exponent)
        return torch.tensor([10 - abs(exponent - 1.375), 0.0])

    monkeypatch.setattr(LinearProbeModel, "_score", score)
    monkeypatch.setattr(LinearProbeModel, "_fit", lambda self, training, C: fitted.append(C))
    probe(3).prepare(clusters(1, 6, 3), clusters(2, 6, 3))
    assert asked[:7] == [-6, -4, -2, 0, 2, 4, 6]
    assert fitted == [pytest.approx(10**1.375)]
    assert len(asked) <= 7 + 2 * 4


def test_the_validation_images_choose_the_regularisation() -> None:
    """Images that the probe knows call for large weights; the same ones with wrong labels for hardly any."""
    training = clusters(1, 30, 3)
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


def test_texts_on_the_far_side_are_not_read_the_wrong_way_round() -> None:
    training = clusters(1, 13, 3)
    images = F.normalize(training.features.pooled, dim=1)
    model = lp()
    model.text = -images[:3]
    model.start(images, F.one_hot(training.labels, 3).float())
    assert model.alpha.tolist() == pytest.approx([float(model.scale)] * 3)


def test_a_checkpoint_from_before_there_was_a_bias_is_read() -> None:
    model = lp(ITERATIONS=3)
    model.prepare(clusters(1, 12, 3), None)
    state = model.trained_state()
    assert state["bias"].abs().max() > 0
    old = {name: tensor for name, tensor in state.items() if name != "bias"}
    model.load_trained_state(old)
    images = clusters(2, 5, 3).features
    want = F.normalize(images.pooled, dim=1) @ (state["w"] + state["alpha"][:, None] * TEXT).T
    torch.testing.assert_close(model.logits(images), want)
    model.load_trained_state(state)
    torch.testing.assert_close(model.logits(images), want + state["bias"])
