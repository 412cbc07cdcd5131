"""Several comparisons at once: p-values corrected, so that the chance of any false alarm stays at the level named."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; valid whatever the dependence between the comparisons.

    The smallest of m p-values is multiplied by m, the next by m - 1, ..., and none may fall below a smaller one's.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Raises:
        ValueError: a value that is no probability.
    """
    _check(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = largest
    return corrected


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p-value times their number, at most 1: never smaller than Holm's, and given for those who expect it."""
    _check(p_values)
    return [min(1.0, p * len(p_values)) for p in p_values]


def _check(p_values: Sequence[float]) -> None:
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"a p-value must be in [0, 1], not {wrong[0]}")
