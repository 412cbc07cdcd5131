"""Classification metrics from the probabilities of each image, in float64, without loops over images.

Symbols: N images, C classes. All results are fractions, never percent. They equal scikit-learn's (the tests compare),
with one difference that is meant: what cannot be known is None. A class without an image in the truth has no
sensitivity and no AUC; counting it as 0 would change the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation import ranking
from xcoop.evaluation.bootstrap import Floats, Ints
from xcoop.evaluation.calibration import adaptive_calibration_error, expected_calibration_error

LOWER_IS_BETTER = frozenset({"error_rate", "ece", "adaptive_ece", "brier"})
"""Of all other metrics, more is better."""


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike, positive: int = 1) -> dict[str, float | None]:
    """All metrics of one evaluation.

    Args:
        labels: true classes, (N,), integers in [0, C).
        probabilities: (N, C), each row sums to one.
        positive: of two classes, the one that average precision and sensitivity at a specificity are of.

    Returns:
        accuracy, error_rate, balanced_accuracy and macro_f1 (means over the classes that the truth contains),
        macro_auc, average_precision (of the positive class of two, else macro), sensitivity_at_95_specificity (of the
        positive class; two classes only), mcc, ece, adaptive_ece, brier, and for each class c `sensitivity_<c>` and
        `specificity_<c>`. All in [0, 1] but mcc in [-1, 1] and brier in [0, 2].
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
        "average_precision": macro_average_precision(y, p, positive),
        "sensitivity_at_95_specificity": sensitivity_at_95_specificity(y, p, positive),
        "mcc": matthews(counts),
        "ece": expected_calibration_error(y, p),
        "adaptive_ece": adaptive_calibration_error(y, p),
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
    """Area under the ROC curve: of either of two classes, which is the same, else one class against the rest, averaged.

    Args:
        labels: (N,).
        probabilities: (N, C).

    Returns:
        In [0, 1], or None if a class has no image (or all of them).
    """
    return _known(ranking.one_vs_rest(ranking.auc, labels, probabilities, _once(labels)))


def macro_average_precision(labels: Ints, probabilities: Floats, positive: int = 1) -> float | None:
    """Average precision: of the positive class for two classes, else one class against the rest, averaged."""
    return _known(ranking.one_vs_rest(ranking.average_precision, labels, probabilities, _once(labels), positive))


def sensitivity_at_95_specificity(labels: Ints, probabilities: Floats, positive: int = 1) -> float | None:
    """The largest sensitivity for the positive class of any threshold whose specificity is at least 0.95.

    See `xcoop.evaluation.ranking.sensitivity_at_specificity`. None for other than two classes, or if one has no image.
    """
    if probabilities.shape[1] != 2:
        return None
    return _known(ranking.sensitivity_at_specificity(labels == positive, probabilities[:, positive], _once(labels)))


def matthews(counts: Ints) -> float | None:
    """Matthews' correlation of truth and prediction (R_K for many classes); None if either is constant."""
    truth, predicted, total = counts.sum(1).astype(float), counts.sum(0).astype(float), float(counts.sum())
    covariance = np.trace(counts) * total - truth @ predicted
    spread = (total**2 - predicted @ predicted) * (total**2 - truth @ truth)
    return float(covariance / np.sqrt(spread)) if spread > 0 else None


def brier(labels: Ints, probabilities: Floats) -> float:
    """Mean over the images of the squared distance to the one-hot truth, summed over the classes; in [0, 2]."""
    return float(((probabilities - _one_hot(labels, probabilities.shape[1])) ** 2).sum(1).mean())


def _once(labels: Ints) -> Ints:
    """Each image counted once, (1, N)."""
    return np.ones((1, len(labels)), dtype=np.int64)


def _known(values: Floats) -> float | None:
    """The one value of (1,); None for NaN."""
    return None if np.isnan(values[0]) else float(values[0])


def _one_hot(labels: Ints, classes: int) -> Floats:
    return np.eye(classes)[labels]  # (N, C)


def _ratios(numerators: Ints, denominators: Ints) -> list[float | None]:
    return [float(n / d) if d else None for n, d in zip(numerators, denominators, strict=True)]


def _mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
