"""Intervals: coverage by simulation, strata and patients by construction, seeds, and what stays unknown."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import classifiers, of_patients, random_case, truth

from xcoop.evaluation.metrics import STATISTICS, classification_metrics
from xcoop.evaluation.statistics import NO_INTERVAL, image_counts, image_intervals, interval, mean_of_known, units_of

METRICS = ("accuracy", "macro_auc")
GAP = 2.0


def test_the_interval_is_the_middle_of_the_drawn_means() -> None:
    values = np.arange(30.0) ** 2
    found = mean_of_known(values, draws=20_000, seed=1)
    rng = np.random.default_rng(99)  # another stream, drawn in the plain way
    means = rng.choice(values, (20_000, 30)).mean(1)
    assert found.estimate == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=3)
    assert found == mean_of_known(values, draws=20_000, seed=1) != mean_of_known(values, draws=20_000, seed=2)


def test_each_class_keeps_its_number_of_images() -> None:
    classes = ["a"] * 10 + ["b"] * 30
    once, drawn = image_counts(range(40), classes, draws=500)
    assert (once == 1).all()
    assert (drawn[:, :10].sum(1) == 10).all()
    assert (drawn[:, 10:].sum(1) == 30).all()
    _, free = image_counts(range(40), draws=500)
    assert free[:, :10].sum(1).std() > 2


def test_patients_within_classes() -> None:
    """Two patients a class; one more has images of both classes, and is always drawn: its stratum is its own."""
    patients = ["p", "p", "q", "q", "r", "r", "s", "s", "t", "t"]
    _, counts = image_counts(patients, ["a"] * 4 + ["b"] * 4 + ["a", "b"], draws=500)
    assert (counts[:, ::2] == counts[:, 1::2]).all()  # both images of a patient, equally often
    seen = set(map(tuple, counts[:, ::2].tolist()))
    assert {row[:2] for row in seen} == {row[2:4] for row in seen} == {(2, 0), (1, 1), (0, 2)}
    assert {row[4] for row in seen} == {1}


def test_large_sets_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcoop.evaluation.statistics._CELLS", 1000)
    assert [len(counts) for counts in image_counts(range(100), draws=25)] == [1, 10, 10, 5]


def test_what_is_unknown_is_left_out_and_counted() -> None:
    found = mean_of_known([1.0, np.nan, 2.0, 3.0, np.nan], clusters=list("vwxyz"))
    assert (found.estimate, found.known, found.unknown) == (2.0, 3, 2)
    assert found[:3] == mean_of_known([1.0, 2.0, 3.0], clusters=list("vxy"))[:3]
    single = mean_of_known([np.nan, 5.0])
    assert (single.estimate, single.known) == (5.0, 1)
    assert np.isnan([single.low, single.high, mean_of_known([np.nan]).estimate]).all()
    assert mean_of_known([]).known == 0


# Of metrics, over the images.


@pytest.mark.parametrize(
    ("runs", "images", "draws", "least", "most"),
    [(200, 200, 400, 0.90, 0.985), pytest.param(500, 400, 1000, 0.93, 0.97, marks=pytest.mark.slow)],
)
def test_intervals_cover_the_truth(runs: int, images: int, draws: int, least: float, most: float) -> None:
    hits = dict.fromkeys(METRICS, 0)
    for run in range(runs):
        labels, (p,) = classifiers(np.random.default_rng([11, run]), images, (GAP,))
        for metric, found in image_intervals(labels, p, metrics=METRICS, draws=draws, seed=run).items():
            assert found is not None
            hits[metric] += found.low <= truth(GAP)[metric] <= found.high
    assert all(least <= number / runs <= most for number in hits.values())


def test_patients_with_several_images_are_covered_only_when_drawn_whole() -> None:
    """Planted: six images of a patient share most of what makes them hard."""
    hits = {("images", m): 0 for m in METRICS} | {("patients", m): 0 for m in METRICS}
    for run in range(150):
        labels, p, patients = of_patients(np.random.default_rng([12, run]), 80, 6, GAP)
        for kind, ids in (("images", None), ("patients", patients)):
            for metric, found in image_intervals(labels, p, ids, metrics=METRICS, draws=200, seed=run).items():
                assert found is not None
                hits[kind, metric] += found.low <= truth(GAP)[metric] <= found.high
    for (kind, _), number in hits.items():
        assert number / 150 >= 0.88 if kind == "patients" else number / 150 < 0.75


def test_estimates_are_the_metrics_and_lie_inside() -> None:
    labels, p = random_case(0, 80, 3)
    found, metrics = image_intervals(labels, p, draws=200), classification_metrics(labels, p)
    assert found.keys() == STATISTICS.keys()
    for metric, own in found.items():
        if own is None:
            assert metrics[metric] is None or metric in NO_INTERVAL
            continue
        assert own.estimate == pytest.approx(metrics[metric])
        assert own.low < own.high
        assert own.low <= own.estimate <= own.high
    assert found == image_intervals(labels, p, draws=200) != image_intervals(labels, p, draws=200, seed=2)


def test_no_interval_of_a_calibration_error() -> None:
    """Planted: a perfectly calibrated model, error 0. A percentile interval would deny it; Brier's holds the truth."""
    rng = np.random.default_rng(0)
    one = rng.random(300)
    labels, p = (rng.random(300) < one).astype(int), np.stack([1 - one, one], axis=1)
    drawn = image_counts(range(300), draws=300)
    naive = interval(np.concatenate([STATISTICS["ece"](labels, p, counts) for counts in drawn]))
    assert naive is not None
    assert naive.low > 0.02
    found = image_intervals(labels, p, metrics=("ece", "brier"), draws=300)
    assert list(found) == ["ece", "brier"]
    assert found["ece"] is None
    assert found["brier"] is not None
    assert found["brier"].low <= 1 / 3 <= found["brier"].high  # the mean of 2 q (1 - q)


def test_several_seeds_are_averaged_within_each_draw() -> None:
    """Thrice the same model is one model; and two that err on different images vary less than either."""
    labels, p = random_case(2, 60, 2)
    single, thrice = (image_intervals(labels, q, metrics=METRICS, draws=100) for q in (p, np.stack([p] * 3)))
    for metric in METRICS:
        assert thrice[metric] == pytest.approx(single[metric])
    labels, runs = classifiers(np.random.default_rng(0), 200, (GAP, GAP), shared=0.01)
    one, both = (image_intervals(labels, q, metrics=("accuracy",))["accuracy"] for q in (runs[0], np.stack(runs)))
    assert one is not None
    assert both is not None
    assert both.high - both.low < 0.85 * (one.high - one.low)


def test_an_absent_class_has_no_interval() -> None:
    labels, p = random_case(3, 60, 3)
    found = image_intervals(labels[labels != 1], p[labels != 1], draws=50)
    assert found["macro_auc"] is found["average_precision"] is found["sensitivity_at_95_specificity"] is None
    assert found["accuracy"] is not None


def test_an_image_without_a_patient_stands_for_itself() -> None:
    assert units_of([None, "a", None, "a"], 4) == [("image", 0), "a", ("image", 2), "a"]
    assert len(set(units_of(None, 2))) == 2
