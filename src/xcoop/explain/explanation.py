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
from xcoop.explain.concepts import ConceptSet, leave_one_out, without_part
from xcoop.explain.map_methods import class_target, concept_target
from xcoop.explain.maps import Methods, explain_maps, methods
from xcoop.explain.words import image_sentences
from xcoop.methods.alignment import unit
from xcoop.utils.console import unknown

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

HeatMap = NDArray[np.float32]
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
    class_maps: dict[str, HeatMap]
    concept_maps: dict[str, HeatMap]
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
    names, texts = run.classnames, run.concepts.texts if run.concepts else ()
    for name in concepts or ():
        if name not in texts:
            raise ValueError(unknown("concept", name, texts))
    chosen = methods(run.backbone, method)
    features = run.features(images)
    probabilities = run.logits(features).double().softmax(1).cpu()
    class_maps = {name: _values(maps_of_class(run, images, c, chosen.of_class)) for c, name in enumerate(names)}
    wanted = texts if concepts is None else concepts
    concept_maps = {text: _values(maps_of_concept(run, images, text, chosen.of_concept)) for text in wanted}
    scores = concept_scores(features, run.concepts)
    changes = concept_changes(run, features)
    found = []
    for index, row in enumerate(probabilities):
        predicted = names[int(row.argmax())]
        moved: dict[str, dict[str, float]] = {}
        if changes is not None:
            for text, of_classes in zip(texts, changes[index].T.tolist(), strict=True):
                moved[text] = {n: value for n, value in zip(names, of_classes, strict=True) if abs(value) > NOTHING}
        for_predicted = {text: given[predicted] for text, given in moved.items() if predicted in given}
        found.append(
            Explanation(
                predicted=predicted,
                probabilities=dict(zip(names, row.tolist(), strict=True)),
                methods=chosen,
                class_maps={name: values[index] for name, values in class_maps.items()},
                concept_maps={text: values[index] for text, values in concept_maps.items()},
                concept_scores=dict(zip(texts, scores[index].tolist(), strict=True)),
                contributions=moved,
                text=image_sentences(predicted, float(row.max()), for_predicted),
            )
        )
    return found


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


def _values(maps: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = torch.nan_to_num(maps).cpu().numpy()
    return values


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
    if run.model.holds_concepts:
        return leave_one_out(run.model, features, run.changes(control), len(run.concepts.texts))
    if run.decomposition is None:
        return None
    return without_part(run.model, features, run.class_vectors(), run.decomposition, control)
