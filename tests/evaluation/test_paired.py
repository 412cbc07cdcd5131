"""The paired bootstrap: what its interval covers, how often it cries wolf, and what pairing gains."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import classifiers, of_patients, truth
from test_ranking import draw

from xcoop.evaluation.intervals import image_intervals
from xcoop.evaluation.metrics import classification_metrics
from xcoop.evaluation.multiple import holm
from xcoop.evaluation.paired import LEAST_UNITS, Difference, draws_for, p_value, paired_bootstrap


def one(labels: np.ndarray, a: np.ndarray, b: np.ndarray, *arguments: object, **settings: object) -> Difference:
    (found,) = paired_bootstrap(labels, a, [b], *arguments, **settings)
    assert found is not None
    return found


def rates(runs: int, images: int, draws: int, metric: str) -> tuple[float, float]:
    """How often the interval covers a true difference, and how often a true null is rejected at 5 %."""
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
    return covered / runs, rejected / runs


@pytest.mark.parametrize("metric", ["accuracy", "macro_auc"])
def test_a_difference_is_covered_and_a_null_is_rarely_rejected(metric: str) -> None:
    covered, rejected = rates(150, 200, 400, metric)
    assert 0.90 <= covered <= 0.99
    assert 0.01 <= rejected <= 0.10


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "macro_auc"])
def test_a_difference_is_covered_as_often_as_is_said(metric: str) -> None:
    covered, rejected = rates(500, 400, 1000, metric)
    assert 0.93 <= covered <= 0.97
    assert 0.03 <= rejected <= 0.07


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


def test_by_hand() -> None:
    """Of 100 images of one class, the reference is right on 60; the other on these and on 20 more."""
    labels = np.zeros(100, dtype=int)
    a, b = (np.where(np.arange(100)[:, None] < right, [0.9, 0.1], [0.2, 0.8]) for right in (60, 80))
    found = one(labels, a, b, draws=5000)
    assert (found.reference, found.value) == (0.6, 0.8)
    assert found.difference == pytest.approx(0.2)
    # The difference of a draw is a binomial share of 20 in 100.
    shares = np.random.default_rng(5).binomial(100, 0.2, 100_000) / 100
    assert found.low == pytest.approx(np.quantile(shares, 0.025), abs=0.011)
    assert found.high == pytest.approx(np.quantile(shares, 0.975), abs=0.011)
    assert found.p == pytest.approx(2 / 5001)


def test_the_same_method_differs_in_nothing() -> None:
    labels, p = draw(0, 60, 3)
    found = one(labels, p, p, metric="macro_auc", draws=100)
    assert found[2:] == (0.0, 0.0, 0.0, 1.0)
    seeds = np.stack([draw(seed, 60, 3)[1] for seed in range(3)])
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
    found = one(labels, a, b, metric="macro_auc")
    width = found.high - found.low
    apart = [image_intervals(labels, p, metrics=("macro_auc",))["macro_auc"] for p in (a, b)]
    assert width < 0.7 * np.hypot(*[high - low for _, low, high in apart])


def test_seeds_are_averaged_before_the_difference() -> None:
    labels, _ = draw(0, 60, 2)
    a, b = (np.stack([draw(seed, 60, 2)[1] for seed in seeds]) for seeds in ((0, 1, 2), (3, 4)))
    found = one(labels, a, b, metric="brier", draws=50)
    means = [np.mean([classification_metrics(labels, p)["brier"] for p in runs]) for runs in (a, b)]
    assert found[:3] == pytest.approx((means[0], means[1], means[1] - means[0]))


def test_several_methods_share_the_draws() -> None:
    labels, (a, b, c) = classifiers(np.random.default_rng(0), 100, (2.0, 1.5, 1.0))
    together = paired_bootstrap(labels, a, [b, c], draws=200)
    assert together == [one(labels, a, b, draws=200), one(labels, a, c, draws=200)]


def test_no_p_value_of_a_handful() -> None:
    for images, known in ((LEAST_UNITS - 1, False), (LEAST_UNITS, True)):
        labels, (a, b) = classifiers(np.random.default_rng(0), images, (2.0, 1.0))
        assert (one(labels, a, b, draws=50).p is not None) == known
    labels, (a, b) = classifiers(np.random.default_rng(0), 100, (2.0, 1.0))
    few = [f"patient-{i // 10}" for i in range(100)]
    assert one(labels, a, b, few, draws=50).p is None


def test_what_cannot_be_known_has_no_difference() -> None:
    labels, p = draw(0, 60, 3)
    kept = labels != 2
    assert paired_bootstrap(labels[kept], p[kept], [p[kept]], metric="macro_auc", draws=20) == [None]


def test_a_calibration_error_has_a_difference_but_no_p_value() -> None:
    labels, (a, b) = classifiers(np.random.default_rng(0), 100, (2.0, 1.0))
    found = one(labels, a, b, metric="ece", draws=20)
    errors = [classification_metrics(labels, p)["ece"] for p in (a, b)]
    assert found[:3] == pytest.approx((errors[0], errors[1], errors[1] - errors[0]))
    assert found[3:] == (None, None, None)


def test_p_value_by_hand() -> None:
    assert p_value(np.array([0.1] * 97 + [-0.1] * 2)) == pytest.approx(2 * 3 / 100)
    assert p_value(np.array([1e-17] * 50 + [-1e-17] * 49)) == 1.0  # rounding is no difference


@pytest.mark.parametrize("comparisons", [1, 85, 1000])
def test_a_clear_difference_survives_the_correction_for_any_number(comparisons: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    draws = draws_for(comparisons)
    found = one(labels, right, wrong, draws=draws)
    assert found.p == pytest.approx(2 / (draws + 1))
    assert holm([found.p] * comparisons)[0] < 0.05
