"""Which concepts speak for a class: log-odds of each concept value, class against rest, with confidence intervals.

A majority rule would not do: what is absent from most images of every class ("no veil") would win everywhere, and what
tells the classes apart would be lost wherever it is seen in less than half of them.

Of the n images of a class, a show the value and b do not; of the rest, c do and d do not. Then

    log-odds  L  = ln((a + 1/2) (d + 1/2) / ((b + 1/2) (c + 1/2)))
    error     SE = sqrt(1/(a + 1/2) + 1/(b + 1/2) + 1/(c + 1/2) + 1/(d + 1/2))
    interval     = L -+ z SE

The halves keep L finite where a count is 0, and take away most of its bias (Haldane, Ann Hum Genet 1956;20:309-311;
Anscombe, Biometrika 1956;43:461-464); the error is Woolf's (Ann Hum Genet 1955;19:251-253), with the same halves (Gart
and Zweifel, Biometrika 1967;54:181-187). The interval takes L for normal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xcoop.utils.suggest import unknown

HALF = 0.5
NORMAL = NormalDist()
FEWEST, MOST = 4, 10  # concepts a class


@dataclass(frozen=True)
class Observation:
    """One training image: its class, and the value of each concept that is known of it."""

    classname: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Association:
    """How much a concept value speaks for a class.

    Attributes:
        classname: the class.
        concept: the concept, as its column is called.
        value: the value.
        own: images of the class that show the value.
        own_total: images of the class in which the concept is known.
        rest: images of all other classes that show it.
        rest_total: images of all other classes in which the concept is known.
        log_odds: L; above 0, the value speaks for the class.
        error: its standard error.
        low: the lower end of the interval.
        high: the upper end.
    """

    classname: str
    concept: str
    value: str
    own: int
    own_total: int
    rest: int
    rest_total: int
    log_odds: float
    error: float
    low: float = float("nan")
    high: float = float("nan")


def log_odds(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L and its standard error; see the head of this module.

    Args:
        a: images of the class that show the value, any shape.
        b: images of the class that do not, same shape.
        c: images of the rest that do, same shape.
        d: images of the rest that do not, same shape.
    """
    a, b, c, d = (np.asarray(count, dtype=np.float64) + HALF for count in (a, b, c, d))
    return np.log(a * d / (b * c)), np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


def mine(
    observations: Sequence[Observation],
    classes: Sequence[str],
    skipped: Sequence[str] = (),
    confidence: float = 0.95,
    correction: str = "none",
) -> list[Association]:
    """The association of each value of each concept with each class, the surest first within a class.

    Args:
        observations: training images alone: whoever counts test images knows their answers.
        classes: in label order.
        skipped: values that are no findings, e.g. `absent`.
        confidence: of the intervals, in (0, 1).
        correction: for how many are looked at, a name of `CORRECTIONS`.

    Raises:
        ValueError: a confidence outside (0, 1), an unknown correction or class, or a class without images.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")
    if correction not in CORRECTIONS:
        raise ValueError(unknown("correction", correction, CORRECTIONS))
    if lacking := set(classes) ^ {observation.classname for observation in observations}:
        raise ValueError(f"classes and images differ in: {', '.join(map(repr, sorted(lacking)))}")
    if len(set(classes)) < 2:
        raise ValueError(f"log-odds compare a class with the rest; there is only {', '.join(classes)}")
    found = _associations(observations, classes, set(skipped))
    return [_with_interval(one, _tail(found, 1 - confidence, correction)) for one in found]


def choose(associations: Sequence[Association], most: int) -> dict[str, list[Association]]:
    """Per class its concepts whose whole interval lies above 0: at most so many, by the lower end of the interval."""
    chosen: dict[str, list[Association]] = {one.classname: [] for one in associations}
    for one in sorted(associations, key=lambda one: -one.low):
        if one.low > 0 and len(chosen[one.classname]) < most:
            chosen[one.classname].append(one)
    return chosen


def _associations(observations: Sequence[Observation], classes: Sequence[str], skipped: set[str]) -> list[Association]:
    shown: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for observation in observations:
        for concept, value in observation.values.items():
            shown[concept, value][observation.classname] += 1
            known[concept][observation.classname] += 1
    return [
        _association(classname, key, shown[key], known[key[0]])
        for classname in classes
        for key in sorted(shown)
        if key[1] not in skipped
    ]


def _association(classname: str, key: tuple[str, str], shown: Counter[str], known: Counter[str]) -> Association:
    own, own_total = shown[classname], known[classname]
    rest, rest_total = shown.total() - own, known.total() - own_total
    odds, error = log_odds(own, own_total - own, rest, rest_total - rest)
    return Association(classname, *key, own, own_total, rest, rest_total, float(odds), float(error))


def _with_interval(one: Association, tail: float) -> Association:
    reach = NORMAL.inv_cdf(1 - tail / 2) * one.error
    return Association(**{**vars(one), "low": one.log_odds - reach, "high": one.log_odds + reach})


def _tail(found: Sequence[Association], tail: float, correction: str) -> float:
    """The share that may lie outside each single interval."""
    # Of two classes, one's log-odds are the other's with the sign changed: each pair is one question.
    first = found[0].classname if found else ""
    classes = {one.classname for one in found}
    questions = [one for one in found if len(classes) > 2 or one.classname == first]
    p_values = [2 * NORMAL.cdf(-abs(one.log_odds) / one.error) for one in questions]
    return CORRECTIONS[correction](tail, p_values)


def _bonferroni(tail: float, p_values: Sequence[float]) -> float:
    return tail / max(1, len(p_values))


def _false_coverage(tail: float, p_values: Sequence[float]) -> float:
    """A share R / m of the tail: R of the m are picked by Benjamini and Hochberg's rule at this level."""
    m = max(1, len(p_values))
    ranked = enumerate(sorted(p_values), start=1)
    return tail * max([rank for rank, p in ranked if p <= tail * rank / m], default=1) / m


CORRECTIONS: dict[str, Callable[[float, Sequence[float]], float]] = {
    "none": lambda tail, p_values: tail,
    "bonferroni": _bonferroni,  # all intervals hold at once with this confidence
    "fcr": _false_coverage,  # of the picked ones that share holds (Benjamini and Yekutieli, JASA 2005;100:71-81)
}
