"""The metrics: against hand-computed values, and scikit-learn as referee."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as referee

from xcoop.evaluation.metrics import classification_metrics, confusion, expected_calibration_error

LABELS = [0, 0, 1, 1]
PROBABILITIES = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]]


def draw(seed: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, images - classes)])
    logits = generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits).round(1)  # rounded, so that there are ties
    return labels, probabilities / probabilities.sum(1, keepdims=True)


def test_by_hand() -> None:
    found = classification_metrics(LABELS, PROBABILITIES)
    assert found["accuracy"] == 0.5
    assert found["error_rate"] == 0.5
    assert found["balanced_accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx(0.5)
    # Of the four pairs (image of class 1, image of class 0): 0.7 beats 0.1 and 0.6; 0.2 beats 0.1 only.
    assert found["macro_auc"] == pytest.approx(3 / 4)
    assert found["mcc"] == pytest.approx(0)
    # Top probabilities 0.9, 0.6, 0.7, 0.8 lie in four bins: gaps 0.1, 0.6, 0.3, 0.8.
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.8) / 4)
    assert found["brier"] == pytest.approx(2 * (0.1**2 + 0.6**2 + 0.3**2 + 0.8**2) / 4)
    assert found["sensitivity_0"] == found["specificity_1"] == 0.5


def test_ece_bins_by_hand() -> None:
    # All three tops fall into one of 15 bins, (0.6, 0.667]: accuracy 2/3 against confidence 0.64.
    probabilities = np.array([[0.62, 0.38], [0.64, 0.36], [0.66, 0.34]])
    assert expected_calibration_error(np.array([0, 0, 1]), probabilities) == pytest.approx(2 / 3 - 0.64)
    # A bin includes its upper end: certainty is in the last one.
    assert expected_calibration_error(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.5)


def test_confusion_counts() -> None:
    found = confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), 3)
    assert found.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_equals_scikit_learn(seed: int, classes: int) -> None:
    labels, probabilities = draw(seed, 60, classes)
    predicted = probabilities.argmax(1)
    found = classification_metrics(labels, probabilities)
    auc = (
        referee.roc_auc_score(labels, probabilities[:, 1])
        if classes == 2
        else referee.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert found["accuracy"] == pytest.approx(referee.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(referee.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(referee.f1_score(labels, predicted, average="macro"))
    assert found["macro_auc"] == pytest.approx(auc)
    assert found["mcc"] == pytest.approx(referee.matthews_corrcoef(labels, predicted))
    recalls = referee.recall_score(labels, predicted, average=None)
    assert [found[f"sensitivity_{c}"] for c in range(classes)] == pytest.approx(recalls)
    blocks = referee.multilabel_confusion_matrix(labels, predicted)
    assert [found[f"specificity_{c}"] for c in range(classes)] == pytest.approx(blocks[:, 0, 0] / blocks[:, 0].sum(1))


@pytest.mark.parametrize("seed", range(5))
def test_absent_class_is_unknown_and_never_zero(seed: int) -> None:
    labels, probabilities = draw(seed, 60, 4)
    kept = labels != 2
    labels, probabilities = labels[kept], probabilities[kept]
    found = classification_metrics(labels, probabilities)
    assert found["macro_auc"] is None
    assert found["sensitivity_2"] is None
    assert found["specificity_2"] is not None
    predicted = probabilities.argmax(1)
    assert found["macro_f1"] == pytest.approx(
        referee.f1_score(labels, predicted, average="macro", labels=np.unique(labels))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are predicted but absent
        assert found["balanced_accuracy"] == pytest.approx(referee.balanced_accuracy_score(labels, predicted))


def test_one_class_only() -> None:
    found = classification_metrics([1, 1], [[0.2, 0.8], [0.3, 0.7]])
    assert found["accuracy"] == 1
    assert found["macro_auc"] is None
    assert found["mcc"] is None
    assert found["specificity_1"] is None


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
