"""What images may correct in knowledge: the start is the knowledge itself, one image moves it little, many do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_clip import tiny_backbone
from test_aligned import BANK, LABELS, NAMES, features, settings  # noqa: F401 (a fixture)
from torch.nn import functional as F

from xcoop.backbones import ImageFeatures
from xcoop.concepts import load_bank
from xcoop.concepts.sentences import clinical_features, prompt_sentences, shares, single_features
from xcoop.methods import alignment
from xcoop.methods.alignment import unit
from xcoop.methods.corrections import Corrections
from xcoop.trainers.xcoop import DEFAULTS, AlignedModel

SPREADS = ("RESIDUAL_SPREAD", "OFFSET_SPREAD", "TRUST_SPREAD")
NEW = {key: DEFAULTS[key] for key in ("SENTENCES", "FROM_SENTENCE", *SPREADS)}


@pytest.fixture
def bank(tmp_path: Path):
    (tmp_path / "toy.yaml").write_text(BANK)
    return load_bank(tmp_path / "toy.yaml").for_classes(NAMES)


def model(bank, **changes: object) -> AlignedModel:
    torch.manual_seed(0)
    return AlignedModel(tiny_backbone(), NAMES, bank, settings(**(NEW | changes)))


def test_the_penalty_by_hand():
    own = Corrections(2, 3, residual_spread=2.0, offset_spread=0.5, trust_spread=0.25)
    assert own.penalty(4).item() == 0
    with torch.no_grad():
        own.residual[0, 1], own.residual[1, 2] = 3.0, -1.0
        own.offset.copy_(torch.tensor([1.0, -2.0]))
        own.trust.fill_(0.5)
    # (9 + 1) / (2 * 4) + (1 + 4) / (2 * 0.25) + 0.25 / (2 * 0.0625) = 13.25, for each of 4 images
    assert own.penalty(4).item() == pytest.approx(13.25 / 4)
    assert own.penalty(1).item() == pytest.approx(13.25)


def test_residual_and_offset_are_counted_in_logits():
    own = Corrections(2, 3, 1.0, 1.0, 0.0)
    with torch.no_grad():
        own.residual[1] = torch.tensor([0.0, 5.0, 0.0])
        own.offset.copy_(torch.tensor([0.25, -0.5]))
    text = torch.eye(3)[None, :2]  # (1, 2, 3)
    assert torch.allclose(own.moved(text, torch.tensor(10.0))[0, 1], torch.tensor([0.0, 1.5, 0.0]))
    assert torch.equal(own.shifted(torch.tensor([[1.0, 1.0]])), torch.tensor([[1.25, 0.5]]))


def test_trust_scales_what_the_sentences_say_apart():
    own = Corrections(2, 2, 0.0, 0.0, 1.0)
    text = torch.tensor([[[3.0, 1.0], [1.0, 5.0]], [[0.0, 0.0], [2.0, 0.0]]])  # (K, C, D); means (2, 3) and (1, 0)
    assert torch.equal(own.moved(text, torch.tensor(10.0)), text)
    with torch.no_grad():
        own.trust.fill_(0.5)
    wanted = torch.tensor([[[2.5, 2.0], [1.5, 4.0]], [[0.5, 0.0], [1.5, 0.0]]])
    assert torch.equal(own.moved(text, torch.tensor(10.0)), wanted)


@pytest.mark.parametrize("right", [True, False])
def test_images_that_contradict_the_sentences_turn_the_trust(right: bool):
    """Six images that lie on the sentence of their class, or on that of the other one."""
    own = Corrections(2, 2, 0.0, 0.0, trust_spread=1.0)
    text, optimiser = torch.eye(2), torch.optim.SGD(own.trained, lr=0.5)
    images = text[LABELS if right else 1 - LABELS]
    for _ in range(200):
        optimiser.zero_grad()
        logits = 4 * images @ unit(own.moved(text, torch.tensor(4.0))).T
        (F.cross_entropy(logits, LABELS) + own.penalty(6)).backward()
        optimiser.step()
    assert own.trust.item() > 1 if right else own.trust.item() < 0


def test_a_spread_of_zero_leaves_a_correction_out():
    assert [name for name, _ in Corrections(2, 3, 0.0, 1.0, 0.0).named_parameters()] == ["offset"]
    assert [name for name, _ in Corrections(2, 3, 1.0, 0.0, 0.0).named_parameters()] == ["residual"]
    assert [name for name, _ in Corrections(2, 3, 0.0, 0.0, 1.0).named_parameters()] == ["trust"]
    none = Corrections(2, 3, 0.0, 0.0, 0.0)
    assert none.trained == []
    text, logits = torch.randn(2, 3), torch.randn(4, 2)
    assert torch.equal(none.moved(text, torch.tensor(10.0)), text)
    assert torch.equal(none.shifted(logits), logits)


def test_the_start_is_the_sentences_and_nothing_else(bank, features: ImageFeatures):  # noqa: F811
    own = model(bank)
    text = prompt_sentences(own.backbone, bank, 2, "both")
    with torch.no_grad():
        want = alignment.global_similarity(features.pooled, text)
        want = own.scale * (want + 0.1 * alignment.local_similarity(features.patches, text, "softmax"))
        torch.testing.assert_close(own.logits(features), want, atol=1e-4, rtol=1e-5)


def test_class_features_by_an_independent_formula(bank):
    own = model(bank, CLINICAL_WEIGHT=0.3)
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


def test_everything_off_is_the_plain_method(bank, features: ImageFeatures):  # noqa: F811
    own = model(bank, SENTENCES="share", FROM_SENTENCE=False, **dict.fromkeys(SPREADS, 0.0))
    soft = own.soft_features()
    text = unit(0.5 * unit(soft) + 0.5 * torch.stack([clinical_features(own.backbone, one) for one in shares(bank, 2)]))
    similarity = alignment.global_similarity(features.pooled, text)
    similarity = similarity + 0.1 * alignment.local_similarity(features.patches, text, "softmax")
    losses = own.losses(features, LABELS)
    assert set(losses) == {"ce", "acc", "prompt", "tether", "token"}
    assert losses["ce"].item() == pytest.approx(F.cross_entropy(own.scale * similarity, LABELS).item(), abs=1e-5)
    assert losses["tether"].item() == pytest.approx(
        8 * (1 - F.cosine_similarity(soft, own.clinical, dim=-1)).mean().item()
    )
    assert set(own.trained_state()) == {"ctx"}


def test_few_images_move_the_class_features_less_than_many(bank, features: ImageFeatures):  # noqa: F811
    """The same six images, counted once or as if they were six hundred."""
    moved = []
    for images in (6, 600):
        own = model(bank)
        own.train_images = images
        begin = own.text_features().detach()
        optimiser = torch.optim.SGD(own.corrections.trained, lr=1.0)
        for _ in range(200):
            optimiser.zero_grad()
            losses = own.losses(features, LABELS)
            (losses["ce"] + losses["prior"]).backward()
            optimiser.step()
        moved.append((own.text_features() - begin).norm().item())
    assert 0 < 1.5 * moved[0] < moved[1]


def test_an_offset_mends_a_lean_to_one_class():
    """Each of many images looks like the first class by 3 logits more than it should; half of them are of the other."""
    own = Corrections(2, 4, residual_spread=0.0, offset_spread=2.0, trust_spread=0.0)
    leaning = torch.tensor([[3.0, 0.0]]).expand(6, 2)
    optimiser = torch.optim.SGD(own.trained, lr=2.0)
    for images, wanted in ((100_000, 3.0), (2, 2.385)):  # two images: x / 16 = sigmoid(3 - x) - 1 / 2
        for _ in range(300):
            optimiser.zero_grad()
            (F.cross_entropy(own.shifted(leaning), LABELS) + own.penalty(images)).backward()
            optimiser.step()
        assert (own.offset[1] - own.offset[0]).item() == pytest.approx(wanted, abs=0.01)


def test_the_checkpoint_keeps_where_the_prompts_started(bank):
    own = model(bank)
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


def test_concept_weighting_is_a_share_of_the_similarity(bank, features: ImageFeatures):  # noqa: F811
    own, plain = model(bank, CONCEPT_WEIGHTING=0.3, LOCAL_WEIGHT=0.0), model(bank, LOCAL_WEIGHT=0.0)
    with torch.no_grad():
        fitting = alignment.weighted_concept_similarity(features.pooled, single_features(own.backbone, bank))
        want = 0.7 * plain.logits(features) + 0.3 * own.scale * fitting
        torch.testing.assert_close(own.logits(features), want, atol=1e-4, rtol=1e-5)
    assert len(plain.single) == 0


def test_unknown_sentences_are_refused(bank):
    with pytest.raises(ValueError, match="'long'; known: share, whole, each, both"):
        prompt_sentences(tiny_backbone(), bank, 2, "long")


def test_sentences_count_as_held_wherever_class_features_rest_on_them(bank):
    assert model(bank, CLINICAL_WEIGHT=0.0).holds_concepts
    assert not model(bank, CLINICAL_WEIGHT=0.0, FROM_SENTENCE=False).holds_concepts
    assert model(bank, CLINICAL_WEIGHT=0.5, FROM_SENTENCE=False).holds_concepts


def test_an_explanation_says_how_far_images_back_the_sentences(bank):
    own = model(bank)
    with torch.no_grad():
        own.corrections.trust.fill_(0.427)
    assert "the training images back 0.43 (1: as told, 0: nothing)" in own.class_vector.about
    assert model(bank, TRUST_SPREAD=0.0).class_vector.about == ""
