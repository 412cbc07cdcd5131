"""The metrics of many bootstrap draws at once, without a loop over images or draws.

A `Statistic` of `xcoop.evaluation.bootstrap` takes one row an image; here a row is the image's label and its
probabilities (`packed`). Of counts of one, each statistic equals the metric of the same name in
`xcoop.evaluation.metrics`; NaN stands for what a draw cannot tell. Of two classes, the one of label 1 is positive.

Symbols: N images, C classes, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.bootstrap import Floats, Ints, Statistic, weighted_mean
from xcoop.evaluation.calibration import calibration_error_of_draws
from xcoop.evaluation.metrics import checked
from xcoop.evaluation.ranking import Binary, auc, average_precision, one_vs_rest, sensitivity_at_specificity
from xcoop.utils.suggest import unknown


def packed(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Labels (N,) and probabilities (N, C) as one array, (N, 1 + C); ValueError says what is wrong with them."""
    y, p = checked(labels, probabilities)
    return np.column_stack([y.astype(np.float64), p])


def unpacked(rows: Floats) -> tuple[Ints, Floats]:
    """The labels (N,) and the probabilities (N, C) of `packed` rows."""
    return rows[:, 0].astype(np.int64), rows[:, 1:]


def accuracy(rows: Floats, counts: Ints) -> Floats:
    """Share of images that are predicted correctly: rows (N, 1 + C) and counts (R, N) to (R,), as all below."""
    labels, probabilities = unpacked(rows)
    return weighted_mean(probabilities.argmax(1) == labels, counts)


def balanced_accuracy(rows: Floats, counts: Ints) -> Floats:
    """Mean sensitivity over the classes that the draw holds."""
    hits, truth, _ = _of_classes(rows, counts)
    return _mean_of_present(hits, truth, truth > 0)


def macro_f1(rows: Floats, counts: Ints) -> Floats:
    """Mean F1 over the classes that the draw holds."""
    hits, truth, predicted = _of_classes(rows, counts)
    return _mean_of_present(2 * hits, truth + predicted, truth > 0)


def ece(rows: Floats, counts: Ints) -> Floats:
    """Expected calibration error, 15 bins."""
    return calibration_error_of_draws(*unpacked(rows), counts)


def brier(rows: Floats, counts: Ints) -> Floats:
    """Mean squared distance to the one-hot truth."""
    labels, probabilities = unpacked(rows)
    return weighted_mean(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1), counts)


def _ranked(binary: Binary) -> Statistic:
    return lambda rows, counts: one_vs_rest(binary, *unpacked(rows), counts)


def _two_classes(rows: Floats, counts: Ints) -> Floats:
    labels, probabilities = unpacked(rows)
    if probabilities.shape[1] != 2:
        return np.full(len(counts), np.nan)
    return sensitivity_at_specificity(labels == 1, probabilities[:, 1], counts)


STATISTICS: dict[str, Statistic] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "macro_auc": _ranked(auc),
    "average_precision": _ranked(average_precision),
    "sensitivity_at_95_specificity": _two_classes,
    "ece": ece,
    "brier": brier,
}


def statistic_of(metric: str) -> Statistic:
    """The statistic of a metric; ValueError names those that there are."""
    if metric not in STATISTICS:
        raise ValueError(unknown("metric", metric, STATISTICS))
    return STATISTICS[metric]


def mean_over_seeds(runs: Sequence[Floats], metric: str, counts: Ints) -> Floats:
    """A metric of each draw, averaged over the seeds: `packed` rows of each seed, and counts (R, N), to (R,)."""
    statistic = statistic_of(metric)
    return np.asarray(np.mean([statistic(rows, counts) for rows in runs], axis=0))


def _of_classes(rows: Floats, counts: Ints) -> tuple[Floats, Floats, Floats]:
    """Of each draw and class: the images found, those of the class, those predicted as it; three (R, C)."""
    labels, probabilities = unpacked(rows)
    guesses, classes = probabilities.argmax(1), probabilities.shape[1]
    truth, predicted = np.eye(classes)[labels], np.eye(classes)[guesses]
    held = counts.astype(np.float64)
    return held @ (truth * predicted), held @ truth, held @ predicted


def _mean_of_present(numerators: Floats, denominators: Floats, present: np.ndarray) -> Floats:
    ratios = np.divide(numerators, denominators, where=present, out=np.zeros_like(numerators))
    return np.asarray(ratios.sum(1) / present.sum(1))
