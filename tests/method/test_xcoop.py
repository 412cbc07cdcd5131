"""XCoOp: prompts that differ, parts that can be left out, other banks, and what images correct in knowledge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_clip import tiny_backbone
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures
from xcoop.concepts import load_bank
from xcoop.concepts.sentences import clinical_features, prompt_sentences, shares, single_features
from xcoop.methods import alignment
from xcoop.methods.alignment import unit
from xcoop.methods.corrections import Corrections
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
    held = ({"CLINICAL_WEIGHT": 0.5}, {"CLINICAL_WEIGHT": 0.0, "FROM_SENTENCE": True})
    assert all(model(bank, **keys).holds_concepts for keys in held)


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


# What images correct in the sentences.


SPREADS = ("RESIDUAL_SPREAD", "OFFSET_SPREAD", "TRUST_SPREAD")
NEW = {key: DEFAULTS[key] for key in ("SENTENCES", "FROM_SENTENCE", *SPREADS)}


def corrected(bank, **changes: object) -> AlignedModel:
    """As it is configured: with corrections, from the sentences on."""
    return model(bank, **(NEW | changes))


def test_the_penalty_by_hand():
    own = Corrections(2, 3, residual_std=2.0, offset_std=0.5, trust_std=0.25)
    assert own.negative_log_prior(4).item() == 0
    with torch.no_grad():
        own.residual[0, 1], own.residual[1, 2] = 3.0, -1.0
        own.offset.copy_(torch.tensor([1.0, -2.0]))
        own.trust.fill_(0.5)
    # (9 + 1) / (2 * 4) + (1 + 4) / (2 * 0.25) + 0.25 / (2 * 0.0625) = 13.25, for each of 4 images
    assert own.negative_log_prior(4).item() == pytest.approx(13.25 / 4)
    assert own.negative_log_prior(1).item() == pytest.approx(13.25)


def test_residual_and_offset_are_counted_in_logits():
    own = Corrections(2, 3, 1.0, 1.0, 0.0)
    with torch.no_grad():
        own.residual[1] = torch.tensor([0.0, 5.0, 0.0])
        own.offset.copy_(torch.tensor([0.25, -0.5]))
    text = torch.eye(3)[None, :2]  # (1, 2, 3)
    assert torch.allclose(own.corrected(text, torch.tensor(10.0))[0, 1], torch.tensor([0.0, 1.5, 0.0]))
    assert torch.equal(own.with_offset(torch.tensor([[1.0, 1.0]])), torch.tensor([[1.25, 0.5]]))


def test_trust_scales_what_the_sentences_say_apart():
    own = Corrections(2, 2, 0.0, 0.0, 1.0)
    text = torch.tensor([[[3.0, 1.0], [1.0, 5.0]], [[0.0, 0.0], [2.0, 0.0]]])  # (K, C, D); means (2, 3) and (1, 0)
    assert torch.equal(own.corrected(text, torch.tensor(10.0)), text)
    with torch.no_grad():
        own.trust.fill_(0.5)
    wanted = torch.tensor([[[2.5, 2.0], [1.5, 4.0]], [[0.5, 0.0], [1.5, 0.0]]])
    assert torch.equal(own.corrected(text, torch.tensor(10.0)), wanted)


@pytest.mark.parametrize("right", [True, False])
def test_images_that_contradict_the_sentences_turn_the_trust(right: bool):
    """Six images that lie on the sentence of their class, or on that of the other one."""
    own = Corrections(2, 2, 0.0, 0.0, trust_std=1.0)
    text, optimiser = torch.eye(2), torch.optim.SGD(own.trained, lr=0.5)
    images = text[LABELS if right else 1 - LABELS]
    for _ in range(200):
        optimiser.zero_grad()
        logits = 4 * images @ unit(own.corrected(text, torch.tensor(4.0))).T
        (F.cross_entropy(logits, LABELS) + own.negative_log_prior(6)).backward()
        optimiser.step()
    assert own.trust.item() > 1 if right else own.trust.item() < 0


def test_a_spread_of_zero_leaves_a_correction_out():
    assert [name for name, _ in Corrections(2, 3, 0.0, 1.0, 0.0).named_parameters()] == ["offset"]
    assert [name for name, _ in Corrections(2, 3, 1.0, 0.0, 0.0).named_parameters()] == ["residual"]
    assert [name for name, _ in Corrections(2, 3, 0.0, 0.0, 1.0).named_parameters()] == ["trust"]
    none = Corrections(2, 3, 0.0, 0.0, 0.0)
    assert none.trained == []
    text, logits = torch.randn(2, 3), torch.randn(4, 2)
    assert torch.equal(none.corrected(text, torch.tensor(10.0)), text)
    assert torch.equal(none.with_offset(logits), logits)


def test_the_start_is_the_sentences_and_nothing_else(bank, features: ImageFeatures):
    own = corrected(bank)
    text = prompt_sentences(own.backbone, bank, 2, "both")
    with torch.no_grad():
        want = alignment.global_similarity(features.pooled, text)
        want = own.scale * (want + 0.1 * alignment.local_similarity(features.patches, text, "softmax"))
        torch.testing.assert_close(own.logits(features), want, atol=1e-4, rtol=1e-5)


def test_class_features_by_an_independent_formula(bank):
    own = corrected(bank, CLINICAL_WEIGHT=0.3)
    begin = own.soft_features().detach()
    with torch.no_grad():
        own.prompt_learner.ctx.add_(0.1 * torch.randn(own.prompt_learner.ctx.shape))
        own.corrections.residual.normal_()
        own.corrections.trust.fill_(0.4)
        now, got = own.soft_features(), own.text_features()
        for k in range(2):
            changes = [now[k, c] / now[k, c].norm() - begin[k, c] / begin[k, c].norm() for c in range(2)]
            told = [own.clinical[k, c] + 0.7 * changes[c] for c in range(2)]
            for c in range(2):
                z = 0.4 * told[c] + 0.6 * (told[0] + told[1]) / 2 + own.corrections.residual[c] / own.scale
                torch.testing.assert_close(got[k, c], z / z.norm(), atol=1e-5, rtol=1e-4)


def test_few_images_move_the_class_features_less_than_many(bank, features: ImageFeatures):
    """The same six images, counted once or as if they were six hundred."""
    moved = []
    for images in (6, 600):
        own = corrected(bank)
        own.train_images = images
        begin = own.text_features().detach()
        optimiser = torch.optim.SGD(own.corrections.trained, lr=1.0)
        for _ in range(60):
            optimiser.zero_grad()
            losses = own.losses(features, LABELS)
            (losses["ce"] + losses["prior"]).backward()
            optimiser.step()
        moved.append((own.text_features() - begin).norm().item())
    assert 0 < 1.5 * moved[0] < moved[1]


def test_an_offset_mends_a_lean_to_one_class():
    """Each of many images looks like the first class by 3 logits more than it should; half of them are of the other."""
    own = Corrections(2, 4, residual_std=0.0, offset_std=2.0, trust_std=0.0)
    leaning = torch.tensor([[3.0, 0.0]]).expand(6, 2)
    optimiser = torch.optim.SGD(own.trained, lr=2.0)
    for images, wanted in ((100_000, 3.0), (2, 2.385)):  # two images: x / 16 = sigmoid(3 - x) - 1 / 2
        for _ in range(300):
            optimiser.zero_grad()
            (F.cross_entropy(own.with_offset(leaning), LABELS) + own.negative_log_prior(images)).backward()
            optimiser.step()
        assert (own.offset[1] - own.offset[0]).item() == pytest.approx(wanted, abs=0.01)


def test_the_checkpoint_keeps_where_the_prompts_started(bank):
    own = corrected(bank)
    state = own.trained_state()
    assert set(state) == {"ctx", *(f"corrections.{name}" for name in ("residual", "offset", "trust")), "start"}
    torch.manual_seed(7)
    other = AlignedModel(tiny_backbone(), NAMES, bank, settings(**NEW, CTX_INIT=""))  # a random start of its own
    assert not torch.allclose(other.start, own.start)
    with pytest.raises(ValueError, match="lacks start"):
        other.load_trained_state({name: value for name, value in state.items() if name != "start"})
    other.load_trained_state(state)
    torch.testing.assert_close(other.text_features(), own.text_features())


def test_sentences_of_every_kind_by_hand(bank):
    backbone = tiny_backbone()
    say = lambda *concepts: unit(  # noqa: E731
        backbone.encode_text([f"a photo of a melanoma, {', '.join(concepts)}."])
    )[0]
    with torch.no_grad():
        shares_of = say("blue veil", "atypical network"), say("uneven streaks")
        whole = say("blue veil", "uneven streaks", "atypical network")
        each = unit(say("blue veil") + say("uneven streaks") + say("atypical network"))
        for k, share in enumerate(shares_of):
            wanted = {"share": share, "whole": whole, "each": each, "both": unit(share + each)}
            for kind, feature in wanted.items():
                torch.testing.assert_close(prompt_sentences(backbone, bank, 2, kind)[k, 1], feature)


def test_concept_weighting_is_a_share_of_the_similarity(bank, features: ImageFeatures):
    own, plain = corrected(bank, CONCEPT_WEIGHTING=0.3, LOCAL_WEIGHT=0.0), corrected(bank, LOCAL_WEIGHT=0.0)
    with torch.no_grad():
        fitting = alignment.weighted_concept_similarity(features.pooled, single_features(own.backbone, bank))
        want = 0.7 * plain.logits(features) + 0.3 * own.scale * fitting
        torch.testing.assert_close(own.logits(features), want, atol=1e-4, rtol=1e-5)
    assert len(plain.single) == 0


def test_an_explanation_says_how_far_images_back_the_sentences(bank):
    own = corrected(bank)
    with torch.no_grad():
        own.corrections.trust.fill_(0.427)
    assert "the training images back 0.43 (1: as told, 0: nothing)" in own.class_vector.about
    assert corrected(bank, TRUST_SPREAD=0.0).class_vector.about == ""
