"""Concepts taken away, added and replaced: the model is asked again, and is as before afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker
from torch.nn.functional import normalize

from xcoop.explain.textual.decomposition import decompose
from xcoop.explain.textual.intervention import (
    added,
    changes,
    holds_concepts,
    knowing,
    leave_one_out,
    logits_knowing,
    removed,
    replaced,
    without_part,
)

TEXTS = ("low brightness", "deep shadow", "high brightness", "white glow")


def features_of(trainer, pictures: Path):
    batch = next(iter(trainer.dm.test_loader))
    return trainer.model.encode_images(batch["img"])


@pytest.fixture
def trainer(make_cfg: ConfigMaker):
    built = tiny_run.build(make_cfg("XCoOp"))
    built.set_model_mode("eval")
    return built


@torch.no_grad()
def test_leaving_one_out_is_asking_the_model_without_it(trainer, pictures: Path) -> None:
    model, bank = trainer.model, trainer.bank
    features = features_of(trainer, pictures)
    whole = model.logits(features)
    moved = leave_one_out(model, features, changes(model, bank, TEXTS), 4)
    without = logits_knowing(model, features, removed(bank, "dark_spot", "deep shadow"))
    torch.testing.assert_close(moved[:, 0, 1], (whole - without)[:, 0])
    torch.testing.assert_close(without[:, 1], whole[:, 1])  # the other class knows nothing of it
    assert moved[:, 0, 1].abs().max() > 1e-4
    assert (moved[:, 0, 2:] == 0).all()
    assert (moved[:, 1, :2] == 0).all()
    torch.testing.assert_close(model.logits(features), whole)


def test_knowledge_is_put_back_even_after_an_exception(trainer) -> None:
    before = trainer.model.clinical
    with pytest.raises(RuntimeError, match="planned"), knowing(trainer.model, trainer.bank):
        raise RuntimeError("planned")
    assert trainer.model.clinical is before


def test_the_same_bank_gives_the_same_logits(trainer, pictures: Path) -> None:
    with torch.no_grad():
        features = features_of(trainer, pictures)
        torch.testing.assert_close(
            logits_knowing(trainer.model, features, trainer.bank), trainer.model.logits(features)
        )


def test_banks_are_changed_in_one_place(trainer) -> None:
    bank = trainer.bank
    assert removed(bank, "dark_spot", "deep shadow").texts("dark_spot") == ["low brightness"]
    assert replaced(bank, "dark_spot", "deep shadow", "dim").texts("dark_spot") == ["low brightness", "dim"]
    assert added(bank, "dark_spot", "dim").texts("dark_spot") == ["low brightness", "deep shadow", "dim"]
    assert added(bank, "dark_spot", "deep shadow") is bank
    with pytest.raises(ValueError, match="'dark_spot' has no concept 'snow'"):
        removed(bank, "dark_spot", "snow")
    with pytest.raises(ValueError, match="'dark_spot' has no concept 'snow'"):
        replaced(bank, "dark_spot", "snow", "dim")


def test_the_last_concept_of_a_class_can_go_too(trainer, pictures: Path) -> None:
    bank = removed(removed(trainer.bank, "dark_spot", "deep shadow"), "dark_spot", "low brightness")
    with torch.no_grad():
        assert logits_knowing(trainer.model, features_of(trainer, pictures), bank).isfinite().all()


@torch.no_grad()
def test_the_control_adds_unrelated_phrases_and_repeats_itself(trainer, pictures: Path) -> None:
    features = features_of(trainer, pictures)
    one, again, other = (
        leave_one_out(trainer.model, features, changes(trainer.model, trainer.bank, TEXTS, seed), 4)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_models_without_concepts_are_told_apart(make_cfg: ConfigMaker, pictures: Path) -> None:
    trainer = tiny_run.build(make_cfg("CoOp"))
    assert not holds_concepts(trainer.model)
    bank = tiny_run.build(make_cfg("XCoOp", output="bank")).bank
    with pytest.raises(ValueError, match="CoOpModel holds no clinical sentences"), knowing(trainer.model, bank):
        pass


@torch.no_grad()
def test_a_part_taken_out_of_a_prompt_by_hand(make_cfg: ConfigMaker, pictures: Path) -> None:
    trainer = tiny_run.build(make_cfg("CoOp"))
    features, model = features_of(trainer, pictures), trainer.model
    vectors = torch.nn.functional.normalize(model.text_features(), dim=-1)
    concepts = torch.nn.functional.normalize(vectors.mean(0) + 0.3 * torch.randn(3, vectors.shape[1]), dim=-1)
    parts = decompose(vectors, concepts)
    moved = without_part(model, features, vectors, parts)
    f = torch.nn.functional.normalize(features.pooled, dim=-1)
    rest = vectors[1] - parts.weights[1, 2] * parts.directions[2]
    want = model.scale * (f @ vectors[1] - f @ (rest / rest.norm()))
    torch.testing.assert_close(moved[:, 1, 2], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["CLIPAdapter", "LinearProbe", "LPPlusPlus"])
@torch.no_grad()
def test_a_part_moves_the_logit_that_the_method_has(name: str, make_cfg: ConfigMaker, pictures: Path) -> None:
    """Adapters and probes compare other image features, or at other lengths, than CLIP does."""
    with torch.enable_grad():
        trainer = tiny_run.trained(make_cfg(name))
    model = trainer.model
    features = model.encode_images(torch.cat([batch["img"] for batch in trainer.dm.test_loader]))
    vectors = normalize(model.text_features())
    parts = decompose(vectors, torch.randn(5, vectors.shape[1], generator=torch.Generator().manual_seed(0)))
    moved = without_part(model, features, vectors, parts)
    place = {"CLIPAdapter": "text", "LinearProbe": "weight", "LPPlusPlus": "w"}[name]
    before, lengths = model.logits(features), model.text_features().norm(dim=1)
    assert moved.abs().max() > 1e-3
    for j in range(5):
        less = normalize(vectors - parts.weights[:, j, None] * parts.directions[j]) * lengths[:, None]
        if name == "LPPlusPlus":
            model.alpha.zero_()
        setattr(model, place, less)
        torch.testing.assert_close(before - model.logits(features), moved[..., j], atol=1e-3, rtol=1e-3)
