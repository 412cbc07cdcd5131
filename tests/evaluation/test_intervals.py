"""Intervals over the images: what they cover, how seeds and patients enter, and what stays unknown."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import classifiers, of_patients, truth
from test_ranking import draw

from xcoop.evaluation.bootstrap import bootstrap
from xcoop.evaluation.drawn import STATISTICS, packed
from xcoop.evaluation.intervals import clusters_of, image_intervals
from xcoop.evaluation.metrics import classification_metrics

METRICS = ("accuracy", "macro_auc")
GAP = 2.0


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
            for metric, found in image_intervals(labels, p, ids, metrics=METRICS, draws=300, seed=run).items():
                assert found is not None
                hits[kind, metric] += found.low <= truth(GAP)[metric] <= found.high
    for (kind, _), number in hits.items():
        assert number / 150 >= 0.88 if kind == "patients" else number / 150 < 0.75


def test_estimates_are_the_metrics_and_lie_inside() -> None:
    labels, p = draw(0, 80, 3)
    found, metrics = image_intervals(labels, p, draws=200), classification_metrics(labels, p)
    assert found.keys() == STATISTICS.keys()
    for metric, interval in found.items():
        if interval is None:
            assert metrics[metric] is None
            continue
        assert interval.estimate == pytest.approx(metrics[metric])
        assert interval.low < interval.high
        if metric != "ece":  # that of a draw is too large: see xcoop.evaluation.calibration
            assert interval.low <= interval.estimate <= interval.high


def test_agrees_with_the_plain_bootstrap() -> None:
    labels, p = draw(1, 60, 3)
    found = image_intervals(labels, p, metrics=("macro_f1",), draws=100, seed=4)["macro_f1"]
    assert found == bootstrap(packed(labels, p), STATISTICS["macro_f1"], strata=labels.tolist(), draws=100, seed=4)


def test_deterministic_by_seed() -> None:
    labels, p = draw(1, 60, 2)
    assert image_intervals(labels, p, draws=50, seed=1) == image_intervals(labels, p, draws=50, seed=1)
    assert image_intervals(labels, p, draws=50, seed=1) != image_intervals(labels, p, draws=50, seed=2)


def test_several_seeds_are_averaged_within_each_draw() -> None:
    """Thrice the same model is one model; and two that err on different images vary less than either."""
    labels, p = draw(2, 60, 2)
    single, thrice = (image_intervals(labels, q, metrics=METRICS, draws=100) for q in (p, np.stack([p] * 3)))
    for metric in METRICS:
        assert thrice[metric] == pytest.approx(single[metric])
    labels, runs = classifiers(np.random.default_rng(0), 200, (GAP, GAP), shared=0.01)
    one, both = (image_intervals(labels, q, metrics=("accuracy",))["accuracy"] for q in (runs[0], np.stack(runs)))
    assert one is not None
    assert both is not None
    assert both.high - both.low < 0.85 * (one.high - one.low)


def test_an_absent_class_has_no_interval() -> None:
    labels, p = draw(3, 60, 3)
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
        ({"confidence": 95}, "confidence must be in"),
        ({"metrics": ("acuracy",)}, "Did you mean 'accuracy'"),
        ({"probabilities": np.ones(4)}, r"\(S, N, C\)"),
        ({"probabilities": np.zeros((0, 4, 2))}, "S > 0"),
        ({"patients": ["a"]}, "1 patients for 4 images"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"labels": [0, 1, 0, 1], "probabilities": np.full((4, 2), 0.5), **change}
    with pytest.raises(ValueError, match=message):
        image_intervals(**arguments)
