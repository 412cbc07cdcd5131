"""Methods against each other: paired differences, McNemar, corrections, harmonic means, ranks over datasets."""

from __future__ import annotations

from statistics import harmonic_mean as referee

import numpy as np
import pytest
from scipy.stats import friedmanchisquare
from simulated import classifiers, of_patients, random_case, truth

from xcoop.evaluation.metrics import classification_metrics
from xcoop.evaluation.statistics import (
    LEAST_UNITS,
    Difference,
    compare_ranks,
    critical_difference,
    draws_for,
    groups,
    harmonic_interval,
    harmonic_mean,
    holm,
    image_intervals,
    majority,
    mcnemar,
    p_value,
    paired_bootstrap,
)

# The paired bootstrap.


def one(labels: np.ndarray, a: np.ndarray, b: np.ndarray, *arguments: object, **settings: object) -> Difference:
    (found,) = paired_bootstrap(labels, a, [b], *arguments, **settings)
    assert found is not None
    return found


@pytest.mark.parametrize("metric", ["accuracy", "macro_auc"])
@pytest.mark.parametrize(
    ("runs", "images", "draws", "covers", "rejects"),
    [
        (150, 200, 400, (0.90, 0.99), (0.01, 0.10)),
        pytest.param(500, 400, 1000, (0.93, 0.97), (0.03, 0.07), marks=pytest.mark.slow),
    ],
)
def test_a_true_difference_is_covered_and_a_true_null_rejected_as_often_as_is_said(
    metric: str, runs: int, images: int, draws: int, covers: tuple[float, float], rejects: tuple[float, float]
) -> None:
    expected = truth(1.5)[metric] - truth(2.0)[metric]
    covered = rejected = 0
    for run in range(runs):
        labels, (a, worse, equal) = classifiers(np.random.default_rng([13, run]), images, (2.0, 1.5, 2.0))
        found, null = paired_bootstrap(labels, a, [worse, equal], metric=metric, draws=draws, seed=run)
        assert found is not None
        assert null is not None
        assert null.p is not None
        covered += found.low <= expected <= found.high
        rejected += null.p < 0.05
    assert covers[0] <= covered / runs <= covers[1]
    assert rejects[0] <= rejected / runs <= rejects[1]


def test_clustered_patients_reject_a_null_too_often_unless_drawn_whole() -> None:
    """Planted: two methods that are equally good, each with its own hard patients."""
    rejected = {"images": 0, "patients": 0}
    for run in range(120):
        rng = np.random.default_rng([14, run])
        labels, a, patients = of_patients(rng, 80, 6, 2.0)
        _, b, _ = of_patients(rng, 80, 6, 2.0)
        for kind, ids in (("images", None), ("patients", patients)):
            p = one(labels, a, b, ids, draws=300, seed=run).p
            assert p is not None
            rejected[kind] += p < 0.05
    assert rejected["patients"] / 120 <= 0.12
    assert rejected["images"] / 120 > 0.2


def test_differences_by_hand() -> None:
    """Of 100 images of one class, the reference is right on 60; the other on these and on 20 more."""
    labels = np.zeros(100, dtype=int)
    a, b = (np.where(np.arange(100)[:, None] < right, [0.9, 0.1], [0.2, 0.8]) for right in (60, 80))
    found = one(labels, a, b, draws=5000)
    assert (found.reference, found.value) == (0.6, 0.8)
    assert found.difference == pytest.approx(0.2)
    # The difference of a draw is a binomial share of 20 in 100.
    shares = np.random.default_rng(5).binomial(100, 0.2, 100_000) / 100
    assert (found.low, found.high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.011)
    assert found.p == pytest.approx(2 / 5001)
    assert p_value(np.array([0.1] * 97 + [-0.1] * 2)) == pytest.approx(2 * 3 / 100)
    assert p_value(np.array([1e-17] * 50 + [-1e-17] * 49)) == 1.0  # rounding is no difference


def test_the_same_method_differs_in_nothing() -> None:
    labels, p = random_case(0, 60, 3)
    found = one(labels, p, p, metric="macro_auc", draws=100)
    assert found[2:] == (0.0, 0.0, 0.0, 1.0)
    seeds = np.stack([random_case(seed, 60, 3)[1] for seed in range(3)])
    assert one(labels, seeds, seeds[[2, 0, 1]], draws=100).p == 1.0  # another order of seeds


def test_direction_and_p_value_agree_with_the_interval() -> None:
    labels, (a, b) = classifiers(np.random.default_rng(3), 300, (2.0, 1.2))
    forth, back = one(labels, a, b, seed=1), one(labels, b, a, seed=1)
    assert forth.difference == pytest.approx(-back.difference)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p == back.p
    for seed in range(20):
        labels, (a, b) = classifiers(np.random.default_rng([4, seed]), 100, (2.0, 1.4))
        found = one(labels, a, b, metric="brier", draws=500, seed=seed)
        assert found.p is not None
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or abs(found.p - 0.05) < 0.01


def test_pairing_gains_where_both_find_the_same_images_hard() -> None:
    labels, (a, b) = classifiers(np.random.default_rng(2), 400, (2.0, 1.8), shared=0.95)
    found = one(labels, a, b, metric="macro_auc", draws=1000)
    apart = [image_intervals(labels, p, metrics=("macro_auc",), draws=1000)["macro_auc"] for p in (a, b)]
    assert found.high - found.low < 0.7 * np.hypot(*[high - low for _, low, high in apart])


def test_seeds_are_averaged_before_the_difference() -> None:
    labels, _ = random_case(0, 60, 2)
    a, b = (np.stack([random_case(seed, 60, 2)[1] for seed in seeds]) for seeds in ((0, 1, 2), (3, 4)))
    means = [np.mean([classification_metrics(labels, p)["brier"] for p in runs]) for runs in (a, b)]
    assert one(labels, a, b, metric="brier", draws=50)[:3] == pytest.approx((*means, means[1] - means[0]))


def test_several_methods_share_the_draws() -> None:
    labels, (a, b, c) = classifiers(np.random.default_rng(0), 100, (2.0, 1.5, 1.0))
    together = paired_bootstrap(labels, a, [b, c], draws=200)
    assert together == [one(labels, a, b, draws=200), one(labels, a, c, draws=200)]


def test_what_has_no_p_value() -> None:
    """A handful of images or patients; a calibration error; and a class without images, which has no difference."""
    for images, known in ((LEAST_UNITS - 1, False), (LEAST_UNITS, True)):
        labels, (a, b) = classifiers(np.random.default_rng(0), images, (2.0, 1.0))
        assert (one(labels, a, b, draws=50).p is not None) == known
    labels, (a, b) = classifiers(np.random.default_rng(0), 100, (2.0, 1.0))
    assert one(labels, a, b, [f"patient-{i // 10}" for i in range(100)], draws=50).p is None
    errors = [classification_metrics(labels, p)["ece"] for p in (a, b)]
    assert one(labels, a, b, metric="ece", draws=20) == (*errors, errors[1] - errors[0], None, None, None)
    labels, p = random_case(0, 60, 3)
    kept = labels != 2
    assert paired_bootstrap(labels[kept], p[kept], [p[kept]], metric="macro_auc", draws=20) == [None]


@pytest.mark.parametrize("comparisons", [1, 85, 1000])
def test_a_clear_difference_survives_the_correction_for_any_number(comparisons: int) -> None:
    labels = np.random.default_rng(0).integers(0, 2, 40)
    found = one(labels, np.eye(2)[labels], np.eye(2)[1 - labels], draws=draws_for(comparisons))
    assert found.p == pytest.approx(2 / (draws_for(comparisons) + 1))
    assert holm([found.p] * comparisons)[0] < 0.05


# McNemar's test, and corrections.


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def test_mcnemar_by_hand() -> None:
    # Six images tell the methods apart, five to one: p = 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    assert mcnemar(*outcomes(50, 5, 1, 9)) == (pytest.approx(14 / 64), 5, 1)
    assert mcnemar(*outcomes(50, 1, 5, 9)) == (pytest.approx(14 / 64), 1, 5)
    assert mcnemar(*outcomes(50, 0, 0, 9)) == (1.0, 0, 0)
    assert mcnemar(*outcomes(0, 3, 3, 0)).p == 1.0


def test_seeds_vote_and_are_not_pooled() -> None:
    seeds = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=bool)
    assert majority(seeds).tolist() == [True, True, False, False]
    assert majority(seeds[:2]).tolist() == [True, False, False, False]  # one of two is no majority
    a, b = outcomes(50, 6, 1, 9)
    alike = mcnemar(majority(np.stack([a] * 3)), majority(np.stack([b] * 3)))
    assert alike == mcnemar(a, b)
    assert alike.p > 0.05 > mcnemar(np.tile(a, 3), np.tile(b, 3)).p  # what pooling would have claimed


def test_corrections_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 is lifted to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_the_correction_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for number in range(1, 30):
        values = list(rng.random(number).round(1 if number % 2 else 6) ** 3)  # with ties
        assert holm(values) == pytest.approx(list(multitest.multipletests(values, method="holm")[1]), abs=1e-15)


# Base and new.


def half(right: int, images: int = 100) -> tuple[np.ndarray, np.ndarray, None]:
    """Labels and probabilities of images of two classes, of which the first `right` are predicted correctly."""
    labels = np.arange(images) % 2
    guesses = np.where(np.arange(images) < right, labels, 1 - labels)
    return labels, np.where(np.eye(2)[guesses] > 0, 0.9, 0.1), None


def test_harmonic_means_by_hand() -> None:
    assert harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic_mean([0.0, 0.5, 1.0], [0.0, 0.0, 1.0]).tolist() == [0, 0, 1]
    assert np.isnan(harmonic_mean(np.nan, 0.5))  # and not 0
    assert harmonic_mean(80.0, 60.0) == pytest.approx(referee([80.0, 60.0]))
    # Seeds (0.9, 0.3) and (0.3, 0.9): 0.45 each, where the harmonic mean of the means would be 0.6.
    labels, good, poor = half(0)[0], half(90)[1], half(30)[1]
    found = harmonic_interval((labels, np.stack([good, poor]), None), (labels, np.stack([poor, good]), None), draws=50)
    assert found is not None
    assert found.estimate == pytest.approx(0.45)


def test_the_harmonic_interval_covers_the_truth() -> None:
    hits, expected = 0, float(harmonic_mean(truth(2.0)["accuracy"], truth(1.0)["accuracy"]))
    for run in range(150):
        rng = np.random.default_rng([21, run])
        base, new = (classifiers(rng, 200, (gap,)) for gap in (2.0, 1.0))
        found = harmonic_interval((base[0], base[1][0], None), (new[0], new[1][0], None), draws=300, seed=run)
        assert found is not None
        hits += found.low <= expected <= found.high
    assert 0.90 <= hits / 150 <= 0.99


def test_patients_in_both_halves_are_drawn_whole() -> None:
    """Planted: each patient has the same images in base and new, so the interval is that of one half."""
    labels, p, patients = of_patients(np.random.default_rng(0), 60, 3, 1.5)
    same = (labels, p, patients)
    joint = harmonic_interval(same, same, draws=400)
    apart = harmonic_interval(same, (labels, p, [f"other {patient}" for patient in patients]), draws=400)
    assert joint is not None
    assert apart is not None
    assert joint.estimate == apart.estimate
    assert joint.high - joint.low > 1.2 * (apart.high - apart.low)


def test_a_harmonic_mean_of_what_the_labels_cannot_tell() -> None:
    p = half(90)[1]
    only = (np.zeros(10, dtype=int), p[:10], None)
    assert harmonic_interval(only, half(90), metric="macro_auc", draws=20) is None


# Ranks over datasets.

# Demšar 2006, table 5: q at 0.05 for 2 to 10 methods.
Q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]


def test_nemenyi_equals_the_published_table() -> None:
    for methods, q in enumerate(Q, start=2):  # the third digit of a q is partly cut, partly rounded
        found = critical_difference(methods, 20) / np.sqrt(methods * (methods + 1) / (6 * 20))
        assert found == pytest.approx(q, abs=0.0011)


def test_the_worked_example_of_the_paper() -> None:
    """Demšar 2006, table 6: four methods on 14 datasets; mean ranks, chi-square 9.28, difference 1.25.

    The fourth digit is ours: it breaks a tie of the printed digits as the paper's ranks do.
    """
    scores = np.array(
        [
            [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
            [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
            [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946],
            [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970],
        ]
    ).T
    found = compare_ranks(["c4.5", "c4.5+m", "c4.5+cf", "c4.5+m+cf"], scores)
    assert found.methods == ("c4.5+m+cf", "c4.5+m", "c4.5+cf", "c4.5")
    assert found.ranks == pytest.approx([1.964, 2.000, 2.893, 3.143], abs=0.001)
    assert found.critical_difference == pytest.approx(1.25, abs=0.01)
    uncorrected = 12 * 14 / (4 * 5) * ((np.array(found.ranks) ** 2).sum() - 4 * 5**2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    # On one dataset all four tie: the paper counts it in full, the correction for ties does not.
    assert found.chi_square == pytest.approx(friedmanchisquare(*scores.T).statistic)
    assert found.chi_square > uncorrected


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
    assert (found.methods[0], found.methods[-1]) == ("best", "worst")
    assert [set(group) for group in found.groups] == [{"b", "also b"}]
    assert found.p < 1e-6
    assert found.rough  # four methods
    assert compare_ranks(["b", "best", "also b", "worst"], -scores, higher_is_better=False)[:2] == found[:2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((4, 3)), "at least 5 datasets and 3 methods"),
        (np.zeros((9, 2)), "at least 5 datasets and 3 methods"),
        (np.zeros((6, 3)), "tie on all datasets"),
    ],
)
def test_ranks_that_are_refused(scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_ranks("abc"[: scores.shape[-1]], scores)
