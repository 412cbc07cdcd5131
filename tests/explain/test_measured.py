"""The scripts that measure explanations, on numbers that are written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from put_back import balanced_accuracy, fitted_offset
from seen import Asked, judge


def test_balanced_accuracy_counts_classes_alike() -> None:
    logits = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0]])
    assert balanced_accuracy(logits, torch.tensor([0, 0, 0, 1, 1])) == 75.0


def test_an_offset_is_where_likelihood_and_prior_balance() -> None:
    """There the excess of predicted over true images of a class is the offset over the prior's variance."""
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 3, generator=rng), torch.arange(40) % 2
    offset = fitted_offset(logits, labels, 2.0)
    excess = (logits.double() + offset).softmax(1).sum(0) - torch.bincount(labels, minlength=3)
    torch.testing.assert_close(excess, -offset / 4, atol=1e-4, rtol=0)
    assert offset[2] < -1  # the class that no image has


def test_a_planted_curve_is_judged_right_and_a_prior_that_hides_it_wrong() -> None:
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        scores = rng.standard_normal((count, 2))
        labels = (rng.random((count, 2)) < 1 / (1 + np.exp(-6 * scores))).astype(float)
        return scores, labels

    (scores, labels), (test_scores, test_labels) = drawn(400), drawn(2000)
    labels[:, 1] = 0  # of this concept nothing can be said
    one = Asked(("known", "never shown"), scores, labels, test_scores, test_labels)
    found = judge(one, 30.0)
    assert list(found.rows) == ["known"]
    assert found.rows["known"].auc > 0.95
    assert found.pooled == found.rows["known"].error < 0.04
    assert found.rows["known"].by_chance < 0.04
    assert found.right > 0.9
    assert found.decided == pytest.approx(0.85, abs=0.1)
    assert judge(one, 1e-3).pooled > 0.1  # near the share of images that show it
    assert judge(one, 1e-3).decided == 0
