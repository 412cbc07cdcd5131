"""XCoOp: sentences whose words are learned, logits that are sums over them, and how far they may move."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers_banks import SKIN
from helpers_clip import tiny_backbone
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures, LabelledFeatures
from xcoop.concepts import ConceptBank
from xcoop.methods.evidence import probable_spread
from xcoop.trainers.xcoop import DEFAULTS, SentenceModel, SentencePrompts

NAMES = list(SKIN)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
SENTENCES = [
    "a photo of a nevus, typical network.",
    "a photo of a nevus, even streaks.",
    "a photo of a melanoma, blue veil.",
    "a photo of a melanoma, uneven streaks.",
    "a photo of a melanoma, atypical network.",
]


def model(bank: ConceptBank, n_train: int = 6, **changes: object) -> SentenceModel:
    settings: CfgNode = DEFAULTS.clone()
    settings.merge_from_list([item for pair in changes.items() for item in pair])
    return SentenceModel(tiny_backbone(), NAMES, bank, settings, n_train)


def learned(own: SentenceModel, seed: int = 0) -> SentenceModel:
    """As if it had been trained: every number differs from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        own.prompt_learner.words.normal_(std=0.1, generator=generator)
        if own.offset is not None:
            own.offset.normal_(generator=generator)
        own.spread.fill_(3.0)
    return own


def test_before_training_the_prompts_are_the_sentences(bank: ConceptBank) -> None:
    own = model(bank)
    assert own.prompt_learner.texts == SENTENCES
    assert own.prompt_learner.told[3] == ("melanoma", "uneven streaks")
    with torch.no_grad():
        torch.testing.assert_close(own.prompts(), own.backbone.encode_text(SENTENCES), atol=1e-5, rtol=1e-5)


def test_every_word_of_a_sentence_is_learned_and_nothing_else(bank: ConceptBank) -> None:
    own = SentencePrompts(tiny_backbone(), bank)
    backbone = tiny_backbone()
    counts = [backbone.count_tokens(text) - 2 for text in SENTENCES]
    assert own.words.shape == (sum(counts), backbone.text_width)
    before, end = own()
    with torch.no_grad():
        own.words.copy_(torch.arange(1.0, 1 + len(own.words))[:, None].expand_as(own.words))
    change = own()[0] - before
    for prompt, count in enumerate(counts):
        first = 1 + sum(counts[:prompt])
        want = torch.zeros(len(change[0]))
        want[1 : 1 + count] = torch.arange(float(first), first + count)
        torch.testing.assert_close(change[prompt, :, 0], want, atol=1e-3, rtol=0)
        assert end[prompt] == 1 + count
        torch.testing.assert_close(own.words_of_prompts()[own.told[prompt]][:, 0], want[1 : 1 + count])


@pytest.mark.parametrize("pool", ["mean", "softmax"])
def test_logits_by_an_independent_formula(bank: ConceptBank, features: ImageFeatures, pool: str) -> None:
    own = learned(model(bank, LOCAL_WEIGHT=0.7, LOCAL_POOL=pool))
    with torch.no_grad():
        got, prompts = own.logits(features), own.prompts()
        for b in range(6):
            for c, members in enumerate(([0, 1], [2, 3, 4])):
                total = 0.0
                for j in members:
                    local = F.cosine_similarity(features.patches[b], prompts[j][None])
                    share = torch.full_like(local, 1 / len(local)) if pool == "mean" else (10 * local).softmax(0)
                    total += F.cosine_similarity(features.pooled[b], prompts[j], dim=0) + 0.7 * (share * local).sum()
                want = own.scale * total / len(members) + own.offset[c]
                assert got[b, c].item() == pytest.approx(want.item(), abs=1e-3)


@torch.no_grad()
def test_a_logit_is_the_sum_of_what_its_prompts_contribute(bank: ConceptBank, features: ImageFeatures) -> None:
    own = learned(model(bank))
    parts = own.contributions(features, own.text_features())
    assert parts.shape == (6, 3, 2)
    assert (parts[:, 2, 0] == 0).all()  # the nevus has two prompts only
    assert (parts[:, :2] != 0).all()
    assert (own.logits(features) - parts.sum(1) - own.offset).abs().max() < 1e-5


@torch.no_grad()
def test_each_prompt_stands_once_in_the_sum(bank: ConceptBank, features: ImageFeatures) -> None:
    own = learned(model(bank))
    found = own.prompt_sum(features)
    assert found.parts.shape == (6, 5)
    assert own.told[3] == (1, "uneven streaks")
    by_class = own.contributions(features, own.text_features())  # (B, K, C)
    torch.testing.assert_close(found.parts[:, 3], by_class[:, 1, 1])
    for label, members in enumerate(([0, 1], [2, 3, 4])):
        want = found.parts[:, members].double().sum(1) + found.offsets[label]
        assert (own.logits(features)[:, label] - want).abs().max() < 1e-5
    fixed = own.fixed_sum()
    own.prompt_learner.words.zero_()
    assert torch.equal(fixed(features).parts, found.parts)  # of the prompts as they were
    assert (own.prompt_sum(features).parts - found.parts).abs().max() > 1e-3
    plain = learned(model(bank, OFFSET_SPREAD=0.0))
    assert plain.prompt_sum(features).offsets.tolist() == [0, 0]


@torch.no_grad()
def test_what_is_typical_is_the_mean_over_classes_of_the_trained_prompts(
    bank: ConceptBank, features: ImageFeatures
) -> None:
    own = learned(model(bank, SPREAD=2.0))
    labels = torch.tensor([0, 1, 1, 1, 1, 0])
    own.conclude(LabelledFeatures(features, labels), None)
    parts = own.prompt_sum(features).parts
    means = parts[[0, 5]].mean(0), parts[1:5].mean(0)
    torch.testing.assert_close(own.typical, (means[0] + means[1]) / 2)
    squares = (parts - own.typical).square()
    torch.testing.assert_close(own.deviation.square(), (squares[[0, 5]].mean(0) + squares[1:5].mean(0)) / 2)
    assert torch.equal(own.usual.mean, own.typical)
    again = model(bank, SPREAD=2.0)
    again.load_trained_state(own.trained_state())  # the checkpoint keeps it
    assert torch.equal(again.typical, own.typical)
    assert again.count_trained() == own.prompt_learner.words.numel() + 2  # it is measured, not learned
    other = own.with_bank(replace(bank, classes={**bank.classes, "melanoma": bank.classes["melanoma"][1:]}))
    assert torch.equal(other.typical, own.typical[[0, 1, 3, 4]])


@torch.no_grad()
def test_learned_sentences_are_the_prompts(bank: ConceptBank) -> None:
    own = learned(model(bank))
    sentences = own.learned_sentences()
    assert [one.text for one in sentences] == SENTENCES
    assert all(one.embeddings.shape == one.changes.shape for one in sentences)
    changes = torch.cat([one.changes for one in sentences])
    torch.testing.assert_close(own.encode_changes(changes), own.prompts())
    torch.testing.assert_close(own.encode_changes(0 * changes), model(bank).prompts())
    tokens = own.backbone.tokenize(SENTENCES[2])
    torch.testing.assert_close(
        sentences[2].embeddings, own.backbone.embed(tokens)[0, 1 : 1 + len(sentences[2].changes)]
    )
    assert own.prompt_names() == ["words"]


def test_the_loss_by_hand(bank: ConceptBank, features: ImageFeatures) -> None:
    own = model(bank, n_train=10, OFFSET_SPREAD=2.0)
    start = F.normalize(own.prompts().detach(), dim=-1)
    learned(own)
    losses = own.losses(features, LABELS)
    now = F.normalize(own.prompts().detach(), dim=-1)
    squares = (own.scale * (now - start)).square().sum(-1)
    prior = (squares[:2].mean() + squares[2:].mean()) / (2 * 3.0**2) + own.offset.square().sum() / (2 * 2.0**2)
    assert losses["prior"].item() == pytest.approx(prior.item() / 10, rel=1e-4)
    assert losses["ce"].item() == pytest.approx(F.cross_entropy(own.logits(features), LABELS).item(), rel=1e-5)


def test_the_contrast_by_hand(bank: ConceptBank, features: ImageFeatures) -> None:
    """Each class's sentence with all its concepts must find its own prompts' mean direction, as 3 of 10 images must."""
    own = learned(model(bank, n_train=10, CONTRAST_WEIGHT=3.0))
    whole = ["a photo of a nevus, typical network, even streaks."]
    whole.append("a photo of a melanoma, blue veil, uneven streaks, atypical network.")
    with torch.no_grad():
        h = F.normalize(own.backbone.encode_text(whole), dim=-1)
        t = F.normalize(own.prompts(), dim=-1)
        z = F.normalize(torch.stack([t[:2].mean(0), t[2:].mean(0)]), dim=-1)
    rows = [torch.logsumexp(own.scale * z @ h[d], 0) - own.scale * z[d] @ h[d] for d in range(2)]
    got = own.losses(features, LABELS)["contrast"]
    assert got.item() == pytest.approx(3 / 10 * sum(rows).item(), rel=1e-4)
    assert torch.autograd.grad(got, own.prompt_learner.words)[0].abs().sum() > 0
    assert "contrast" not in model(bank, CONTRAST_WEIGHT=0.0).losses(features, LABELS)


def test_at_the_start_the_prior_costs_nothing(bank: ConceptBank, features: ImageFeatures) -> None:
    own = model(bank, SPREAD=2.0)
    assert own.losses(features, LABELS)["prior"].item() == pytest.approx(0, abs=1e-9)


def test_labelled_images_choose_the_spread_unless_it_is_given(bank: ConceptBank, features: ImageFeatures) -> None:
    own = model(bank)
    assert "spread" in own.fitted
    own.prepare(LabelledFeatures(features, LABELS), None)
    want = probable_spread(features.pooled, own.logits(features).detach(), LABELS, 12.0)
    assert own.spread.item() == pytest.approx(want)
    assert "spread" not in model(bank, SPREAD=2.5).fitted
    few = LabelledFeatures(ImageFeatures(features.pooled[:2], features.patches[:2]), LABELS[:2])  # one of each class
    own.prepare(few, LabelledFeatures(features, LABELS))  # asks these and the first validation image of each class
    twice = torch.cat([features.pooled[:2]] * 2), torch.cat([own.logits(few.features).detach()] * 2)
    assert own.spread.item() == pytest.approx(probable_spread(*twice, LABELS[:2].repeat(2), 12.0))
    assert model(bank, SPREAD=2.5).spread.item() == 2.5


def test_a_wide_prior_lets_prompts_move_further_than_a_narrow_one(bank: ConceptBank, features: ImageFeatures) -> None:
    moved = []
    for spread in (0.1, 1.0, 10.0):
        own = model(bank, SPREAD=spread)
        start = F.normalize(own.prompts().detach(), dim=-1)
        optimiser = torch.optim.Adam(own.parameter_groups(0.002))
        for _ in range(40):
            optimiser.zero_grad()
            own.loss(own.losses(features, LABELS)).backward()
            optimiser.step()
        moved.append((F.normalize(own.prompts().detach(), dim=-1) - start).norm().item())
    assert 0 < 1.5 * moved[0] < moved[1] < moved[2]


def test_groups_and_what_a_checkpoint_holds(bank: ConceptBank) -> None:
    own = model(bank, TUNE_NORMS=True)
    rates = {group["name"]: group["lr"] for group in own.parameter_groups(0.002)}
    assert rates == {"prompts": 0.002, "offsets": pytest.approx(0.2), "norm layers": pytest.approx(0.0002)}
    assert not own.image_tower_frozen
    assert set(model(bank).trained_state()) == {"words", "offset", "spread", "typical", "deviation"}
    assert set(model(bank, SPREAD=1.0, OFFSET_SPREAD=0.0).trained_state()) == {"words", "typical", "deviation"}
    assert model(bank, SPREAD=1.0).class_specific


@torch.no_grad()
def test_with_another_bank_learned_sentences_stay_and_new_ones_are_as_written(
    bank: ConceptBank, features: ImageFeatures
) -> None:
    own = learned(model(bank))
    before = own.logits(features)
    torch.testing.assert_close(own.with_bank(bank).logits(features), before)
    swapped = replace(bank, classes={"nevus": bank.classes["melanoma"][:1], "melanoma": bank.classes["melanoma"][1:]})
    other = own.with_bank(swapped)
    learned_prompts = own.prompts()
    torch.testing.assert_close(other.prompts()[1:], learned_prompts[3:])
    written = own.backbone.encode_text(["a photo of a nevus, blue veil."])
    torch.testing.assert_close(other.prompts()[:1], written, atol=1e-5, rtol=1e-5)
    bare = own.with_bank(replace(bank, classes={**bank.classes, "melanoma": ()}))
    assert bare.prompt_learner.texts[-1] == "a photo of a melanoma."
    torch.testing.assert_close(own.logits(features), before)


def test_a_sentence_that_does_not_fit_is_named(bank: ConceptBank) -> None:
    endless = replace(bank.classes["nevus"][0], text="spots " * 90)
    with pytest.raises(ValueError, match=r"toy\.yaml: 'a photo of a nevus, spots spots.* word it shorter"):
        model(replace(bank, classes={**bank.classes, "nevus": (endless,)}))
