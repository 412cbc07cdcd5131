"""Concepts taken away, kept alone or exchanged: the model is asked again; and the rows of the trust table on them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
from test_load_run import finished
from tiny_run import ConfigMaker
from torch.nn.functional import cosine_similarity, normalize

import xcoop
from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import clinical_features
from xcoop.explain.concepts import PartConcepts, SentenceConcepts, decompose, margin
from xcoop.explain.ground_truth import Truth
from xcoop.explain.report import test_images as images_of
from xcoop.explain.trained import TrainedModel
from xcoop.explain.trust import OWN, Sample, concept_rows, row
from xcoop.methods.model import PromptModel

TEXTS = ("low brightness", "deep shadow", "high brightness", "white glow")
Asked = tuple[TrainedModel, Sample]


def asked_of(trainer: str, pictures: Path, weights: Path, out: Path) -> Asked:
    run = xcoop.load_run(finished(lambda name: tiny_run.config(name, pictures, weights, out), trainer))
    items, _ = images_of(run)
    paths = [item.path for item in items]
    return run, Sample(paths, run.preprocess(paths), paths, None, [str(item.label) for item in items])


@pytest.fixture(scope="module")
def asked(pictures: Path, tiny_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return asked_of("XCoOp", pictures, tiny_weights_file, tmp_path_factory.mktemp("xcoop"))


@pytest.fixture(scope="module")
def plain(pictures: Path, tiny_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A method that holds no concepts."""
    return asked_of("CoOp", pictures, tiny_weights_file, tmp_path_factory.mktemp("coop"))


def keeping(bank: ConceptBank, text: str) -> ConceptBank:
    """The bank in which dark spots have this concept alone."""
    kept = tuple(concept for concept in bank.classes["dark_spot"] if concept.text == text)
    return replace(bank, classes={**bank.classes, "dark_spot": kept})


# One concept.


@torch.no_grad()
def test_leaving_one_out_is_asking_the_model_without_it(asked: Asked, make_cfg: ConfigMaker) -> None:
    run, sample = asked
    model: Any = tiny_run.build(make_cfg("XCoOp")).model  # not trained: what images correct ties the classes together
    features = run.features(sample.images)
    whole = model.logits(features)
    moved = SentenceConcepts(model, run.bank, run.concepts).contributions(features)
    without = model.with_bank(keeping(run.bank, "low brightness")).logits(features)
    torch.testing.assert_close(moved[:, 0, 1], (whole - without)[:, 0])
    torch.testing.assert_close(without[:, 1], whole[:, 1])  # the other class knows nothing of it
    assert moved[:, 0, 1].abs().max() > 1e-4
    assert (moved[:, 0, 2:] == 0).all()
    assert (moved[:, 1, :2] == 0).all()
    torch.testing.assert_close(model.logits(features), whole)


class ClinicalModel(PromptModel):
    """A plug-in's method that states what `PromptModel` asks of one that holds concepts, and nothing else."""

    holds_concepts = True

    def __init__(self, backbone: Backbone, bank: ConceptBank) -> None:
        super().__init__(backbone, list(bank.classes))
        self.bank = bank

    def text_features(self) -> torch.Tensor:
        return clinical_features(self.backbone, self.bank)

    def with_bank(self, bank: ConceptBank) -> ClinicalModel:
        return ClinicalModel(self.backbone, bank)


@torch.no_grad()
def test_a_plug_ins_method_that_holds_concepts_is_asked_as_ours_are(asked: Asked) -> None:
    run, sample = asked
    model, features = ClinicalModel(run.model.backbone, run.bank), run.features(sample.images)
    moved = SentenceConcepts(model, run.bank, run.concepts).contributions(features)
    without = model.with_bank(keeping(run.bank, "low brightness")).logits(features)
    torch.testing.assert_close(moved[:, 0, 1], (model.logits(features) - without)[:, 0])
    assert moved[:, 0, 1].abs().max() > 1e-4


@torch.no_grad()
def test_the_control_adds_unrelated_phrases_and_repeats_itself(asked: Asked) -> None:
    run, sample = asked
    features = run.features(sample.images)
    one, again, other = (run.held.contributions(features, control=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@torch.no_grad()
def test_a_part_taken_out_of_a_prompt_by_hand(plain: Asked) -> None:
    run, sample = plain
    features, vectors = run.features(sample.images), run.class_vectors()
    concepts = normalize(vectors.mean(0) + 0.3 * torch.randn(3, vectors.shape[1]), dim=-1)
    parts = decompose(vectors, concepts)
    moved = PartConcepts(run.model, vectors, parts).contributions(features)
    f = normalize(features.pooled, dim=-1)
    rest = vectors[1] - parts.weights[1, 2] * parts.directions[2]
    want = run.model.scale * (f @ vectors[1] - f @ (rest / rest.norm()))
    torch.testing.assert_close(moved[:, 1, 2], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "place"), [("CLIPAdapter", "text"), ("LinearProbe", "weight"), ("LPPlusPlus", "w")])
@torch.no_grad()
def test_a_part_moves_the_logit_that_the_method_has(name: str, place: str, make_cfg: ConfigMaker) -> None:
    """Adapters and probes compare other image features, or at other lengths, than CLIP does."""
    with torch.enable_grad():
        trainer = tiny_run.trained(make_cfg(name))
    model: Any = trainer.model
    features = model.encode_images(torch.cat([batch["img"] for batch in trainer.dm.test_loader]))
    vectors = normalize(model.text_features())
    parts = decompose(vectors, torch.randn(5, vectors.shape[1], generator=torch.Generator().manual_seed(0)))
    moved = PartConcepts(model, vectors, parts).contributions(features)
    before, lengths = model.logits(features), model.text_features().norm(dim=1)
    assert moved.abs().max() > 1e-3
    for j in range(5):
        less = normalize(vectors - parts.weights[:, j, None] * parts.directions[j]) * lengths[:, None]
        if name == "LPPlusPlus":
            model.alpha.zero_()
        setattr(model, place, less)
        torch.testing.assert_close(before - model.logits(features), moved[..., j], atol=1e-3, rtol=1e-3)


# Several.


def test_the_margin_is_that_over_the_largest_other_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]])
    assert margin(logits, 0).tolist() == [0.5, -4.0]
    assert margin(logits[:, :1], 0).tolist() == [3.0, 0.0]


@torch.no_grad()
def test_without_and_alone_are_asked_of_the_model_itself(asked: Asked) -> None:
    run, sample = asked
    features = run.features(sample.images)
    assert run.held.held[0] == [0, 1]
    found = run.held.effects(features, [0] * len(sample.paths), [frozenset([1])] * len(sample.paths))
    whole = margin(run.logits(features), 0)
    for name, text in (("comprehensiveness", "low brightness"), ("sufficiency", "deep shadow")):
        other = run.model.with_bank(keeping(run.bank, text)).logits(features)
        np.testing.assert_allclose(found[name], (whole - margin(other, 0)).numpy(), atol=1e-5)
    assert np.abs(found["sufficiency"]).max() > 1e-4


def test_nothing_is_said_where_a_class_would_keep_none_or_all(asked: Asked) -> None:
    run, sample = asked
    found = run.held.effects(run.features(sample.images[:2]), [0, 1], [frozenset(), frozenset([2, 3])])
    assert np.isnan(found["comprehensiveness"]).all()


@torch.no_grad()
def test_of_a_method_without_concepts_parts_of_its_decomposition_are_dropped(plain: Asked) -> None:
    run, sample = plain
    features, ask, parts = run.features(sample.images), run.held.logits, run.decomposition
    for label, own in enumerate(run.held.held):
        torch.testing.assert_close(ask(features, label, frozenset(own)), run.logits(features), rtol=1e-4, atol=1e-4)
        for (dropped,) in combinations(own, 1):
            vector = run.class_vectors()[label] - parts.weights[label, dropped] * parts.directions[dropped]
            want = run.model.scale * cosine_similarity(features.pooled, vector[None])
            torch.testing.assert_close(ask(features, label, frozenset(own) - {dropped})[:, label], want)


# Rows of the trust table.


def test_rows_name_what_they_are_beside(asked: Asked) -> None:
    run, sample = asked
    shown = {path: int(label == "dark_spot") for path, label in zip(sample.paths, sample.labels, strict=True)}
    hidden = {path: 1 - value for path, value in shown.items()}
    labels = {text: shown if place < 2 else hidden for place, text in enumerate(TEXTS)}
    truth = Truth(labels, {}, (), run.folder, lambda path, column: [])
    known = Sample(sample.paths, sample.images, sample.patients, truth, sample.labels)
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    rows = {one.metric: one for one in concept_rows(run, known, predicted)}
    assert set(rows) == {
        "Effect of the top concepts", "Comprehensiveness of the top concepts", "Sufficiency of the top concepts",
        "Knowledge intervention", "Concept AUC", "Rank agreement of prompts and log-odds",
    }  # fmt: skip
    knowledge = rows["Knowledge intervention"]
    assert knowledge.value == pytest.approx(run.results["metrics"]["macro_auc"])  # all test images are asked
    assert knowledge.low <= knowledge.value <= knowledge.high
    assert rows["Sufficiency of the top concepts"].direction == "lower"
    # The bank lists the concepts just as these labels have them: clinical sentences start in that order.
    ranks = rows["Rank agreement of prompts and log-odds"]
    assert [control.name for control in ranks.controls] == ["before training", "chance"]


def test_rows_need_their_facts(asked: Asked) -> None:
    run, sample = asked
    bare = Sample(sample.paths, sample.images, sample.patients)
    names = {one.metric for one in concept_rows(run, bare, torch.zeros(len(sample.paths), dtype=torch.long))}
    assert names == {
        "Effect of the top concepts", "Comprehensiveness of the top concepts", "Sufficiency of the top concepts",
    }  # fmt: skip


def test_a_row_of_unknown_values_says_so() -> None:
    made = row("x", "higher", "", {OWN: np.array([np.nan, np.nan]), "c": np.array([1.0, 3.0])}, ["a", "b"], "")
    assert (made.value, made.low, made.n) == (None, None, 0)
    assert made.controls[0].value == 2.0
