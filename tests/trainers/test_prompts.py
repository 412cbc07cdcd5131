"""Prompts: every token at its place, and the texts that cannot be prompts refused."""

from __future__ import annotations

import plain
import pytest
import torch

from xcoop.backbones import Backbone
from xcoop.methods.prompts import POSITIONS, PromptLearner, context_from_words, random_context, start_context

NAMES = ["melanoma", "blue nevus", "clear_lung"]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("n_ctx", [1, 4, 5])
def test_every_token_stands_where_the_hand_assembled_sequence_has_it(
    tiny_backbone: Backbone, position: str, n_ctx: int
) -> None:
    context = random_context(n_ctx, tiny_backbone.text_width)
    embeddings, end = PromptLearner(tiny_backbone, NAMES, context, position, full_length=True)()
    for c, name in enumerate(NAMES):
        sequence = plain.sequence(n_ctx, name.replace("_", " "), position)
        expected, at = plain.embed(tiny_backbone.model, sequence, context)
        assert torch.equal(embeddings[c], expected)
        assert end[c] == at


@pytest.mark.parametrize("position", POSITIONS)
def test_contexts_of_classes_and_of_prompts_go_to_their_own_rows(tiny_backbone: Backbone, position: str) -> None:
    context = random_context(2, 3, 4, tiny_backbone.text_width)  # K, C, n, W
    embeddings, end = PromptLearner(tiny_backbone, NAMES, context, position, full_length=True)()
    assert embeddings.shape[:2] == end.shape == (2, 3)
    for k in range(2):
        per_class, _ = PromptLearner(tiny_backbone, NAMES, context[k], position, full_length=True)()
        assert torch.equal(embeddings[k], per_class)
        for c, name in enumerate(NAMES):
            sequence = plain.sequence(4, name.replace("_", " "), position)
            assert torch.equal(embeddings[k, c], plain.embed(tiny_backbone.model, sequence, context[k, c])[0])


def test_cropped_prompts_are_the_prefix_of_the_full_ones(tiny_backbone: Backbone) -> None:
    context = random_context(4, tiny_backbone.text_width)
    short, end = PromptLearner(tiny_backbone, NAMES, context)()
    full, _ = PromptLearner(tiny_backbone, NAMES, context, full_length=True)()
    assert full.shape[1] == 77
    assert short.shape[1] == end.max() + 1 < 77
    assert torch.equal(short, full[:, : short.shape[1]])


def test_words_make_as_many_context_tokens_as_the_tokenizer_says(tiny_backbone: Backbone) -> None:
    words = "a dermoscopic_image of"  # "dermoscopic" is several tokens
    tokens = plain.ids("a dermoscopic image of")
    assert len(tokens) > 4
    context = context_from_words(tiny_backbone, words)
    assert torch.equal(context, tiny_backbone.model.token_embedding.weight[tokens])


def test_started_from_words_a_prompt_is_the_sentence(tiny_backbone: Backbone) -> None:
    learner = PromptLearner(tiny_backbone, NAMES, start_context(tiny_backbone, "a photo of a", 16))
    learned = tiny_backbone.encode_embeddings(*learner())
    sentences = tiny_backbone.encode_text([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    torch.testing.assert_close(learned, sentences, atol=1e-6, rtol=1e-5)


def test_words_that_disagree_with_n_ctx_are_reported(tiny_backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert len(start_context(tiny_backbone, "a photo of a", 16)) == 4
    assert "makes 4 context tokens; N_CTX 16" in caplog.text
    caplog.clear()
    start_context(tiny_backbone, "a photo of a", 4)
    assert not caplog.text


def test_only_the_context_is_a_parameter_and_only_it_is_stored(tiny_backbone: Backbone) -> None:
    learner = PromptLearner(tiny_backbone, NAMES, random_context(4, tiny_backbone.text_width))
    assert [name for name, _ in learner.named_parameters()] == ["ctx"]
    assert list(learner.state_dict()) == ["ctx"]
    assert {"token_prefix", "token_suffix"} <= {name for name, _ in learner.named_buffers()}


def test_what_cannot_be_a_prompt_is_refused(tiny_backbone: Backbone) -> None:
    W = tiny_backbone.text_width
    with pytest.raises(ValueError, match="position 'start'; known: end, middle, front"):
        PromptLearner(tiny_backbone, NAMES, random_context(4, W), "start")
    with pytest.raises(ValueError, match="for 3 classes"):
        PromptLearner(tiny_backbone, NAMES, random_context(2, 4, W))
    with pytest.raises(ValueError, match="melanoma"):
        PromptLearner(tiny_backbone, NAMES, random_context(75, W))
