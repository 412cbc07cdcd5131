"""Several methods over several datasets: mean ranks, Friedman's test, and Nemenyi's critical difference.

Each dataset ranks the methods, 1 the best; figures of different datasets are never averaged. Friedman's test asks
whether the methods differ at all; only then is the critical difference to be read.

Source: Demšar, "Statistical comparisons of classifiers over multiple data sets", 2006, sections 3.2.2 to 3.2.4.

Symbols: D datasets, M methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, f, rankdata, studentized_range

from xcoop.evaluation.bootstrap import Floats

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
        friedman: whether they differ at all.
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


def compare_ranks(
    methods: Sequence[str], scores: ArrayLike, *, higher_is_better: bool = True, alpha: float = 0.05
) -> RankComparison:
    """All of it: ranks, tests, and the groups of methods that are not told apart.

    Args:
        methods: M names.
        scores: (D, M), one metric of each method on each dataset.
        higher_is_better: False for errors.
        alpha: the level of the critical difference, in (0, 1).

    Raises:
        ValueError: too few datasets or methods, or a score that is missing.
    """
    values = _checked(scores)
    if len(methods) != values.shape[1]:
        raise ValueError(f"{len(methods)} names for {values.shape[1]} methods")
    ranks = average_ranks(values, higher_is_better)
    width = critical_difference(values.shape[1], len(values), alpha)
    order = np.argsort(ranks, kind="stable")
    spans = groups(ranks[order].tolist(), width)
    names = tuple(methods[i] for i in order)
    return RankComparison(
        names,
        tuple(ranks[order].tolist()),
        friedman(values),
        width,
        tuple(names[first : last + 1] for first, last in spans),
        len(values),
        len(values) <= GOOD_DATASETS or len(methods) <= GOOD_METHODS,
    )


def average_ranks(scores: ArrayLike, higher_is_better: bool = True) -> Floats:
    """Mean rank of each method over the datasets, (D, M) to (M,); 1 is best, equal scores share their mean rank."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected a finite score of each method on each dataset, (D, M); shape {values.shape}")
    return np.asarray(rankdata(-values if higher_is_better else values, axis=1).mean(0))


def friedman(scores: ArrayLike) -> Friedman:
    """Whether the methods differ at all, from scores (D, M); the direction of the scores makes no difference.

    Source of the second form: Iman and Davenport, "Approximations of the critical region of the Friedman statistic",
    1980.

    Raises:
        ValueError: too few datasets or methods, a missing score, or methods that tie on all datasets.
    """
    values = _checked(scores)
    datasets, methods = values.shape
    ranks = rankdata(values, axis=1)
    between = datasets * ((ranks.mean(0) - (methods + 1) / 2) ** 2).sum()
    within = ((ranks - (methods + 1) / 2) ** 2).sum() / (datasets * (methods - 1))  # M (M + 1) / 12 without ties
    if within == 0:
        raise ValueError("all methods tie on all datasets; there is nothing to rank")
    chi = float(between / within)
    rest = datasets * (methods - 1) - chi
    ratio = float((datasets - 1) * chi / rest) if rest > 1e-9 else np.inf
    p_f = float(f.sf(ratio, methods - 1, (methods - 1) * (datasets - 1)))
    return Friedman(chi, float(chi2.sf(chi, methods - 1)), ratio, p_f)


def critical_difference(methods: int, datasets: int, alpha: float = 0.05) -> float:
    """Nemenyi's: mean ranks that differ by at least q sqrt(M (M + 1) / (6 D)) are told apart at level alpha.

    Raises:
        ValueError: too few datasets or methods, or a level outside (0, 1).
    """
    _enough(datasets, methods)
    return float(nemenyi_q(methods, alpha) * np.sqrt(methods * (methods + 1) / (6 * datasets)))


def nemenyi_q(methods: int, alpha: float = 0.05) -> float:
    """The studentised range of M methods with infinite degrees of freedom, over the square root of 2."""
    if not 0 < alpha < 1 or methods < 2:
        raise ValueError(f"need 2 or more methods and a level in (0, 1), not {methods} and {alpha}")
    return float(studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2))


def groups(ranks: Sequence[float], width: float) -> list[tuple[int, int]]:
    """The largest runs of methods that are not told apart: first and last place of each, in sorted mean ranks.

    Args:
        ranks: mean ranks, ascending.
        width: the critical difference.

    Returns:
        Runs of at least two methods, none inside another.
    """
    if list(ranks) != sorted(ranks):
        raise ValueError(f"mean ranks must ascend, got {list(ranks)}")
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < width)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _checked(scores: ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"expected scores (D, M), got shape {values.shape}")
    missing = np.argwhere(~np.isfinite(values))
    if len(missing):
        dataset, method = missing[0].tolist()
        raise ValueError(
            f"{len(missing)} scores are missing, the first of method {method} on dataset {dataset}; "
            "rank only methods that were run on all datasets"
        )
    _enough(*values.shape)
    return values


def _enough(datasets: int, methods: int) -> None:
    if datasets < LEAST_DATASETS or methods < LEAST_METHODS:
        raise ValueError(
            f"ranks over {datasets} datasets of {methods} methods tell nothing: at least {LEAST_DATASETS} datasets "
            f"and {LEAST_METHODS} methods are needed (better more than {GOOD_DATASETS} and {GOOD_METHODS})"
        )
