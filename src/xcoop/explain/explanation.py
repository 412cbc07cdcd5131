"""Why a model sees what it sees in one image: maps, concepts for and against, sentences.

Symbols: B images, C classes, J concepts, gh x gw patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.explain.target import class_target, concept_target
from xcoop.explain.textual.concept_set import ConceptSet
from xcoop.explain.textual.intervention import holds_concepts, leave_one_out, without_part
from xcoop.explain.textual.prose import image_sentences
from xcoop.explain.visual import Methods, explain_maps, methods
from xcoop.methods.alignment import unit
from xcoop.utils.suggest import unknown

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

Map = NDArray[np.float32]
NOTHING = 1e-5  # logits; smaller changes are rounding


@dataclass(frozen=True)
class Explanation:
    """What is said of one image.

    Attributes:
        predicted: the most probable class.
        probabilities: by class.
        methods: of the class maps, and of the concept maps.
        class_maps: by class, where the tower looked for its logit, raw; (gh, gw), finer for methods at half a patch;
            higher = more relevant.
        concept_maps: the same by concept.
        concept_scores: by concept, the cosine of the image with its sentence.
        contributions: by concept, and by class that it bears on: logit with the concept less logit without it.
        text: sentences, each with its number.
    """

    predicted: str
    probabilities: dict[str, float]
    methods: Methods
    class_maps: dict[str, Map]
    concept_maps: dict[str, Map]
    concept_scores: dict[str, float]
    contributions: dict[str, dict[str, float]]
    text: list[str]


def explain_features(
    run: TrainedModel, images: Tensor, method: str = "", concepts: Sequence[str] | None = None
) -> list[Explanation]:
    """Explains preprocessed images; see `TrainedModel.explain`.

    Args:
        run: the trained model.
        images: (B, 3, S, S); for a model that mixes the images of a batch, B must be 1.
        method: of all maps; "": the backbone's defaults, one for classes and one for concepts.
        concepts: which concepts get maps; None: all.

    Raises:
        ValueError: an unknown method or concept.
    """
    known = run.concepts
    wanted = list(known.texts if known else ()) if concepts is None else list(concepts)
    for name in wanted:
        if known is None or name not in known.texts:
            raise ValueError(unknown("concept", name, known.texts if known else ()))
    chosen = methods(run.backbone, method)
    features = run.features(images)
    probabilities = run.logits(features).double().softmax(1).cpu()
    maps = {name: _numbers(maps_of_class(run, images, c, chosen.of_class)) for c, name in enumerate(run.classnames)}
    seen = {name: _numbers(maps_of_concept(run, images, name, chosen.of_concept)) for name in wanted}
    scores = concept_scores(features, known)
    changes = concept_changes(run, features)
    return [_one(run, index, chosen, probabilities[index], maps, seen, scores, changes) for index in range(len(images))]


def maps_of_class(run: TrainedModel, images: Tensor, label: int, method: str) -> Tensor:
    """Maps (B, gh, gw) of the logit that the model uses for a class."""
    return explain_maps(method, run.image_backbone, images, class_target(run.model, label))


def maps_of_concept(run: TrainedModel, images: Tensor, concept: str, method: str) -> Tensor:
    """Maps (B, gh, gw) of the similarity with a concept's sentence."""
    known = run.concepts
    if known is None:
        raise ValueError(f"{run.folder}: no concept bank fits the classes {run.classnames}")
    vector = known.vectors[known.texts.index(concept)]
    return explain_maps(method, run.image_backbone, images, concept_target(concept, vector, run.model.scale))


def concept_scores(features: ImageFeatures, known: ConceptSet | None) -> Tensor:
    """Cosines of images with concepts, (B, J)."""
    return unit(features.pooled) @ known.vectors.T if known else features.pooled.new_zeros(len(features.pooled), 0)


def concept_changes(run: TrainedModel, features: ImageFeatures, control: int | None = None) -> Tensor | None:
    """Logit with a concept less logit without it, (B, C, J); None without concepts.

    A model that holds the concepts in its class features is asked again without each of them; of others the concept's
    part of the decomposed prompt is taken out.

    Args:
        run: the trained model.
        features: of B images.
        control: a seed: unrelated phrases, or random directions, in the place of concepts.
    """
    if run.concepts is None or run.bank is None:
        return None
    if holds_concepts(run.model):
        return leave_one_out(run.model, features, run.changes(control), len(run.concepts.texts))
    if run.decomposition is None:
        return None
    return without_part(run.model, features, run.class_vectors(), run.decomposition, control)


def _one(
    run: TrainedModel,
    index: int,
    chosen: Methods,
    probabilities: Tensor,
    maps: dict[str, Map],
    seen: dict[str, Map],
    scores: Tensor,
    changes: Tensor | None,
) -> Explanation:
    names, texts = run.classnames, run.concepts.texts if run.concepts else ()
    predicted = int(probabilities.argmax())
    moved: dict[str, dict[str, float]] = {}
    for j, text in enumerate(texts if changes is not None else ()):
        given = {name: float(changes[index, c, j]) for c, name in enumerate(names)}  # type: ignore[index]
        moved[text] = {name: value for name, value in given.items() if abs(value) > NOTHING}
    for_predicted = {text: given[names[predicted]] for text, given in moved.items() if names[predicted] in given}
    return Explanation(
        predicted=names[predicted],
        probabilities={name: float(p) for name, p in zip(names, probabilities, strict=True)},
        methods=chosen,
        class_maps={name: values[index] for name, values in maps.items()},
        concept_maps={name: values[index] for name, values in seen.items()},
        concept_scores={text: float(scores[index, j]) for j, text in enumerate(texts)},
        contributions=moved,
        text=image_sentences(names[predicted], float(probabilities[predicted]), for_predicted),
    )


def _numbers(maps: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = torch.nan_to_num(maps).cpu().numpy()
    return values
