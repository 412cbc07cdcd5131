"""KgCoOp, ProGrad and BiomedCoOp, which learn from frozen CLIP: losses in plain numbers, steps, their teachers."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from small_cases import LABELS, NAMES, SENTENCES, drawn_features, one, settings
from tiny_run import ConfigMaker
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.methods import prompts
from xcoop.methods.prompts import distillation, sentence_features, template_features
from xcoop.trainers.biomedcoop import DEFAULTS as BIOMEDCOOP
from xcoop.trainers.biomedcoop import BiomedCoOpModel, inliers, sentence_scores
from xcoop.trainers.kgcoop import DEFAULTS as KGCOOP
from xcoop.trainers.kgcoop import KgCoOpModel
from xcoop.trainers.prograd import DEFAULTS as PROGRAD
from xcoop.trainers.prograd import ProGradModel, without_conflict
from xcoop.utils import rules

TEMPLATE = "a scan that shows {}."
# KgCoOp


def test_the_loss_is_cross_entropy_and_half_the_squared_distance(tiny_backbone: Backbone) -> None:
    model = KgCoOpModel(tiny_backbone, NAMES, settings(KGCOOP, W=3.0), TEMPLATE)
    with torch.no_grad():
        model.prompt_learner.ctx.normal_(std=0.5)
        parts = model.losses(drawn_features(tiny_backbone), LABELS)
        learned = model.text_features().double().numpy()
        sentences = ["a scan that shows melanoma.", "a scan that shows blue nevus.", "a scan that shows clear lung."]
        written = tiny_backbone.encode_text(sentences).double().numpy()

    squared = [sum((one(w) - one(h)) ** 2) for w, h in zip(learned, written, strict=True)]
    assert parts["distance"].item() == pytest.approx(3.0 * np.mean(squared) / 2, rel=1e-5)
    assert parts["distance"] > 0.1

    entropies = []
    for x, y in zip(drawn_features(tiny_backbone).pooled.double().numpy(), LABELS.tolist(), strict=True):
        logits = model.scale.item() * np.array([one(x) @ one(w) for w in learned])
        entropies.append(np.log(np.exp(logits).sum()) - logits[y])
    assert parts["ce"].item() == pytest.approx(np.mean(entropies), rel=1e-5)
    assert parts.keys() == {"ce", "distance", "acc"}


def test_prompts_that_say_the_sentence_are_at_no_distance(tiny_backbone: Backbone) -> None:
    model = KgCoOpModel(tiny_backbone, NAMES, KGCOOP.clone(), "a photo of a {}.")
    assert model.losses(drawn_features(tiny_backbone), LABELS)["distance"].item() == pytest.approx(0, abs=1e-5)


def test_the_sentence_is_the_datasets_unless_one_is_given(make_cfg: ConfigMaker) -> None:
    names = [name.replace("_", " ") for name in tiny_run.NAMES]
    for keys, template in (((), "a photo of a {}."), (("TRAINER.KGCOOP.TEMPLATE", TEMPLATE), TEMPLATE)):
        model = tiny_run.build(make_cfg("KgCoOp", *keys)).model
        expected = model.backbone.encode_text([template.format(name) for name in names])
        torch.testing.assert_close(model.hand_written, torch.nn.functional.normalize(expected, dim=-1))


# ProGrad


@pytest.mark.parametrize(
    ("task", "general", "share", "expected"),
    [
        ([3.0, -4.0], [0.0, 2.0], 1.0, [3.0, 0.0]),  # the part against (0, 1) is gone
        ([3.0, -4.0], [0.0, 2.0], 0.5, [3.0, -2.0]),
        ([3.0, 4.0], [0.0, 2.0], 1.0, [3.0, 4.0]),  # in agreement
        ([3.0, 4.0], [4.0, -3.0], 1.0, [3.0, 4.0]),  # orthogonal
        ([1.0, 0.0], [-1.0, 1.0], 1.0, [0.5, 0.5]),
        ([3.0, 4.0], [0.0, 0.0], 1.0, [3.0, 4.0]),  # no direction to be kept
    ],
)
def test_projection_by_hand(task: list[float], general: list[float], share: float, expected: list[float]) -> None:
    (got,) = without_conflict([torch.tensor(task)], [torch.tensor(general)], share)
    torch.testing.assert_close(got, torch.tensor(expected))


def test_a_projected_gradient_never_conflicts_and_an_agreeing_one_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    conflicts = 0
    for _ in range(200):
        task, general = torch.randn(2, 9, generator=generator)
        (got,) = without_conflict([task], [general])
        assert got @ general >= -1e-5
        assert got @ task >= -1e-5  # still downhill for the task
        if task @ general < 0:
            conflicts += 1
            assert abs(got @ general) < 1e-5
        else:
            assert torch.equal(got, task)
    assert 50 < conflicts < 150


def test_several_tensors_are_one_gradient_and_sizes_do_not_matter() -> None:
    task, general = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    if task @ general > 0:
        task = -task
    (whole,) = without_conflict([task], [general])
    apart = without_conflict([task[:2], task[2:]], [1000 * general[:2], 1000 * general[2:]])
    torch.testing.assert_close(torch.cat(apart), whole)
    (scaled,) = without_conflict([2.0**16 * task], [2.0**16 * general])
    torch.testing.assert_close(scaled / 2.0**16, whole)


def gradients(model: ProGradModel, features: ImageFeatures, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the cross entropy and of the divergence, from their definitions, one image after the other."""
    context = model.prompt_learner.ctx
    text, written = model.text_features(), model.hand_written
    entropy, divergence = [], []
    for x, y in zip(features.pooled, labels.tolist(), strict=True):
        ours, theirs = (
            model.scale * (t @ x) / t.norm(dim=1) / x.norm() / model.softness for t in (text, written)
        )  # fmt: skip
        p, q = ours.exp() / ours.exp().sum(), theirs.exp() / theirs.exp().sum()
        divergence.append((q * (q / p).log()).sum() * model.softness**2)
        sharp = (ours * model.softness).exp()
        entropy.append(-(sharp[y] / sharp.sum()).log())
    ce, kl = sum(entropy) / len(labels), sum(divergence) / len(labels)
    return tuple(torch.autograd.grad(loss, context, retain_graph=True)[0] for loss in (ce, kl))  # type: ignore[return-value]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("against", [True, False])
def test_a_step_follows_the_gradients_taken_apart(against: bool, temperature: float, tiny_backbone: Backbone) -> None:
    """Which labels give a conflict is not known beforehand: all are tried, until one does (or none does)."""
    torch.manual_seed(1)
    keys = settings(PROGRAD, CTX_INIT="", N_CTX=4, T=temperature)
    model, features = ProGradModel(tiny_backbone, NAMES, keys, "a photo of a {}."), drawn_features(tiny_backbone)
    choices = (torch.tensor(labels) for labels in product(range(3), repeat=4))
    tried = ((labels, *gradients(model, features, labels)) for labels in choices)
    labels, ce, kl = next(found for found in tried if ((found[1] * found[2]).sum() < 0) == against)

    parts = model.losses(features, labels)
    model.backward(model.loss(parts), parts, Tensor.backward)
    got = model.prompt_learner.ctx.grad
    expected = ce - (ce * kl).sum() / (kl * kl).sum() * kl if against else ce
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-3)


def test_the_log_shows_the_divergence_which_is_not_part_of_the_loss(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("ProGrad"))
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 99
    batch = next(iter(trainer.train_loader_x))
    features, labels = trainer.parse_batch_train(batch)
    with torch.no_grad():
        trainer.model.prompt_learner.ctx.normal_(std=0.3)
        parts = trainer.model.losses(features, labels)
    shown = trainer.forward_backward(batch)
    assert shown.keys() == {"loss", "acc", "kl"}
    assert shown["loss"] == pytest.approx(parts["ce"].item())
    assert shown["kl"] == pytest.approx(parts["kl"].item())
    assert shown["kl"] > 1e-3


# BiomedCoOp


@torch.no_grad()
def test_a_planted_outlier_is_not_listened_to(tiny_backbone: Backbone) -> None:
    """Sentence 4 of every class is put where the images are: its score is far above all others."""
    model = BiomedCoOpModel(tiny_backbone, NAMES, BIOMEDCOOP.clone(), SENTENCES)
    features = drawn_features(tiny_backbone)
    clean = [n for n in range(model.sentences.shape[1]) if n != 4]
    model.settings.TAU = 1e6  # all are listened to
    torch.testing.assert_close(model.selected(features), model.sentences.mean(1))
    model.sentences[:, 4] = torch.nn.functional.normalize(features.pooled.mean(0), dim=0)
    model.settings.TAU = 2.0
    torch.testing.assert_close(model.selected(features), model.sentences[:, clean].mean(1))


def test_sentences_of_the_bank_are_recorded_with_the_run(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("BiomedCoOp", "TRAINER.BIOMEDCOOP.N_PROMPTS", 3))
    assert trainer.bank.name == "spots"
    expected = trainer.backbone.encode_text("a photo of a dark spot, low brightness, deep shadow.")[0]
    assert trainer.model.sentences.shape[:2] == (2, 3)
    torch.testing.assert_close(trainer.model.sentences[0, 0], torch.nn.functional.normalize(expected, dim=-1))


def test_sentences_of_a_file_need_no_bank(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"dark spot": ["a dark one.", "a dim one."], "bright_spot": ["a bright one."]}))
    keys = ("TRAINER.BIOMEDCOOP.SENTENCES", str(path), "TRAINER.BIOMEDCOOP.N_PROMPTS", 2)
    trainer = tiny_run.trained(make_cfg("BiomedCoOp", *keys, "DATASET.CONCEPT_BANK", "no-such-bank"))
    assert trainer.bank is None
    expected = trainer.backbone.encode_text(["a dark one.", "a dim one.", "a bright one.", "a bright one."])
    expected = torch.nn.functional.normalize(expected, dim=-1).unflatten(0, (2, 2))
    torch.testing.assert_close(trainer.model.sentences, expected)


# What they share.


def test_features_of_sentences_are_those_of_each_alone(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcoop.methods.prompts.AT_ONCE", 4)  # six sentences: in two parts
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


def test_every_template_has_one_place_and_none_stands_twice(tiny_backbone: Backbone) -> None:
    assert len(set(prompts.ALL)) == len(prompts.ALL)
    assert prompts.DEFAULT in prompts.GENERIC
    for template in prompts.ALL:
        assert template.count("{}") == 1, template
        assert tiny_backbone.count_tokens(prompts.fill(template, "benign_keratosis")) < 20, template
    rules.TEMPLATES.check("KEY", [prompts.DEFAULT])
    with pytest.raises(ValueError, match=r"KEY is 'a photo'; it must be a sentence with \{\}"):
        rules.TEMPLATE.check("KEY", "a photo")
