"""The `aligned` variant: prompts that differ, parts that can be left out, and predictions of one image at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_clip import tiny_backbone
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures
from xcoop.concepts import load_bank
from xcoop.concepts.sentences import clinical_features, shares
from xcoop.methods import alignment
from xcoop.methods.prompts import context_from_words
from xcoop.trainers.coop import DEFAULTS as COOP
from xcoop.trainers.coop import CoOpModel
from xcoop.trainers.xcoop import DEFAULTS, AlignedModel, starting_context

BANK = """
name: toy
version: "1"
dataset: Toy
template: "a photo of a {class}, {concepts}."
reviewed_by: []
sources: {here: "this test"}
classes:
  nevus: [{concept: typical network, source: here}, {concept: even streaks, source: here}]
  melanoma:
    - {concept: blue veil, source: here}
    - {concept: uneven streaks, source: here}
    - {concept: atypical network, source: here}
"""
NAMES = ["nevus", "melanoma"]
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


@pytest.fixture
def bank(tmp_path: Path):
    (tmp_path / "toy.yaml").write_text(BANK)
    return load_bank(tmp_path / "toy.yaml").for_classes(NAMES)


@pytest.fixture(scope="module")
def features() -> ImageFeatures:
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return tiny_backbone().encode_image(images, patches=True)


# The method without what images correct in knowledge, which has a file of tests of its own.
PLAIN = {
    "SENTENCES": "share",
    "FROM_SENTENCE": False,
    "RESIDUAL_SPREAD": 0.0,
    "OFFSET_SPREAD": 0.0,
    "TRUST_SPREAD": 0.0,
}


def settings(**changes: object) -> CfgNode:
    keys = DEFAULTS.clone()
    wanted = {"N_PROMPTS": 2, "N_CTX": 5} | PLAIN | changes
    keys.merge_from_list([item for pair in wanted.items() for item in pair])
    return keys


def model(bank, **changes: object) -> AlignedModel:
    torch.manual_seed(0)
    return AlignedModel(tiny_backbone(), NAMES, bank, settings(**changes))


def test_concepts_are_dealt_out_and_none_is_lost(bank):
    texts = [[share.texts(name) for name in NAMES] for share in shares(bank, 2)]
    assert texts == [
        [["typical network"], ["blue veil", "atypical network"]],
        [["even streaks"], ["uneven streaks"]],
    ]
    again = [share.texts("nevus") for share in shares(bank, 3)]
    assert again == [["typical network"], ["even streaks"], ["typical network"]]


def test_contexts_start_from_the_words_of_their_concepts(bank):
    backbone = tiny_backbone()
    context = starting_context(backbone, bank, settings())
    words = context_from_words(backbone, "blue veil, atypical network")
    assert torch.equal(context[0, 1], words[:5])
    short = context_from_words(backbone, "even streaks")
    assert torch.equal(context[1, 0, : len(short)], short)
    assert torch.equal(context[1, 0, len(short)], short[0])  # repeated from the front


@pytest.mark.parametrize("words", ["concepts", "a photo of a", ""])
def test_no_two_prompts_of_a_class_start_equal(bank, words: str):
    context = starting_context(tiny_backbone(), bank, settings(N_PROMPTS=4, CTX_INIT=words))
    for c in range(2):
        for k in range(4):
            for other in range(k):
                assert (context[k, c] - context[other, c]).abs().max() > 1e-3


def test_prompts_are_driven_apart_by_training_too(bank, features: ImageFeatures):
    own = model(bank, CTX_INIT="a photo of a", PROMPT_WEIGHT=0.0, TETHER_WEIGHT=8.0)
    ctx = own.prompt_learner.ctx
    (gradient,) = torch.autograd.grad(_total(own.losses(features, LABELS)), ctx)
    assert (gradient[0] - gradient[1]).abs().max() > 0.1 * gradient.abs().max()


def test_logits_by_an_independent_formula(bank, features: ImageFeatures):
    own = model(bank, CLINICAL_WEIGHT=0.3, LOCAL_WEIGHT=0.7, LOCAL_POOL="mean")
    with torch.no_grad():
        got, soft = own.logits(features), own.soft_features()
        clinical = [clinical_features(own.backbone, share) for share in shares(bank, 2)]
        for b in range(6):
            for c in range(2):
                total = 0.0
                for k in range(2):
                    z = 0.7 * soft[k, c] / soft[k, c].norm() + 0.3 * clinical[k][c]
                    total += torch.cosine_similarity(features.pooled[b], z, dim=0)
                    for patch in features.patches[b]:
                        total += 0.7 * torch.cosine_similarity(patch, z, dim=0) / len(features.patches[b])
                assert got[b, c].item() == pytest.approx((own.scale * total / 2).item(), abs=1e-3)


@pytest.mark.parametrize("pool", alignment.POOLINGS)
def test_a_prediction_does_not_depend_on_the_batch(bank, features: ImageFeatures, pool: str):
    own = model(bank, LOCAL_POOL=pool)
    with torch.no_grad():
        alone = torch.cat(
            [own.logits(ImageFeatures(features.pooled[b, None], features.patches[b, None])) for b in range(6)]
        )
        assert torch.allclose(own.logits(features), alone, atol=1e-5)


@pytest.mark.parametrize("part", ["prompt", "tether", "token"])
def test_each_part_has_a_gradient_of_its_own_and_can_be_switched_off(bank, features: ImageFeatures, part: str):
    on = {"PROMPT_WEIGHT": 1.0, "TETHER_WEIGHT": 1.0, "TOKEN_WEIGHT": 1.0}
    own = model(bank, CTX_INIT="a photo of a", **on)
    losses = own.losses(features, LABELS)
    (gradient,) = torch.autograd.grad(losses[part], own.prompt_learner.ctx)
    assert gradient.abs().max() > 1e-4
    without = model(bank, CTX_INIT="a photo of a", **{**on, f"{part.upper()}_WEIGHT": 0.0}).losses(features, LABELS)
    assert part not in without
    assert _total(without).item() == pytest.approx((_total(losses) - losses[part]).item(), abs=1e-4)


def test_weights_scale_their_part(bank, features: ImageFeatures):
    once = model(bank, TOKEN_WEIGHT=1.0).losses(features, LABELS)["token"]
    assert model(bank, TOKEN_WEIGHT=3.0).losses(features, LABELS)["token"].item() == pytest.approx(3 * once.item())


def test_the_whole_clinical_weight_classifies_by_the_sentences_alone(bank, features: ImageFeatures):
    own = model(bank, CLINICAL_WEIGHT=1.0, LOCAL_WEIGHT=0.0, N_PROMPTS=1)
    with torch.no_grad():
        sentences = clinical_features(own.backbone, bank)
        want = own.scale * alignment.unit(features.pooled) @ sentences.T
        assert torch.allclose(own.logits(features), want, atol=1e-4)


def test_without_local_features_none_are_asked_for(bank):
    assert model(bank, LOCAL_WEIGHT=0.5).needs_patches
    assert not model(bank, LOCAL_WEIGHT=0.0).needs_patches


@torch.no_grad()
def test_with_another_bank_the_model_answers_by_its_sentences(bank, features: ImageFeatures):
    """All else stays as it was learned; a class without concepts keeps its plain sentence; the model is untouched."""
    own = model(bank, FROM_SENTENCE=True)
    own.prompt_learner.ctx.add_(0.1 * torch.randn_like(own.prompt_learner.ctx))
    before = own.logits(features)
    assert torch.equal(own.with_bank(bank).logits(features), before)
    swapped = replace(bank, classes={"nevus": bank.classes["melanoma"], "melanoma": ()})
    other = own.with_bank(swapped)
    assert other.prompt_learner is own.prompt_learner
    plain = torch.nn.functional.normalize(own.backbone.encode_text(["a photo of a melanoma."]), dim=-1)
    torch.testing.assert_close(other.clinical[:, 1], plain.expand(2, -1))
    full = replace(swapped, classes=dict.fromkeys(NAMES, bank.classes["melanoma"]))
    assert torch.equal(other.clinical[:, 0], own.sentences(full)[:, 0])
    assert (other.logits(features) - before).abs().max() > 1e-3
    assert torch.equal(own.logits(features), before)


def test_a_model_without_clinical_sentences_takes_no_other_bank(bank):
    coop = CoOpModel(tiny_backbone(), NAMES, COOP.clone())
    for unable in (coop, model(bank, CLINICAL_WEIGHT=0.0)):
        assert not unable.holds_concepts
        with pytest.raises(ValueError, match="Model holds no clinical sentences"):
            unable.with_bank(bank)
    assert model(bank).holds_concepts


def test_tuned_norms_are_trained_at_a_tenth_of_the_rate(bank):
    own = model(bank, TUNE_NORMS=True)
    rates = {group["name"]: group["lr"] for group in own.parameter_groups(0.03)}
    assert rates == {"prompts": 0.03, "norm layers": pytest.approx(0.003)}
    images = torch.randn(6, 3, 32, 32)
    _total(own.losses(own.encode_images(images), LABELS)).backward()
    assert all(parameter.grad is not None for parameter in own.backbone.image_norms())
    assert not own.image_tower_frozen
    assert set(model(bank).trained_state()) == {"ctx"}


def test_training_learns_and_keeps_to_the_concepts(bank, features: ImageFeatures):
    own = model(bank)
    optimiser = torch.optim.SGD(own.parameter_groups(0.05), lr=0.05)
    first = None
    for _ in range(30):
        losses = own.losses(features, LABELS)
        first = first if first is not None else losses["ce"].item()
        optimiser.zero_grad()
        _total(losses).backward()
        optimiser.step()
    assert losses["ce"].item() < 0.9 * first
    kept = torch.cosine_similarity(own.soft_features(), own.clinical, dim=-1)
    loose = model(bank, TETHER_WEIGHT=0.0)
    optimiser = torch.optim.SGD(loose.parameter_groups(0.05), lr=0.05)
    for _ in range(30):
        optimiser.zero_grad()
        _total(loose.losses(features, LABELS)).backward()
        optimiser.step()
    assert kept.mean() > torch.cosine_similarity(loose.soft_features(), loose.clinical, dim=-1).mean()


def _total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([value for name, value in losses.items() if name != "acc"]).sum()
