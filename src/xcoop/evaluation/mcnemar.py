"""McNemar's test: two methods on the same images, by the images that only one of them gets right.

Symbols: N images, S seeds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom


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
    """The exact binomial form, for any number of images: under the null, a discordant image favours each in half.

    p = min(1, 2 P(X <= min(only_a, only_b))), X binomial with only_a + only_b trials of 1/2. It takes the images as
    independent: where patients have several, its p-value is too small, and it is not to be given.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947, in the
    binomial form.

    Args:
        correct_a: which images the first method gets right, (N,) of booleans.
        correct_b: the same of the second, in the same order.

    Raises:
        ValueError: different shapes, or values that are not booleans.
    """
    a, b = _booleans(correct_a, 1), _booleans(correct_b, 1)
    if a.shape != b.shape:
        raise ValueError(f"McNemar's test compares methods on the same images, not {len(a)} with {len(b)}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = min(1.0, 2 * float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))
    return McNemar(p, only_a, only_b)


def majority(correct: ArrayLike) -> NDArray[np.bool_]:
    """Which images a method gets right in more than half of its seeds: (S, N) to (N,).

    Seeds of one method see the same images, so S N outcomes are no S N pieces of evidence: pooled, they would make
    p-values too small. One outcome an image keeps the test exact; what it compares is then the methods as their
    majority, and an even number of seeds that is split counts as wrong, for either method.
    """
    outcomes = _booleans(correct, 2)
    return 2 * outcomes.sum(0) > len(outcomes)


def _booleans(values: ArrayLike, dimensions: int) -> NDArray[np.bool_]:
    found = np.asarray(values)
    if found.ndim != dimensions or found.dtype != np.bool_:
        raise ValueError(f"expected {dimensions}-dimensional booleans, got {found.dtype} of shape {found.shape}")
    return found
