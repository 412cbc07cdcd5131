"""Whether one method is better than another on the same test images: the paired bootstrap of the difference.

Each draw takes the same images (patients whole, within their class) from both methods, so what is hard for both
cancels. Of several seeds, a method's metric is its mean over them in each draw. The interval and the p-value speak of
other images of the same kind, for these trained models; no p-value is made from the seeds, whose number, three as a
rule, supports none.

The p-value is that of the percentile interval: the level at which the interval would just reach 0, (1 + draws on the
other side) / (R + 1), doubled. So p < 0.05 and a 95 % interval without 0 say the same, up to the draws' grain.

Symbols: N images, C classes, R draws, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.bootstrap import Floats
from xcoop.evaluation.drawn import mean_over_seeds, unpacked
from xcoop.evaluation.intervals import NO_INTERVAL, Patients, clusters_of, draws_of, interval, once, rows_of_seeds

PAIRED_DRAWS = 5000
LEAST_UNITS = 20  # images, or patients: with fewer, the draws are too much alike for a p-value


def draws_for(comparisons: int) -> int:
    """As many draws as tell so many comparisons: the least p-value, 2 / (R + 1), times their number is below 0.025."""
    return max(PAIRED_DRAWS, 80 * comparisons)


class Difference(NamedTuple):
    """A method's metric less that of the reference, on the same images; fractions.

    Attributes:
        reference: the metric of the reference, mean over its seeds.
        value: the metric of the other method.
        difference: value - reference.
        low: the lower end of the interval; None for a metric of `xcoop.evaluation.intervals.NO_INTERVAL`.
        high: the upper end.
        p: two-sided; None for such a metric, and for fewer than `LEAST_UNITS` images or patients.
    """

    reference: float
    value: float
    difference: float
    low: float | None
    high: float | None
    p: float | None


def paired_bootstrap(
    labels: ArrayLike,
    reference: ArrayLike,
    others: Sequence[ArrayLike],
    patients: Patients = None,
    *,
    metric: str = "accuracy",
    draws: int = PAIRED_DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference | None]:
    """The difference of each other method from the reference; all of them on the same draws.

    Args:
        labels: true classes, (N,).
        reference: its probabilities, (N, C), or (S, N, C) of S seeds.
        others: those of each other method, on the same images in the same order; S may differ.
        patients: N ids, or None.
        metric: a key of `xcoop.evaluation.drawn.STATISTICS`.
        draws: how many.
        confidence: of the interval, in (0, 1).
        seed: of the draws, 0 or more.

    Returns:
        One for each other method; None where the labels cannot tell the metric.

    Raises:
        ValueError: wrong shapes, labels or probabilities, or an unknown metric.
    """
    runs = [rows_of_seeds(labels, probabilities) for probabilities in (reference, *others)]
    y = unpacked(runs[0][0])[0]
    first, *values = [float(mean_over_seeds(rows, metric, once(len(y)))[0]) for rows in runs]
    if metric in NO_INTERVAL:
        return [Difference(first, value, value - first, None, None, None) for value in values]
    units = len(set(clusters_of(patients, len(y)) or range(len(y))))
    found = [
        np.stack([mean_over_seeds(rows, metric, counts) for rows in runs])  # (1 + methods, r)
        for counts in draws_of(y, patients, draws, seed)
    ]
    drawn = np.concatenate(found, axis=1)
    return [
        _difference(first, value, row - drawn[0], confidence, units >= LEAST_UNITS)
        for value, row in zip(values, drawn[1:], strict=True)
    ]


def p_value(drawn: Floats) -> float:
    """Two-sided, from the drawn differences (R,): how rarely they lie on the other side of 0."""
    # What is 0 up to rounding (two means over seeds that agree) must not count as a side.
    below, above = (drawn <= 1e-12).sum(), (drawn >= -1e-12).sum()
    return min(1.0, 2 * float(1 + min(below, above)) / (1 + len(drawn)))


def _difference(reference: float, value: float, drawn: Floats, confidence: float, enough: bool) -> Difference | None:
    ends = interval(value - reference, drawn, confidence)
    return None if ends is None else Difference(reference, value, *ends, p_value(drawn) if enough else None)
