"""Base-to-new: the harmonic mean of what is reached on the classes trained on and on those never seen.

H = 2 b n / (b + n), of each seed, then averaged over the seeds: the mean of harmonic means, not the harmonic mean of
means, which is larger. For the interval, base and new images are drawn apart; a patient with images in both is drawn
whole.

Symbols: N images, C classes, S seeds.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.bootstrap import DRAWS, Floats, Interval, Ints, image_counts
from xcoop.evaluation.drawn import statistic_of, unpacked
from xcoop.evaluation.intervals import Patients, clusters_of, interval, once, rows_of_seeds
from xcoop.evaluation.metrics import LOWER_IS_BETTER

Half = tuple[ArrayLike, ArrayLike, Patients]
"""Of the base or of the new images: labels (N,), probabilities (N, C) or (S, N, C), and patients or None."""


def harmonic_mean(base: ArrayLike, new: ArrayLike) -> Floats:
    """Of each pair, in fractions (or both in percent); 0 where both are 0, NaN where one is NaN.

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
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """The mean over seeds of the harmonic mean, and its interval over the images.

    Args:
        base: labels, probabilities and patients of the base images.
        new: those of the new images; the same seeds in the same order.
        metric: a key of `xcoop.evaluation.drawn.STATISTICS`; it must be one of which more is better.
        draws: how many.
        confidence: of the interval, in (0, 1).
        seed: of the draws, 0 or more.

    Returns:
        None for what the labels cannot tell.

    Raises:
        ValueError: other numbers of seeds in base than in new, wrong shapes, labels or probabilities, or a metric.
    """
    statistic = statistic_of(metric)
    if metric in LOWER_IS_BETTER:
        raise ValueError(f"of {metric}, lower is better: a harmonic mean would hide the worse half")
    halves = [rows_of_seeds(labels, probabilities) for labels, probabilities, _ in (base, new)]
    if len(halves[0]) != len(halves[1]):
        raise ValueError(f"{len(halves[0])} seeds on the base classes, {len(halves[1])} on the new ones")
    sizes = len(halves[0][0]), len(halves[1][0])

    def mean(counts: Ints) -> Floats:
        parts = counts[:, : sizes[0]], counts[:, sizes[0] :]
        figures = [[statistic(rows, part) for rows in runs] for runs, part in zip(halves, parts, strict=True)]
        return np.asarray(harmonic_mean(*figures).mean(0))

    clusters = _clusters(base[2], new[2], sizes)
    drawn = [
        mean(counts)
        for counts in image_counts(sum(sizes), strata=_strata(halves), clusters=clusters, draws=draws, seed=seed)
    ]
    return interval(float(mean(once(sum(sizes)))[0]), np.concatenate(drawn), confidence)


def _strata(halves: list[list[Floats]]) -> list[Hashable]:
    return [(half, label) for half, runs in enumerate(halves) for label in unpacked(runs[0])[0].tolist()]


def _clusters(base: Patients, new: Patients, sizes: tuple[int, int]) -> list[Hashable] | None:
    """Of the base images, then of the new ones."""
    for patients, images in zip((base, new), sizes, strict=True):
        clusters_of(patients, images)  # checks their number
    return clusters_of([*(base or [None] * sizes[0]), *(new or [None] * sizes[1])], sum(sizes))
