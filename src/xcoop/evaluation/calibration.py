"""Whether a confidence of 80 % is right 80 % of the time: reliability bins, and the errors computed from them.

The confidence of an image is the probability of the class that is predicted. Bins are of equal width, (low, high], or
hold equal numbers of images. A calibration error is never 0 by chance: that of a perfectly calibrated model on few
images is well above 0, and that of a bootstrap draw is above that of the images drawn from. So its interval lies
high; read it beside the number of images, and trust the difference of two methods, where most of this cancels, more.

Symbols: N images, C classes, R draws, B bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xcoop.evaluation.bootstrap import Floats, Ints

ECE_BINS = 15


class Reliability(NamedTuple):
    """The bins of a reliability diagram; each attribute is (B,), NaN where a bin is empty.

    Attributes:
        low: lower end of the bin (of equal-mass bins: the least confidence in it).
        high: upper end (the largest confidence in it).
        images: how many fall into it.
        confidence: their mean confidence, in [0, 1].
        accuracy: the share of them that is predicted correctly.
    """

    low: Floats
    high: Floats
    images: Ints
    confidence: Floats
    accuracy: Floats


def reliability(labels: Ints, probabilities: Floats, bins: int = ECE_BINS, equal_mass: bool = False) -> Reliability:
    """The bins of a reliability diagram.

    Args:
        labels: (N,).
        probabilities: (N, C).
        bins: B.
        equal_mass: bins that hold equal numbers of images, instead of bins of equal width.
    """
    confidence, correct = _confidence(labels, probabilities)
    which = _equal_mass(confidence, bins) if equal_mass else _equal_width(confidence, bins)
    count = np.bincount(which, minlength=bins)
    low, high = np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:]
    if equal_mass:
        low, high = np.full(bins, np.inf), np.full(bins, -np.inf)
        np.minimum.at(low, which, confidence)
        np.maximum.at(high, which, confidence)
        low[count == 0] = high[count == 0] = np.nan
    with np.errstate(invalid="ignore"):
        means = [np.bincount(which, weights=values, minlength=bins) / count for values in (confidence, correct)]
    return Reliability(low, high, count, *means)


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
    return float(calibration_error_of_draws(labels, probabilities, np.ones((1, len(labels)), dtype=np.int64), bins)[0])


def calibration_error_of_draws(labels: Ints, probabilities: Floats, counts: Ints, bins: int = ECE_BINS) -> Floats:
    """`expected_calibration_error` of draws that hold each image `counts` times, (R, N): (R,)."""
    confidence, correct = _confidence(labels, probabilities)
    gaps = np.eye(bins)[_equal_width(confidence, bins)] * (correct - confidence)[:, None]  # (N, B)
    return np.asarray(np.abs(counts @ gaps).sum(1) / counts.sum(1))


def adaptive_calibration_error(labels: Ints, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy, over bins that hold equal numbers of images.

    Equal-width bins are mostly empty for a confident model; these are not. Images of equal confidence share a bin, so
    the figure does not depend on the order of the images.

    Source: Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis for Natural Language Processing
    Models", 2015, applied to the top probability.
    """
    confidence, correct = _confidence(labels, probabilities)
    gaps = np.bincount(_equal_mass(confidence, bins), weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def _confidence(labels: Ints, probabilities: Floats) -> tuple[Floats, Floats]:
    """The confidence of each image, and 1 where it is right: two (N,)."""
    correct = probabilities.argmax(1) == labels
    return np.minimum(probabilities.max(1), 1.0), correct.astype(np.float64)


def _equal_width(confidence: Floats, bins: int) -> Ints:
    """The bin of each image, (N,)."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def _equal_mass(confidence: Floats, bins: int) -> Ints:
    """The bin of each image, (N,), from the mean rank of its confidence among all."""
    _, which, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # (ranks from 0 to N), equal values in the middle of theirs
    return np.floor(bins * middle / len(confidence)).astype(np.int64)[which.reshape(-1)]
