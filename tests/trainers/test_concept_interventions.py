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
from xcoop.explain.readings import SAME, UNRELATED
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
def test_of_a_trained_run_contributions_and_base_sum_to_every_logit(asked: Asked) -> None:
    run, sample = asked
    features = run.features(sample.images)
    logits = run.logits(features)
    parts, base = run.held.parts(features)
    for label in range(2):
        own = [m for m, told in enumerate(run.model.told) if told.label == label]
        assert (parts[:, own].sum(1) + base[label] - logits[:, label]).abs().max() < 1e-5
    for one, own_logits in zip(run.explain(list(sample.paths)), logits.tolist(), strict=True):
        for name, logit in zip(run.classnames, own_logits, strict=True):
            assert abs(sum(one.parts(name).values()) + one.base[name] - logit) < 1e-5
        assert one.seen.keys() == set(TEXTS)
        assert "speaks" not in " ".join(one.text)
    assert (run.model.deviation > 0).all()


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
    for held in (run.held, SentenceConcepts(run.model, run.bank, run.concepts)):
        one, again, other = (held.controls(features, seed)[UNRELATED] for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


@torch.no_grad()
def test_untrained_phrases_stand_beside_untrained_sentences(asked: Asked) -> None:
    """Both measured alike: against their mean in the images that are asked, by CLIP's cosine and no more."""
    run, sample = asked
    features = run.features(sample.images)
    with run.at_start(run.model.prompt_names()):
        found = run.held.controls(features)
    assert list(found) == [SAME, UNRELATED]
    text = run.backbone.encode_text([f"a photo of a dark spot, {text}." for text in TEXTS[:2]])
    parts = run.model.scale * cosine_similarity(features.pooled[:, None], text[None], dim=-1) / 2
    torch.testing.assert_close(found[SAME][:, 0, :2], parts - parts.mean(0), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[SAME], run.held.controls(features)[SAME])  # as trained
    for moved in found.values():
        assert moved.mean(0).abs().max() < 1e-4
        assert (moved[:, 0, 2:] == 0).all()
        assert (moved[:, 0, :2] != 0).any()


@torch.no_grad()
def test_knowledge_is_asked_of_sentences_that_are_not_trained(asked: Asked) -> None:
    """No control is a trained prompt, and what they stand beside is none: whatever was learned changes nothing."""
    run, sample = asked
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    first = {one.metric: one for one in concept_rows(run, sample, predicted)}
    learned = run.model.trained_state()
    run.model.load_trained_state(learned | {"words": 3 * learned["words"]})
    try:
        second = {one.metric: one for one in concept_rows(run, sample, predicted)}
    finally:
        run.model.load_trained_state(learned)
    title = "Knowledge of the untrained sentences"
    assert first[title] == second[title]
    assert first["Prompts as trained"].controls == second["Prompts as trained"].controls
    controls = [{one.name: one for one in rows["Effect of the top concepts"].controls} for rows in (first, second)]
    for name in (SAME, UNRELATED):
        assert controls[0][name] == controls[1][name]
    assert first["Effect of the top concepts"].value != second["Effect of the top concepts"].value


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
    features, held = run.features(sample.images), SentenceConcepts(run.model, run.bank, run.concepts)
    assert held.held[0] == [0, 1]
    found = held.effects(features, [0] * len(sample.paths), [frozenset([1])] * len(sample.paths))
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
        "Prompts as trained", "Prompts as trained, accuracy", "Knowledge of the untrained sentences",
        "Knowledge of the untrained sentences, accuracy", "Concept AUC",
        "Rank agreement of prompts and log-odds",
    }  # fmt: skip
    trained = rows["Prompts as trained"]
    assert trained.value == pytest.approx(run.results["metrics"]["macro_auc"])  # all test images are asked
    assert trained.low <= trained.value <= trained.high
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


def test_what_is_seen_is_told_with_its_error(asked: Asked) -> None:
    """Labels that the score of a concept gives: the curve that is fitted to them is right about them."""
    run, sample = asked
    scores = run.concept_scores(run.features(sample.images)).double().numpy()
    table = (scores > np.median(scores, axis=0)).astype(float)
    labels = {
        text: {path: int(value) for path, value in zip(sample.paths, column, strict=True)}
        for text, column in zip(TEXTS, table.T, strict=True)
    }
    truth = Truth(labels, {}, (), run.folder, lambda path, column: [])
    np.testing.assert_array_equal(truth.table([*sample.paths, "other"], [*TEXTS, "unknown"])[:-1, :-1], table)
    assert np.isnan(truth.table(["other"], TEXTS)).all()
    known = Sample(sample.paths, sample.images, sample.patients, truth, sample.labels)
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    assert not [one for one in concept_rows(run, known, predicted) if one.metric.startswith("Concepts seen")]
    run.learn_to_see(sample.paths, table)
    try:
        rows = {one.metric: one for one in concept_rows(run, known, predicted)}
        most, least = (
            run.explain(sample.paths[int(i)]).seen[TEXTS[0]] for i in (scores[:, 0].argmax(), scores[:, 0].argmin())
        )
    finally:
        run.seeing = None
    brier = rows["Concepts seen, Brier score"]
    assert brier.value < 0.1
    assert brier.controls[0].value == pytest.approx(0.25)  # half of the images show it
    assert "4 concepts" in brier.note
    assert rows["Concepts seen, calibration error"].value < 0.3
    assert "100% of these rightly" in rows["Concepts seen, calibration error"].note
    assert (most.word, least.word) == ("seen", "not seen")
    assert least.probability < 0.25 < 0.75 < most.probability


@torch.no_grad()
def test_prompts_put_back_are_the_only_thing_put_back(asked: Asked) -> None:
    run, sample = asked
    features, learned = run.features(sample.images), run.model.trained_state()
    assert run.model.prompt_names() == ["words"]
    with run.at_start(["words"]):
        now = run.model.trained_state()
        assert torch.equal(now["words"], run.start["words"])
        assert torch.equal(now["offset"], learned["offset"])
        assert not torch.equal(now["offset"], run.start["offset"])
        put_back = run.logits(features)
    assert torch.equal(run.model.trained_state()["words"], learned["words"])
    assert not torch.allclose(put_back, run.logits(features))
