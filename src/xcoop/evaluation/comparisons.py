"""Which of several methods is better: paired differences, exact tests, corrections, harmonic means, and ranks.

No p-value is made from the seeds of a method, whose number, three as a rule, supports none: a method's metric is its
mean over them, and what is drawn, or counted, are the test images.

Symbols: N images, C classes, S seeds, R draws, D datasets, M methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.bootstrap import (
    DRAWS,
    NO_INTERVAL,
    Interval,
    Patients,
    checked_runs,
    clusters_of,
    draws_of,
    image_counts,
    interval,
    once,
    over_seeds,
    statistic_of,
)
from xcoop.evaluation.metrics import LOWER_IS_BETTER, Bools, Floats, Ints

PAIRED_DRAWS = 5000
LEAST_UNITS = 20  # images, or patients: with fewer, the draws are too much alike for a p-value

# Two methods on the same images: the paired bootstrap of the difference, and McNemar's test.


class Difference(NamedTuple):
    """A method's metric less that of the reference, on the same images; fractions.

    Attributes:
        reference: the metric of the reference, mean over its seeds.
        value: the metric of the other method.
        difference: value - reference.
        low: the lower end of the interval; None for a metric of `NO_INTERVAL`.
        high: the upper end.
        p: two-sided; None for such a metric, and for fewer than `LEAST_UNITS` images or patients.
    """

    reference: float
    value: float
    difference: float
    low: float | None
    high: float | None
    p: float | None


def draws_for(comparisons: int) -> int:
    """As many draws as tell so many comparisons: the least p-value, 2 / (R + 1), times their number is below 0.025."""
    return max(PAIRED_DRAWS, 80 * comparisons)


def paired_bootstrap(
    labels: ArrayLike,
    reference: ArrayLike,
    others: Sequence[ArrayLike],
    patients: Patients = None,
    *,
    metric: str = "accuracy",
    draws: int = PAIRED_DRAWS,
    seed: int = 0,
) -> list[Difference | None]:
    """The difference of each other method from the reference; all of them on the same draws.

    Each draw takes the same images (patients whole, within their class) from both methods, so what is hard for both
    cancels. The p-value is that of the percentile interval: the level at which the interval would just reach 0. So
    p < 0.05 and a 95 % interval without 0 say the same, up to the draws' grain. Both speak of other images of the same
    kind, for these trained models.

    Args:
        labels: true classes, (N,).
        reference: its probabilities, (N, C), or (S, N, C) of S seeds.
        others: those of each other method, on the same images in the same order; S may differ.
        patients: N ids, or None.
        metric: a key of `xcoop.evaluation.metrics.STATISTICS`.
        draws: how many.
        seed: of the draws, 0 or more.

    Returns:
        One for each other method; None where the labels cannot tell the metric.

    Raises:
        ValueError: wrong shapes, labels or probabilities, or an unknown metric.
    """
    methods = [checked_runs(labels, probabilities) for probabilities in (reference, *others)]
    y, statistic = methods[0][0], statistic_of(metric)
    first, *values = [float(over_seeds(statistic, y, runs, once(len(y)))[0]) for _, runs in methods]
    if metric in NO_INTERVAL:
        return [Difference(first, value, value - first, None, None, None) for value in values]
    parts = [
        np.stack([over_seeds(statistic, y, runs, counts) for _, runs in methods])  # (1 + methods, r)
        for counts in draws_of(y, patients, draws, seed)
    ]
    drawn = np.concatenate(parts, axis=1)
    enough = len(set(clusters_of(patients, len(y)) or range(len(y)))) >= LEAST_UNITS
    found: list[Difference | None] = []
    for value, row in zip(values, drawn[1:] - drawn[0], strict=True):
        ends = interval(value - first, row)
        found.append(None if ends is None else Difference(first, value, *ends, p_value(row) if enough else None))
    return found


def p_value(drawn: Floats) -> float:
    """Two-sided, from the drawn differences (R,): (1 + how many lie on the other side of 0) / (R + 1), doubled."""
    # What is 0 up to rounding (two means over seeds that agree) must not count as a side.
    below, above = (drawn <= 1e-12).sum(), (drawn >= -1e-12).sum()
    return min(1.0, 2 * float(1 + min(below, above)) / (1 + len(drawn)))


class McNemar(NamedTuple):
    """The exact test and the counts it rests on.

    Attributes:
        p: two-sided; 1 where no image tells the methods apart.
        only_a: images that only the first method gets right.
        only_b: images that only the second gets right.
    """

    p: float
    only_a: int
    only_b: int


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """McNemar's test in its exact binomial form: under the null, a discordant image favours each method in half.

    It takes the images as independent: where patients have several, its p-value is too small, and it is not to be
    given.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.

    Args:
        correct_a: which images the first method gets right, (N,) of booleans.
        correct_b: the same of the second, in the same order.

    Raises:
        ValueError: different shapes, or values that are not booleans.
    """
    from scipy.stats import binomtest

    a, b = _booleans(correct_a, 1), _booleans(correct_b, 1)
    if a.shape != b.shape:
        raise ValueError(f"McNemar's test compares methods on the same images, not {len(a)} with {len(b)}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(p, only_a, only_b)


def majority(correct: ArrayLike) -> Bools:
    """Which images a method gets right in more than half of its seeds: (S, N) to (N,).

    Seeds of one method see the same images, so S N outcomes are no S N pieces of evidence: pooled, they would make
    p-values too small. One outcome an image keeps the test exact; what it compares is then the methods as their
    majority, and an even number of seeds that is split counts as wrong, for either method.
    """
    outcomes = _booleans(correct, 2)
    return np.asarray(2 * outcomes.sum(0) > len(outcomes))


def _booleans(values: ArrayLike, dimensions: int) -> Bools:
    found = np.asarray(values)
    if found.ndim != dimensions or found.dtype != np.bool_:
        raise ValueError(f"expected {dimensions}-dimensional booleans, got {found.dtype} of shape {found.shape}")
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; valid whatever the dependence between the comparisons.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j = 1 ... i, at most 1. Not statsmodels', which
    collects garbage at each call: seconds in a process that holds models, for a sum of few numbers.
    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Raises:
        ValueError: a value that is no probability.
    """
    values = _probabilities(p_values)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.arange(len(values), 0, -1) * values[order])
    return [float(p) for p in corrected.clip(max=1)]


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p-value times their number, at most 1: never smaller than Holm's, and given for those who expect it."""
    return [float(p) for p in (len(p_values) * _probabilities(p_values)).clip(max=1)]


def _probabilities(values: Sequence[float]) -> Floats:
    wrong = [p for p in values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"a p-value must be in [0, 1], not {wrong[0]}")
    return np.asarray(values, dtype=np.float64)


# Base-to-new: the harmonic mean of what is reached on the classes trained on and on those never seen.

Half = tuple[ArrayLike, ArrayLike, Patients]
"""Of the base or of the new images: labels (N,), probabilities (N, C) or (S, N, C), and patients or None."""


def harmonic_mean(base: ArrayLike, new: ArrayLike) -> Floats:
    """H = 2 b n / (b + n) of each pair, in fractions (or both in percent); 0 where both are 0, NaN where one is NaN.

    Raises:
        ValueError: shapes that differ, or a negative value.
    """
    b, n = np.asarray(base, dtype=np.float64), np.asarray(new, dtype=np.float64)
    if b.shape != n.shape:
        raise ValueError(f"base and new must be pairs, not of shapes {b.shape} and {n.shape}")
    if (b < 0).any() or (n < 0).any():
        raise ValueError("a harmonic mean needs values of 0 or more")
    return np.divide(2 * b * n, b + n, out=np.zeros_like(b), where=b + n != 0)  # NaN stays NaN


def harmonic_interval(
    base: Half,
    new: Half,
    *,
    metric: str = "accuracy",
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval | None:
    """The mean over seeds of the harmonic mean, and its interval over the images.

    It is the mean of the seeds' harmonic means, not the harmonic mean of their means, which is larger. Base and new
    images are drawn apart; a patient with images in both is drawn whole.

    Args:
        base: labels, probabilities and patients of the base images.
        new: those of the new images; the same seeds in the same order.
        metric: a key of `xcoop.evaluation.metrics.STATISTICS`; it must be one of which more is better.
        draws: how many.
        seed: of the draws, 0 or more.

    Returns:
        None for what the labels cannot tell.

    Raises:
        ValueError: other numbers of seeds in base than in new, wrong shapes, labels or probabilities, or a metric.
    """
    statistic = statistic_of(metric)
    if metric in LOWER_IS_BETTER:
        raise ValueError(f"of {metric}, lower is better: a harmonic mean would hide the worse half")
    halves = [checked_runs(labels, probabilities) for labels, probabilities, _ in (base, new)]
    (y_base, base_runs), (y_new, new_runs) = halves
    if len(base_runs) != len(new_runs):
        raise ValueError(f"{len(base_runs)} seeds on the base classes, {len(new_runs)} on the new ones")
    cut = len(y_base)
    patients: list[str | None] = []
    for (y, _), (_, _, known) in zip(halves, (base, new), strict=True):
        clusters_of(known, len(y))  # checks their number
        patients += known or [None] * len(y)

    def mean(counts: Ints) -> Floats:
        b = [statistic(y_base, p, counts[:, :cut]) for p in base_runs]
        n = [statistic(y_new, p, counts[:, cut:]) for p in new_runs]
        return np.asarray(harmonic_mean(b, n).mean(0))

    strata = [(half, label) for half, (y, _) in enumerate(halves) for label in y.tolist()]
    images = len(strata)
    clusters = clusters_of(patients, images)
    drawn = [mean(counts) for counts in image_counts(images, strata=strata, clusters=clusters, draws=draws, seed=seed)]
    return interval(float(mean(once(images))[0]), np.concatenate(drawn))


# Several methods over several datasets: mean ranks, Friedman's test, and Nemenyi's critical difference. Each dataset
# ranks the methods, 1 the best; figures of different datasets are never averaged. Source: Demšar, "Statistical
# comparisons of classifiers over multiple data sets", 2006, sections 3.2.2 to 3.2.4.

LEAST_DATASETS = 5  # with fewer, even a method that always wins stays within the critical difference of most others
LEAST_METHODS = 3
GOOD_DATASETS, GOOD_METHODS = 10, 5  # "N > 10 and k > 5": below, Friedman's chi-square is a rough approximation


class Friedman(NamedTuple):
    """Friedman's test, and the less conservative form of Iman and Davenport.

    Attributes:
        chi_square: with M - 1 degrees of freedom, corrected for ties.
        p: its p-value.
        f: Iman and Davenport's statistic, with M - 1 and (M - 1)(D - 1) degrees of freedom; infinite if all datasets
            rank alike.
        p_f: its p-value.
    """

    chi_square: float
    p: float
    f: float
    p_f: float


class RankComparison(NamedTuple):
    """What a critical-difference diagram draws.

    Attributes:
        methods: M names, best mean rank first.
        ranks: their mean ranks, from 1.
        friedman: whether they differ at all; only then is the critical difference to be read.
        critical_difference: mean ranks that differ by at least this are told apart.
        groups: the largest sets of methods (names, best first) of which no two are told apart; a bar each.
        datasets: D.
        rough: whether D or M is below what the approximations want (more than 10 datasets, more than 5 methods).
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    friedman: Friedman
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    datasets: int
    rough: bool


def compare_ranks(methods: Sequence[str], scores: ArrayLike, higher_is_better: bool = True) -> RankComparison:
    """All of it: ranks, tests, and the groups of methods that are not told apart.

    Args:
        methods: M names.
        scores: (D, M), one metric of each method on each dataset; equal scores share their mean rank.
        higher_is_better: False for errors.

    Raises:
        ValueError: too few datasets or methods, or a score that is missing.
    """
    from scipy.stats import rankdata

    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"expected scores (D, M), got shape {values.shape}")
    datasets, count = values.shape
    if len(methods) != count:
        raise ValueError(f"{len(methods)} names for {count} methods")
    missing = np.argwhere(~np.isfinite(values))
    if len(missing):
        dataset, method = missing[0].tolist()
        raise ValueError(
            f"{len(missing)} scores are missing, the first of method {method} on dataset {dataset}; "
            "rank only methods that were run on all datasets"
        )
    if datasets < LEAST_DATASETS or count < LEAST_METHODS:
        raise ValueError(
            f"ranks over {datasets} datasets of {count} methods tell nothing: at least {LEAST_DATASETS} datasets "
            f"and {LEAST_METHODS} methods are needed (better more than {GOOD_DATASETS} and {GOOD_METHODS})"
        )
    ranks = rankdata(-values if higher_is_better else values, axis=1).mean(0)
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order].tolist()
    width = critical_difference(count, datasets)
    names = tuple(methods[i] for i in order)
    joined = tuple(names[first : last + 1] for first, last in groups(ordered, width))
    rough = datasets <= GOOD_DATASETS or count <= GOOD_METHODS
    return RankComparison(names, tuple(ordered), friedman(values), width, joined, datasets, rough)


def friedman(scores: ArrayLike) -> Friedman:
    """Whether the methods differ at all, from scores (D, M); the direction of the scores makes no difference.

    Source of the second form: Iman and Davenport, "Approximations of the critical region of the Friedman statistic",
    1980.

    Raises:
        ValueError: methods that tie on all datasets.
    """
    from scipy.stats import f, friedmanchisquare

    values = np.asarray(scores, dtype=np.float64)
    datasets, methods = values.shape
    if (values == values[:, :1]).all():
        raise ValueError("all methods tie on all datasets; there is nothing to rank")
    chi, p = map(float, friedmanchisquare(*values.T))
    rest = datasets * (methods - 1) - chi
    ratio = (datasets - 1) * chi / rest if rest > 1e-9 else np.inf
    return Friedman(chi, p, ratio, float(f.sf(ratio, methods - 1, (methods - 1) * (datasets - 1))))


def critical_difference(methods: int, datasets: int, alpha: float = 0.05) -> float:
    """Nemenyi's: mean ranks that differ by at least q sqrt(M (M + 1) / (6 D)) are told apart at level alpha.

    q is the studentised range of M methods with infinite degrees of freedom, over the square root of 2.
    """
    if not 0 < alpha < 1 or methods < 2:
        raise ValueError(f"need 2 or more methods and a level in (0, 1), not {methods} and {alpha}")
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * datasets)))


def groups(ranks: Sequence[float], width: float) -> list[tuple[int, int]]:
    """The largest runs of at least two methods that are not told apart, none inside another: first and last place.

    Args:
        ranks: mean ranks, ascending.
        width: the critical difference.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < width)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
