"""Intervals: coverage by simulation, strata and patients by construction, seeds, and what stays unknown."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import classifiers, of_patients, random_case, truth

from xcoop.evaluation.bootstrap import NO_INTERVAL, bootstrap, clusters_of, image_intervals, mean_of_known
from xcoop.evaluation.metrics import STATISTICS, classification_metrics, weighted_mean

METRICS = ("accuracy", "macro_auc")
GAP = 2.0


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for run in range(400):
        found = bootstrap(rng.binomial(1, 0.8, 50) + rng.normal(0, 0.3, 50), draws=400, seed=run)
        hits += found.low <= 0.8 <= found.high
    assert 0.92 <= hits / 400 <= 0.975


def test_the_interval_is_the_middle_of_the_drawn_means() -> None:
    values = np.arange(30.0) ** 2
    found = bootstrap(values, draws=20_000, seed=1)
    rng = np.random.default_rng(99)  # another stream, drawn in the plain way
    means = rng.choice(values, (20_000, 30)).mean(1)
    assert found.estimate == pytest.approx(values.mean())
    assert found[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=3)
    assert found == bootstrap(values, draws=20_000, seed=1) != bootstrap(values, draws=20_000, seed=2)


def test_each_class_keeps_its_number_of_images() -> None:
    """Values that are constant within a class leave no spread once classes are drawn apart."""
    values, classes = [0.0] * 10 + [1.0] * 30, ["a"] * 10 + ["b"] * 30
    assert bootstrap(values, strata=classes) == (0.75, 0.75, 0.75)
    assert bootstrap(values).low < 0.7


def test_patients_within_classes() -> None:
    """Two patients a class; one more has images of both classes, and is always drawn: its stratum is its own."""
    values = np.array([0.0, 0, 4, 4, 0, 0, 8, 8, 100, 100])
    patients = ["p", "p", "q", "q", "r", "r", "s", "s", "t", "t"]
    classes = ["a"] * 4 + ["b"] * 4 + ["a", "b"]
    seen: set[tuple[int, ...]] = set()

    def watch(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        seen.update(map(tuple, counts[:, ::2].tolist()))
        assert (counts[:, ::2] == counts[:, 1::2]).all()  # both images of a patient, equally often
        return weighted_mean(rows, counts)

    bootstrap(values, watch, strata=classes, clusters=patients, draws=500)
    assert {row[:2] for row in seen} == {row[2:4] for row in seen} == {(2, 0), (1, 1), (0, 2)}
    assert {row[4] for row in seen} == {1}


def test_large_sets_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watch(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        sizes.append(len(counts))
        return weighted_mean(rows, counts)

    monkeypatch.setattr("xcoop.evaluation.bootstrap._CELLS", 1000)
    bootstrap(np.arange(100.0), watch, draws=25)
    assert sizes == [10, 10, 5, 1]


def test_what_is_unknown_is_left_out_and_counted() -> None:
    found = mean_of_known([1.0, np.nan, 2.0, 3.0, np.nan], clusters=list("vwxyz"))
    assert (found.estimate, found.known, found.unknown) == (2.0, 3, 2)
    assert found[:3] == bootstrap([1.0, 2.0, 3.0], clusters=list("vxy"))
    single = mean_of_known([np.nan, 5.0])
    assert (single.estimate, single.known) == (5.0, 1)
    assert np.isnan([single.low, single.high, mean_of_known([np.nan]).estimate]).all()
    assert mean_of_known([]).known == 0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one image"),
        ([1.0, np.nan], {}, "1 of the values"),
        ([1.0, 2.0], {"strata": ["a"]}, "1 strata for 2 images"),
        ([1.0, 2.0], {"clusters": ["a"] * 3}, "3 clusters for 2 images"),
        ([1.0], {"draws": 0}, "draws must be 1 or more"),
    ],
)
def test_what_is_refused(values: list[float], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(values, **options)


# Of metrics, over the images.


def coverage(runs: int, images: int, draws: int) -> dict[str, float]:
    hits = dict.fromkeys(METRICS, 0)
    for run in range(runs):
        labels, (p,) = classifiers(np.random.default_rng([11, run]), images, (GAP,))
        for metric, found in image_intervals(labels, p, metrics=METRICS, draws=draws, seed=run).items():
            assert found is not None
            hits[metric] += found.low <= truth(GAP)[metric] <= found.high
    return {metric: number / runs for metric, number in hits.items()}


def test_intervals_cover_the_truth() -> None:
    for covered in coverage(runs=200, images=200, draws=400).values():
        assert 0.90 <= covered <= 0.985


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    for covered in coverage(runs=500, images=400, draws=1000).values():
        assert 0.93 <= covered <= 0.97


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
    for metric, interval in found.items():
        if interval is None:
            assert metrics[metric] is None or metric in NO_INTERVAL
            continue
        assert interval.estimate == pytest.approx(metrics[metric])
        assert interval.low < interval.high
        assert interval.low <= interval.estimate <= interval.high
    assert found == image_intervals(labels, p, draws=200) != image_intervals(labels, p, draws=200, seed=2)


def test_no_interval_of_a_calibration_error() -> None:
    """Planted: a perfectly calibrated model, error 0. A percentile interval would deny it; Brier's holds the truth."""
    rng = np.random.default_rng(0)
    one = rng.random(300)
    labels, p = (rng.random(300) < one).astype(int), np.stack([1 - one, one], axis=1)
    assert bootstrap(labels, lambda y, counts: STATISTICS["ece"](y, p, counts), draws=300).low > 0.02
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
    assert clusters_of([None, "a", None, "a"], 4) == [("image", 0), "a", ("image", 2), "a"]
    assert clusters_of([None, None], 2) is clusters_of(None, 2) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws must be 1 or more"),
        ({"metrics": ("acuracy",)}, "Did you mean 'accuracy'"),
        ({"probabilities": np.ones(4)}, r"\(S, N, C\)"),
        ({"probabilities": np.zeros((0, 4, 2))}, "S > 0"),
        ({"patients": ["a"]}, "1 patients for 4 images"),
    ],
)
def test_intervals_that_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"labels": [0, 1, 0, 1], "probabilities": np.full((4, 2), 0.5), **change}
    with pytest.raises(ValueError, match=message):
        image_intervals(**arguments)
