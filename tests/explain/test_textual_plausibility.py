"""Agreement with experts and with data, against values counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from xcoop.explain.textual.plausibility import concept_auc, rank_agreement

#          absent                       present
SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.35, 0.5, 0.6, 0.7, 0.8]
LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_auc_by_hand():
    # Of 25 pairs: 0.35 beats three, 0.5 beats four and ties one, the others beat all five.
    assert concept_auc(SCORES, LABELS) == pytest.approx((3 + 4.5 + 15) / 25)


def test_auc_of_a_tensor_leaves_out_the_unknown():
    scores, labels = torch.tensor([9.0, *SCORES, -9.0]), [None, *LABELS, None]
    assert concept_auc(scores, labels) == pytest.approx(22.5 / 25)


def test_higher_is_better():
    assert concept_auc(list(range(10)), LABELS) == 1
    assert concept_auc(list(range(10, 0, -1)), LABELS) == 0
    assert concept_auc([1.0] * 10, LABELS) == 0.5


@pytest.mark.parametrize("labels", [[None, *LABELS[1:]], [*LABELS[:-1], None], [1, *LABELS[1:]], [None] * 10, [1] * 10])
def test_no_auc_from_too_few(labels):
    assert concept_auc(SCORES, labels) is None


def test_auc_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="10 scores for 9 labels"):
        concept_auc(SCORES, LABELS[1:])
    with pytest.raises(ValueError, match="0, 1 or None, got 2"):
        concept_auc(SCORES, [2, *LABELS[1:]])
    with pytest.raises(ValueError, match="scores must be finite, got nan"):
        concept_auc([math.nan, *SCORES[1:]], LABELS)


def test_rank_agreement_by_hand():
    # rho = 1 - 6 sum d^2 / (n (n^2 - 1)), d = (0, 1, -1, 0)
    assert rank_agreement([1, 2, 3, 4], [10, 30, 20, 400]) == pytest.approx(1 - 6 * 2 / 60)
    assert rank_agreement(torch.tensor([0.1, 0.5, 0.9]), [-2.0, 0.0, 50.0]) == pytest.approx(1)
    assert rank_agreement([3, 2, 1], [1, 2, 3]) == pytest.approx(-1)


def test_no_agreement_without_an_order():
    assert rank_agreement([1, 2], [1, 2]) is None
    assert rank_agreement([0, 0, 0], [1, 2, 3]) is None
    assert rank_agreement([1, 2, 3], [5, 5, 5]) is None
    assert rank_agreement([], []) is None


def test_agreement_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="3 weights for 2 log odds"):
        rank_agreement([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="log odds must be finite, got -inf"):
        rank_agreement([1, 2, 3], [1, 2, -math.inf])
