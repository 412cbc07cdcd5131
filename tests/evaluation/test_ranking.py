"""AUC, average precision and sensitivity at a specificity: by hand, scikit-learn as referee, and in draws."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as referee

from xcoop.evaluation import ranking
from xcoop.evaluation.metrics import classification_metrics

ONCE = np.ones((1, 6), dtype=np.int64)
POSITIVE = np.array([True, False, True, True, False, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.1])


def draw(seed: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels that hold each class, and probabilities in steps of a tenth, so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes)])
    values = np.exp(rng.normal(size=(images, classes)) + np.eye(classes)[labels])
    return labels, rng.multinomial(10, values / values.sum(1, keepdims=True)) / 10


def referee_sensitivity(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    alarms, found, _ = referee.roc_curve(labels, scores, drop_intermediate=False, sample_weight=weights)
    return float(found[1 - alarms >= 0.95 - 1e-9].max())


def test_auc_by_hand() -> None:
    # 0.9 beats three negatives, 0.7 beats two, 0.4 beats one and ties with one: 6.5 of 9 pairs.
    assert ranking.auc(POSITIVE, SCORES, ONCE) == pytest.approx([6.5 / 9])


def test_average_precision_by_hand() -> None:
    # Thresholds 0.9: 1 of 1; 0.8: no gain; 0.7: 2 of 3; 0.4: 3 of 5 (a tie enters as a whole).
    assert ranking.average_precision(POSITIVE, SCORES, ONCE) == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])


def test_sensitivity_at_specificity_by_hand() -> None:
    # Three negatives: 0.95 allows no false alarm (0.9 only), 2/3 one (0.7 as well), 1/3 two (0.4 as well).
    for specificity, expected in ((0.95, 1 / 3), (2 / 3, 2 / 3), (1 / 3, 1.0)):
        found = ranking.sensitivity_at_specificity(POSITIVE, SCORES, ONCE, specificity)
        assert found == pytest.approx([expected])


@pytest.mark.parametrize(("negatives", "expected"), [(19, 0.0), (20, 1.0), (39, 0.0), (40, 1.0)])
def test_one_alarm_among_twenty_is_a_specificity_of_95_percent(negatives: int, expected: float) -> None:
    """The positive lies below as many negatives as are allowed; 1 - 0.95 is no exact number, and must not matter."""
    above = 1 if negatives < 30 else 2
    scores = np.array([0.5, *[0.9] * above, *[0.1] * (negatives - above)])
    labels = np.array([True, *[False] * negatives])
    once = np.ones((1, negatives + 1), dtype=np.int64)
    assert ranking.sensitivity_at_specificity(labels, scores, once) == pytest.approx([expected])


@pytest.mark.parametrize("seed", range(100))
def test_equals_scikit_learn(seed: int) -> None:
    classes = (2, 3, 5)[seed % 3]
    labels, p = draw(seed, 30 + seed, classes)
    assert len(np.unique(p[:, 1])) < len(p)  # ties
    found = classification_metrics(labels, p)
    if classes == 2:
        assert found["macro_auc"] == pytest.approx(referee.roc_auc_score(labels, p[:, 1]), abs=1e-6)
        assert found["average_precision"] == pytest.approx(referee.average_precision_score(labels, p[:, 1]), abs=1e-6)
        assert found["sensitivity_at_95_specificity"] == pytest.approx(referee_sensitivity(labels, p[:, 1]), abs=1e-6)
    else:
        truth = np.eye(classes)[labels]
        assert found["macro_auc"] == pytest.approx(referee.roc_auc_score(labels, p, multi_class="ovr"), abs=1e-6)
        assert found["average_precision"] == pytest.approx(referee.average_precision_score(truth, p), abs=1e-6)
        assert found["sensitivity_at_95_specificity"] is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("classes", [2, 4])
def test_an_absent_class_is_unknown_and_never_zero(seed: int, classes: int) -> None:
    labels, p = draw(seed, 60, classes)
    absent = seed % classes
    found = classification_metrics(labels[labels != absent], p[labels != absent])
    for metric in ("macro_auc", "average_precision", "sensitivity_at_95_specificity"):
        assert found[metric] is None


@pytest.mark.parametrize("seed", range(20))
def test_draws_equal_scikit_learn_with_weights(seed: int) -> None:
    labels, p = draw(seed, 50, 2)
    positive, scores = labels == 1, p[:, 1]
    counts = np.random.default_rng(seed).poisson(1, (8, 50))
    counts[:, :2] = 1  # each draw holds both classes
    for statistic, judge in (
        (ranking.auc, lambda w: referee.roc_auc_score(labels, scores, sample_weight=w)),
        (ranking.average_precision, lambda w: referee.average_precision_score(labels, scores, sample_weight=w)),
        (ranking.sensitivity_at_specificity, lambda w: referee_sensitivity(labels, scores, w)),
    ):
        expected = [judge(weights) for weights in counts]
        assert statistic(positive, scores, counts) == pytest.approx(expected, abs=1e-6)


def test_a_draw_without_a_class_is_unknown() -> None:
    counts = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 2, 0, 0], [0, 1, 0, 0, 2, 2], [0, 0, 0, 0, 0, 0]])
    for statistic in (ranking.auc, ranking.average_precision, ranking.sensitivity_at_specificity):
        known = ~np.isnan(statistic(POSITIVE, SCORES, counts))
        assert known.tolist() == [True, False, False, False]


def test_the_parts_in_which_draws_are_taken_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, p = draw(3, 40, 3)
    counts = np.random.default_rng(0).multinomial(40, [1 / 40] * 40, 25)
    whole = ranking.one_vs_rest(ranking.auc, labels, p, counts)
    monkeypatch.setattr(ranking, "_CELLS", 100)
    np.testing.assert_array_equal(ranking.one_vs_rest(ranking.auc, labels, p, counts), whole)
