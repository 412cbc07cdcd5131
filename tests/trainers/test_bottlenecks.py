"""Concept bottlenecks: what they fit against what they minimise, and logits that are sums over concepts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from helpers_clip import tiny_backbone
from small_cases import clusters, one, settings
from tiny_run import ConfigMaker

from xcoop.concepts import ConceptBank, load_bank
from xcoop.concepts.bank import Concept
from xcoop.trainers import labo
from xcoop.trainers.labo import LaBoModel
from xcoop.trainers.pcbm import DEFAULTS, ConceptBottleneck, PCBMModel, elastic_net, largest_lambda

NAMES = ["a", "blue_b", "c"]
LISTS = {"a": ("round", "dark"), "blue_b": ("dark", "pale blue"), "c": ("rough edge",)}
TEXTS = ("round", "dark", "pale blue", "rough edge")


@pytest.fixture(scope="module")
def bank(pictures: Path) -> ConceptBank:
    """Three classes; one of four concepts is listed twice."""
    classes = {name: tuple(Concept(text, "tests") for text in texts) for name, texts in LISTS.items()}
    return replace(load_bank(pictures / "bank.yaml"), classes=classes)


def pcbm(bank: ConceptBank, **changes: object) -> PCBMModel:
    return PCBMModel(tiny_backbone(), NAMES, bank, settings(DEFAULTS, **changes))


def labo_model(bank: ConceptBank, unit: bool, **changes: object) -> LaBoModel:
    return LaBoModel(tiny_backbone(), NAMES, bank, settings(labo.DEFAULTS, UNIT_FEATURES=unit, **changes))


def scored(classes: int, n: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, 5) far from 0 and close together, as CLIP's are, and one-hot labels (n, classes)."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    means = draw.normal(size=(classes, 5))
    return 2.5 + 0.2 * (means[labels] + draw.normal(size=(n, 5))), np.eye(classes)[labels]


# The bottleneck.


def test_each_concept_is_scored_once_whoever_lists_it(bank: ConceptBank) -> None:
    model, images = pcbm(bank), clusters(1, 5).features
    assert model.concepts.texts == TEXTS
    assert [[TEXTS[j] for j in row.nonzero()[:, 0]] for row in model.concepts.listed] == [
        ["round", "dark"], ["dark", "pale blue"], ["rough edge"],
    ]  # fmt: skip
    text = model.backbone.encode_text(list(TEXTS)).detach().double().numpy()
    want = [[float(image @ one(t)) for t in text] for image in images.pooled.double().numpy()]
    np.testing.assert_allclose(model.scores(images), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["PCBM", "LaBo", "LaBo, unit"])
@torch.no_grad()
def test_contributions_and_offset_add_up_to_the_logit(name: str, bank: ConceptBank) -> None:
    images = clusters(2, 9).features
    model: ConceptBottleneck = pcbm(bank, LAMBDA=1e-3) if name == "PCBM" else labo_model(bank, name == "LaBo, unit")
    model.prepare(clusters(1, 24), None)
    parts, logits = model.contributions(images), model.logits(images)
    assert parts.shape == (9, 3, 4)
    assert parts.abs().max() > 0.1
    assert bool(model.offset().abs().max() > 0.1) is (name == "PCBM")
    error = (logits - parts.sum(-1) - model.offset()).abs().max() / logits.abs().max().clamp(min=1)
    assert error < 1e-5
    assert name == "LaBo" or (logits - parts.sum(-1) - model.offset()).abs().max() < 1e-5
    # The same as a comparison with vectors: what explanations ask.
    angles = torch.cosine_similarity(images.pooled[:, None], model.text_features()[None], dim=-1)
    torch.testing.assert_close(model.temperature(images) * angles + model.offset(), logits, atol=1e-3, rtol=1e-4)


def test_without_concepts_the_plain_sentences_are_scored(make_cfg: ConfigMaker) -> None:
    model = tiny_run.build(make_cfg("PCBM", "TRAINER.PCBM.KNOWLEDGE", "none")).model
    assert model.concepts.texts == ("a photo of a dark spot.", "a photo of a bright spot.")
    assert model.concepts.listed.tolist() == [[True, False], [False, True]]


def test_unrelated_phrases_take_the_place_of_concepts(make_cfg: ConfigMaker) -> None:
    own, other = (
        tiny_run.build(make_cfg("PCBM", "TRAINER.PCBM.KNOWLEDGE", kind)).model.concepts for kind in ("bank", "random")
    )
    assert len(other.texts) == len(own.texts)
    assert not set(other.texts) & set(own.texts)


def test_which_class_lists_a_concept_does_not_count_in_pcbm(make_cfg: ConfigMaker) -> None:
    own, shuffled = (
        tiny_run.trained(make_cfg("PCBM", "TRAINER.PCBM.KNOWLEDGE", kind, output=kind)) for kind in ("bank", "shuffled")
    )
    assert shuffled.model.concepts.texts != own.model.concepts.texts  # another order
    torch.testing.assert_close(tiny_run.logits(shuffled), tiny_run.logits(own), atol=1e-4, rtol=1e-4)


# The sparse fit.


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
@pytest.mark.parametrize("ratio", [1.0, 0.99, 0.3])
def test_the_fit_meets_the_conditions_of_a_minimum(classes: int, share: float, ratio: float) -> None:
    """The loss is convex: where 0 is a subgradient, nothing is lower."""
    scores, target = scored(classes)
    strength = share * largest_lambda(scores, target, ratio)
    weight, bias = elastic_net(scores, target, strength, ratio)
    logits = scores @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    excess = (p / p.sum(1, keepdims=True) - target) / len(scores)
    slope = excess.T @ (scores - scores.mean(0)) + strength * (1 - ratio) * weight
    small = 0.002 * strength * ratio
    np.testing.assert_allclose(excess.sum(0), 0, atol=1e-5)
    assert (np.abs(slope) <= strength * ratio + small).all()
    kept = weight != 0
    np.testing.assert_allclose(slope[kept], -strength * ratio * np.sign(weight[kept]), atol=small)
    assert kept.any()
    assert abs(bias.mean()) < 1e-9


def test_one_concept_by_hand() -> None:
    """Scores +1 and -1 of two classes: the slope of log(1 + exp(-v)) at the minimum v is lambda."""
    scores, target = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.eye(2)[[0, 1, 0, 1]]
    weight, bias = elastic_net(scores, target, 0.1, 1.0)
    assert weight[0, 0] - weight[1, 0] == pytest.approx(math.log(0.9 / 0.1), abs=1e-4)
    np.testing.assert_allclose(bias, 0, atol=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_the_path_starts_where_the_first_weight_appears(ratio: float) -> None:
    scores, target = scored(3)
    largest = largest_lambda(scores, target, ratio)
    assert not elastic_net(scores, target, 1.001 * largest, ratio)[0].any()
    assert elastic_net(scores, target, 0.98 * largest, ratio)[0].any()


def test_from_another_start_the_minimum_is_the_same() -> None:
    scores, target = scored(3)
    strength = 0.05 * largest_lambda(scores, target, 0.99)
    start = elastic_net(scores, target, 4 * strength, 0.99)
    for cold, warm in zip(
        elastic_net(scores, target, strength, 0.99), elastic_net(scores, target, strength, 0.99, start), strict=True
    ):
        np.testing.assert_allclose(warm, cold, atol=2e-2, rtol=2e-3)


def test_the_one_concept_that_decides_is_found_among_others() -> None:
    draw = np.random.default_rng(3)
    labels = np.arange(60) % 2
    scores = draw.normal(size=(60, 8))
    scores[:, 5] = 2.0 * labels + 0.5 * draw.normal(size=60)
    weight, _ = elastic_net(scores, np.eye(2)[labels], 0.08, 0.99)
    assert np.flatnonzero(weight.any(0)).tolist() == [5]
    assert weight[1, 5] > 0 > weight[0, 5]


def test_the_validation_images_choose_lambda(bank: ConceptBank) -> None:
    """The path made anew, each fit from the start: most images right, and of equals the lowest cross entropy."""
    training, validation = clusters(1, 18), clusters(2, 12)
    model = pcbm(bank)
    model.prepare(training, validation)
    x, z = (model.scores(split.features).double().numpy() for split in (training, validation))
    target, labels = np.eye(3)[training.labels], validation.labels.numpy()
    found = {}
    for step in range(1, 9):
        weight, bias = elastic_net(x, target, largest_lambda(x, target, 0.99) / 10 ** (step / 4), 0.99)
        logits = z @ weight.T + bias
        entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(12), labels]
        found[(logits.argmax(1) == labels).sum(), -entropy.mean()] = weight
    assert len({correct for correct, _ in found}) > 1
    best = found[max(found)]
    assert max(found) not in (next(iter(found)), list(found)[-1])  # neither end of the path
    np.testing.assert_allclose(model.weight, best, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("why", ["no split", "not wanted"])
def test_without_validation_the_configured_lambda_holds(why: str, bank: ConceptBank) -> None:
    training = clusters(1, 30)
    model = pcbm(bank, LAMBDA=0.02, SEARCH_LAMBDA=why == "no split")
    model.prepare(training, None if why == "no split" else training)
    scores = model.scores(training.features).double().numpy()
    weight, bias = elastic_net(scores, np.eye(3)[training.labels], 0.02, 0.99)
    np.testing.assert_allclose(model.weight, weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.bias, bias, rtol=1e-5, atol=1e-5)
    assert 0 < np.count_nonzero(weight) < weight.size


# LaBo.


def test_the_weights_start_from_what_the_bank_lists(bank: ConceptBank) -> None:
    """Also of a concept that two classes list."""
    e = math.exp(0.7)
    want = [[e / (2 * e + 2), e / (2 * e + 2), 1 / (2 * e + 2), 1 / (2 * e + 2)],
            [1 / (2 * e + 2), e / (2 * e + 2), e / (2 * e + 2), 1 / (2 * e + 2)],
            [1 / (e + 3), 1 / (e + 3), 1 / (e + 3), e / (e + 3)]]  # fmt: skip
    model = labo_model(bank, True, INIT=0.7, SCALE=10.0)
    np.testing.assert_allclose(model.concept_weights().detach(), 10 * np.array(want), rtol=1e-5)
    blind = labo_model(bank, True, INIT=0.0).logits(clusters(1, 5).features)
    torch.testing.assert_close(blind, blind[:, :1].expand(blind.shape))  # without the prior all classes are alike


@pytest.mark.parametrize("unit", [True, False])
def test_logits_compare_an_image_with_the_mean_of_its_concepts(unit: bool, bank: ConceptBank) -> None:
    model, images = labo_model(bank, unit, SCALE=30.0), clusters(1, 5).features
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(4)))
    length = one if unit else lambda x: x
    text = model.backbone.encode_text(list(TEXTS)).detach().double().numpy()
    for image, got in zip(images.pooled.double().numpy(), model.logits(images).tolist(), strict=True):
        for row, logit in zip(model.weight.detach().double().numpy(), got, strict=True):
            share = np.exp(row) / np.exp(row).sum()
            mean = sum(s * length(t) for s, t in zip(share, text, strict=True))
            assert logit == pytest.approx(30 * float(length(image) @ mean), rel=1e-4, abs=1e-4)


def test_training_turns_to_the_concepts_that_images_show(bank: ConceptBank) -> None:
    """What the prior says of them is unlearned."""
    model = labo_model(bank, True, SCALE=5.0)
    model.vectors = torch.eye(4, model.backbone.embed_dim)
    shown = [3, 0, 2]  # what the images of each class show; none of it is listed for the class
    features = clusters(1, 3).features
    features = replace(features, pooled=model.vectors[shown])
    optimiser = torch.optim.Adam(model.trained_parameters().values(), lr=0.05)
    before = model.concept_weights().detach()
    for _ in range(200):
        optimiser.zero_grad()
        model.losses(features, torch.arange(3))["ce"].backward()
        optimiser.step()
    after = model.concept_weights().detach()
    assert before.argmax(1).tolist() != shown
    assert after.argmax(1).tolist() == shown
    torch.testing.assert_close(after.sum(1), torch.full((3,), 5.0))


def test_shuffled_knowledge_is_another_prior(make_cfg: ConfigMaker) -> None:
    own, other = (
        tiny_run.build(make_cfg("LaBo", "TRAINER.LABO.KNOWLEDGE", kind)).model for kind in ("bank", "shuffled")
    )
    told = [{model.concepts.texts[j] for j in model.weight[0].nonzero()[:, 0]} for model in (own, other)]
    assert told == [{"low brightness", "deep shadow"}, {"high brightness", "white glow"}]


def test_weights_of_other_classes_are_refused(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tiny_run.trained(make_cfg("LaBo"))
    monkeypatch.setattr(tiny_run, "NAMES", tiny_run.NAMES[::-1])
    other = tiny_run.build(make_cfg("LaBo", output="other"))
    with pytest.raises(ValueError, match=r"of the classes \['dark_spot', 'bright spot'\]"):
        other.load_model(trained.output_dir)
