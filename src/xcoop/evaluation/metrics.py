"""How good a classifier is: metrics from the probabilities of each image, and of many bootstrap draws of the images.

All results are fractions, never percent. The functions of `counts` give one value for each of R draws, in float64 and
without a loop over images or draws; counts of one, (1, N), give the metric of the images at hand. (scikit-learn, which
the tests take for referee, needs 3 seconds where these need 0.1 for 1000 draws of 400 images.) What cannot be known is
None, in draws NaN: a class without an image has no sensitivity and no AUC, and counting it as 0 would change the mean.

Symbols: N images, C classes, R draws, G distinct scores, B bins.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xcoop.utils.console import unknown

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Statistic = Callable[[Ints, Floats, Ints], Floats]
"""Of labels (N,), probabilities (N, C) and how often each draw holds each image, (R, N): the metric of each, (R,)."""
Binary = Callable[[Bools, Floats, Ints], Floats]
"""Of what is positive (N,), the scores (N,) and the counts (R, N): (R,)."""

LOWER_IS_BETTER = frozenset({"error_rate", "ece", "adaptive_ece", "brier"})
"""Of all other metrics, more is better."""
ECE_BINS = 15
SPECIFICITY = 0.95
_CELLS = 200_000  # of draws that are held at once: they stay in the processor's cache


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
    once = np.ones((1, len(y)), dtype=np.int64)
    counts = confusion(y, p.argmax(1), p.shape[1])
    hits, truth, guessed, total = np.diag(counts), counts.sum(1), counts.sum(0), counts.sum()
    right = float(hits.sum() / total)
    negatives = total - truth
    rejected = negatives - guessed + hits  # of each class, the images of others that are not taken for it
    # Matthews' correlation of truth and prediction (R_K for many classes); not known if either is constant.
    spread = float(total**2 - guessed @ guessed) * float(total**2 - truth @ truth)
    return {
        "accuracy": right,
        "error_rate": 1 - right,
        "balanced_accuracy": _known(balanced_accuracy(y, p, once)),
        "macro_f1": _known(macro_f1(y, p, once)),
        "macro_auc": _known(one_vs_rest(auc, y, p, once)),  # of either of two classes, which is the same
        "average_precision": _known(one_vs_rest(average_precision, y, p, once, positive)),
        "sensitivity_at_95_specificity": _known(sensitivity_of_two(y, p, once, positive)),
        "mcc": float((hits.sum() * total - truth @ guessed) / np.sqrt(spread)) if spread > 0 else None,
        "ece": _known(ece(y, p, once)),
        "adaptive_ece": adaptive_calibration_error(y, p),
        "brier": _known(brier(y, p, once)),
        **{f"sensitivity_{c}": _ratio(hits[c], truth[c]) for c in range(len(hits))},
        **{f"specificity_{c}": _ratio(rejected[c], negatives[c]) for c in range(len(hits))},
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


def _known(values: Floats) -> float | None:
    """The one value of (1,); None for NaN."""
    return None if np.isnan(values[0]) else float(values[0])


def _ratio(numerator: int, denominator: int) -> float | None:
    return float(numerator / denominator) if denominator else None


# Metrics of draws, from the predicted classes.


def weighted_mean(values: ArrayLike, counts: Ints) -> Floats:
    """The mean of each draw: values (N,) and counts (R, N) to (R,)."""
    return counts @ np.asarray(values, dtype=np.float64) / counts.sum(1)


def accuracy(labels: Ints, probabilities: Floats, counts: Ints) -> Floats:
    """Share of images that are predicted correctly."""
    return weighted_mean(probabilities.argmax(1) == labels, counts)


def balanced_accuracy(labels: Ints, probabilities: Floats, counts: Ints) -> Floats:
    """Mean sensitivity over the classes that the draw holds."""
    hits, truth, _ = _of_classes(labels, probabilities, counts)
    return _mean_of_present(hits, truth, truth > 0)


def macro_f1(labels: Ints, probabilities: Floats, counts: Ints) -> Floats:
    """Mean F1 over the classes that the draw holds (the rule of Dassl's evaluator)."""
    hits, truth, guessed = _of_classes(labels, probabilities, counts)
    return _mean_of_present(2 * hits, truth + guessed, truth > 0)


def brier(labels: Ints, probabilities: Floats, counts: Ints) -> Floats:
    """Mean over the images of the squared distance to the one-hot truth, summed over the classes; in [0, 2]."""
    return weighted_mean(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1), counts)


def _of_classes(labels: Ints, probabilities: Floats, counts: Ints) -> tuple[Floats, Floats, Floats]:
    """Of each draw and class: the images found, those of the class, those predicted as it; three (R, C)."""
    one_hot = np.eye(probabilities.shape[1])
    truth, guessed, held = one_hot[labels], one_hot[probabilities.argmax(1)], counts.astype(np.float64)
    return held @ (truth * guessed), held @ truth, held @ guessed


def _mean_of_present(numerators: Floats, denominators: Floats, present: Bools) -> Floats:
    ratios = np.divide(numerators, denominators, where=present, out=np.zeros_like(numerators))
    return np.asarray(ratios.sum(1) / present.sum(1))


# Metrics of draws, from the order of the scores. One sort serves all draws; equal scores are one threshold.


def one_vs_rest(binary: Binary, labels: Ints, probabilities: Floats, counts: Ints, positive: int = 1) -> Floats:
    """Of the positive class for two classes; else one class against the rest, averaged over all classes.

    Args:
        binary: `auc` or `average_precision`.
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
    found, alarms = _thresholds(positive, scores, counts)
    negatives = alarms.sum(0)
    below = negatives - alarms.cumsum(0) + alarms / 2  # (G, R)
    return _ratios((found * below).sum(0), found.sum(0) * negatives)


def average_precision(positive: Bools, scores: Floats, counts: Ints) -> Floats:
    """Sum over the thresholds, from the highest, of precision times the gain in recall, without interpolation.

    A classifier that knows nothing reaches the share of positives, not one half.
    """
    found, alarms = _thresholds(positive, scores, counts)
    hits = found.cumsum(0)
    precision = hits / np.maximum(hits + alarms.cumsum(0), 1)  # (G, R); 0 before the first image
    return _ratios((found * precision).sum(0), hits[-1] * (alarms.sum(0) > 0))


def sensitivity_at_specificity(
    positive: Bools, scores: Floats, counts: Ints, specificity: float = SPECIFICITY
) -> Floats:
    """The largest sensitivity of any threshold whose specificity is at least `specificity`.

    An image is called positive if its score is at least the threshold; thresholds are the scores, and one above all
    of them (sensitivity 0, specificity 1). The threshold is chosen on the images at hand: it is a description of
    them, and no setting for other images. With fewer than 20 negatives, 0.95 allows no false alarm at all.
    """
    found, alarms = _thresholds(positive, scores, counts)
    negatives = alarms.sum(0)
    allowed = np.floor((1 - specificity) * negatives + 1e-9)  # (1 - 0.9) * 10 must allow 1
    reached = np.where(alarms.cumsum(0) <= allowed, found.cumsum(0), 0).max(0)
    return _ratios(reached, found.sum(0) * (negatives > 0))


def sensitivity_of_two(labels: Ints, probabilities: Floats, counts: Ints, positive: int = 1) -> Floats:
    """`sensitivity_at_specificity` of the positive class; NaN for other than two classes."""
    if probabilities.shape[1] != 2:
        return np.full(len(counts), np.nan)
    return sensitivity_at_specificity(labels == positive, probabilities[:, positive], counts)


def _thresholds(positive: Bools, scores: Floats, counts: Ints) -> tuple[Floats, Floats]:
    """The positives and the negatives that each draw holds at each distinct score, highest first: two (G, R)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    held = counts.T[order].astype(np.float64)  # (N, R): sums over the images run along whole rows
    found = held * positive[order, None]
    alarms = held - found
    if len(starts) == len(scores):  # no ties
        return found, alarms
    return np.add.reduceat(found, starts, axis=0), np.add.reduceat(alarms, starts, axis=0)


def _ratios(numerators: Floats, denominators: Floats) -> Floats:
    """(R,) by (R,); NaN for a denominator of 0."""
    return np.divide(numerators, denominators, where=denominators > 0, out=np.full(len(numerators), np.nan))


# Calibration: whether a confidence of 80 % is right 80 % of the time. The confidence of an image is the probability of
# the class that is predicted.
#
# A calibration error is never 0 by chance: of a perfectly calibrated model it averages 0.06 on 200 images and 0.04 on
# 600 (15 bins), and that of a bootstrap draw is larger still. In simulations, no percentile interval of such a model's
# error held the truth, and no simple shift mended it; of two models, the error of the more cautious one is larger even
# if both are calibrated perfectly. So it stands without interval and without p-value: compare the Brier score.


class Reliability(NamedTuple):
    """The bins of a reliability diagram, of equal width: each attribute is (B,), NaN where a bin is empty.

    Attributes:
        images: how many fall into it.
        confidence: their mean confidence, in [0, 1].
        accuracy: the share of them that is predicted correctly.
    """

    images: Ints
    confidence: Floats
    accuracy: Floats


def reliability(labels: Ints, probabilities: Floats, bins: int = ECE_BINS) -> Reliability:
    """The bins (low, high] of labels (N,) and probabilities (N, C)."""
    confidence, correct = _confidence(labels, probabilities)
    which = _equal_width(confidence, bins)
    images = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            images,
            np.bincount(which, weights=confidence, minlength=bins) / images,
            np.bincount(which, weights=correct, minlength=bins) / images,
        )


def ece(labels: Ints, probabilities: Floats, counts: Ints, bins: int = ECE_BINS) -> Floats:
    """Mean gap between confidence and accuracy, over equal-width bins (low, high] of the confidence.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
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
    _, which, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # (ranks from 0 to N), equal values in the middle of theirs
    bin_of = np.floor(bins * middle / len(confidence)).astype(np.int64)[which.reshape(-1)]
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def _confidence(labels: Ints, probabilities: Floats) -> tuple[Floats, Floats]:
    """The confidence of each image, and 1 where it is right: two (N,)."""
    correct = probabilities.argmax(1) == labels
    return np.minimum(probabilities.max(1), 1.0), correct.astype(np.float64)


def _equal_width(confidence: Floats, bins: int) -> Ints:
    """The bin of each image, (N,)."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


STATISTICS: dict[str, Statistic] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "macro_auc": lambda labels, p, counts: one_vs_rest(auc, labels, p, counts),
    "average_precision": lambda labels, p, counts: one_vs_rest(average_precision, labels, p, counts),
    "sensitivity_at_95_specificity": sensitivity_of_two,
    "ece": ece,
    "brier": brier,
}
"""The metrics that draws have; of two classes, the one of label 1 is positive."""


# The positive class of two: the one that average precision and sensitivity at a specificity are about.

KEY = "DATASET.POSITIVE_CLASS"
NEGATIVE = {"normal", "healthy", "benign", "negative", "neg", "control", "controls", "unaffected", "uninfected"}
NEGATIVE |= {"no", "non", "not", "none", "nil", "without", "absent", "absence"}
"""A class whose name holds one of these words is the negative one, if the other's does not."""


def positive_class(classnames: Sequence[str], stated: str = "") -> str:
    """The positive class: the stated one; else the one of two whose name is not negative; else the last of two.

    The last is a guess, and the log says so. Empty for other than two classes, for which nothing is positive.

    Args:
        classnames: in label order.
        stated: by the dataset or the user; of no account if it is none of the classes.
    """
    if len(classnames) != 2:
        return ""
    if stated in classnames:
        return stated
    parted = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in classnames]  # NonMelanoma: Non Melanoma
    negative = [bool(NEGATIVE & set(re.findall(r"[^\W\d_]+", name.lower()))) for name in parted]
    if negative[0] != negative[1]:
        chosen = classnames[negative.index(False)]
        logger.info("the positive class is %r, by the classes' names; %s chooses", chosen, KEY)
    else:
        chosen = classnames[-1]
        logger.warning(
            "the positive class is not known; %r is taken, which stands last of %s. It is what average precision and "
            "sensitivity at 95 %% specificity are of: name it with %s",
            chosen,
            " and ".join(map(repr, classnames)),
            KEY,
        )
    return chosen


def check_asked(asked: str, classnames: Sequence[str]) -> None:
    """ValueError if `DATASET.POSITIVE_CLASS` is none of the classes, or these are not two."""
    if asked and len(classnames) != 2:
        raise ValueError(f"{KEY} is {asked!r}, but there are {len(classnames)} classes: only of two one is positive")
    if asked and asked not in classnames:
        raise ValueError(f"{KEY}: {unknown('class', asked, classnames)}")


def log_odds(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much a finding speaks for a class against the rest: log-odds L and their standard error SE.

        L  = ln((a + 1/2) (d + 1/2) / ((b + 1/2) (c + 1/2)))
        SE = sqrt(1/(a + 1/2) + 1/(b + 1/2) + 1/(c + 1/2) + 1/(d + 1/2))

    The halves keep L finite where a count is 0, and take away most of its bias (Haldane, Ann Hum Genet 1956;20:309-311;
    Anscombe, Biometrika 1956;43:461-464); the error is Woolf's (Ann Hum Genet 1955;19:251-253), with the same halves
    (Gart and Zweifel, Biometrika 1967;54:181-187).

    Args:
        a: images of the class that show the finding, any shape.
        b: images of the class that do not, same shape.
        c: images of the rest that do, same shape.
        d: images of the rest that do not, same shape.
    """
    a, b, c, d = (np.asarray(count, dtype=np.float64) + 0.5 for count in (a, b, c, d))
    return np.log(a * d / (b * c)), np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
