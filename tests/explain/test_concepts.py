"""Prompts in terms of concepts, and concepts against experts and data: planted truths and values counted by hand."""

import math

import pytest
import torch

from xcoop.explain.concepts import decompose
from xcoop.explain.trust import concept_auc, rank_agreement
from xcoop.methods.alignment import unit


def directions(count=6, width=24, seed=0):
    """Concept vectors round a common direction, as sentences of one kind are."""
    generator = torch.Generator().manual_seed(seed)
    return unit(unit(torch.ones(width)) + 0.8 * unit(torch.randn(count, width, generator=generator)))


def test_a_planted_mix_is_found_with_its_weights():
    h = directions()
    centre = h.mean(0)
    g = unit(h - centre)
    planted = centre + 0.5 * g[1] + 0.25 * g[4]
    # The prompt is taken at length one; scaled so that the planted vector has it.
    length = planted.norm()
    found = decompose(planted[None], h)
    assert set((found.weights[0] > 0.02).nonzero()[:, 0].tolist()) >= {1, 4}
    assert found.weights[0].argmax() == 1
    rebuilt = found.centre + found.weights[0] @ found.directions
    rest = (unit(planted) - rebuilt).norm() / (unit(planted) - found.centre).norm()
    assert found.explained[0].item() == pytest.approx(1 - rest.item() ** 2, abs=1e-5)
    assert found.explained[0] > 0.95
    assert length > 0


def test_weights_are_the_exact_ones_where_the_vector_has_length_one():
    h = directions()
    centre, g = h.mean(0).double(), unit(h - h.mean(0)).double()
    # Choose the share of g1 so that the mix has length one: |c + w g1 + w/2 g4| = 1.
    mix = g[1] + 0.5 * g[4]
    a, b, c = (mix @ mix).item(), 2 * (centre @ mix).item(), (centre @ centre).item() - 1
    w = (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
    found = decompose((centre + w * mix)[None].float(), h)
    want = torch.zeros(6)
    want[1], want[4] = w, w / 2
    torch.testing.assert_close(found.weights[0], want, atol=1e-3, rtol=1e-3)
    assert found.explained[0] > 0.9999
    own = torch.tensor([[False, True, False, False, False, False]])
    assert found.own_share(own)[0].item() == pytest.approx(2 / 3, abs=1e-3)


def test_what_all_prompts_share_has_no_part_in_it():
    h = directions()
    mu = h.mean(0)
    g = unit(h - mu)
    leaning = mu + 0.8 * g[0]  # every prompt leans to concept 0
    prompts = torch.stack([unit(leaning + 0.3 * g[2]), unit(leaning - 0.3 * g[2])])
    found = decompose(prompts, h)
    assert found.weights[0].argmax() == 2
    assert found.weights[0, 0] < 0.1
    torch.testing.assert_close(found.centre, prompts.mean(0))


def test_a_vector_away_from_every_concept_has_no_weights():
    h = directions()
    g = unit(h - h.mean(0))
    opposite = h.mean(0) - 0.5 * g.sum(0)
    away = decompose((h.mean(0) - 3 * unit(g.mean(0)) if g.mean(0).norm() > 0.1 else opposite)[None], h)
    assert away.weights.min() >= 0
    assert (away.explained <= 1).all()


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
