"""What is learned from frozen CLIP: features of sentences, divergences, and which sentences are outliers."""

from __future__ import annotations

import math

import pytest
import torch

from xcoop.backbones import Backbone
from xcoop.methods import templates
from xcoop.methods.distillation import distillation, inliers, sentence_features, sentence_scores, template_features
from xcoop.utils import rules


def test_features_of_sentences_are_those_of_each_alone(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcoop.methods.distillation.AT_ONCE", 4)  # six sentences: in two parts
    got = template_features(tiny_backbone, ["a {}.", "no {} here.", "the {}"], ["blue_nevus", "lung"])
    rows = [["a blue nevus.", "no blue nevus here.", "the blue nevus"], ["a lung.", "no lung here.", "the lung"]]
    assert got.shape == (2, 3, tiny_backbone.embed_dim)
    assert not got.requires_grad
    for c, row in enumerate(rows):
        for n, text in enumerate(row):
            feature = tiny_backbone.encode_text(text)[0]
            torch.testing.assert_close(got[c, n], feature / feature.norm(), atol=1e-6, rtol=1e-5)
    assert torch.equal(got, sentence_features(tiny_backbone, rows))


def test_divergence_by_hand() -> None:
    """Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2; and a student that agrees."""
    teacher = torch.tensor([[math.log(3.0), 0.0], [5.0, 1.0]])
    student = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distillation(student, teacher).item() == pytest.approx(one / 2)
    # At temperature 2 the same probabilities need logits of twice the size; the sum grows by 2^2.
    assert distillation(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * one / 2)
    assert distillation(teacher, teacher).item() == pytest.approx(0, abs=1e-7)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = torch.randn(2, 3, 4, requires_grad=True, generator=torch.Generator().manual_seed(0)).unbind()
    assert distillation(student, teacher).requires_grad
    assert not distillation(student.detach(), teacher).requires_grad


def test_scores_by_hand() -> None:
    """Two images along the axes; first sentences agree with them, second ones are half-way, third ones opposite."""
    diagonal = [math.sqrt(0.5)] * 2
    sentences = torch.tensor([[[1.0, 0.0], diagonal, [-1.0, 0.0]], [[0.0, 1.0], diagonal, [-1.0, 0.0]]])
    got = sentence_scores(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), sentences, 10.0)
    assert got.tolist() == pytest.approx([10.0, 10 * math.sqrt(0.5), -5.0])


@pytest.mark.parametrize(
    ("scores", "tau", "kept"),
    [
        ([1, 2, 3, 4, 100], 1.5, [True, True, True, True, False]),  # mean 22, deviation 43.6: 78 is 1.79 of it
        ([1, 2, 3, 4, 100], 1.8, [True] * 5),
        ([5, 5, 5, 5], 1.5, [True] * 4),
        ([5, 5, 5, 9], 1.4, [True, True, True, False]),  # mean 6, deviation 2: 3 is 1.5 of it
        ([5, 5, 5, 9], 1.5, [True] * 4),
        ([7], 1.5, [True]),
        ([1, 3], 0.1, [True, True]),  # equally near to the mean 2: something is kept
    ],
)
def test_outliers_by_hand(scores: list[float], tau: float, kept: list[bool]) -> None:
    assert inliers(torch.tensor(scores, dtype=torch.float32), tau).tolist() == kept


def test_normal_scores_are_cut_where_their_standard_deviation_cuts_them() -> None:
    scores = 20 + 0.3 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert inliers(scores, 1.5).float().mean().item() == pytest.approx(0.8664, abs=0.01)


def test_every_template_has_one_place_and_none_stands_twice(tiny_backbone: Backbone) -> None:
    assert len(set(templates.ALL)) == len(templates.ALL)
    assert templates.DEFAULT in templates.GENERIC
    for template in templates.ALL:
        assert template.count("{}") == 1, template
        assert tiny_backbone.count_tokens(templates.fill(template, "benign_keratosis")) < 20, template
    rules.TEMPLATES.check("KEY", [templates.DEFAULT])
    with pytest.raises(ValueError, match=r"KEY is 'a photo'; it must be a sentence with \{\}"):
        rules.TEMPLATE.check("KEY", "a photo")
