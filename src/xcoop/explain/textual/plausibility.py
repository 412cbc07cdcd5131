"""Do concept scores and weights agree with what is known of the data? In both measures higher is better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

FEWEST = 5  # positives, and negatives, below which an AUC says nothing
FEWEST_PAIRS = 3


def concept_auc(scores: Tensor | Sequence[float], labels: Sequence[int | None]) -> float | None:
    """The chance that an image with a concept scores higher on it than one without; ties count half.

    Higher is better: 1 is perfect, 0.5 chance.

    Args:
        scores: (N,), of the images with one concept.
        labels: N expert labels: 1 present, 0 absent, None unknown; the unknown are left out.

    Returns:
        The AUC in [0, 1]; None with fewer than 5 positives or 5 negatives.

    Raises:
        ValueError: numbers of scores and labels that differ, another label, or a score that is not finite.
    """
    values = _numbers(scores, "scores")
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} scores for {len(labels)} labels; one each is needed")
    if others := [label for label in labels if label not in (0, 1, None)]:
        raise ValueError(f"labels must be 0, 1 or None, got {others[0]!r}")
    known = [(label, score) for label, score in zip(labels, values, strict=True) if label is not None]
    positives = sum(int(label) for label, _ in known)
    if min(positives, len(known) - positives) < FEWEST:
        return None
    return float(roc_auc_score(*zip(*known, strict=True)))


def rank_agreement(weights: Tensor | Sequence[float], log_odds: Tensor | Sequence[float]) -> float | None:
    """Spearman's correlation of a model's weights on concepts with how strongly each concept marks the class.

    Higher is better: 1 is the same order, 0 none, -1 the opposite order.

    Args:
        weights: (J,), of the class on the concepts.
        log_odds: (J,), of the class given the concept, from the data; smoothed, so that they are finite.

    Returns:
        The correlation in [-1, 1]; None with fewer than 3 pairs, or where one side is constant and has no order.

    Raises:
        ValueError: numbers that differ, or a value that is not finite.
    """
    one, other = _numbers(weights, "weights"), _numbers(log_odds, "log odds")
    if len(one) != len(other):
        raise ValueError(f"{len(one)} weights for {len(other)} log odds; one each is needed")
    if len(one) < FEWEST_PAIRS or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(spearmanr(np.array(one), np.array(other)).statistic)


def _numbers(values: Tensor | Sequence[float], name: str) -> list[float]:
    numbers = [float(value) for value in values]
    if wrong := [value for value in numbers if not math.isfinite(value)]:
        raise ValueError(f"{name} must be finite, got {wrong[0]}")
    return numbers
