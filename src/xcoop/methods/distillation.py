"""What frozen CLIP knows, as something to learn from: class features of sentences, and logits to be imitated.

Symbols: B images, C classes, N sentences a class, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.methods.alignment import unit
from xcoop.methods.templates import fill

AT_ONCE = 256  # sentences that are encoded together


@torch.no_grad()
def sentence_features(backbone: Backbone, sentences: Sequence[Sequence[str]], raw: bool = False) -> Tensor:
    """Features of the sentences of each class.

    Args:
        backbone: encodes them.
        sentences: N for each of C classes.
        raw: as they come out of the text tower, instead of unit.

    Returns:
        (C, N, D).
    """
    texts = [text for row in sentences for text in row]
    parts = [backbone.encode_text(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
    features = torch.cat(parts)
    return (features if raw else unit(features)).unflatten(0, (len(sentences), -1))


def template_features(
    backbone: Backbone, templates: Sequence[str], classnames: Sequence[str], raw: bool = False
) -> Tensor:
    """Features of each class's name in each of N templates: (C, N, D), unit unless `raw`."""
    return sentence_features(backbone, [[fill(template, name) for template in templates] for name in classnames], raw)


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far a student's class probabilities are from a teacher's: T^2 KL(teacher || student), mean of the images.

    Both are softened, softmax(logits / T); T^2 keeps the gradient's size (Hinton et al., arXiv 1503.02531).

    Args:
        student: logits, (B, C).
        teacher: logits, (B, C); no gradient reaches them.
        temperature: T > 0.

    Returns:
        A scalar, >= 0.
    """
    ours = F.log_softmax(student / temperature, dim=1)
    theirs = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@torch.no_grad()
def sentence_scores(images: Tensor, sentences: Tensor, scale: Tensor | float) -> Tensor:
    """How strongly some images answer to the n-th sentences of the classes: the mean of each image's largest logit.

    Args:
        images: (B, D).
        sentences: (C, N, D), unit.
        scale: CLIP's inverse temperature.

    Returns:
        (N,), computed in 32 bit: the scores lie close together.
    """
    with torch.autocast(images.device.type, enabled=False):
        cosines = torch.einsum("bd,cnd->bcn", unit(images.float()), sentences.float())
        return scale * cosines.amax(1).mean(0)


@torch.no_grad()
def inliers(scores: Tensor, tau: float) -> Tensor:
    """Which scores lie within `tau` standard deviations (n - 1) of their mean.

    Args:
        scores: (N,).
        tau: > 0.

    Returns:
        (N,) bool; what is nearest to the mean is always in, so that something is.
    """
    distance = (scores - scores.mean()).abs()
    limit = tau * scores.std(correction=min(1, len(scores) - 1))  # one score has none
    return distance <= torch.maximum(limit, distance.min())
