"""XCoOp as published: prompts that differ and decide, sentences that guide, parts that can be left out."""

from __future__ import annotations

import pytest
import torch
from helpers_banks import SKIN
from helpers_clip import tiny_backbone
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures
from xcoop.methods.prompts import context_from_words
from xcoop.trainers.coop import DEFAULTS as COOP
from xcoop.trainers.coop import CoOpModel
from xcoop.trainers.xcoop_published import DEFAULTS, PublishedModel, starting_context

NAMES = list(SKIN)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def settings(**changes: object) -> CfgNode:
    keys = DEFAULTS.clone()
    wanted = {"N_PROMPTS": 2, "N_CTX": 5, "CTX_INIT": "concepts"} | changes
    keys.merge_from_list([item for pair in wanted.items() for item in pair])
    return keys


def model(bank, **changes: object) -> PublishedModel:
    torch.manual_seed(0)
    return PublishedModel(tiny_backbone(), NAMES, bank, settings(**changes))


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


def test_logits_by_an_independent_formula(bank, features: ImageFeatures):
    own = model(bank, LOCAL_WEIGHT=0.7, LOCAL_POOL="mean")
    with torch.no_grad():
        got, soft = own.logits(features), own.text_features()
        for b in range(6):
            for c in range(2):
                total = 0.0
                for k in range(2):
                    z = soft[k, c]
                    total += torch.cosine_similarity(features.pooled[b], z, dim=0)
                    for patch in features.patches[b]:
                        total += 0.7 * torch.cosine_similarity(patch, z, dim=0) / len(features.patches[b])
                assert got[b, c].item() == pytest.approx((own.scale * total / 2).item(), abs=1e-3)


@pytest.mark.parametrize("part", ["prompt", "token"])
def test_each_part_has_a_gradient_of_its_own_and_can_be_switched_off(bank, features: ImageFeatures, part: str):
    on = {"PROMPT_WEIGHT": 1.0, "TOKEN_WEIGHT": 1.0}
    own = model(bank, CTX_INIT="a photo of a", **on)
    losses = own.losses(features, LABELS)
    (gradient,) = torch.autograd.grad(losses[part], own.prompt_learner.ctx)
    assert gradient.abs().max() > 1e-4
    without = model(bank, CTX_INIT="a photo of a", **{**on, f"{part.upper()}_WEIGHT": 0.0}).losses(features, LABELS)
    assert part not in without
    assert _total(without).item() == pytest.approx((_total(losses) - losses[part]).item(), abs=1e-4)


def test_models_whose_sentences_only_guide_take_no_other_bank(bank):
    coop = CoOpModel(tiny_backbone(), NAMES, COOP.clone())
    for unable in (coop, model(bank)):
        assert not unable.holds_concepts
        with pytest.raises(ValueError, match="Model holds no clinical sentences"):
            unable.with_bank(bank)


def test_tuned_norms_are_trained_at_a_tenth_of_the_rate(bank):
    own = model(bank, TUNE_NORMS=True)
    rates = {group["name"]: group["lr"] for group in own.parameter_groups(0.03)}
    assert rates == {"prompts": 0.03, "norm layers": pytest.approx(0.003)}
    images = torch.randn(6, 3, 32, 32)
    _total(own.losses(own.encode_images(images), LABELS)).backward()
    assert all(parameter.grad is not None for parameter in own.backbone.image_norms())
    assert not own.image_tower_frozen
    assert set(model(bank).trained_state()) == {"ctx"}


def _total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([value for name, value in losses.items() if name != "acc"]).sum()
