"""Ranks over datasets: published table values, scipy as referee, and groups by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from xcoop.evaluation.ranks import (
    average_ranks,
    compare_ranks,
    critical_difference,
    friedman,
    groups,
    nemenyi_q,
)

# Demšar 2006, table 5: q at 0.05 and 0.10 for 2 to 10 methods.
Q_05 = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
Q_10 = [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]


@pytest.mark.parametrize(("alpha", "table"), [(0.05, Q_05), (0.10, Q_10)])
def test_nemenyi_equals_the_published_table(alpha: float, table: list[float]) -> None:
    # Its third digit is partly cut, partly rounded.
    assert [nemenyi_q(methods, alpha) for methods in range(2, 11)] == pytest.approx(table, abs=0.0011)


def test_the_worked_example_of_the_paper() -> None:
    """Demšar 2006, table 6: four methods on 14 datasets; mean ranks, chi-square 9.28, differences 1.12 and 1.25.

    The fourth digit is ours: it breaks a tie of the printed digits as the paper's ranks do.
    """
    c45, c45_m, c45_cf, c45_mcf = (
        [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
        [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
        [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946],
        [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970],
    )
    scores = np.array([c45, c45_m, c45_cf, c45_mcf]).T
    assert average_ranks(scores) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.001)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.01)
    assert critical_difference(4, 14, 0.05) == pytest.approx(1.25, abs=0.01)
    uncorrected = 12 * 14 / (4 * 5) * ((average_ranks(scores) ** 2).sum() - 4 * 5**2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    # On one dataset all four tie: the paper counts it in full, the correction for ties does not.
    assert friedman(scores).chi_square == pytest.approx(friedmanchisquare(*scores.T).statistic)
    assert friedman(scores).chi_square > uncorrected


@pytest.mark.parametrize("seed", range(50))
def test_friedman_equals_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(int(rng.integers(5, 20)), int(rng.integers(3, 8)))) + np.linspace(0, seed / 40, 1)
    if seed % 2:
        scores = scores.round(0)  # ties
    expected = friedmanchisquare(*scores.T)
    found = friedman(scores)
    assert found.chi_square == pytest.approx(expected.statistic, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert friedman(-scores) == pytest.approx(found)


def test_iman_and_davenport_by_hand() -> None:
    # Two of six datasets rank 1 2 3 the other way round: mean ranks 5/3, 2, 7/3.
    scores = np.array([[3, 2, 1]] * 4 + [[1, 2, 3]] * 2, dtype=float)
    found = friedman(scores)
    assert found.chi_square == pytest.approx(12 * 6 / 12 * (2 * (1 / 3) ** 2))
    assert found.f == pytest.approx(5 * (4 / 3) / (12 - 4 / 3))


def test_datasets_that_all_rank_alike() -> None:
    found = friedman(np.tile([0.9, 0.8, 0.7], (6, 1)))
    assert (found.chi_square, found.f, found.p_f) == (pytest.approx(12), np.inf, 0.0)


def test_ranks_by_hand() -> None:
    scores = [[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]]
    assert average_ranks(scores).tolist() == [2.0, 1.75, 2.25]
    assert average_ranks(scores, higher_is_better=False).tolist() == [2.0, 2.25, 1.75]


@pytest.mark.parametrize(
    ("ranks", "width", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1.5, [(0, 1), (1, 2), (2, 3)]),
        ([1.0, 2.0, 3.0, 4.0], 2.5, [(0, 2), (1, 3)]),
        ([1.0, 2.0, 3.0, 4.0], 9.0, [(0, 3)]),
        ([1.0, 2.0, 3.0], 1.0, []),  # a difference as large as the critical one is told apart
        ([1.0, 1.2, 3.0, 3.1, 3.2], 0.5, [(0, 1), (2, 4)]),
    ],
)
def test_groups_by_hand(ranks: list[float], width: float, expected: list[tuple[int, int]]) -> None:
    assert groups(ranks, width) == expected


def test_a_planted_order_is_found() -> None:
    rng = np.random.default_rng(0)
    scores = np.array([0.7, 0.9, 0.705, 0.5]) + rng.normal(0, 0.01, (20, 4)) + rng.normal(0, 0.1, (20, 1))
    found = compare_ranks(["b", "best", "also b", "worst"], scores)
    assert found.methods[0] == "best"
    assert found.methods[-1] == "worst"
    assert [set(group) for group in found.groups] == [{"b", "also b"}]
    assert found.friedman.p < 1e-6
    assert found.rough  # four methods
    swapped = compare_ranks(["b", "best", "also b", "worst"], -scores, higher_is_better=False)
    assert swapped[:2] == found[:2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((4, 3)), "at least 5 datasets and 3 methods"),
        (np.zeros((9, 2)), "at least 5 datasets and 3 methods"),
        (np.array([[1.0, 2, 3]] * 5 + [[1.0, np.nan, 3]]), "the first of method 1 on dataset 5"),
        (np.zeros((6, 3)), "tie on all datasets"),
        (np.zeros(6), r"\(D, M\)"),
    ],
)
def test_what_is_refused(scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_ranks(["a", "b", "c"][: scores.shape[-1]], scores)


def test_names_levels_and_order_are_checked() -> None:
    with pytest.raises(ValueError, match="2 names for 3 methods"):
        compare_ranks(["a", "b"], np.random.default_rng(0).random((6, 3)))
    with pytest.raises(ValueError, match="level"):
        nemenyi_q(3, 5)
    with pytest.raises(ValueError, match="ascend"):
        groups([2.0, 1.0], 1.0)
