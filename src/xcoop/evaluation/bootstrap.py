"""How far a figure can be trusted: percentile intervals over images and patients.

*Draws.* Images are drawn with replacement R times; the interval holds the middle 95 % of the R statistics (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Images of one patient are no separate evidence, so
patients are drawn whole where they are known; and where classes are given, each is drawn apart, so that every draw
holds all of them. A draw is stored as how often it holds each image: a mean is then one matrix product.

*Seeds.* Each draw takes the same images from all seeds of a method, and the metric is averaged over them: the interval
is that of the mean over these trained models, and the seeds add nothing to its width but what their disagreement on an
image adds. How far another training would move the figure is another question; the spread over the seeds answers it,
and the two belong side by side, never into one number.

*Limits.* An interval of no width says only that no draw shows an error: of N independent images without one, up to
about 3 / N may be wrong. Percentile intervals are somewhat short on few images: of 500 simulated sets of 200 (400)
images of two classes, 95 % intervals of accuracy held the truth in 94 (94) %, of AUC in 93 (94), of average precision
in 90 (92), of the Brier score in 93 (94). Below some 20 images (patients) a class, do not rely on them.

Symbols: N images, C classes, S seeds, R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.metrics import STATISTICS, Floats, Ints, Statistic, checked, weighted_mean
from xcoop.utils.console import unknown

DRAWS = 2000
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


class MeanOfKnown(NamedTuple):
    """The mean of those values that are known, its interval, and how many values there were.

    Attributes:
        estimate: the mean; NaN if no value is known.
        low: the lower end.
        high: the upper end.
        known: how many values the mean is of.
        unknown: how many values were NaN, and are left out.
    """

    estimate: float
    low: float
    high: float
    known: int
    unknown: int


# The bootstrap.


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[Any, Ints], Floats] = weighted_mean,
    *,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """A statistic with its percentile interval.

    Args:
        values: one row an image, (N, ...), finite.
        statistic: of the values and how often each of R draws holds each of them, (R, N): that of each draw, (R,).
        strata: the class of each image, (N,); each class keeps its number of images (of clusters, if there are any).
        clusters: the patient of each image, (N,); patients are drawn whole. A patient with images of several
            classes belongs to a stratum of such patients.
        draws: R.
        seed: 0 or more; equal seeds give equal intervals.

    Raises:
        ValueError: no image, a value that is not finite, lengths that differ, or `draws` below 1.
    """
    rows = np.asarray(values)
    if rows.ndim == 0 or not len(rows):
        raise ValueError(f"a bootstrap needs the values of at least one image, (N, ...), not shape {rows.shape}")
    if np.issubdtype(rows.dtype, np.inexact) and not np.isfinite(rows).all():
        raise ValueError(f"{int((~np.isfinite(rows)).sum())} of the values are NaN or infinite")
    for name, labels in (("strata", strata), ("clusters", clusters)):
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"{len(labels)} {name} for {len(rows)} images")
    drawn = image_counts(len(rows), strata=strata, clusters=clusters, draws=draws, seed=seed)
    found = np.concatenate([statistic(rows, counts) for counts in drawn])
    low, high = np.quantile(found, _ENDS)
    return Interval(float(statistic(rows, once(len(rows)))[0]), float(low), float(high))


def mean_of_known(
    values: ArrayLike, *, clusters: Sequence[Hashable] | None = None, draws: int = DRAWS, seed: int = 0
) -> MeanOfKnown:
    """The mean of the values (N,) that are not NaN, with its interval and the number of those left out.

    With fewer than two known values there is no interval: its ends are NaN. See `bootstrap` for the arguments.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(numbers))
    left = len(numbers) - len(known)
    if len(known) < 2:
        return MeanOfKnown(float(numbers[known].sum()) if len(known) else np.nan, np.nan, np.nan, len(known), left)
    kept = None if clusters is None else [clusters[i] for i in known.tolist()]
    return MeanOfKnown(*bootstrap(numbers[known], clusters=kept, draws=draws, seed=seed), len(known), left)


def image_counts(
    images: int,
    *,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Iterator[Ints]:
    """How often each draw holds each image, (r, N), in parts of bounded size that together have R rows.

    Several statistics, or several methods, of the same draws are paired: what one draw does to one, it does to all.
    See `bootstrap` for the arguments.
    """
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, not {draws}")
    unit_of = _numbered(clusters) if clusters is not None else np.arange(images)  # (N,): what is drawn whole
    units = int(unit_of.max()) + 1
    groups = [np.arange(units)]  # the units of each stratum
    if strata is not None:
        kinds: list[set[Hashable]] = [set() for _ in range(units)]
        for unit, stratum in zip(unit_of.tolist(), strata, strict=True):
            kinds[unit].add(stratum)
        kind_of = _numbered([frozenset(kind) for kind in kinds])
        groups = [np.flatnonzero(kind_of == kind) for kind in range(int(kind_of.max()) + 1)]
    rng = np.random.default_rng(seed)
    most = max(1, _CELLS // images)
    for start in range(0, draws, most):
        rows = min(most, draws - start)
        counts = np.zeros((rows, units), dtype=np.int64)
        for group in groups:
            picked = rng.integers(0, len(group), (rows, len(group))) + len(group) * np.arange(rows)[:, None]
            counts[:, group] = np.bincount(picked.ravel(), minlength=rows * len(group)).reshape(rows, len(group))
        yield counts[:, unit_of]


def _numbered(labels: Sequence[Hashable]) -> Ints:
    """The labels as numbers from 0, in the order in which they first appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def interval(estimate: float, drawn: Floats) -> Interval | None:
    """The middle of the draws (R,); None if the estimate, or any draw, is not known."""
    low, high = np.quantile(drawn, _ENDS)
    return None if np.isnan([estimate, low]).any() else Interval(estimate, float(low), float(high))


def once(images: int) -> Ints:
    """Counts that hold each image once, (1, N): a statistic of them is the metric of the images at hand."""
    return np.ones((1, images), dtype=np.int64)


# Intervals of metrics, over the images.


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
        ValueError: wrong shapes, labels or probabilities, or an unknown metric.
    """
    y, runs = checked_runs(labels, probabilities)
    sought = {metric: statistic_of(metric) for metric in metrics if metric not in NO_INTERVAL}
    drawn: dict[str, list[Floats]] = {metric: [] for metric in sought}
    for counts in draws_of(y, patients, draws, seed):
        for metric, statistic in sought.items():
            drawn[metric].append(over_seeds(statistic, y, runs, counts))
    found: dict[str, Interval | None] = dict.fromkeys(metrics)
    for metric, statistic in sought.items():
        estimate = float(over_seeds(statistic, y, runs, once(len(y)))[0])
        found[metric] = interval(estimate, np.concatenate(drawn[metric]))
    return found


def statistic_of(metric: str) -> Statistic:
    """The statistic of a metric; ValueError names those that there are."""
    if metric not in STATISTICS:
        raise ValueError(unknown("metric", metric, STATISTICS))
    return STATISTICS[metric]


def clusters_of(patients: Patients, images: int) -> list[Hashable] | None:
    """What is drawn whole: the patient of each image, an image of its own where none is known; None without any."""
    if patients is not None and len(patients) != images:
        raise ValueError(f"{len(patients)} patients for {images} images")
    if patients is None or not any(patients):
        return None
    return [patient or ("image", i) for i, patient in enumerate(patients)]


def checked_runs(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, list[Floats]]:
    """Labels (N,) and the probabilities (N, C) of each seed, from (N, C) or (S, N, C)."""
    p = np.asarray(probabilities, dtype=np.float64)
    seeds = p[None] if p.ndim == 2 else p
    if seeds.ndim != 3 or not len(seeds):
        raise ValueError(f"expected probabilities (N, C), or (S, N, C) of S > 0 seeds, got shape {p.shape}")
    runs = [checked(labels, one) for one in seeds]
    return runs[0][0], [run for _, run in runs]


def over_seeds(statistic: Statistic, labels: Ints, runs: Sequence[Floats], counts: Ints) -> Floats:
    """A metric of each draw, averaged over the seeds: (R,)."""
    return np.asarray(np.mean([statistic(labels, p, counts) for p in runs], axis=0))


def draws_of(labels: Ints, patients: Patients, draws: int, seed: int) -> Iterator[Ints]:
    """Draws of images within their class, patients whole."""
    clusters = clusters_of(patients, len(labels))
    return image_counts(len(labels), strata=labels.tolist(), clusters=clusters, draws=draws, seed=seed)
