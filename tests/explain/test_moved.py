"""Which words moved: planted changes, on a CLIP with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_banks import toy_bank
from helpers_clip import tiny_backbone
from torch.nn.functional import normalize

from xcoop.explain.moved import change_sentences, sentence_changes, split_words
from xcoop.methods.model import PromptModel
from xcoop.trainers.xcoop import DEFAULTS, SentenceModel


@pytest.fixture
def model(tmp_path: Path) -> SentenceModel:
    bank = toy_bank(tmp_path, {"nevus": ("dots", "streaks"), "melanoma": ("veil", "streaks")})
    return SentenceModel(tiny_backbone(), ["nevus", "melanoma"], bank, DEFAULTS.clone())


def test_words_and_their_tokens() -> None:
    backbone = tiny_backbone()
    text = "a photo of a melanoma, blue-whitish veil."
    tokens = backbone.count_tokens(text) - 2
    found = split_words(backbone, text, tokens)
    assert [word for word, _ in found] == ["a", "photo", "of", "a", "melanoma", "blue", "whitish", "veil"]
    ids = backbone.tokenize(text)[0, 1 : 1 + tokens]
    for word, place in found:
        assert "".join(backbone.decode(ids[place])) == word
    ones = split_words(backbone, text, tokens - 1)  # cut otherwise: each token for itself
    assert all(place.stop - place.start == 1 for _, place in ones)


def test_without_training_nothing_moved(model: SentenceModel) -> None:
    changes = sentence_changes(model)
    assert [(one.moved, one.is_still) for one in changes] == [(0.0, True)] * 4
    assert change_sentences(changes) == ["Nothing moved: every prompt is its sentence, word for word."]
    assert change_sentences([]) == []


@torch.no_grad()
def test_a_planted_change_is_told_with_its_length_and_direction(model: SentenceModel) -> None:
    words, ids = model.backbone.vocabulary()
    skin = model.backbone.embed(ids[words.index("skin")][None, None])[0, 0]
    sentence = model.learned_sentences()[2]
    assert sentence.text == "a photo of a melanoma, veil."
    (place,) = [
        place for word, place in split_words(model.backbone, sentence.text, len(sentence.changes)) if word == "veil"
    ]
    own = model.prompt_learner.words_of_prompts()["melanoma", "veil"]
    own[place] = 0.6 * (skin - sentence.embeddings[place])  # a view: the word goes most of the way
    one = sentence_changes(model)[2]
    (veil,) = (word for word in one.words if word.word == "veil")
    start = sentence.embeddings[place]
    assert veil.change == pytest.approx(float(0.6 * (skin - start).norm() / start.norm()), rel=1e-4)
    assert veil.towards == veil.nearest == "skin"
    assert veil.cosine == pytest.approx(1, abs=1e-4)
    assert veil.by_chance < 0.9
    assert all(word.change == 0 for word in one.words if word.word != "veil")
    before, after = (
        normalize(model.encode_changes(c), dim=1)[2]
        for c in (0 * model.prompt_learner.words, model.prompt_learner.words)
    )
    assert one.moved == pytest.approx(float(model.scale * (after - before).norm()), rel=1e-4)
    assert one.by_chance > 0
    still, *_, moved = change_sentences([one for one in sentence_changes(model) if one.told.label == 1])
    assert still == "Of its 2 prompts, 1 did not move."
    assert moved.startswith(f"The prompt of veil moved by {one.moved:.2f} logits, ")
    assert f"Most moved: veil by {veil.change:.0%} of its length" in moved
    for limit, told in ((one.moved + 1, True), (one.moved - 0.01, False)):
        said = change_sentences([replace(one, by_chance=limit)])
        assert said[0].startswith("No prompt moved further than equally large random changes") is told
        assert (", no more than the " in said[-1]) is told


def test_methods_without_sentences_have_none() -> None:
    assert sentence_changes(PromptModel(tiny_backbone(), ["a"])) == []
