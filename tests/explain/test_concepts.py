"""Prompts in terms of concepts and words: planted truths, values counted by hand, and sentences that show numbers."""

import math

import pytest
import torch
from yacs.config import CfgNode

from xcoop.backbones import Backbone, load_backbone
from xcoop.backbones.phantom import pretrained_path
from xcoop.explain.concepts import NO_SUM, class_sentences, decompose, image_sentences, nearest_words
from xcoop.explain.trust import concept_auc, rank_agreement
from xcoop.methods.alignment import unit

WORDS = [f"word{index}" for index in range(400)]


def directions(count=6, width=24, seed=0):
    """Concept vectors round a common direction, as sentences of one kind are."""
    generator = torch.Generator().manual_seed(seed)
    return unit(unit(torch.ones(width)) + 0.8 * unit(torch.randn(count, width, generator=generator)))


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


def test_what_is_explained_is_the_share_that_the_sum_takes_away():
    h = directions()
    prompts = unit(torch.randn(3, 24, generator=torch.Generator().manual_seed(3)))
    found = decompose(prompts, h)
    z = prompts - found.centre
    rest = z - found.weights @ found.directions
    torch.testing.assert_close(found.explained, 1 - (rest.norm(dim=1) / z.norm(dim=1)) ** 2)
    assert found.weights.min() >= 0
    assert 0 < found.explained.max() < 1


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


# Nearest words.


def noise(token):
    """Whether the nearest word is no nearer than that of a random vector."""
    return token.words[0][1] >= token.null_low


def gaussian(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def table():
    return 0.02 * gaussian(400, 32, seed=0)


def test_planted_words_are_found_at_distance_zero(table):
    planted = torch.tensor([[7, 0], [399, 123]])
    found = nearest_words(table[planted], table, WORDS)
    assert [token.index for token in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for token, row in zip(found, planted.flatten().tolist(), strict=True):
        assert token.words[0] == (f"word{row}", 0.0)
        assert not noise(token)
        assert len(token.words) == 5
        assert list(token.words) == sorted(token.words, key=lambda pair: pair[1])


def test_random_vectors_are_told_as_noise(table):
    found = nearest_words(0.02 * gaussian(100, 32, seed=1), table, WORDS)
    # 5 of 100 are expected below the 5 % quantile; 15 would be five deviations away.
    assert sum(not noise(token) for token in found) < 15


def test_distances_by_hand():
    rows = torch.tensor([[3.0, 0.0], [0.0, 4.0], [-1.0, 0.0]])
    (token,) = nearest_words(torch.tensor([[1.0, 0.0]]), rows, ["a", "b", "c"], k=9)
    assert [word for word, _ in token.words] == ["a", "c", "b"]
    assert [value for _, value in token.words] == pytest.approx([2, 2, math.sqrt(17)])


def test_the_null_is_that_of_random_vectors_of_equal_norm(table):
    context = torch.stack([5 * table[0], table[1]])
    found = nearest_words(context, table, WORDS, draws=4000)
    directions = torch.nn.functional.normalize(gaussian(4000, 32, seed=9), dim=1).double()
    for token, vector in zip(found, context.double(), strict=True):
        random = directions * vector.norm()
        distances = torch.cdist(random, table.double())
        assert token.null_low == pytest.approx(float(distances.amin(1).quantile(0.05)), rel=0.02)


def test_the_null_is_always_the_same(table):
    torch.manual_seed(0)
    one = nearest_words(table[:3], table, WORDS)
    torch.manual_seed(1)
    assert nearest_words(table[:3], table, WORDS) == one


def test_a_zero_vector_is_noise(table):
    (token,) = nearest_words(torch.zeros(1, 32), table, WORDS)
    assert noise(token)
    assert token.null_low == token.words[0][1] == pytest.approx(float(table.norm(dim=1).min()))


# The vocabulary that the words come from.


def test_the_vocabulary_has_whole_words_alone(tiny_backbone):
    words, ids = tiny_backbone.vocabulary()
    assert len(words) == len(set(words)) == len(ids) > 30_000
    assert all(word.isalpha() for word in words)
    assert {"melanoma", "skin", "a"} <= set(words)
    assert tiny_backbone.decode(ids[:50]) == words[:50]
    tokens = tiny_backbone.tokenize(["melanoma"])[0]  # start, word, end
    assert int(ids[words.index("melanoma")]) == int(tokens[1])


def test_rows_that_stand_for_nothing_are_left_out(tiny_backbone):
    words, ids = tiny_backbone.vocabulary()
    zero, constant = (words.index(word) for word in ("skin", "melanoma"))
    tiny_backbone.model.token_embedding.weight[ids[zero]] = 0
    tiny_backbone.model.token_embedding.weight[ids[constant]] = 0.5
    left, left_ids = tiny_backbone.vocabulary()
    assert left == [word for word in words if word not in ("skin", "melanoma")]
    assert len(left_ids) == len(left)


def test_a_backbone_that_says_nothing_has_no_words(tiny_backbone):
    words, ids = Backbone.vocabulary(tiny_backbone)
    assert words == []
    assert ids.shape == (0,)
    assert ids.dtype == torch.int64


@pytest.mark.skipif(not pretrained_path().is_file(), reason="the phantom's weights are not in this checkout")
def test_the_phantom_knows_the_words_of_its_captions_alone():
    backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "phantom"}}}))
    words, ids = backbone.vocabulary()
    assert 0 < len(words) < 2000
    assert {"melanoma", "a"} <= set(words)
    assert "telephone" not in words
    assert set(ids.tolist()) <= backbone.trained_ids


# Sentences.

CHANGES = {"streaks": 0.5, "pigment network": 1.25, "symmetry": -0.75, "dots": 0.1, "veil": 0.2, "globules": 0.0}


def test_what_carries_a_class_and_what_does_not_the_strongest_first():
    assert image_sentences("melanoma", 0.874, CHANGES) == [
        "The model sees melanoma with a probability of 87%.",
        "pigment network carries melanoma: without it the logit falls by 1.25.",
        "streaks carries melanoma: without it the logit falls by 0.50.",
        "veil carries melanoma: without it the logit falls by 0.20.",
        "symmetry does not carry melanoma here: without it the logit rises by 0.75.",
        NO_SUM,
    ]


def test_concepts_that_move_nothing_are_not_named():
    assert image_sentences("melanoma", 1.0, {"globules": 0.0})[1:] == [
        "No concept of the bank moves the logit of melanoma.",
        NO_SUM,
    ]
    assert image_sentences("melanoma", 1.0, {}) == image_sentences("melanoma", 1.0, {"globules": 0.0})


def test_a_class_by_its_numbers():
    assert class_sentences("nevus", 0.62, 0.4, [("regular dots", 0.3), ("streaks", 0.25)], (3, 4)) == [
        "A sum of the bank's concepts accounts for 62% of what sets the prompt of nevus apart.",
        "40% of its weights lie on the concepts that the bank lists for nevus.",
        "Its largest weights: regular dots (0.30), streaks (0.25).",
        "Of its 4 context vectors, 3 are no nearer to a word than random ones.",
    ]


def test_what_was_not_measured_is_not_said():
    assert class_sentences("nevus", None, None, []) == []
    assert class_sentences("nevus", None, 0.0, []) == [
        "0% of its weights lie on the concepts that the bank lists for nevus."
    ]
