"""Percentile bootstrap over images: how far a mean, or any statistic, would move with other images of the same kind.

Images are drawn with replacement R times; the interval holds the middle 95 % of the R statistics (Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993, chapter 13). Images of one patient are no separate evidence, so patients are
drawn whole where they are known; and where classes are given, each is drawn apart, so that every draw holds all of
them. A draw is stored as how often it holds each image: a mean is then one matrix product.

Symbols: N images, R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Any, Ints], Floats]
"""Of N values (N, ...) and how often each of R draws holds each of them, (R, N): the statistic of each draw, (R,)."""

DRAWS = 2000
_CELLS = 4_000_000  # of counts that are held at once: 32 MB


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


def weighted_mean(values: Any, counts: Ints) -> Floats:
    """The mean of each draw: values (N,) and counts (R, N) to (R,)."""
    return counts @ np.asarray(values, dtype=np.float64) / counts.sum(1)


def of_rows(statistic: Callable[[Any], float]) -> Statistic:
    """Any statistic of an array of rows, as one of counts; it is called once a draw, which is slow but general.

    Args:
        statistic: of the drawn rows (n, ...), repeated as often as they were drawn, a number.
    """

    def each(values: Any, counts: Ints) -> Floats:
        rows = np.asarray(values)
        return np.array([statistic(np.repeat(rows, own, axis=0)) for own in counts], dtype=np.float64)

    return each


def bootstrap(
    values: ArrayLike,
    statistic: Statistic = weighted_mean,
    *,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic with its percentile interval. Of two methods on the same images, give the differences.

    Args:
        values: one row an image, (N, ...), finite.
        statistic: what is estimated; the mean, or `of_rows(any function)`.
        strata: the class of each image, (N,); each class keeps its number of images (of clusters, if there are any).
        clusters: the patient of each image, (N,); patients are drawn whole. A patient with images of several
            classes belongs to a stratum of such patients.
        draws: R.
        confidence: of the interval, in (0, 1).
        seed: 0 or more; equal seeds give equal intervals.

    Raises:
        ValueError: no image, a value that is not finite, lengths that differ, or a wrong `confidence` or `draws`.
    """
    rows = np.asarray(values)
    _check(rows, strata, clusters, draws, confidence)
    drawn = image_counts(len(rows), strata=strata, clusters=clusters, draws=draws, seed=seed)
    found = [statistic(rows, counts) for counts in drawn]
    estimate = float(statistic(rows, np.ones((1, len(rows)), dtype=np.int64))[0])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


def image_counts(
    images: int,
    *,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Iterator[Ints]:
    """How often each draw holds each image, (r, N), in parts that together have R rows; see `bootstrap`.

    Several statistics, or several methods, of the same draws are paired: what one draw does to one, it does to all.
    """
    which, groups = _units(images, strata, clusters)
    rng = np.random.default_rng(seed)
    for counts in _drawn(groups, int(which.max()) + 1, images, draws, rng):
        yield counts[:, which]


def mean_of_known(
    values: ArrayLike,
    *,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> MeanOfKnown:
    """The mean of the values (N,) that are not NaN, with its interval and the number of those left out.

    With fewer than two known values there is no interval: its ends are NaN. See `bootstrap` for the arguments.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(numbers))
    left = len(numbers) - len(known)
    if len(known) < 2:
        return MeanOfKnown(float(numbers[known].sum()) if len(known) else np.nan, np.nan, np.nan, len(known), left)
    kept_strata, kept_clusters = (
        None if labels is None else [labels[i] for i in known.tolist()] for labels in (strata, clusters)
    )
    found = bootstrap(
        numbers[known], strata=kept_strata, clusters=kept_clusters, draws=draws, confidence=confidence, seed=seed
    )
    return MeanOfKnown(*found, len(known), left)


def _check(
    rows: NDArray[Any],
    strata: Sequence[Hashable] | None,
    clusters: Sequence[Hashable] | None,
    draws: int,
    confidence: float,
) -> None:
    if rows.ndim == 0 or not len(rows):
        raise ValueError(f"a bootstrap needs the values of at least one image, (N, ...), not shape {rows.shape}")
    if np.issubdtype(rows.dtype, np.inexact) and not np.isfinite(rows).all():
        raise ValueError(f"{int((~np.isfinite(rows)).sum())} of the values are NaN or infinite")
    for name, labels in (("strata", strata), ("clusters", clusters)):
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"{len(labels)} {name} for {len(rows)} images")
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(f"draws must be 1 or more and confidence in (0, 1), not {draws} and {confidence}")


def _units(n: int, strata: Sequence[Hashable] | None, clusters: Sequence[Hashable] | None) -> tuple[Ints, list[Ints]]:
    """What is drawn: the unit of each image, (N,), and the units of each stratum."""
    which = _numbered(clusters) if clusters is not None else np.arange(n)
    if strata is None:
        return which, [np.arange(int(which.max()) + 1)]
    kinds: dict[int, set[Hashable]] = {}
    for unit, stratum in zip(which.tolist(), strata, strict=True):
        kinds.setdefault(unit, set()).add(stratum)
    of_unit = _numbered([frozenset(kinds[unit]) for unit in range(len(kinds))])
    return which, [np.flatnonzero(of_unit == stratum) for stratum in range(int(of_unit.max()) + 1)]


def _numbered(labels: Sequence[Hashable]) -> Ints:
    """The labels as numbers from 0, in the order in which they first appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def _drawn(groups: list[Ints], units: int, images: int, draws: int, rng: np.random.Generator) -> Iterator[Ints]:
    """How often each unit is in each draw, (R, units), in parts of bounded size."""
    most = max(1, _CELLS // images)
    for start in range(0, draws, most):
        rows = min(most, draws - start)
        counts = np.zeros((rows, units), dtype=np.int64)
        for group in groups:
            picked = rng.integers(0, len(group), (rows, len(group))) + len(group) * np.arange(rows)[:, None]
            counts[:, group] = np.bincount(picked.ravel(), minlength=rows * len(group)).reshape(rows, len(group))
        yield counts
