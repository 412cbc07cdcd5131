"""Prompts in terms of concepts: affinity, decomposition, contributions; planted truths and hand-computed values."""

import math

import pytest
import torch

from xcoop.explain.textual.affinity import affinity, own_margin, permutation_p
from xcoop.explain.textual.contributions import contributions
from xcoop.explain.textual.decomposition import decompose
from xcoop.methods.alignment import unit


def directions(count=6, width=24, seed=0):
    """Concept vectors round a common direction, as sentences of one kind are."""
    generator = torch.Generator().manual_seed(seed)
    return unit(unit(torch.ones(width)) + 0.8 * unit(torch.randn(count, width, generator=generator)))


def test_affinity_is_the_cosine_and_its_shift():
    before, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    found = affinity(before, after, torch.tensor([[3.0, 4.0]]))
    assert found.before.item() == pytest.approx(0.6)
    assert found.after.item() == pytest.approx(0.8)
    assert found.shift.item() == pytest.approx(0.2)


def test_the_margin_by_hand_and_its_p_value():
    cosines = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.8, 0.0], [0.0, 0.2, 0.7]])
    own = torch.eye(3, dtype=torch.bool)
    assert own_margin(cosines, own).item() == pytest.approx(((0.9 - 0.15) + (0.8 - 0.05) + (0.7 - 0.1)) / 3)
    assert permutation_p(cosines, own) == pytest.approx(1 / 6)  # the true order is the best of 3! orders
    assert permutation_p(cosines[[1, 2, 0]], own) > 0.5


def test_many_classes_are_permuted_at_random_and_repeatably():
    cosines = torch.eye(9)
    own = torch.eye(9, dtype=torch.bool)
    assert permutation_p(cosines, own, seed=1) == permutation_p(cosines, own, seed=1) < 0.01


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
    from_the_bank = decompose(prompts, h, centre=mu)
    assert from_the_bank.weights.argmax(1).tolist() == [0, 0]


def test_a_vector_away_from_every_concept_has_no_weights():
    h = directions()
    g = unit(h - h.mean(0))
    opposite = h.mean(0) - 0.5 * g.sum(0)
    away = decompose((h.mean(0) - 3 * unit(g.mean(0)) if g.mean(0).norm() > 0.1 else opposite)[None], h)
    assert away.weights.min() >= 0
    assert (away.explained <= 1).all()


@pytest.mark.parametrize(
    ("count", "sparsity", "message"), [(1, 0.1, "two concepts"), (3, 0.0, "sparsity"), (3, 1.0, "sparsity")]
)
def test_what_cannot_be_decomposed_is_refused(count, sparsity, message):
    with pytest.raises(ValueError, match=message):
        decompose(torch.ones(1, 24), directions(count), sparsity)


def test_contributions_add_up_to_the_logit_and_fall_on_the_planted_concept():
    h = directions()
    g, centre = unit(h - h.mean(0)), h.mean(0)
    prompts = torch.stack([unit(centre + 0.6 * g[0]), unit(centre + 0.6 * g[3])])
    parts = decompose(prompts, h)
    images = unit(torch.stack([centre + 0.5 * g[0], centre + 0.5 * g[3]]))
    found = contributions(images, prompts, parts, 10.0)
    torch.testing.assert_close(found.logits(), 10.0 * images @ prompts.T, atol=1e-4, rtol=1e-4)
    assert found.concepts[0, 0].argmax() == 0
    assert found.concepts[1, 1].argmax() == 3
    assert found.rest.abs().max() < found.concepts.max()
