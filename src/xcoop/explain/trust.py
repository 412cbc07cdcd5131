"""Are the explanations of a run true? Every measure of its maps and concepts, each beside its controls.

Symbols: B images, S their side, C classes, J concepts, gh x gw patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.concepts.sentences import bank_or_control
from xcoop.evaluation.metrics import log_odds
from xcoop.evaluation.statistics import image_intervals, mean_of_known
from xcoop.explain.concepts import effects, held, margin
from xcoop.explain.explanation import concept_changes, concept_scores, maps_of_class, maps_of_concept
from xcoop.explain.ground_truth import Mask, Truth, fit_mask
from xcoop.explain.map_methods import class_target
from xcoop.explain.maps import Methods, explain_maps
from xcoop.explain.measures import CHUNK, Floats, control_maps, curves, localise, randomised, rank_correlation
from xcoop.explain.schema import Control, Trust

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

OWN = ""  # among the values of a row, those of what is asked; the others are its controls
STEPS = 8  # of the deletion and insertion curves
TOP = 3  # concepts that are taken away, or kept
FEWEST = 5  # positives, and negatives, below which an AUC says nothing
FEWEST_PAIRS = 3  # of a rank correlation
KINDS = {"none": "no concepts", "shuffled": "another class's concepts", "random": "unrelated phrases"}
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Sample:
    """The images that are asked; the run was not trained on them.

    Attributes:
        paths: B of them.
        images: preprocessed, (B, 3, S, S).
        patients: who is shown, B; images of one patient are drawn together by the bootstrap.
        truth: what is known of them; None if nothing is.
        labels: the class of each, B names; () if they are not known.
    """

    paths: Sequence[str]
    images: Tensor
    patients: Sequence[str]
    truth: Truth | None = None
    labels: Sequence[str] = ()


def trust_table(run: TrainedModel, sample: Sample, methods: Methods) -> list[Trust]:
    """Every measure that the run and the images allow, in the order of the page.

    Args:
        run: the trained model.
        sample: the images that are asked.
        methods: of the maps.
    """
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    maps = _of_classes(run, sample.images, predicted, methods.of_class)
    others = _of_classes(run, sample.images, (predicted + 1) % len(run.classnames), methods.of_class)
    table = _perturbation(run, sample, predicted, maps, others)
    table += _concept_maps(run, sample, methods.of_concept) + _lesion(sample, maps)
    table += _sanity(run, sample, predicted, maps, others, methods.of_class)
    return table + concept_rows(run, sample, predicted)


def row(
    title: str,
    better: Better,
    unit: str,
    values: Mapping[str, Floats],
    patients: Sequence[str],
    note: str,
    images: int | None = None,
) -> Trust:
    """A row from values of each image, with bootstrap intervals.

    Args:
        title: of the measure.
        better: `higher` or `lower`.
        unit: of the values.
        values: by name, (N,) each, NaN where not known; `OWN` is what is asked, the rest are its controls.
        patients: of each value, N.
        note: what a reader must know.
        images: how many there are, where there are several values an image.
    """
    found = {name: mean_of_known(given, clusters=list(patients)) for name, given in values.items()}
    own = found.pop(OWN)
    controls = [
        Control(name=name, value=_known(one.estimate), low=_known(one.low), high=_known(one.high))
        for name, one in found.items()
    ]
    return Trust(
        metric=title, direction=better, unit=unit, value=_known(own.estimate), low=_known(own.low),
        high=_known(own.high), n=own.known if images is None else images, controls=controls, note=note,
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# Faithfulness of the maps.


def _of_classes(run: TrainedModel, images: Tensor, labels: Tensor, method: str) -> Tensor:
    """The map of each image's own label, (B, gh, gw)."""
    found: dict[int, Tensor] = {}
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        made = _in_parts(run, images[which], partial(maps_of_class, run, label=label, method=method))
        found |= dict(zip(which.tolist(), made, strict=True))
    return torch.stack([found[i] for i in range(len(labels))])


def _in_parts(run: TrainedModel, images: Tensor, maps: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([maps(part).cpu() for part in images.split(1 if run.mixes_batches else CHUNK)])


def _perturbation(run: TrainedModel, sample: Sample, labels: Tensor, maps: Tensor, others: Tensor) -> list[Trust]:
    """Deletion and insertion of the predicted class's margin, for two baselines."""
    every = {OWN: maps, **control_maps(maps), "other class": others}
    rows = []
    for baseline, asked in (("mean", tuple(every)), ("blur", (OWN, "random", "reversed"))):
        deletion, insertion = {}, {}
        for name in asked:
            deletion[name], insertion[name] = _areas(run, sample.images, labels, every[name], baseline)
        note = f"Of the predicted class's logit less the largest other one; erased patches become the {baseline}."
        where = f", {baseline} baseline"
        rows.append(row("Deletion AUC" + where, "lower", "score", deletion, sample.patients, note))
        rows.append(row("Insertion AUC" + where, "higher", "score", insertion, sample.patients, note))
    return rows


def _areas(run: TrainedModel, images: Tensor, labels: Tensor, maps: Tensor, baseline: str) -> tuple[Floats, Floats]:
    """Areas under the deletion and the insertion curve of each image's own label, (B,) each."""
    deletion, insertion = np.full((2, len(images)), np.nan)
    steps, chunk = min(STEPS, maps[0].numel()), 1 if run.mixes_batches else CHUNK
    for label in labels.unique().tolist():

        def score(batch: Tensor, label: int = label) -> Tensor:
            return margin(run.logits(run.features(batch)), label)

        which = (labels == label).nonzero()[:, 0]
        given = curves(score, images[which], maps[which].to(images.device), baseline, steps, chunk)
        deletion[which.numpy()] = given.deletion_auc().double().cpu().numpy()
        insertion[which.numpy()] = given.insertion_auc().double().cpu().numpy()
    return deletion, insertion


# Plausibility of the maps.


def _concept_maps(run: TrainedModel, sample: Sample, method: str) -> list[Trust]:
    """Concept maps against the masks of these concepts, of the images that show them and have one."""
    if sample.truth is None or run.concepts is None:
        return []
    places: list[int] = []
    maps, masks = [], []
    for text in run.concepts.texts:
        which, fitted = _fitted(sample, [sample.truth.mask(path, text) for path in sample.paths])
        if which:
            made = partial(maps_of_concept, run, concept=text, method=method)
            maps.append(_in_parts(run, sample.images[which], made))
            masks.append(fitted)
            places += which
    if not places:
        return []
    what = "maps of concepts that an image shows"
    return _localised(sample, torch.cat(maps), torch.cat(masks), places, ", concepts", what)


def _lesion(sample: Sample, maps: Tensor) -> list[Trust]:
    """The predicted class's maps against the masks of lesions (in chest phantoms, lungs)."""
    if sample.truth is None:
        return []
    which, masks = _fitted(sample, [sample.truth.lesion_mask(path) for path in sample.paths])
    what = "maps of the predicted class"
    return _localised(sample, maps[which], masks, which, ", outlined region", what) if which else []


def _fitted(sample: Sample, masks: Sequence[Mask | None]) -> tuple[list[int], Tensor]:
    """Which images have a mask that is not empty after preprocessing, and these masks, (N, S, S)."""
    size = (sample.images.shape[2], sample.images.shape[3])
    fitted = {i: fit_mask(mask, size) for i, mask in enumerate(masks) if mask is not None}
    which = [i for i, mask in fitted.items() if mask.any()]
    return which, torch.stack([torch.as_tensor(fitted[i]) for i in which]) if which else torch.zeros(0, *size)


def _localised(sample: Sample, maps: Tensor, masks: Tensor, which: list[int], suffix: str, what: str) -> list[Trust]:
    """Rows for maps (N, gh, gw) of some images and masks (N, S, S), beside a random and a centred map."""
    controls = control_maps(maps)
    kinds = {OWN: maps, "random": controls["random"], "centre": controls["centre"]}
    found = {name: localise(given, masks) for name, given in kinds.items()}
    patients = [sample.patients[i] for i in which]
    note = f"{len(maps)} {what}; chance is the mask's share, {np.nanmean(found[OWN].area):.2f}."
    measures = (
        ("pointing", "Pointing game", "share of images"),
        ("energy", "Energy in mask", "share of the map"),
        ("iou_best", "Best IoU", "share of pixels"),
    )
    rows = []
    for name, title, unit in measures:
        values = {kind: getattr(one, name) for kind, one in found.items()}
        rows.append(row(title + suffix, "higher", unit, values, patients, note, len(set(which))))
    return rows


# Sanity of the maps (Adebayo et al., NeurIPS 2018).


def _sanity(
    run: TrainedModel, sample: Sample, labels: Tensor, maps: Tensor, others: Tensor, method: str
) -> list[Trust]:
    """Maps of two classes differ; without what the tower learned, maps are others."""
    shaken = randomised(run.model)
    lost = torch.zeros_like(maps)
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        target = class_target(shaken, label)
        lost[which] = _in_parts(
            run, sample.images[which], partial(explain_maps, method, shaken.image_backbone, target=target)
        )
    noun = run.model.class_vector.noun
    rows = []
    for title, given, note in (
        ("another class's map", others, "Between the maps of the predicted class and of another one."),
        ("an untrained model's map", lost, f"Between the map and that of the same {noun}s over a random image tower."),
    ):
        values = {OWN: rank_correlation(maps, given).numpy()}
        rows.append(row(f"Correlation with {title}", "lower", "Spearman's rho", values, sample.patients, note))
    return rows


# Concepts: whether the model needs them, whether they are right, and rightly ranked.


def concept_rows(run: TrainedModel, sample: Sample, labels: Tensor) -> list[Trust]:
    """What can be measured of a run's concepts; [] without any.

    Args:
        run: the trained model.
        sample: the images that are asked.
        labels: the predicted class of each, (B,).
    """
    if run.concepts is None:
        return []
    features = run.features(sample.images)
    rows = []
    change = concept_changes(run, features)
    if change is not None:
        rows.append(_effect(run, sample, labels, features, change))
        rows += _needed_and_enough(run, sample, labels, features, change)
    rows += _knowledge(run, sample, features)
    if sample.truth is not None:
        rows += _aucs(sample, sample.truth, run.concepts.texts, concept_scores(features, run.concepts).cpu())
        rows += _ranks(run, sample, sample.truth)
    return rows


def _effect(run: TrainedModel, sample: Sample, labels: Tensor, features: ImageFeatures, change: Tensor) -> Trust:
    """How far the predicted class's logit moves, in all, with the concepts that move it most."""
    values = {}
    for name, moved in ((OWN, change), ("unrelated phrases", concept_changes(run, features, control=0))):
        assert moved is not None  # noqa: S101 - there are changes, so there are those of the control
        own = moved[torch.arange(len(labels)), labels].abs()  # (B, J)
        values[name] = own.topk(min(TOP, own.shape[1]), dim=1).values.mean(1).double().cpu().numpy()
    note = f"Mean change of the predicted class's logit without each of the {TOP} concepts that move it most."
    return row("Effect of the top concepts", "higher", "logit", values, sample.patients, note)


def _needed_and_enough(
    run: TrainedModel, sample: Sample, labels: Tensor, features: ImageFeatures, change: Tensor
) -> list[Trust]:
    """Comprehensiveness and sufficiency of the concepts that speak most for the predicted class."""
    rng = np.random.default_rng(0)
    top, drawn = [], []
    for image, label in enumerate(labels.tolist()):
        own = held(run, label)
        count = max(0, min(TOP, len(own) - 1))
        top.append(frozenset(sorted(own, key=lambda j: -float(change[image, label, j]))[:count]))
        drawn.append(frozenset(rng.permutation(own)[:count].tolist()))
    both = {OWN: top, "random choice": drawn}
    found = {name: effects(run, features, labels.tolist(), some) for name, some in both.items()}
    note = f"Of the {TOP} concepts that speak most for the predicted class; the control takes any of its concepts. "
    said: tuple[tuple[str, Better, str], ...] = (
        ("comprehensiveness", "higher", "How far its margin falls without them."),
        ("sufficiency", "lower", "How far its margin falls if the class keeps them alone."),
    )
    rows = []
    for name, better, meaning in said:
        values = {kind: given[name] for kind, given in found.items()}
        if not np.isnan(values[OWN]).all():
            title = f"{name.capitalize()} of the top concepts"
            rows.append(row(title, better, "logit", values, sample.patients, note + meaning))
    return rows


def _knowledge(run: TrainedModel, sample: Sample, features: ImageFeatures) -> list[Trust]:
    """Macro-AUC of the run as it is, and with other knowledge in its clinical sentences."""
    if run.bank is None or not run.model.holds_concepts or set(sample.labels) != set(run.classnames):
        return []
    truth = np.array([run.classnames.index(name) for name in sample.labels])
    logits = {OWN: run.logits(features)}
    for kind, name in KINDS.items():
        other = bank_or_control(run.bank, kind, run.results["seed"])
        logits[name] = run.model.with_bank(other).logits(features).detach()
    found = []
    for name, given in logits.items():
        probabilities = given.double().softmax(1).cpu().numpy()
        interval = image_intervals(truth, probabilities, list(sample.patients), metrics=("macro_auc",))["macro_auc"]
        value, low, high = interval or (None, None, None)  # None where a draw may lack a class
        found.append(Control(name=name, value=value, low=low, high=high))
    own, *controls = found
    note = "Macro-AUC of the trained model on these images; for the controls, its clinical sentences are exchanged."
    return [
        Trust(metric="Knowledge intervention", direction="higher", unit="", value=own.value, low=own.low, high=own.high,
              n=len(truth), controls=controls, note=note)
    ]  # fmt: skip


def _aucs(sample: Sample, truth: Truth, texts: Sequence[str], scores: Tensor) -> list[Trust]:
    """How well the score of each concept, (B, J), tells images that show it from those that do not."""
    aucs, rare = {}, []
    for j, text in enumerate(texts):
        known = truth.labels.get(text, {})
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
    note += " The interval is over concepts."
    found = mean_of_known(list(aucs.values()))
    return [
        Trust(metric="Concept AUC", direction="higher", unit="", value=found.estimate, low=_known(found.low),
              high=_known(found.high), n=len(sample.paths), controls=[Control(name="chance", value=0.5)], note=note)
    ]  # fmt: skip


def _ranks(run: TrainedModel, sample: Sample, truth: Truth) -> list[Trust]:
    """Whether a class's vector is nearest to the concepts that mark the class in the labels, before and after."""
    if run.concepts is None or len(set(sample.labels)) < 2:
        return []
    texts = [text for text in run.concepts.texts if text in truth.labels]
    names = np.array(sample.labels)
    odds = np.zeros((len(texts), len(run.classnames)))  # log-odds of each class given a concept, smoothed
    for j, text in enumerate(texts):
        shown = np.array([truth.labels[text].get(path, -1) for path in sample.paths])
        for c, name in enumerate(run.classnames):
            own, rest = shown[names == name], shown[names != name]
            counts = [(own == 1).sum(), (own == 0).sum(), (rest == 1).sum(), (rest == 0).sum()]
            odds[j, c] = log_odds(*counts)[0]
    places = [run.concepts.texts.index(text) for text in texts]
    compared = run.model.class_vector
    vectors = {OWN: run.learned_vectors()}
    if compared.learned:
        with run.at_start():
            vectors["before training"] = run.learned_vectors()
    means = {}
    for kind, given in vectors.items():
        near = given @ run.concepts.vectors[places].T  # (C, J)
        near = near - (near.sum(0) - near) / max(1, len(near) - 1)  # nearer than the other classes' are
        found = [rank_agreement(near[c], odds[:, c]) for c in range(len(near))]
        if known := [value for value in found if value is not None]:
            means[kind] = float(np.mean(known))
    if OWN not in means:
        return []
    note = (
        f"Spearman's correlation over {len(texts)} concepts, mean over the classes: how much nearer a class's "
        f"{compared.noun} is to a concept than the others' are, with the log-odds of the class given the concept, by "
        "the images' labels."
    )
    value = means.pop(OWN)
    controls = [Control(name=kind, value=mean) for kind, mean in means.items()] + [Control(name="chance", value=0.0)]
    return [
        Trust(metric=f"Rank agreement of {compared.noun}s and log-odds", direction="higher", unit="Spearman's rho",
              value=value, low=None, high=None, n=len(sample.paths), controls=controls, note=note)
    ]  # fmt: skip


def concept_auc(scores: Sequence[float] | Tensor, labels: Sequence[int | None]) -> float | None:
    """The chance that an image with a concept scores higher on it than one without, ties half: 0.5 is chance.

    Args:
        scores: (N,), of the images with one concept.
        labels: N expert labels: 1 present, 0 absent, None unknown; the unknown are left out.

    Returns:
        The AUC in [0, 1]; None with fewer than `FEWEST` positives or negatives.
    """
    from sklearn.metrics import roc_auc_score

    known = [(label, float(score)) for label, score in zip(labels, scores, strict=True) if label is not None]
    positives = sum(label for label, _ in known)
    if min(positives, len(known) - positives) < FEWEST:
        return None
    return float(roc_auc_score(*zip(*known, strict=True)))


def rank_agreement(nearness: Sequence[float] | Tensor, odds: Sequence[float] | Floats) -> float | None:
    """Spearman's correlation, in [-1, 1], of how near a class is to J concepts with how strongly each marks it.

    None with fewer than `FEWEST_PAIRS` of them, or where one side is constant and has no order.
    """
    from scipy.stats import spearmanr

    one, other = np.asarray(nearness, dtype=np.float64), np.asarray(odds, dtype=np.float64)
    if len(one) < FEWEST_PAIRS or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
