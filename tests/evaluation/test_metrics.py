"""The metrics, of images and of draws: hand-computed values, scikit-learn as referee, planted truths."""

from __future__ import annotations

import time

import numpy as np
import pytest
from simulated import random_case
from sklearn import metrics as referee

from xcoop.evaluation.metrics import (
    STATISTICS,
    adaptive_calibration_error,
    auc,
    average_precision,
    classification_metrics,
    confusion,
    ece,
    one_vs_rest,
    reliability,
    sensitivity_at_specificity,
)
from xcoop.evaluation.statistics import image_counts

ONCE = np.ones((1, 6), dtype=np.int64)
POSITIVE = np.array([True, False, True, True, False, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.1])


def referee_sensitivity(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    alarms, found, _ = referee.roc_curve(labels, scores, drop_intermediate=False, sample_weight=weights)
    return float(found[1 - alarms >= 0.95 - 1e-9].max())


def calibration_error(labels: np.ndarray, p: np.ndarray) -> float:
    return float(ece(labels, p, np.ones((1, len(labels)), dtype=np.int64))[0])


def looped_error(labels: np.ndarray, p: np.ndarray, bins: int = 15) -> float:
    """The calibration error by its definition, bin by bin."""
    top, right, total = p.max(1), p.argmax(1) == labels, 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (top > low) & (top <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return total


def test_by_hand() -> None:
    found = classification_metrics([0, 0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    assert found["accuracy"] == found["error_rate"] == found["balanced_accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx(0.5)
    # Of the four pairs (image of class 1, image of class 0): 0.7 beats 0.1 and 0.6; 0.2 beats 0.1 only.
    assert found["macro_auc"] == pytest.approx(3 / 4)
    assert found["mcc"] == pytest.approx(0)
    # Top probabilities 0.9, 0.6, 0.7, 0.8 lie in four bins: gaps 0.1, 0.6, 0.3, 0.8.
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.8) / 4)
    assert found["brier"] == pytest.approx(2 * (0.1**2 + 0.6**2 + 0.3**2 + 0.8**2) / 4)
    assert found["sensitivity_0"] == found["specificity_1"] == 0.5
    one_class = classification_metrics([1, 1], [[0.2, 0.8], [0.3, 0.7]])
    assert one_class["accuracy"] == 1
    assert one_class["macro_auc"] is one_class["mcc"] is one_class["specificity_1"] is None


def test_rankings_by_hand() -> None:
    # 0.9 beats three negatives, 0.7 beats two, 0.4 beats one and ties with one: 6.5 of 9 pairs.
    assert auc(POSITIVE, SCORES, ONCE) == pytest.approx([6.5 / 9])
    # Thresholds 0.9: 1 of 1; 0.8: no gain; 0.7: 2 of 3; 0.4: 3 of 5 (a tie enters as a whole).
    assert average_precision(POSITIVE, SCORES, ONCE) == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])
    # Three negatives: 0.95 allows no false alarm (0.9 only), 2/3 one (0.7 as well), 1/3 two (0.4 as well).
    for specificity, expected in ((0.95, 1 / 3), (2 / 3, 2 / 3), (1 / 3, 1.0)):
        assert sensitivity_at_specificity(POSITIVE, SCORES, ONCE, specificity) == pytest.approx([expected])


@pytest.mark.parametrize("specificity", [0.95, 0.9, 0.8, 0.7])
def test_a_specificity_that_is_just_reached_counts(specificity: float) -> None:
    """1 - 0.9 is no exact number, which must not matter: 10 false alarms among 100 are a specificity of 0.9."""
    share = round((1 - specificity) * 100)
    for alarms, expected in ((share, 1.0), (share + 1, 0.0)):
        scores = np.array([0.5, *[0.9] * alarms, *[0.1] * (100 - alarms)])
        once = np.ones((1, 101), dtype=np.int64)
        assert sensitivity_at_specificity(np.arange(101) == 0, scores, once, specificity) == pytest.approx([expected])


@pytest.mark.parametrize("seed", range(30))
def test_equals_scikit_learn(seed: int) -> None:
    classes = (2, 3, 5)[seed % 3]
    labels, p = random_case(seed, 30 + seed, classes)
    predicted, truth = p.argmax(1), np.eye(classes)[labels]
    assert len(np.unique(p[:, 1])) < len(p)  # ties
    found = classification_metrics(labels, p)
    blocks = referee.multilabel_confusion_matrix(labels, predicted)
    ranked = (labels, p[:, 1]) if classes == 2 else (truth, p)
    expected = {
        "accuracy": referee.accuracy_score(labels, predicted),
        "balanced_accuracy": referee.balanced_accuracy_score(labels, predicted),
        "macro_f1": referee.f1_score(labels, predicted, average="macro"),
        "macro_auc": referee.roc_auc_score(*ranked),
        "average_precision": referee.average_precision_score(*ranked),
        "mcc": referee.matthews_corrcoef(labels, predicted),
        "brier": ((p - truth) ** 2).sum(1).mean(),
        "ece": looped_error(labels, p),
        "sensitivity_at_95_specificity": referee_sensitivity(*ranked) if classes == 2 else None,
        **{f"sensitivity_{c}": score for c, score in enumerate(referee.recall_score(labels, predicted, average=None))},
        **{f"specificity_{c}": block[0, 0] / block[0].sum() for c, block in enumerate(blocks)},
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(confusion(labels, predicted, classes), referee.confusion_matrix(labels, predicted))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_an_absent_class_is_unknown_and_never_zero(seed: int, classes: int) -> None:
    labels, p = random_case(seed, 60, classes)
    absent = seed % classes
    labels, p = labels[labels != absent], p[labels != absent]
    found, predicted, present = classification_metrics(labels, p), p.argmax(1), np.unique(labels)
    unknown = ("macro_auc", "average_precision", "sensitivity_at_95_specificity", f"sensitivity_{absent}")
    assert [found[name] for name in unknown] == [None] * 4
    assert found[f"specificity_{absent}"] is not None
    expected = referee.f1_score(labels, predicted, average="macro", labels=present)
    assert found["macro_f1"] == pytest.approx(expected)
    assert found["balanced_accuracy"] == pytest.approx(referee.balanced_accuracy_score(labels, predicted))


@pytest.mark.parametrize(
    ("labels", "probabilities", "word"),
    [
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "NaN"),
        ([0, 1], [[np.inf, 0.5], [0.5, 0.5]], "infinite"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], r"\[0, 2\)"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "-1"),
        ([0, 1], [[3.0, -1.0], [0.5, 0.5]], "logits"),
        ([0, 1], [[0.5, 0.7], [0.5, 0.5]], "sum"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "integers"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "expected"),
        (np.zeros(0, int), np.zeros((0, 2)), "N > 0"),
    ],
)
def test_refuses_what_is_no_probability(labels: object, probabilities: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        classification_metrics(labels, probabilities)


# Draws.


@pytest.mark.parametrize("metric", STATISTICS)
@pytest.mark.parametrize(("seed", "classes"), [(0, 2), (1, 2), (2, 3), (3, 5)])
def test_draws_have_the_metric_of_the_repeated_rows(metric: str, seed: int, classes: int) -> None:
    labels, p = random_case(seed, 40, classes)
    counts = np.random.default_rng(seed).multinomial(40, [1 / 40] * 40, 20)
    counts[:5, labels == classes - 1] = 0  # these draws lack a class
    expected = [classification_metrics(np.repeat(labels, own), np.repeat(p, own, axis=0))[metric] for own in counts]
    found = STATISTICS[metric](labels, p, counts)
    assert found == pytest.approx([np.nan if value is None else value for value in expected], nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_draws_equal_scikit_learn_with_weights(seed: int) -> None:
    labels, p = random_case(seed, 50, 2)
    counts = np.random.default_rng(seed).poisson(1, (8, 50))
    counts[:, :2] = 1  # each draw holds both classes
    for statistic, judge in (
        (auc, lambda w: referee.roc_auc_score(labels, p[:, 1], sample_weight=w)),
        (average_precision, lambda w: referee.average_precision_score(labels, p[:, 1], sample_weight=w)),
        (sensitivity_at_specificity, lambda w: referee_sensitivity(labels, p[:, 1], w)),
    ):
        expected = [judge(weights) for weights in counts]
        assert statistic(labels == 1, p[:, 1], counts) == pytest.approx(expected, abs=1e-6)


def test_the_parts_in_which_draws_are_taken_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, p = random_case(3, 40, 3)
    counts = np.random.default_rng(0).multinomial(40, [1 / 40] * 40, 25)
    whole = one_vs_rest(auc, labels, p, counts)
    monkeypatch.setattr("xcoop.evaluation.metrics._CELLS", 100)
    np.testing.assert_array_equal(one_vs_rest(auc, labels, p, counts), whole)


def test_a_thousand_draws_take_well_under_a_second() -> None:
    labels, p = random_case(0, 624, 2)
    _, counts = image_counts(range(624), labels.tolist(), draws=1000)
    for metric, statistic in STATISTICS.items():
        start = time.process_time()
        statistic(labels, p, counts)
        assert time.process_time() - start < 0.5, metric


# Calibration.


def test_bins_and_errors_by_hand() -> None:
    confidence = np.array([0.55, 0.65, 0.75, 0.95])
    labels, p = np.array([1, 0, 1, 0]), np.stack([confidence, 1 - confidence], axis=1)  # first and third are wrong
    found = reliability(labels, p, bins=5)
    assert found.images.tolist() == [0, 0, 1, 2, 1]
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.55, 0.7, 0.95])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 0, 0.5, 1])
    assert adaptive_calibration_error(labels, p, bins=2) == pytest.approx((0.1 + 0.35) / 2)
    # All three tops fall into one of 15 bins, (0.6, 0.667]: accuracy 2/3 against confidence 0.64.
    p = np.array([[0.62, 0.38], [0.64, 0.36], [0.66, 0.34]])
    assert calibration_error(np.array([0, 0, 1]), p) == pytest.approx(2 / 3 - 0.64)
    # A bin includes its upper end: certainty is in the last one.
    assert calibration_error(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_its_bins(seed: int) -> None:
    labels, p = random_case(seed, 200, 4)
    bins = reliability(labels, p)
    by_bins = np.nansum(bins.images * np.abs(bins.accuracy - bins.confidence)) / len(labels)
    assert calibration_error(labels, p) == pytest.approx(by_bins)
    counts = np.random.default_rng(seed).multinomial(200, [1 / 200] * 200, 10)
    expected = [looped_error(np.repeat(labels, own), np.repeat(p, own, axis=0)) for own in counts]
    assert ece(labels, p, counts) == pytest.approx(expected)


def test_equal_confidences_share_a_bin_of_equal_mass() -> None:
    labels, confidence = np.array([1, 0, 1, 0]), np.array([0.6, 0.7, 0.7, 0.7])  # these three in the upper half
    p = np.stack([confidence, 1 - confidence], axis=1)
    assert adaptive_calibration_error(labels, p, 2) == pytest.approx((0.6 + abs(2 - 3 * 0.7)) / 4)
    labels, p = random_case(1, 200, 4)
    order = np.random.default_rng(0).permutation(200)
    assert adaptive_calibration_error(labels, p) == pytest.approx(adaptive_calibration_error(labels[order], p[order]))


def test_a_perfect_forecast_has_no_large_error() -> None:
    """Planted: the labels are drawn with the probabilities stated; the error is then that of the finite sample."""
    rng = np.random.default_rng(0)
    one = rng.random(200_000)
    p = np.stack([1 - one, one], axis=1)
    labels = (rng.random(200_000) < one).astype(int)
    assert calibration_error(labels, p) < 0.01
    assert adaptive_calibration_error(labels, p) < 0.01
    assert calibration_error(1 - labels, p) > 0.4
