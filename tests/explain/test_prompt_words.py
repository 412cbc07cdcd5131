"""Nearest words and sentences: planted words are at distance 0, random vectors are noise, sentences show numbers."""

from __future__ import annotations

import math

import pytest
import torch
from yacs.config import CfgNode

from xcoop.backbones import Backbone, load_backbone
from xcoop.backbones.phantom import pretrained_path
from xcoop.explain.concepts import class_sentences, image_sentences, nearest_words

WORDS = [f"word{index}" for index in range(400)]


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


def test_words_with_a_little_noise_are_not_noise(table):
    near = table[:20] + 0.002 * gaussian(20, 32, seed=2)
    found = nearest_words(near, table, WORDS)
    assert [token.words[0][0] for token in found] == WORDS[:20]
    assert not any(noise(token) for token in found)


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


# --- the vocabulary that the words come from


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


def test_words_of_a_backbone_are_found_in_its_embeddings(tiny_backbone):
    words, ids = tiny_backbone.vocabulary()
    table = tiny_backbone.embed(ids)
    context = tiny_backbone.embed(tiny_backbone.tokenize("irregular skin"))[0, 1:3]
    found = nearest_words(context, table, words, k=1, draws=20)
    assert [token.words for token in found] == [(("irregular", 0.0),), (("skin", 0.0),)]
    assert not any(noise(token) for token in found)


@pytest.mark.skipif(not pretrained_path().is_file(), reason="the phantom's weights are not in this checkout")
def test_the_phantom_knows_the_words_of_its_captions_alone():
    backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "phantom"}}}))
    words, ids = backbone.vocabulary()
    assert 0 < len(words) < 2000
    assert {"melanoma", "a"} <= set(words)
    assert "telephone" not in words
    assert set(ids.tolist()) <= backbone.trained_ids


# --- sentences

CHANGES = {"streaks": 0.5, "pigment network": 1.25, "symmetry": -0.75, "dots": 0.1, "veil": 0.2, "globules": 0.0}


def test_for_and_against_the_strongest_first():
    assert image_sentences("melanoma", 0.874, CHANGES) == [
        "The model sees melanoma with a probability of 87%.",
        "pigment network speaks for melanoma: without it the logit falls by 1.25.",
        "streaks speaks for melanoma: without it the logit falls by 0.50.",
        "veil speaks for melanoma: without it the logit falls by 0.20.",
        "symmetry speaks against melanoma: without it the logit rises by 0.75.",
    ]


def test_three_a_side():
    sentences = image_sentences("nevus", 0.5, {str(index): float(index) for index in range(-9, 10)})
    assert [sentence.split()[0] for sentence in sentences[1:]] == ["9", "8", "7", "-9", "-8", "-7"]


def test_concepts_that_move_nothing_are_not_named():
    assert image_sentences("melanoma", 1.0, {"globules": 0.0})[1:] == [
        "No concept of the bank moves the logit of melanoma."
    ]
    assert image_sentences("melanoma", 1.0, {}) == image_sentences("melanoma", 1.0, {"globules": 0.0})


def test_a_class_by_its_numbers():
    assert class_sentences("nevus", 0.62, 0.4, [("regular dots", 0.3), ("streaks", 0.25)], (3, 4)) == [
        "A sum of the bank's concepts accounts for 62% of what sets the prompt of nevus apart.",
        "40% of its weights lie on the concepts that the bank lists for nevus.",
        "Its largest weights: regular dots (0.30), streaks (0.25).",
        "Of its 4 context vectors, 3 are no nearer to a word than random ones.",
    ]


def test_what_is_no_prompt_is_not_called_one():
    said = class_sentences("nevus", 0.62, 0.4, [("streaks", 0.25)], noun="class vector")
    assert said[0] == "A sum of the bank's concepts accounts for 62% of what sets the class vector of nevus apart."
    assert not any("prompt" in sentence for sentence in said)


def test_what_was_not_measured_is_not_said():
    assert class_sentences("nevus", None, None, []) == []
    assert class_sentences("nevus", None, 0.0, []) == [
        "0% of its weights lie on the concepts that the bank lists for nevus."
    ]


def test_every_sentence_about_a_class_or_a_concept_shows_a_number():
    said = image_sentences("melanoma", 0.9, CHANGES) + class_sentences("nevus", 0.1, 0.2, [("dots", 0.3)], (0, 4))
    assert len(said) == 9
    assert all(any(letter.isdigit() for letter in sentence) for sentence in said)
