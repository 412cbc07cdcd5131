"""How far a figure can be trusted, and which of several methods is better.

*Draws.* Images are drawn with replacement R times; the interval holds the middle 95 % of the R statistics (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Images of one patient are no separate evidence, so
patients are drawn whole where they are known; and where classes are given, each is drawn apart, so that every draw
holds all of them. A draw is stored as how often it holds each image: a mean is then one matrix product.

*Seeds.* Each draw takes the same images from all seeds of a method, and the metric is averaged over them: the interval
is that of the mean over these trained models, and the seeds add nothing to its width but what their disagreement on an
image adds. How far another training would move the figure is another question; the spread over the seeds answers it,
and the two belong side by side, never into one number. No p-value is made from seeds, whose number, three as a rule,
supports none.

*Limits.* An interval of no width says only that no draw shows an error: of N independent images without one, up to
about 3 / N may be wrong. Percentile intervals are somewhat short on few images: of 500 simulated sets of 200 (400)
images of two classes, 95 % intervals of accuracy held the truth in 94 (94) %, of AUC in 93 (94), of average precision
in 90 (92), of the Brier score in 93 (94). Below some 20 images (patients) a class, do not rely on them.

Symbols: N images, C classes, S seeds, R draws, D datasets, M methods.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.metrics import STATISTICS, Bools, Floats, Ints, Statistic, checked, weighted_mean

DRAWS = 5000  # unless stated; of intervals and tests alike
LEAST_UNITS = 20  # images, or patients: with fewer, the draws are too much alike for a p-value
NO_INTERVAL = frozenset({"ece"})
"""Metrics whose draws do not lie about the truth; `xcoop.evaluation.metrics` has the figures."""
_ENDS = (0.025, 0.975)  # of a 95 % interval
_CELLS = 4_000_000  # of counts that are held at once: 32 MB

Patients = Sequence[str | None] | None
"""The patient of each image, (N,), None where it is not known: such an image stands for itself."""


class Interval(NamedTuple):
    """A statistic of the images at hand, and the ends of its interval."""

    estimate: float
    low: float
    high: float


# The bootstrap.


def image_counts(
    units: Sequence[Hashable], strata: Sequence[Hashable] | None = None, draws: int = DRAWS, seed: int = 0
) -> Iterator[Ints]:
    """How often each image is held: by the images at hand, (1, N), and then by R draws, in parts of bounded size.

    Several statistics, or several methods, of the same draws are paired: what one draw does to one, it does to all.

    Args:
        units: what is drawn whole, the patient of each image, (N,); see `units_of`.
        strata: the class of each image, (N,); each class keeps its number of units. A patient with images of several
            classes belongs to a stratum of such patients.
        draws: R.
        seed: 0 or more; equal seeds give equal draws.
    """
    yield np.ones((1, len(units)), dtype=np.int64)
    unit_of = _numbered(units)
    kinds: list[set[Hashable]] = [set() for _ in range(int(unit_of.max()) + 1)]
    for unit, stratum in zip(unit_of.tolist(), strata or [""] * len(units), strict=True):
        kinds[unit].add(stratum)
    kind_of = _numbered([frozenset(kind) for kind in kinds])
    rng = np.random.default_rng(seed)
    most = max(1, _CELLS // len(units))
    for start in range(0, draws, most):
        rows = min(most, draws - start)
        counts = np.zeros((rows, len(kinds)), dtype=np.int64)
        for kind in range(int(kind_of.max()) + 1):
            group = np.flatnonzero(kind_of == kind)
            picked = rng.integers(0, len(group), (rows, len(group))) + len(group) * np.arange(rows)[:, None]
            counts[:, group] = np.bincount(picked.ravel(), minlength=rows * len(group)).reshape(rows, len(group))
        yield counts[:, unit_of]


def _numbered(labels: Sequence[Hashable]) -> Ints:
    """The labels as numbers from 0, in the order in which they first appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def units_of(patients: Patients, images: int) -> list[Hashable]:
    """What is drawn whole: the patient of each image, the image itself where none is known."""
    return [patient or ("image", i) for i, patient in enumerate(patients or [None] * images)]


def interval(values: Floats) -> Interval | None:
    """Of a statistic of the images at hand and of the draws, (1 + R,); None if one of them is not known."""
    low, high = np.quantile(values[1:], _ENDS)
    return None if np.isnan([values[0], low]).any() else Interval(float(values[0]), float(low), float(high))


def over_seeds(statistic: Statistic, labels: Ints, runs: Sequence[Floats], counts: Ints) -> Floats:
    """A metric of each draw, averaged over the seeds: (R,)."""
    return np.asarray(np.mean([statistic(labels, p, counts) for p in runs], axis=0))


def _checked_runs(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, list[Floats]]:
    """Labels (N,) and the probabilities (N, C) of each seed, from (N, C) or (S, N, C)."""
    p = np.asarray(probabilities, dtype=np.float64)
    runs = [checked(labels, one) for one in (p[None] if p.ndim == 2 else p)]
    return runs[0][0], [run for _, run in runs]


def image_intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Patients = None,
    *,
    metrics: Sequence[str] = tuple(STATISTICS),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Each metric with its interval over the images; for several seeds, of its mean over them.

    Args:
        labels: true classes, (N,).
        probabilities: (N, C), or (S, N, C) of S seeds on the same images.
        patients: N ids, or None.
        metrics: keys of `xcoop.evaluation.metrics.STATISTICS`.
        draws: how many.
        seed: of the draws, 0 or more; equal seeds give equal intervals.

    Returns:
        By metric, fractions; None for what the labels cannot tell (a class without images), and for `NO_INTERVAL`.

    Raises:
        ValueError: wrong shapes, labels or probabilities.
    """
    y, runs = _checked_runs(labels, probabilities)
    found: dict[str, list[Floats]] = {metric: [] for metric in metrics if metric not in NO_INTERVAL}
    for counts in image_counts(units_of(patients, len(y)), y.tolist(), draws, seed):
        for metric, values in found.items():
            values.append(over_seeds(STATISTICS[metric], y, runs, counts))
    return {metric: interval(np.concatenate(found[metric])) if metric in found else None for metric in metrics}


class MeanOfKnown(NamedTuple):
    """The mean of those values that are known, its interval, and how many values there were.

    Attributes:
        estimate: the mean; NaN if no value is known.
        low: the lower end; NaN for fewer than two values.
        high: the upper end.
        known: how many values the mean is of.
        unknown: how many values were NaN, and are left out.
    """

    estimate: float
    low: float
    high: float
    known: int
    unknown: int


def mean_of_known(
    values: ArrayLike, *, clusters: Sequence[Hashable] | None = None, draws: int = DRAWS, seed: int = 0
) -> MeanOfKnown:
    """The mean of the values (N,) that are not NaN, with its interval; of the clusters (N,), each is drawn whole."""
    numbers = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(numbers))
    left = len(numbers) - len(known)
    if len(known) < 2:
        return MeanOfKnown(float(numbers[known].sum()) if len(known) else np.nan, np.nan, np.nan, len(known), left)
    units = [i if clusters is None else clusters[i] for i in known.tolist()]
    drawn = image_counts(units, draws=draws, seed=seed)
    means = np.concatenate([weighted_mean(numbers[known], counts) for counts in drawn])
    low, high = np.quantile(means[1:], _ENDS)
    return MeanOfKnown(float(means[0]), float(low), float(high), len(known), left)


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
    """The draws that so many comparisons need: the least p-value, 2 / (R + 1), times their number is below 0.025."""
    return 80 * comparisons


def paired_bootstrap(
    labels: ArrayLike,
    reference: ArrayLike,
    others: Sequence[ArrayLike],
    patients: Patients = None,
    *,
    metric: str = "accuracy",
    draws: int = DRAWS,
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
        ValueError: wrong shapes, labels or probabilities.
    """
    methods = [_checked_runs(labels, probabilities) for probabilities in (reference, *others)]
    y, units, parts = methods[0][0], units_of(patients, len(methods[0][0])), []
    for counts in image_counts(units, y.tolist(), 0 if metric in NO_INTERVAL else draws, seed):
        parts.append(np.stack([over_seeds(STATISTICS[metric], y, runs, counts) for _, runs in methods]))
    values = np.concatenate(parts, axis=1)  # (M, 1 + R)
    found: list[Difference | None] = []
    for own, differences in zip(values[1:], values[1:] - values[0], strict=True):
        if metric in NO_INTERVAL:
            found.append(Difference(float(values[0, 0]), float(own[0]), float(differences[0]), None, None, None))
            continue
        ends = interval(differences)
        p = p_value(differences[1:]) if len(set(units)) >= LEAST_UNITS else None
        found.append(Difference(float(values[0, 0]), float(own[0]), *ends, p) if ends else None)
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


def mcnemar(correct_a: Bools, correct_b: Bools) -> McNemar:
    """McNemar's test in its exact binomial form: under the null, a discordant image favours each method in half.

    It takes the images, (N,) of each method in the same order, as independent: where patients have several, its
    p-value is too small, and it is not to be given.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(p, only_a, only_b)


def majority(correct: Bools) -> Bools:
    """Which images a method gets right in more than half of its seeds: (S, N) to (N,).

    Seeds of one method see the same images, so S N outcomes are no S N pieces of evidence: pooled, they would make
    p-values too small. One outcome an image keeps the test exact; what it compares is then the methods as their
    majority, and an even number of seeds that is split counts as wrong, for either method.
    """
    return np.asarray(2 * correct.sum(0) > len(correct))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; valid whatever the dependence between the comparisons.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j = 1 ... i, at most 1. Not statsmodels', which
    collects garbage at each call: seconds in a process that holds models, for a sum of few numbers.
    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.arange(len(values), 0, -1) * values[order])
    return [float(p) for p in corrected.clip(max=1)]


# Base-to-new: the harmonic mean of what is reached on the classes trained on and on those never seen.

Half = tuple[ArrayLike, ArrayLike, Patients]
"""Of the base or of the new images: labels (N,), probabilities (N, C) or (S, N, C), and patients or None."""


def harmonic_mean(base: ArrayLike, new: ArrayLike) -> Floats:
    """H = 2 b n / (b + n) of each pair, in fractions (or both in percent); 0 where both are 0, NaN where one is NaN."""
    b, n = np.asarray(base, dtype=np.float64), np.asarray(new, dtype=np.float64)
    return np.divide(2 * b * n, b + n, out=np.zeros_like(b), where=b + n != 0)  # NaN stays NaN


def harmonic_interval(
    base: Half, new: Half, *, metric: str = "accuracy", draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """The mean over seeds of the harmonic mean, and its interval over the images; None if the labels cannot tell it.

    It is the mean of the seeds' harmonic means, not the harmonic mean of their means, which is larger. Base and new
    images are drawn apart; a patient with images in both is drawn whole.

    Args:
        base: labels, probabilities and patients of the base images.
        new: those of the new images; the same seeds in the same order.
        metric: a key of `xcoop.evaluation.metrics.STATISTICS` of which more is better.
        draws: how many.
        seed: of the draws, 0 or more.
    """
    statistic = STATISTICS[metric]
    (y_base, base_runs), (y_new, new_runs) = [_checked_runs(y, p) for y, p, _ in (base, new)]
    cut = len(y_base)
    strata = [(half, label) for half, y in enumerate((y_base, y_new)) for label in y.tolist()]
    patients = [*(base[2] or [None] * cut), *(new[2] or [None] * len(y_new))]
    found = []
    for counts in image_counts(units_of(patients, len(strata)), strata, draws, seed):
        b = [statistic(y_base, p, counts[:, :cut]) for p in base_runs]
        n = [statistic(y_new, p, counts[:, cut:]) for p in new_runs]
        found.append(harmonic_mean(b, n).mean(0))
    return interval(np.concatenate(found))


# Several methods over several datasets: mean ranks, Friedman's test, and Nemenyi's critical difference. Each dataset
# ranks the methods, 1 the best; figures of different datasets are never averaged. Source: Demšar, "Statistical
# comparisons of classifiers over multiple data sets", 2006, sections 3.2.2 to 3.2.4.

LEAST_DATASETS = 5  # with fewer, even a method that always wins stays within the critical difference of most others
LEAST_METHODS = 3
GOOD_DATASETS, GOOD_METHODS = 10, 5  # "N > 10 and k > 5": below, Friedman's chi-square is a rough approximation


class RankComparison(NamedTuple):
    """What a critical-difference diagram draws.

    Attributes:
        methods: M names, best mean rank first.
        ranks: their mean ranks, from 1.
        chi_square: Friedman's, with M - 1 degrees of freedom, corrected for ties: whether they differ at all.
        p: of Friedman's test; only if it is small is the critical difference to be read.
        critical_difference: mean ranks that differ by at least this are told apart.
        groups: the largest sets of methods (names, best first) of which no two are told apart; a bar each.
        datasets: D.
        rough: whether D or M is below what the approximations want (more than 10 datasets, more than 5 methods).
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    chi_square: float
    p: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    datasets: int
    rough: bool


def compare_ranks(methods: Sequence[str], scores: Floats, higher_is_better: bool = True) -> RankComparison:
    """All of it: ranks, tests, and the groups of methods that are not told apart.

    Args:
        methods: M names.
        scores: (D, M), one metric of each method on each dataset; equal scores share their mean rank.
        higher_is_better: False for errors.

    Raises:
        ValueError: too few datasets or methods, or all methods tie on all datasets.
    """
    from scipy.stats import friedmanchisquare, rankdata

    datasets, count = scores.shape
    if datasets < LEAST_DATASETS or count < LEAST_METHODS:
        raise ValueError(
            f"ranks over {datasets} datasets of {count} methods tell nothing: at least {LEAST_DATASETS} datasets "
            f"and {LEAST_METHODS} methods are needed (better more than {GOOD_DATASETS} and {GOOD_METHODS})"
        )
    if (scores == scores[:, :1]).all():
        raise ValueError("all methods tie on all datasets; there is nothing to rank")
    ranks = rankdata(-scores if higher_is_better else scores, axis=1).mean(0)
    order = np.argsort(ranks, kind="stable")
    names, ordered = tuple(methods[i] for i in order), ranks[order].tolist()
    chi_square, p = map(float, friedmanchisquare(*scores.T))
    width = critical_difference(count, datasets)
    joined = tuple(names[first : last + 1] for first, last in groups(ordered, width))
    rough = datasets <= GOOD_DATASETS or count <= GOOD_METHODS
    return RankComparison(names, tuple(ordered), chi_square, p, width, joined, datasets, rough)


def critical_difference(methods: int, datasets: int) -> float:
    """Nemenyi's: mean ranks that differ by at least q sqrt(M (M + 1) / (6 D)) are told apart at level 0.05.

    q is the studentised range of M methods with infinite degrees of freedom, over the square root of 2.
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(0.95, methods, np.inf) / np.sqrt(2)
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
