"""Are the explanations of a run true? Every measure of its maps and concepts, each beside its controls.

Symbols: B images, S their side, C classes, J concepts, gh x gw patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.evaluation.bootstrap import mean_of_known
from xcoop.explain.controls import control_maps, randomised, rank_correlation
from xcoop.explain.explanation import concept_changes, concept_scores, maps_of_class, maps_of_concept
from xcoop.explain.faithfulness import CHUNK, curves
from xcoop.explain.localisation import localise
from xcoop.explain.metrics import METRICS
from xcoop.explain.schema import Control, Trust
from xcoop.explain.target import class_target
from xcoop.explain.textual.plausibility import concept_auc
from xcoop.explain.truth import Truth, fit_mask
from xcoop.explain.visual import explain_maps
from xcoop.model import PromptModel

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

Floats = NDArray[np.float64]
STEPS = 8  # of the deletion and insertion curves
TOP = 3  # concepts that are taken away together


@dataclass(frozen=True)
class Sample:
    """The images that are asked.

    Attributes:
        paths: B of them.
        images: preprocessed, (B, 3, S, S).
        patients: who is shown, B; images of one patient are drawn together by the bootstrap.
        truth: what is known of them; None if nothing is.
    """

    paths: Sequence[str]
    images: Tensor
    patients: Sequence[str]
    truth: Truth | None = None


def trust_table(run: TrainedModel, sample: Sample, method: str) -> list[Trust]:
    """Every measure that the run and the images allow, in the order of the page.

    Args:
        run: the trained model.
        sample: of images that it was not trained on.
        method: of the maps.
    """
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    maps = _of_classes(run, sample.images, predicted, method)
    others = _of_classes(run, sample.images, (predicted + 1) % len(run.classnames), method)
    table = _perturbation(run, sample, predicted, maps, others)
    table += _plausibility(run, sample, method)
    table += _sanity(run, sample, predicted, maps, others, method)
    return table + _textual(run, sample, predicted)


def _of_classes(run: TrainedModel, images: Tensor, labels: Tensor, method: str) -> Tensor:
    """The map of each image's own label, (B, gh, gw)."""
    maps = torch.zeros(len(images), *run.backbone.grid)
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        maps[which] = _in_parts(run, images[which], partial(maps_of_class, run, label=label, method=method)).cpu()
    return maps


def _in_parts(run: TrainedModel, images: Tensor, maps: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([maps(part) for part in images.split(1 if run.mixes_batches else CHUNK)])


# Faithfulness of the maps.


def _perturbation(run: TrainedModel, sample: Sample, labels: Tensor, maps: Tensor, others: Tensor) -> list[Trust]:
    """Deletion and insertion of the predicted class's margin, for two baselines."""
    every = {"": maps} | control_maps(maps, range(len(maps)), other=others)
    rows: list[Trust] = []
    for baseline, asked in (("mean", tuple(every)), ("blur", ("", "random", "reversed"))):
        kinds = {name: every[name] for name in asked}
        found = {name: _areas(run, sample.images, labels, given, baseline) for name, given in kinds.items()}
        for index, metric in enumerate(("deletion_auc", "insertion_auc")):
            values = {name: areas[index] for name, areas in found.items()}
            note = f"Of the predicted class's logit less the largest other one; erased patches become the {baseline}."
            rows.append(_row(metric, values, sample, note, suffix=f", {baseline} baseline"))
    return rows


def _areas(run: TrainedModel, images: Tensor, labels: Tensor, maps: Tensor, baseline: str) -> tuple[Floats, Floats]:
    """Areas under the deletion and the insertion curve of each image's own label, (B,) each."""
    deletion, insertion = [np.full(len(images), np.nan) for _ in range(2)]
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        steps = min(STEPS, maps[0].numel())
        chunk = 1 if run.mixes_batches else CHUNK

        def margin(batch: Tensor, label: int = label) -> Tensor:
            return _margin(run.logits(run.features(batch)), label)

        given = curves(margin, images[which], maps[which].to(images.device), baseline, steps, chunk)
        deletion[which.numpy()] = given.deletion_auc().double().cpu().numpy()
        insertion[which.numpy()] = given.insertion_auc().double().cpu().numpy()
    return deletion, insertion


def _margin(logits: Tensor, label: int) -> Tensor:
    """A class's logit less the largest of the others, (B,): its own alone may rise with all others together."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.amax(1) if others.shape[1] else logits[:, label]


# Plausibility of the maps.


def _plausibility(run: TrainedModel, sample: Sample, method: str) -> list[Trust]:
    """Concept maps against the masks of these concepts."""
    pairs = list(_concept_pairs(run, sample, method))
    if not pairs:
        return []
    maps = torch.cat([given[1] for given in pairs])
    masks = torch.cat([given[2] for given in pairs])
    which = [index for given in pairs for index in given[0]]
    kinds = {"": maps} | {k: v for k, v in control_maps(maps, range(len(maps))).items() if k in ("random", "centre")}
    found = {name: localise(given, masks) for name, given in kinds.items()}
    rows = []
    for metric in ("pointing", "energy", "iou_best"):
        values = {name: np.asarray(getattr(given, metric)) for name, given in found.items()}
        chance = found[""].area
        note = (
            f"{len(maps)} maps of concepts that an image shows; chance is the mask's share, {np.nanmean(chance):.2f}."
        )
        rows.append(_row(metric, values, sample, note, [sample.patients[i] for i in which], n=len(set(which))))
    return rows


def _concept_pairs(run: TrainedModel, sample: Sample, method: str) -> Sequence[tuple[list[int], Tensor, Tensor]]:
    """For each concept the images that show it and have its mask, their maps and their masks."""
    if sample.truth is None or run.concepts is None:
        return []
    size = (sample.images.shape[2], sample.images.shape[3])
    found = []
    for text in run.concepts.texts:
        masks = {i: sample.truth.mask(path, text) for i, path in enumerate(sample.paths)}
        fitted = {i: fit_mask(mask, size) for i, mask in masks.items() if mask is not None}
        which = [i for i, mask in fitted.items() if mask.any()]
        if which:
            images = sample.images[which]
            maps = _in_parts(run, images, partial(maps_of_concept, run, concept=text, method=method)).cpu()
            found.append((which, maps, torch.stack([torch.as_tensor(fitted[i]) for i in which])))
    return found


# Sanity of the maps.


def _sanity(
    run: TrainedModel, sample: Sample, labels: Tensor, maps: Tensor, others: Tensor, method: str
) -> list[Trust]:
    """Maps of two classes differ; without what the tower learned, maps are others."""
    shaken: PromptModel = randomised(run.model)
    lost = torch.zeros_like(maps)
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        target = class_target(shaken, label)
        lost[which] = _in_parts(
            run, sample.images[which], partial(explain_maps, method, shaken.image_backbone, target=target)
        ).cpu()
    both = {
        "class_correlation": (others, "Between the maps of the predicted class and of another one."),
        "randomised_correlation": (lost, "Between the map and that of the same prompts over a random image tower."),
    }
    return [
        _row(name, {"": rank_correlation(maps, given).numpy()}, sample, note) for name, (given, note) in both.items()
    ]


# Concepts.


def _textual(run: TrainedModel, sample: Sample, labels: Tensor) -> list[Trust]:
    if run.concepts is None:
        return []
    features = run.features(sample.images)
    return _concept_faithfulness(run, sample, labels, features) + _concept_aucs(run, sample, features)


def _concept_faithfulness(run: TrainedModel, sample: Sample, labels: Tensor, features: ImageFeatures) -> list[Trust]:
    """How far the predicted class's logit moves, in all, with the concepts that move it most."""
    rows = {}
    for name, seed in (("", None), ("unrelated phrases", 0)):
        change = concept_changes(run, features, seed)
        if change is None:
            return []
        own = change[torch.arange(len(labels)), labels].abs()  # (B, J)
        rows[name] = own.topk(min(TOP, own.shape[1]), dim=1).values.mean(1).double().cpu().numpy()
    note = f"Mean change of the predicted class's logit without each of the {TOP} concepts that move it most."
    return [_plain("Effect of the top concepts", "higher", "logit", rows, sample, note)]


def _concept_aucs(run: TrainedModel, sample: Sample, features: ImageFeatures) -> list[Trust]:
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


# Rows.


def _row(
    metric: str,
    values: dict[str, Floats],
    sample: Sample,
    note: str,
    patients: Sequence[str] | None = None,
    suffix: str = "",
    n: int | None = None,
) -> Trust:
    known = METRICS[metric]
    row = _plain(known.title + suffix, known.better, known.unit, values, sample, note, patients)
    row["n"] = n if n is not None else row["n"]
    return row


def _plain(
    title: str,
    better: str,
    unit: str,
    values: dict[str, Floats],
    sample: Sample,
    note: str,
    patients: Sequence[str] | None = None,
) -> Trust:
    """A row from values of each image; the first is what is asked, the rest are its controls."""
    who = list(patients if patients is not None else sample.patients)
    intervals = {name: mean_of_known(given, clusters=who) for name, given in values.items()}
    own = intervals.pop("")
    controls = [Control(name=k, value=v.estimate, low=v.low, high=v.high) for k, v in intervals.items()]
    return Trust(
        metric=title, direction=better, unit=unit, value=own.estimate, low=own.low, high=own.high,  # type: ignore[typeddict-item]
        n=own.known, controls=controls, note=note,
    )  # fmt: skip
