"""Are the explanations of a run true? Every measure of its maps and concepts, each beside its controls.

Symbols: B images, S their side, C classes, J concepts, gh x gw patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xcoop.explain.controls import control_maps, randomised, rank_correlation
from xcoop.explain.explanation import maps_of_class, maps_of_concept
from xcoop.explain.faithfulness import CHUNK, curves
from xcoop.explain.localisation import localise
from xcoop.explain.schema import Trust
from xcoop.explain.target import class_target
from xcoop.explain.textual.subsets import margin
from xcoop.explain.trust_concepts import concept_rows
from xcoop.explain.trust_rows import OWN, Floats, Sample, known_row
from xcoop.explain.truth import fit_mask
from xcoop.explain.visual import Methods, explain_maps
from xcoop.methods.model import PromptModel

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

STEPS = 8  # of the deletion and insertion curves


def trust_table(run: TrainedModel, sample: Sample, methods: Methods) -> list[Trust]:
    """Every measure that the run and the images allow, in the order of the page.

    Args:
        run: the trained model.
        sample: of images that it was not trained on.
        methods: of the maps.
    """
    predicted = torch.as_tensor(run.predict(sample.images).probabilities.argmax(1))
    maps = _of_classes(run, sample.images, predicted, methods.of_class)
    others = _of_classes(run, sample.images, (predicted + 1) % len(run.classnames), methods.of_class)
    table = _perturbation(run, sample, predicted, maps, others)
    table += _concept_maps(run, sample, methods.of_concept) + _lesion(sample, maps)
    table += _sanity(run, sample, predicted, maps, others, methods.of_class)
    return table + concept_rows(run, sample, predicted)


def _of_classes(run: TrainedModel, images: Tensor, labels: Tensor, method: str) -> Tensor:
    """The map of each image's own label, (B, gh, gw)."""
    found: dict[int, Tensor] = {}
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        made = _in_parts(run, images[which], partial(maps_of_class, run, label=label, method=method)).cpu()
        found |= dict(zip(which.tolist(), made, strict=True))
    return torch.stack([found[i] for i in range(len(labels))])


def _in_parts(run: TrainedModel, images: Tensor, maps: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([maps(part) for part in images.split(1 if run.mixes_batches else CHUNK)])


# Faithfulness of the maps.


def _perturbation(run: TrainedModel, sample: Sample, labels: Tensor, maps: Tensor, others: Tensor) -> list[Trust]:
    """Deletion and insertion of the predicted class's margin, for two baselines."""
    every = {OWN: maps} | control_maps(maps, range(len(maps)), other=others)
    rows: list[Trust] = []
    for baseline, asked in (("mean", tuple(every)), ("blur", (OWN, "random", "reversed"))):
        kinds = {name: every[name] for name in asked}
        found = {name: _areas(run, sample.images, labels, given, baseline) for name, given in kinds.items()}
        for index, metric in enumerate(("deletion_auc", "insertion_auc")):
            values = {name: areas[index] for name, areas in found.items()}
            note = f"Of the predicted class's logit less the largest other one; erased patches become the {baseline}."
            rows.append(known_row(metric, values, sample.patients, note, f", {baseline} baseline"))
    return rows


def _areas(run: TrainedModel, images: Tensor, labels: Tensor, maps: Tensor, baseline: str) -> tuple[Floats, Floats]:
    """Areas under the deletion and the insertion curve of each image's own label, (B,) each."""
    deletion, insertion = [np.full(len(images), np.nan) for _ in range(2)]
    for label in labels.unique().tolist():
        which = (labels == label).nonzero()[:, 0]
        steps = min(STEPS, maps[0].numel())
        chunk = 1 if run.mixes_batches else CHUNK

        def score(batch: Tensor, label: int = label) -> Tensor:
            return margin(run.logits(run.features(batch)), label)

        given = curves(score, images[which], maps[which].to(images.device), baseline, steps, chunk)
        deletion[which.numpy()] = given.deletion_auc().double().cpu().numpy()
        insertion[which.numpy()] = given.insertion_auc().double().cpu().numpy()
    return deletion, insertion


# Plausibility of the maps.


def _concept_maps(run: TrainedModel, sample: Sample, method: str) -> list[Trust]:
    """Concept maps against the masks of these concepts."""
    pairs = list(_concept_pairs(run, sample, method))
    if not pairs:
        return []
    maps, masks = (torch.cat([given[k] for given in pairs]) for k in (1, 2))  # type: ignore[misc]
    which = [index for given in pairs for index in given[0]]
    patients = [sample.patients[i] for i in which]
    return _localised(maps, masks, patients, ", concepts", "maps of concepts that an image shows", len(set(which)))


def _lesion(sample: Sample, maps: Tensor) -> list[Trust]:
    """The predicted class's maps against the masks of lesions (in chest phantoms, lungs)."""
    if sample.truth is None:
        return []
    size = (sample.images.shape[2], sample.images.shape[3])
    masks = {i: sample.truth.lesion_mask(path) for i, path in enumerate(sample.paths)}
    fitted = {i: torch.as_tensor(fit_mask(mask, size)) for i, mask in masks.items() if mask is not None}
    which = [i for i, mask in fitted.items() if mask.any()]
    if not which:
        return []
    found = torch.stack([fitted[i] for i in which])
    patients = [sample.patients[i] for i in which]
    return _localised(maps[which], found, patients, ", outlined region", "maps of the predicted class", len(which))


def _localised(
    maps: Tensor, masks: Tensor, patients: Sequence[str], suffix: str, what: str, images: int
) -> list[Trust]:
    """Rows for maps (N, gh, gw) and masks (N, H, W), beside a random and a centred map."""
    kinds = {OWN: maps} | {k: v for k, v in control_maps(maps, range(len(maps))).items() if k in ("random", "centre")}
    found = {name: localise(given, masks) for name, given in kinds.items()}
    note = f"{len(maps)} {what}; chance is the mask's share, {np.nanmean(found[OWN].area):.2f}."
    return [
        known_row(metric, {k: getattr(v, metric) for k, v in found.items()}, patients, note, suffix, images)
        for metric in ("pointing", "energy", "iou_best")
    ]


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
    noun = run.model.class_vector.noun
    both = {
        "class_correlation": (others, "Between the maps of the predicted class and of another one."),
        "randomised_correlation": (lost, f"Between the map and that of the same {noun}s over a random image tower."),
    }
    return [
        known_row(name, {OWN: rank_correlation(maps, given).numpy()}, sample.patients, note)
        for name, (given, note) in both.items()
    ]
