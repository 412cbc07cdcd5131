"""The rows of the trust table that speak of concepts: needed, enough, right, and rightly ranked."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from test_load_run import finished
from tiny_run import ConfigMaker

import xcoop
from xcoop.explain.report import test_images as images_of
from xcoop.explain.textual.intervention import logits_knowing, only
from xcoop.explain.textual.subsets import asking, effects, held, margin
from xcoop.explain.trust_concepts import concept_rows
from xcoop.explain.trust_rows import OWN, Sample, row
from xcoop.explain.truth import Truth


@pytest.fixture
def asked(make_cfg: ConfigMaker, request: pytest.FixtureRequest):
    run = xcoop.load_run(finished(make_cfg, getattr(request, "param", "XCoOp")))
    items, _ = images_of(run)
    paths = [item.path for item in items]
    sample = Sample(paths, run.preprocess(paths), paths, None, [str(item.label) for item in items])
    return run, sample


def test_the_margin_is_that_over_the_largest_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]])
    assert margin(logits, 0).tolist() == [0.5, -4.0]
    assert margin(logits[:, :1], 0).tolist() == [3.0, 0.0]


@torch.no_grad()
def test_without_and_alone_are_asked_of_the_model_itself(asked):
    run, sample = asked
    features = run.features(sample.images)
    assert held(run, 0) == [0, 1]
    found = effects(run, features, [0] * len(sample.paths), [frozenset([1])] * len(sample.paths))
    whole = margin(run.logits(features), 0)
    for name, text in (("comprehensiveness", "low brightness"), ("sufficiency", "deep shadow")):
        other = logits_knowing(run.model, features, only(run.bank, "dark_spot", [text]))
        np.testing.assert_allclose(found[name], (whole - margin(other, 0)).numpy(), atol=1e-5)
    assert np.abs(found["sufficiency"]).max() > 1e-4


def test_nothing_is_said_where_a_class_would_keep_none_or_all(asked):
    run, sample = asked
    features = run.features(sample.images[:2])
    found = effects(run, features, [0, 1], [frozenset(), frozenset([2, 3])])
    assert np.isnan(found["comprehensiveness"]).all()
    with pytest.raises(ValueError, match="no concept 'white glow'"):
        only(run.bank, "dark_spot", ["white glow"])


@pytest.mark.parametrize("asked", ["CoOp"], indirect=True)
@torch.no_grad()
def test_of_a_method_without_concepts_parts_of_its_decomposition_are_dropped(asked):
    run, sample = asked
    features, ask = run.features(sample.images), asking(run)
    for label in range(2):
        own = held(run, label)
        torch.testing.assert_close(ask(features, label, frozenset(own)), run.logits(features), rtol=1e-4, atol=1e-4)
        for dropped in combinations(own, 1):
            parts = run.decomposition
            vector = run.class_vectors()[label] - parts.weights[label, dropped[0]] * parts.directions[dropped[0]]
            want = run.model.scale * torch.nn.functional.cosine_similarity(features.pooled, vector[None])
            torch.testing.assert_close(ask(features, label, frozenset(own) - set(dropped))[:, label], want)


def test_rows_name_what_they_are_beside(asked):
    run, sample = asked
    shown = {path: int(label == "dark_spot") for path, label in zip(sample.paths, sample.labels, strict=True)}
    labels = dict.fromkeys(("low brightness", "deep shadow"), shown)
    labels |= {text: {path: 1 - value for path, value in shown.items()} for text in ("high brightness", "white glow")}
    known = Sample(sample.paths, sample.images, sample.patients, Truth(labels, {}, (), run.folder, None), sample.labels)
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    rows = {one["metric"]: one for one in concept_rows(run, known, predicted)}
    assert set(rows) >= {
        "Effect of the top concepts", "Comprehensiveness of the top concepts", "Sufficiency of the top concepts",
        "Knowledge intervention", "Rank agreement of prompts and log-odds",
    }  # fmt: skip
    knowledge = rows["Knowledge intervention"]
    assert knowledge["value"] == pytest.approx(run.results["metrics"]["macro_auc"])  # all test images are asked
    assert knowledge["low"] <= knowledge["value"] <= knowledge["high"]
    assert rows["Sufficiency of the top concepts"]["direction"] == "lower"
    # The bank lists the concepts just as these labels have them: clinical sentences start in that order.
    assert [control["name"] for control in rows["Rank agreement of prompts and log-odds"]["controls"]] == [
        "before training",
        "chance",
    ]


def test_rows_need_their_facts(asked):
    run, sample = asked
    bare = Sample(sample.paths, sample.images, sample.patients)
    predicted = torch.zeros(len(sample.paths), dtype=torch.long)
    names = {one["metric"] for one in concept_rows(run, bare, predicted)}
    assert names == {
        "Effect of the top concepts", "Comprehensiveness of the top concepts", "Sufficiency of the top concepts",
    }  # fmt: skip


def test_a_row_of_unknown_values_says_so():
    made = row("x", "higher", "", {OWN: np.array([np.nan, np.nan]), "c": np.array([1.0, 3.0])}, ["a", "b"], "")
    assert (made["value"], made["low"], made["n"]) == (None, None, 0)
    assert made["controls"][0]["value"] == 2.0
