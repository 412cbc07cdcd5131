"""What the order of the scores says: AUC, average precision, sensitivity at a specificity; for many draws at once.

Each function takes the images' scores and how often each of R draws holds each image, and gives R values: one sort
serves all draws. With counts of one, (1, N), they are the metrics of the images at hand. Equal scores are one
threshold. NaN stands for what a draw cannot tell, because it holds no positive or no negative image.

Symbols: N images, C classes, R draws, G distinct scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xcoop.evaluation.bootstrap import Floats, Ints

Bools = NDArray[np.bool_]
Binary = Callable[[Bools, Floats, Ints], Floats]
"""Of what is positive (N,), the scores (N,) and the counts (R, N): (R,)."""

SPECIFICITY = 0.95


def one_vs_rest(binary: Binary, labels: Ints, probabilities: Floats, counts: Ints) -> Floats:
    """Of class 1 for two classes; else one class against the rest, averaged over all classes.

    Args:
        binary: `auc`, or any other of this module.
        labels: (N,).
        probabilities: (N, C).
        counts: (R, N).

    Returns:
        (R,); NaN if a class has no image, or all of them.
    """
    classes = probabilities.shape[1]
    if classes < 2:
        return np.full(len(counts), np.nan)
    wanted = (1,) if classes == 2 else range(classes)
    return np.asarray(np.mean([binary(labels == c, probabilities[:, c], counts) for c in wanted], axis=0))


def auc(positive: Bools, scores: Floats, counts: Ints) -> Floats:
    """Area under the ROC curve: the share of pairs in which the positive scores above the negative, ties as half."""
    found, alarms = _steps(positive, scores, counts)
    negatives = alarms.sum(1, keepdims=True)
    below = negatives - alarms.cumsum(1) + alarms / 2  # (R, G)
    return _ratio((found * below).sum(1), found.sum(1) * negatives[:, 0])


def average_precision(positive: Bools, scores: Floats, counts: Ints) -> Floats:
    """Sum over the thresholds, from the highest, of precision times the gain in recall, without interpolation.

    A classifier that knows nothing reaches the share of positives, not one half.
    """
    found, alarms = _steps(positive, scores, counts)
    precision = found.cumsum(1) / np.maximum((found + alarms).cumsum(1), 1)  # (R, G); 0 before the first image
    both = (found.sum(1) > 0) & (alarms.sum(1) > 0)
    return _ratio((found * precision).sum(1), found.sum(1) * both)


def sensitivity_at_specificity(
    positive: Bools, scores: Floats, counts: Ints, specificity: float = SPECIFICITY
) -> Floats:
    """The largest sensitivity of any threshold whose specificity is at least `specificity`.

    An image is called positive if its score is at least the threshold; thresholds are the scores, and one above all
    of them (sensitivity 0, specificity 1). The threshold is chosen on the images at hand: it is a description of
    them, and no setting for other images. With fewer than 20 negatives, 0.95 allows no false alarm at all.
    """
    found, alarms = _steps(positive, scores, counts)
    negatives = alarms.sum(1)
    allowed = np.floor((1 - specificity) * negatives + 1e-9)  # 0.05 * 20 must allow 1
    reached = np.where(alarms.cumsum(1) <= allowed[:, None], found.cumsum(1), 0).max(1)
    return _ratio(reached, found.sum(1) * (negatives > 0))


def _steps(positive: Bools, scores: Floats, counts: Ints) -> tuple[Ints, Ints]:
    """The positives and the negatives that each draw holds at each distinct score, highest first: two (R, G)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    held = counts[:, order]
    found = held * positive[order]
    alarms = held - found
    if len(starts) == len(scores):  # no ties
        return found, alarms
    return np.add.reduceat(found, starts, axis=1), np.add.reduceat(alarms, starts, axis=1)


def _ratio(numerators: NDArray[np.generic], denominators: NDArray[np.generic]) -> Floats:
    """(R,) by (R,); NaN for a denominator of 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Floats = np.asarray(numerators, dtype=np.float64) / np.asarray(denominators, dtype=np.float64)
    ratios[np.asarray(denominators) == 0] = np.nan
    return ratios
