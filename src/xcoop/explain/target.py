"""What an explanation explains: one number an image, the logit of a class or the similarity with a concept.

Symbols: B images, C classes, K prompts a class, T patches, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel


@dataclass(frozen=True)
class Target:
    """A differentiable score of image features, and the text that it compares them with.

    Attributes:
        name: of the class or concept.
        score: features of B images to (B,); each image's score depends on its own features alone.
        direction: features of B images to (B, D), the unit text vector that they are compared with.
    """

    name: str
    score: Callable[[ImageFeatures], Tensor]
    direction: Callable[[ImageFeatures], Tensor]


def class_target(model: PromptModel, label: int) -> Target:
    """The logit that a trained model really uses for a class, local terms and all prompts included."""

    def direction(features: ImageFeatures) -> Tensor:
        return class_vectors(model, features)[:, label]

    return Target(model.classnames[label], lambda features: model.logits(features)[:, label], direction)


def concept_target(name: str, vector: Tensor, scale: Tensor | float) -> Target:
    """The scaled cosine of an image with the sentence of a concept.

    Args:
        name: the concept.
        vector: text feature, (D,).
        scale: CLIP's inverse temperature.
    """
    vector = unit(vector)

    def direction(features: ImageFeatures) -> Tensor:
        return vector.expand(len(features.pooled), -1)

    return Target(name, lambda features: scale * unit(features.pooled) @ vector, direction)


@torch.no_grad()
def class_vectors(model: PromptModel, features: ImageFeatures) -> Tensor:
    """What a model compares each image with: the mean of each class's unit prompt features, renormalised.

    Args:
        model: a trained method.
        features: of B images; only methods whose prompts depend on the image look at them.

    Returns:
        (B, C, D), unit.
    """
    text = model.image_text_features(features)  # (B or 1, K, C, D)
    return unit(unit(text).mean(1)).expand(len(features.pooled), -1, -1)
