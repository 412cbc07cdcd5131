"""Are the concepts of an explanation true? Whether the model needs them, whether they are right, and rightly ranked.

Symbols: B images, C classes, J concepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.concepts.controls import question
from xcoop.concepts.mining import log_odds
from xcoop.evaluation.bootstrap import image_intervals, mean_of_known
from xcoop.evaluation.metrics import Ints
from xcoop.explain.explanation import concept_changes, concept_scores
from xcoop.explain.schema import Control, Trust
from xcoop.explain.textual.intervention import holds_concepts, logits_knowing
from xcoop.explain.textual.plausibility import concept_auc, rank_agreement
from xcoop.explain.textual.subsets import effects, held
from xcoop.explain.trust_rows import OWN, Floats, Sample, row

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

TOP = 3  # concepts that are taken away, or kept
KINDS = {"none": "no concepts", "shuffled": "another class's concepts", "random": "unrelated phrases"}


def concept_rows(run: TrainedModel, sample: Sample, labels: Tensor) -> list[Trust]:
    """What can be measured of a run's concepts; [] without any.

    Args:
        run: the trained model.
        sample: of images that it was not trained on.
        labels: the predicted class of each, (B,).
    """
    if run.concepts is None:
        return []
    features = run.features(sample.images)
    return (
        _effect(run, sample, labels, features)
        + _needed_and_enough(run, sample, labels, features)
        + _knowledge(run, sample, features)
        + _aucs(run, sample, features)
        + _ranks(run, sample)
    )


def _effect(run: TrainedModel, sample: Sample, labels: Tensor, features: ImageFeatures) -> list[Trust]:
    """How far the predicted class's logit moves, in all, with the concepts that move it most."""
    rows: dict[str, Floats] = {}
    for name, seed in ((OWN, None), ("unrelated phrases", 0)):
        change = concept_changes(run, features, seed)
        if change is None:
            return []
        own = change[torch.arange(len(labels)), labels].abs()  # (B, J)
        rows[name] = own.topk(min(TOP, own.shape[1]), dim=1).values.mean(1).double().cpu().numpy()
    note = f"Mean change of the predicted class's logit without each of the {TOP} concepts that move it most."
    return [row("Effect of the top concepts", "higher", "logit", rows, sample.patients, note)]


def _needed_and_enough(run: TrainedModel, sample: Sample, labels: Tensor, features: ImageFeatures) -> list[Trust]:
    """Comprehensiveness and sufficiency of the concepts that speak most for the predicted class."""
    change = concept_changes(run, features)
    if change is None:
        return []
    rng = np.random.default_rng(0)
    top, drawn = [], []
    for image, label in enumerate(labels.tolist()):
        own = held(run, label)
        count = min(TOP, len(own) - 1)
        top.append(frozenset(sorted(own, key=lambda j: -float(change[image, label, j]))[: max(count, 0)]))
        drawn.append(frozenset(rng.permutation(own)[: max(count, 0)].tolist()))
    both = {OWN: top, "random choice": drawn}
    found = {name: effects(run, features, labels.tolist(), some) for name, some in both.items()}
    note = f"Of the {TOP} concepts that speak most for the predicted class; the control takes any of its concepts. "
    said = {
        "comprehensiveness": ("higher", "How far its margin falls without them."),
        "sufficiency": ("lower", "How far its margin falls if the class keeps them alone."),
    }
    rows = []
    for name, (better, meaning) in said.items():
        values = {kind: given[name] for kind, given in found.items()}
        if not np.isnan(values[OWN]).all():
            title = f"{name.capitalize()} of the top concepts"
            rows.append(row(title, better, "logit", values, sample.patients, note + meaning))
    return rows


def _knowledge(run: TrainedModel, sample: Sample, features: ImageFeatures) -> list[Trust]:
    """Macro-AUC of the run as it is, and with other knowledge in its clinical sentences."""
    if run.bank is None or not holds_concepts(run.model) or set(sample.labels) != set(run.classnames):
        return []
    truth = np.array([run.classnames.index(name) for name in sample.labels])
    logits = {OWN: run.logits(features)}
    for kind, name in KINDS.items():
        logits[name] = logits_knowing(run.model, features, question(run.bank, kind, run.results["seed"]))
    intervals = {name: _auc(truth, given.double().softmax(1).cpu().numpy(), sample) for name, given in logits.items()}
    value, low, high = intervals.pop(OWN)
    note = "Macro-AUC of the trained model on these images; for the controls, its clinical sentences are exchanged."
    controls = [Control(name=k, value=v[0], low=v[1], high=v[2]) for k, v in intervals.items()]
    return [
        Trust(metric="Knowledge intervention", direction="higher", unit="", value=value, low=low, high=high,
              n=len(truth), controls=controls, note=note)
    ]  # fmt: skip


def _auc(truth: Ints, probabilities: Floats, sample: Sample) -> tuple[float | None, float | None, float | None]:
    """Macro-AUC and its interval; None where a draw may lack a class."""
    found = image_intervals(truth, probabilities, list(sample.patients), metrics=("macro_auc",))["macro_auc"]
    return (found.estimate, found.low, found.high) if found else (None, None, None)


def _aucs(run: TrainedModel, sample: Sample, features: ImageFeatures) -> list[Trust]:
    """How well the score of each concept tells images that show it from those that do not."""
    if sample.truth is None or run.concepts is None:
        return []
    scores = concept_scores(features, run.concepts).cpu()
    aucs, rare = {}, []
    for j, text in enumerate(run.concepts.texts):
        known = sample.truth.labels.get(text, {})
        auc = concept_auc(scores[:, j], [known.get(path) for path in sample.paths])
        if auc is not None:
            aucs[text] = auc
        elif known:
            rare.append(text)
    if not aucs:
        return []
    worst = min(aucs, key=lambda text: aucs[text])
    note = f"Mean over {len(aucs)} concepts; the lowest is {worst} ({aucs[worst]:.2f})."
    note += f" Too few images for: {', '.join(rare)}." if rare else ""
    values = np.array(list(aucs.values()))
    low, high = mean_of_known(values)[1:3]
    return [
        Trust(
            metric="Concept AUC", direction="higher", unit="", value=float(values.mean()), low=low, high=high,
            n=len(sample.paths), controls=[Control(name="chance", value=0.5, low=None, high=None)],
            note=note + " The interval is over concepts.",
        )
    ]  # fmt: skip


def _ranks(run: TrainedModel, sample: Sample) -> list[Trust]:
    """Whether a class's vector is nearest to the concepts that mark the class in the labels, before and after."""
    if sample.truth is None or run.concepts is None or len(set(sample.labels)) < 2:
        return []
    odds = {text: _odds(run, sample, text) for text in run.concepts.texts if text in sample.truth.labels}
    places = [run.concepts.texts.index(text) for text in odds]
    after = run.learned_vectors()
    with run.at_start():
        before = run.learned_vectors()
    values = {}
    compared = run.model.class_vector
    for name, vectors in ((OWN, after), *([("before training", before)] if compared.learned else [])):
        near = vectors @ run.concepts.vectors[places].T  # (C, J)
        near = near - (near.sum(0) - near) / max(1, len(near) - 1)  # nearer than the other classes' are
        found = [rank_agreement(near[c], [row[c] for row in odds.values()]) for c in range(len(near))]
        values[name] = [value for value in found if value is not None]
    if not values[OWN]:
        return []
    note = (
        f"Spearman's correlation over {len(odds)} concepts, mean over the classes: how much nearer a class's "
        f"{compared.noun} is to a concept than the others' are, with the log-odds of the class given the concept, by "
        "the images' labels."
    )
    controls = [Control(name="chance", value=0.0, low=None, high=None)]
    if values.get("before training"):
        start = float(np.mean(values["before training"]))
        controls.insert(0, Control(name="before training", value=start, low=None, high=None))
    return [
        Trust(metric=f"Rank agreement of {compared.noun}s and log-odds", direction="higher", unit="Spearman's rho",
              value=float(np.mean(values[OWN])), low=None, high=None, n=len(sample.paths), controls=controls, note=note)
    ]  # fmt: skip


def _odds(run: TrainedModel, sample: Sample, text: str) -> list[float]:
    """The log-odds of each class given a concept, (C,), smoothed."""
    known = sample.truth.labels[text] if sample.truth else {}
    shown = np.array([known.get(path, -1) for path in sample.paths])
    names = np.array(sample.labels)
    found = []
    for name in run.classnames:
        own, rest = shown[names == name], shown[names != name]
        counts = [(own == 1).sum(), (own == 0).sum(), (rest == 1).sum(), (rest == 0).sum()]
        found.append(float(log_odds(*counts)[0]))
    return found
