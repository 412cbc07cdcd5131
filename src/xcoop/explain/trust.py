"""Are the explanations of a run true? Every measure of its maps and concepts, each beside its controls.

Symbols: B images, S their side, C classes, J concepts, gh x gw patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.concepts.sentences import bank_or_control
from xcoop.evaluation.metrics import log_odds
from xcoop.evaluation.statistics import image_intervals, mean_of_known
from xcoop.explain.concepts import HeldConcepts, margin
from xcoop.explain.content import SURE, Control, Trust
from xcoop.explain.ground_truth import Mask, Truth, fit_mask
from xcoop.explain.maps import Methods, class_target, explain_maps
from xcoop.explain.measures import CHUNK, Floats, control_maps, curves, localise, randomised, rank_correlation
from xcoop.explain.readings import (
    AT_START,
    DELETION,
    EFFECT,
    ENERGY,
    INSERTION,
    KNOWLEDGE,
    LEARNED,
    OF_CONCEPTS,
    OF_UNTRAINED,
    UNRELATED,
)
from xcoop.methods.model import PromptModel

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

OWN = ""  # among the values of a row, those of what is asked; the others are its controls
RANDOM = "random choice"  # any of a class's concepts
STEPS = 8  # of the deletion and insertion curves
TOP = 3  # concepts that are taken away, or kept
FEWEST = 5  # positives, and negatives, below which an AUC says nothing
FEWEST_PAIRS = 3  # of a rank correlation
BINS = 10  # of a calibration error
KINDS = {"none": "no concepts", "shuffled": "another class's concepts", "random": UNRELATED}
Better = Literal["higher", "lower"]
Found = tuple[float, float, float]
"""A value and the ends of its 95 % interval; NaN where not known."""


@dataclass(frozen=True)
class Sample:
    """The B images that are asked; the run was not trained on them."""

    paths: Sequence[str]
    images: Tensor  # preprocessed, (B, 3, S, S)
    patients: Sequence[str]  # who is shown; images of one patient are drawn together by the bootstrap
    truth: Truth | None = None  # what is known of them
    labels: Sequence[str] = ()  # the class of each; () if they are not known


def trust_table(run: TrainedModel, sample: Sample, methods: Methods) -> list[Trust]:
    """Every measure that the run and the images that are asked allow, in the order of the page."""
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    maps = _class_maps(run.model, sample.images, predicted, methods.of_class)
    others = _class_maps(run.model, sample.images, (predicted + 1) % len(run.classnames), methods.of_class)
    lost = _class_maps(randomised(run.model), sample.images, predicted, methods.of_class)
    table = _perturbation(run, sample, predicted, maps, others)
    table += _concept_maps(run, sample, methods.of_concept) + _lesion(sample, maps)
    # Sanity (Adebayo et al., NeurIPS 2018): maps of two classes, and those without what the tower learned, differ.
    of_others = "Between the maps of the predicted class and of another one."
    of_lost = f"Between the map and that of the same {run.model.class_vector.noun}s over a random image tower."
    for title, given, note in (
        ("Correlation with another class's map", others, of_others),
        (OF_UNTRAINED, lost, of_lost),
    ):
        values = {OWN: rank_correlation(maps, given).numpy()}
        table.append(row(title, "lower", "Spearman's rho", values, sample.patients, note))
    return table + concept_rows(run, sample, predicted)


def entry(title: str, better: Better, unit: str, found: Mapping[str, Found], images: int, note: str) -> Trust:
    """A row of the table.

    Args:
        title: of the measure.
        better: `higher` or `lower`.
        unit: of the values.
        found: by name; `OWN` is what is asked, the rest are its controls.
        images: how many it rests on.
        note: what a reader must know.
    """
    controls = {}
    for name, values in found.items():
        value, low, high = (None if np.isnan(one) else float(one) for one in values)
        controls[name] = Control(name=name, value=value, low=low, high=high)
    own = controls.pop(OWN)
    return Trust(metric=title, direction=better, unit=unit, value=own.value, low=own.low, high=own.high, n=images,
                 controls=list(controls.values()), note=note)  # fmt: skip


def row(
    title: str,
    better: Better,
    unit: str,
    values: Mapping[str, Floats],
    patients: Sequence[str],
    note: str,
    images: int | None = None,
) -> Trust:
    """A row from values of each image, (N,), NaN where not known, and patients of each; with bootstrap intervals.

    `images` says how many there are, where there are several values an image.
    """
    found = {name: mean_of_known(given, clusters=list(patients)) for name, given in values.items()}
    means = {name: (one.estimate, one.low, one.high) for name, one in found.items()}
    return entry(title, better, unit, means, found[OWN].known if images is None else images, note)


# Faithfulness of the maps.


def _of_each(labels: Tensor, work: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What `work` gives for the images of each label (indices, label), in the order of the images."""
    groups = {label: (labels == label).nonzero()[:, 0] for label in labels.unique().tolist()}
    order = torch.cat(list(groups.values())).argsort()
    return torch.cat([work(which, label) for label, which in groups.items()])[order]


def _in_parts(model: PromptModel, images: Tensor, maps: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([maps(part).cpu() for part in images.split(1 if model.mixes_batches else CHUNK)])


def _class_maps(model: PromptModel, images: Tensor, labels: Tensor, method: str) -> Tensor:
    """The map of each image's own label, (B, gh, gw)."""

    def of_label(which: Tensor, label: int) -> Tensor:
        target = class_target(model, label)
        return _in_parts(model, images[which], lambda part: explain_maps(method, model.image_backbone, part, target))

    return _of_each(labels, of_label)


def _perturbation(run: TrainedModel, sample: Sample, labels: Tensor, maps: Tensor, others: Tensor) -> list[Trust]:
    """Deletion and insertion of the predicted class's margin, for two baselines."""

    def areas(maps: Tensor, baseline: str) -> Tensor:
        """Under the deletion and the insertion curve of each image's own label, (B, 2)."""
        steps, chunk = min(STEPS, maps[0].numel()), 1 if run.mixes_batches else CHUNK

        def of_label(which: Tensor, label: int) -> Tensor:
            def score(batch: Tensor) -> Tensor:
                return margin(run.logits(run.encoded(batch)), label)

            given = curves(score, sample.images[which], maps[which], baseline, steps, chunk)
            return torch.stack([given.deletion_auc(), given.insertion_auc()], dim=1).cpu()

        return _of_each(labels, of_label)

    every = {OWN: maps, **control_maps(maps), "other class": others}
    rows = []
    for baseline, asked in (("mean", tuple(every)), ("blur", (OWN, "random", "reversed"))):
        found = {name: areas(every[name], baseline).numpy().T for name in asked}
        deletion, insertion = ({name: both[i] for name, both in found.items()} for i in range(2))
        note = f"Of the predicted class's logit less the largest other one; erased patches become the {baseline}."
        where = f", {baseline} baseline"
        rows.append(row(DELETION + where, "lower", "score", deletion, sample.patients, note))
        rows.append(row(INSERTION + where, "higher", "score", insertion, sample.patients, note))
    return rows


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

            def of_concept(part: Tensor, text: str = text) -> Tensor:
                return run.concept_maps(part, text, method)

            maps.append(_in_parts(run.model, sample.images[which], of_concept))
            masks.append(fitted)
            places += which
    if not places:
        return []
    what = "maps of concepts that an image shows"
    return _localised(sample, torch.cat(maps), torch.cat(masks), places, OF_CONCEPTS, what)


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
    rows = []
    for name, title, unit in (
        ("pointing", "Pointing game", "share of images"),
        ("energy", ENERGY, "share of the map"),
        ("iou_best", "Best IoU", "share of pixels"),
    ):
        values = {kind: getattr(one, name) for kind, one in found.items()}
        rows.append(row(title + suffix, "higher", unit, values, patients, note, len(set(which))))
    return rows


# Concepts: whether the model needs them, whether they are right, and rightly ranked.


def concept_rows(run: TrainedModel, sample: Sample, labels: Tensor) -> list[Trust]:
    """What can be measured of a run's concepts, by the predicted class of each image, (B,); [] without any."""
    if run.concepts is None:
        return []
    features = run.features(sample.images)
    rows = _need(run, run.held, sample, labels, features) if run.held else []
    rows += _knowledge(run, sample, features)
    if sample.truth is not None:
        rows += _aucs(sample, sample.truth, run.concepts.texts, run.concept_scores(features).cpu())
        rows += _seeing(run, sample, sample.truth, features)
        rows += _ranks(run, sample, sample.truth)
    return rows


def _need(
    run: TrainedModel, held: HeldConcepts, sample: Sample, labels: Tensor, features: ImageFeatures
) -> list[Trust]:
    """How far logit and margin of the predicted class move with the concepts that add most to it."""
    change = held.contributions(features)  # (B, C, J)
    with run.at_start(run.model.prompt_names()):  # phrases that are not trained stand beside sentences that are not
        controls = held.controls(features)
    values, own_change = {}, change[torch.arange(len(labels)), labels].abs()  # (B, J)
    for kind, added in ((OWN, change), *controls.items()):
        moved = added[torch.arange(len(labels)), labels].abs()
        values[kind] = moved.topk(min(TOP, moved.shape[1]), dim=1).values.mean(1).double().cpu().numpy()
    rng = np.random.default_rng(0)
    top, drawn = [], []
    for image, label in enumerate(labels.tolist()):
        own = held.held[label]
        count = max(0, min(TOP, len(own) - 1))
        top.append(frozenset(sorted(own, key=lambda j: -float(change[image, label, j]))[:count]))
        drawn.append(frozenset(rng.permutation(own)[:count].tolist()))
    some = [own_change[image, sorted(few)].double().mean().item() for image, few in enumerate(drawn)]
    values[RANDOM] = np.array(some)  # NaN of none
    note = f"Mean change of the predicted class's logit without each of the {TOP} concepts that move it most."
    rows = [row(EFFECT, "higher", "logit", values, sample.patients, note)]
    found = {kind: held.effects(features, labels.tolist(), some)
             for kind, some in ((OWN, top), (RANDOM, drawn))}  # fmt: skip
    note = f"Of the {TOP} concepts that add most to the predicted class; the control takes any of its concepts. "
    said: tuple[tuple[str, Better, str], ...] = (
        ("comprehensiveness", "higher", "How far its margin falls without them."),
        ("sufficiency", "lower", "How far its margin falls if the class keeps them alone."),
    )
    for name, better, meaning in said:
        values = {kind: given[name] for kind, given in found.items()}
        if not np.isnan(values[OWN]).all():
            title = f"{name.capitalize()} of the top concepts"
            rows.append(row(title, better, "logit", values, sample.patients, note + meaning))
    return rows


def _knowledge(run: TrainedModel, sample: Sample, features: ImageFeatures) -> list[Trust]:
    """Macro-AUC and balanced accuracy: what prompts learned, and what their sentences know before they learn.

    Two questions, each of like beside like: trained prompts beside the same ones put back to their start; and the
    sentences as they are written beside other sentences as they are written.
    """
    if run.bank is None or not run.model.holds_concepts or set(sample.labels) != set(run.classnames):
        return []
    learned = run.model.prompt_names()
    with run.at_start(learned):
        written = {OWN: run.logits(features)}
        for kind, name in KINDS.items():
            other = run.model.with_bank(bank_or_control(run.bank, kind, run.results["seed"]))
            written[name] = other.logits(features).detach()
    questions = {KNOWLEDGE: (written, "Sentences as they are written, beside others so; all else as learned.")}
    if learned:
        trained = {OWN: run.logits(features), AT_START: written[OWN]}
        questions = {LEARNED: (trained, "For the control, prompts alone are as before training."), **questions}
    truth = np.array([run.classnames.index(name) for name in sample.labels])
    metrics = {"macro_auc": "macro-AUC", "balanced_accuracy": "balanced accuracy"}
    rows = []
    for title, (logits, note) in questions.items():
        found: dict[str, dict[str, Found]] = {metric: {} for metric in metrics}
        for kind, given in logits.items():
            probabilities = given.double().softmax(1).cpu().numpy()
            intervals = image_intervals(truth, probabilities, list(sample.patients), metrics=tuple(metrics))
            for metric in metrics:  # None where a draw may lack a class
                found[metric][kind] = intervals[metric] or (np.nan, np.nan, np.nan)
        for metric, suffix in (("macro_auc", ""), ("balanced_accuracy", ", accuracy")):
            rows.append(entry(title + suffix, "higher", metrics[metric], found[metric], len(truth), note))
    return rows


def _seeing(run: TrainedModel, sample: Sample, truth: Truth, features: ImageFeatures) -> list[Trust]:
    """Whether the probabilities of concepts are right, where labelled training images gave them."""
    if run.seeing is None or run.concepts is None:
        return []
    given = run.seeing.probabilities(run.concept_scores(features).double().cpu().numpy())  # (B, J)
    labels = truth.table(sample.paths, run.concepts.texts)
    known = ~np.isnan(given) & ~np.isnan(labels)
    if not known.any():
        return []
    counts = np.where(known.any(1), known.sum(1), np.nan)
    brier = {
        name: np.where(known, (chance - labels) ** 2, 0).sum(1) / counts
        for name, chance in ((OWN, given), ("share in the training images", run.seeing.shares))
    }
    note = f"Mean squared error of the probabilities of {int(known.any(0).sum())} concepts."
    rows = [row("Concepts seen, Brier score", "lower", "", brier, sample.patients, note)]
    sure = known & ((given >= SURE) | (given <= 1 - SURE))
    right = float(((given > 0.5) == labels)[sure].mean()) if sure.any() else math.nan
    error = calibration_error(given[known], labels[known])
    note = (
        f"Expected calibration error in {BINS} bins. Of all concepts and images {sure.sum() / known.sum():.0%} are "
        f"seen or not seen, {right:.0%} of these rightly; the rest are undecided."
    )
    found: dict[str, Found] = {OWN: (error, np.nan, np.nan)}
    return [*rows, entry("Concepts seen, calibration error", "lower", "", found, len(sample.paths), note)]


def calibration_error(probabilities: Floats, labels: Floats) -> float:
    """The mean distance of probabilities from shares in `BINS` equal bins, weighted by their content; in [0, 1].

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        probabilities: (N,), in [0, 1].
        labels: (N,), 0 or 1.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=probabilities - labels, minlength=BINS)
    return float(np.abs(gaps).sum() / len(probabilities))


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
    mean = mean_of_known(list(aucs.values()))
    found = {OWN: (mean.estimate, mean.low, mean.high), "chance": (0.5, np.nan, np.nan)}
    return [entry("Concept AUC", "higher", "", found, len(sample.paths), note)]


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
    vectors = {OWN: run.class_vectors()}
    if compared.learned:
        with run.at_start():
            vectors["before training"] = run.class_vectors()
    means: dict[str, Found] = {}
    for kind, given in vectors.items():
        near = given @ run.concepts.vectors[places].T  # (C, J)
        near = near - (near.sum(0) - near) / max(1, len(near) - 1)  # nearer than the other classes' are
        agreements = [rank_agreement(near[c], odds[:, c]) for c in range(len(near))]
        if known := [value for value in agreements if value is not None]:
            means[kind] = (float(np.mean(known)), np.nan, np.nan)
    if OWN not in means:
        return []
    note = (
        f"Spearman's correlation over {len(texts)} concepts, mean over the classes: how much nearer a class's "
        f"{compared.noun} is to a concept than the others' are, with the log-odds of the class given the concept, by "
        "the images' labels."
    )
    title = f"Rank agreement of {compared.noun}s and log-odds"
    means["chance"] = (0.0, np.nan, np.nan)
    return [entry(title, "higher", "Spearman's rho", means, len(sample.paths), note)]


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
