"""Classification metrics from the probabilities of each image, in float64, without loops over images.

Symbols: N images, C classes. All results are fractions, never percent. They equal scikit-learn's (the tests compare),
with one difference that is meant: what cannot be known is None. A class without an image in the truth has no
sensitivity and no AUC; counting it as 0 would change the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ECE_BINS = 15


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float | None]:
    """All metrics of one evaluation.

    Args:
        labels: true classes, (N,), integers in [0, C).
        probabilities: (N, C), each row sums to one.

    Returns:
        accuracy, error_rate, balanced_accuracy, macro_f1, macro_auc, mcc, ece, brier, and for each class c
        `sensitivity_<c>` and `specificity_<c>`. All in [0, 1] but mcc in [-1, 1] and brier in [0, 2].
        None stands for what the given labels cannot tell.

    Raises:
        ValueError: wrong shapes, labels out of range, no image, or probabilities that are none (NaN included).
    """
    y, p = checked(labels, probabilities)
    counts = confusion(y, p.argmax(1), p.shape[1])
    accuracy = float(np.trace(counts) / counts.sum())
    sensitivity, specificity = sensitivities(counts), specificities(counts)
    return {
        "accuracy": accuracy,
        "error_rate": 1 - accuracy,
        "balanced_accuracy": _mean_of_known(sensitivity),
        "macro_f1": macro_f1(counts),
        "macro_auc": macro_auc(y, p),
        "mcc": matthews(counts),
        "ece": expected_calibration_error(y, p),
        "brier": brier(y, p),
        **{f"sensitivity_{c}": value for c, value in enumerate(sensitivity)},
        **{f"specificity_{c}": value for c, value in enumerate(specificity)},
    }


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """Labels (N,) and probabilities (N, C) as arrays; ValueError says what is wrong with them."""
    y = np.asarray(labels)
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(y):
        raise ValueError(f"expected labels (N,) and probabilities (N, C) with N > 0, got {y.shape} and {p.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {y.dtype}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must be in [0, {p.shape[1]}), got {y.min()} to {y.max()}")
    if not np.isfinite(p).all():
        bad = np.flatnonzero(~np.isfinite(p).all(1))
        raise ValueError(f"the probabilities of {len(bad)} images are NaN or infinite, the first in row {bad[0]}")
    if p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError("probabilities must be >= 0 and each row must sum to one; were logits given?")
    return y.astype(np.int64), p


def confusion(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts, (C, C): row the truth, column the prediction."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def sensitivities(counts: Ints) -> list[float | None]:
    """Share of each class's images that are found (recall); None for a class without images. `counts`: (C, C)."""
    return _ratios(np.diag(counts), counts.sum(1))


def specificities(counts: Ints) -> list[float | None]:
    """Share of the other classes' images that are not taken for this class; None if there are none."""
    others = counts.sum() - counts.sum(1)
    false_alarms = counts.sum(0) - np.diag(counts)
    return _ratios(others - false_alarms, others)


def macro_f1(counts: Ints) -> float:
    """Mean F1 over the classes that the truth contains (the rule of Dassl's evaluator). `counts`: (C, C)."""
    present = counts.sum(1) > 0
    hits = 2 * np.diag(counts)[present]
    return float((hits / (counts.sum(1) + counts.sum(0))[present]).mean())


def macro_auc(labels: Ints, probabilities: Floats) -> float | None:
    """Area under the ROC curve: of class 1 for two classes, else one class against the rest, averaged.

    Computed from ranks: AUC = (R - n(n+1)/2) / (n m), R the rank sum of the n positives among n + m, ties averaged.

    Args:
        labels: (N,).
        probabilities: (N, C).

    Returns:
        In [0, 1], or None if a class has no image (or all of them).
    """
    classes = probabilities.shape[1]
    positives = np.bincount(labels, minlength=classes)  # (C,)
    if (positives == 0).any() or classes < 2:
        return None
    negatives = len(labels) - positives
    ranks = np.stack([_ranks(column) for column in probabilities.T], axis=1)  # (N, C)
    sums = (ranks * _one_hot(labels, classes)).sum(0)
    areas = (sums - positives * (positives + 1) / 2) / (positives * negatives)
    return float(areas[1] if classes == 2 else areas.mean())


def matthews(counts: Ints) -> float | None:
    """Matthews' correlation of truth and prediction (R_K for many classes); None if either is constant."""
    truth, predicted, total = counts.sum(1).astype(float), counts.sum(0).astype(float), float(counts.sum())
    covariance = np.trace(counts) * total - truth @ predicted
    spread = (total**2 - predicted @ predicted) * (total**2 - truth @ truth)
    return float(covariance / np.sqrt(spread)) if spread > 0 else None


def expected_calibration_error(labels: Ints, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy, over equal-width bins (low, high] of the top probability.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.

    Args:
        labels: (N,).
        probabilities: (N, C).
        bins: how many.

    Returns:
        In [0, 1].
    """
    confidence = np.minimum(probabilities.max(1), 1.0)
    correct = probabilities.argmax(1) == labels
    which = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)  # n_b (accuracy_b - confidence_b)
    return float(np.abs(gaps).sum() / len(labels))


def brier(labels: Ints, probabilities: Floats) -> float:
    """Mean over the images of the squared distance to the one-hot truth, summed over the classes; in [0, 2]."""
    return float(((probabilities - _one_hot(labels, probabilities.shape[1])) ** 2).sum(1).mean())


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, (N,); equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(counts) - (counts - 1) / 2
    return last[which.reshape(-1)]


def _one_hot(labels: Ints, classes: int) -> Floats:
    return np.eye(classes)[labels]  # (N, C)


def _ratios(numerators: Ints, denominators: Ints) -> list[float | None]:
    return [float(n / d) if d else None for n, d in zip(numerators, denominators, strict=True)]


def _mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
