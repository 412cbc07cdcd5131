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
_CELLS = 200_000  # of draws that are held at once: they stay in the processor's cache


def one_vs_rest(binary: Binary, labels: Ints, probabilities: Floats, counts: Ints, positive: int = 1) -> Floats:
    """Of the positive class for two classes; else one class against the rest, averaged over all classes.

    Args:
        binary: `auc`, or any other of this module.
        labels: (N,).
        probabilities: (N, C).
        counts: (R, N).
        positive: which of two classes.

    Returns:
        (R,); NaN if a class has no image, or all of them.
    """
    classes = probabilities.shape[1]
    if classes < 2:
        return np.full(len(counts), np.nan)
    wanted = (positive,) if classes == 2 else range(classes)
    step = max(1, _CELLS // len(labels))
    return np.concatenate(
        [
            np.mean([binary(labels == c, probabilities[:, c], counts[i : i + step]) for c in wanted], axis=0)
            for i in range(0, len(counts), step)
        ]
    )


def auc(positive: Bools, scores: Floats, counts: Ints) -> Floats:
    """Area under the ROC curve: the share of pairs in which the positive scores above the negative, ties as half."""
    found, alarms = _steps(positive, scores, counts)
    negatives = alarms.sum(0)
    below = negatives - alarms.cumsum(0) + alarms / 2  # (G, R)
    return _ratio((found * below).sum(0), found.sum(0) * negatives)


def average_precision(positive: Bools, scores: Floats, counts: Ints) -> Floats:
    """Sum over the thresholds, from the highest, of precision times the gain in recall, without interpolation.

    A classifier that knows nothing reaches the share of positives, not one half.
    """
    found, alarms = _steps(positive, scores, counts)
    hits = found.cumsum(0)
    precision = hits / np.maximum(hits + alarms.cumsum(0), 1)  # (G, R); 0 before the first image
    return _ratio((found * precision).sum(0), hits[-1] * (alarms.sum(0) > 0))


def sensitivity_at_specificity(
    positive: Bools, scores: Floats, counts: Ints, specificity: float = SPECIFICITY
) -> Floats:
    """The largest sensitivity of any threshold whose specificity is at least `specificity`.

    An image is called positive if its score is at least the threshold; thresholds are the scores, and one above all
    of them (sensitivity 0, specificity 1). The threshold is chosen on the images at hand: it is a description of
    them, and no setting for other images. With fewer than 20 negatives, 0.95 allows no false alarm at all.
    """
    found, alarms = _steps(positive, scores, counts)
    negatives = alarms.sum(0)
    allowed = np.floor((1 - specificity) * negatives + 1e-9)  # (1 - 0.9) * 10 must allow 1
    reached = np.where(alarms.cumsum(0) <= allowed, found.cumsum(0), 0).max(0)
    return _ratio(reached, found.sum(0) * (negatives > 0))


def _steps(positive: Bools, scores: Floats, counts: Ints) -> tuple[Floats, Floats]:
    """The positives and the negatives that each draw holds at each distinct score, highest first: two (G, R)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    held = counts.T[order].astype(np.float64)  # (N, R): sums over the images run along whole rows
    found = held * positive[order, None]
    alarms = held - found
    if len(starts) == len(scores):  # no ties
        return found, alarms
    return np.add.reduceat(found, starts, axis=0), np.add.reduceat(alarms, starts, axis=0)


def _ratio(numerators: Floats, denominators: Floats) -> Floats:
    """(R,) by (R,); NaN for a denominator of 0."""
    return np.divide(numerators, denominators, where=denominators > 0, out=np.full(len(numerators), np.nan))
