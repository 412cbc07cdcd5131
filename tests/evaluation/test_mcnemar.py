"""McNemar's exact test by hand and against scipy, and the corrections for several comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from xcoop.evaluation.mcnemar import majority, mcnemar
from xcoop.evaluation.multiple import bonferroni, holm


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def test_by_hand() -> None:
    # Six images tell the methods apart, five to one: p = 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    assert mcnemar(*outcomes(50, 5, 1, 9)) == (pytest.approx(14 / 64), 5, 1)
    assert mcnemar(*outcomes(50, 1, 5, 9)) == (pytest.approx(14 / 64), 1, 5)
    assert mcnemar(*outcomes(50, 0, 0, 9)) == (1.0, 0, 0)
    assert mcnemar(*outcomes(0, 3, 3, 0)).p == 1.0


@pytest.mark.parametrize("seed", range(100))
def test_equals_the_binomial_test_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.random(60) < rate for rate in rng.random(2))
    found = mcnemar(a, b)
    if found.only_a + found.only_b:
        assert found.p == pytest.approx(binomtest(found.only_a, found.only_a + found.only_b).pvalue, abs=1e-9)


def test_seeds_vote_and_are_not_pooled() -> None:
    seeds = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=bool)
    assert majority(seeds).tolist() == [True, True, False, False]
    assert majority(seeds[:2]).tolist() == [True, False, False, False]  # one of two is no majority
    a, b = outcomes(50, 6, 1, 9)
    alike = mcnemar(majority(np.stack([a] * 3)), majority(np.stack([b] * 3)))
    assert alike == mcnemar(a, b)
    assert alike.p > 0.05 > mcnemar(np.tile(a, 3), np.tile(b, 3)).p  # what pooling would have claimed


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([True], [True, False], "same images"),
        ([1, 0], [1, 1], "booleans"),
        ([[True]], [[True]], "1-dimensional"),
    ],
)
def test_what_is_refused(a: list[object], b: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mcnemar(a, b)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 is lifted to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_bonferroni_by_hand() -> None:
    assert bonferroni([0.01, 0.04, 0.5]) == pytest.approx([0.03, 0.12, 1.0])


def test_false_alarms_of_a_family_stay_at_the_level() -> None:
    """Ten true nulls: uncorrected, 40 % of the families hold a false alarm; corrected, 5 %."""
    families = np.random.default_rng(0).random((2000, 10))
    for correct in (holm, bonferroni):
        assert np.mean([min(correct(family.tolist())) < 0.05 for family in families]) == pytest.approx(0.05, abs=0.012)
    assert (families.min(1) < 0.05).mean() > 0.35


def test_what_is_no_p_value() -> None:
    for correct in (holm, bonferroni):
        with pytest.raises(ValueError, match=r"1\.5"):
            correct([0.1, 1.5])
        with pytest.raises(ValueError, match="nan"):
            correct([float("nan")])
