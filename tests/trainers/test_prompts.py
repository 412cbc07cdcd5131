"""CoOp, CoCoOp and their prompts against a plain formulation: tokens, logits, losses and gradients."""

from __future__ import annotations

import plain
import pytest
import torch
from cocoop_memory import saved_for_backward
from helpers_clip import tiny_backbone as make_backbone
from small_cases import LABELS, NAMES, drawn_features, pictures, settings
from torch.nn import functional as F

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.methods.prompts import POSITIONS, PromptLearner, context_from_words, random_context, start_context
from xcoop.trainers.cocoop import DEFAULTS as COCOOP
from xcoop.trainers.cocoop import CoCoOpModel
from xcoop.trainers.coop import DEFAULTS as COOP
from xcoop.trainers.coop import CoOpModel


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_coop(vision: str, csc: bool, position: str) -> None:
    backbone = make_backbone(0, vision)
    model = CoOpModel(backbone, NAMES, settings(COOP, N_CTX=5, CSC=csc, CLASS_TOKEN_POSITION=position))
    images = pictures(backbone)
    ctx = model.prompt_learner.ctx.detach().clone().requires_grad_()

    logits = model(images)
    expected = plain.coop_logits(backbone.model, images, NAMES, lambda c, _: ctx[c] if csc else ctx, position)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)

    losses = model.losses(model.encode_images(images), LABELS)
    losses["ce"].backward()
    F.cross_entropy(expected, LABELS).backward()
    torch.testing.assert_close(model.prompt_learner.ctx.grad, ctx.grad, atol=1e-5, rtol=1e-4)
    assert losses["acc"] == 100 * (expected.argmax(1) == LABELS).float().mean()


@pytest.mark.parametrize("words", ["", "a photo of a"])
@pytest.mark.parametrize("sequences", [512, 6, 1])
def test_cocoop_whole_batch_is_the_loop_over_images(words: str, sequences: int) -> None:
    """6 sequences are two images at a time; with 1, each image is a part of its own."""
    backbone = make_backbone(0)
    model = CoCoOpModel(backbone, NAMES, settings(COCOOP, N_CTX=3, CTX_INIT=words, SEQUENCES=sequences))
    images = pictures(backbone)
    own = {name: p.detach().clone().requires_grad_() for name, p in model.trained_parameters().items()}

    def context(c: int, image: torch.Tensor) -> torch.Tensor:
        hidden = (own["meta_net.linear1.weight"] @ image + own["meta_net.linear1.bias"]).relu()
        return own["ctx"] + own["meta_net.linear2.weight"] @ hidden + own["meta_net.linear2.bias"]

    expected = plain.coop_logits(backbone.model, images, NAMES, context)
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)

    model.losses(model.encode_images(images), LABELS)["ce"].backward()
    F.cross_entropy(expected, LABELS).backward()
    for name, parameter in model.trained_parameters().items():
        torch.testing.assert_close(parameter.grad, own[name].grad, atol=1e-5, rtol=1e-4, msg=name)


def test_cocoop_holds_the_activations_of_one_part_at_a_time() -> None:
    """What all parts hold together, and what one holds while it is encoded again, are a quarter of the whole batch."""
    backbone = make_backbone(0)
    features = drawn_features(backbone, 32)
    whole, parts = (CoCoOpModel(backbone, NAMES, settings(COCOOP, SEQUENCES=sequences)) for sequences in (96, 12))
    one = ImageFeatures(features.pooled[:4], features.patches[:4])
    at_most = saved_for_backward(parts, features) + saved_for_backward(parts, one)
    assert 0 < saved_for_backward(parts, one) < at_most < saved_for_backward(whole, features) / 4


def test_cocoop_stores_the_names_that_cocoop_stores(tiny_backbone: Backbone) -> None:
    model = CoCoOpModel(tiny_backbone, NAMES, settings(COCOOP))
    layers = [f"meta_net.linear{i}.{kind}" for i in (1, 2) for kind in ("bias", "weight")]
    assert sorted(model.trained_state()) == ["ctx", *layers]
    assert model.meta_net.linear1.weight.shape == (tiny_backbone.embed_dim // 16, tiny_backbone.embed_dim)


def test_words_win_over_class_specific_contexts_as_in_coop(tiny_backbone: Backbone) -> None:
    model = CoOpModel(tiny_backbone, NAMES, settings(COOP, CSC=True, CTX_INIT="a photo of a"))
    assert model.prompt_learner.ctx.shape == (4, tiny_backbone.text_width)


# Prompts, token by token.


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


def test_what_cannot_be_a_prompt_is_refused(tiny_backbone: Backbone) -> None:
    W = tiny_backbone.text_width
    with pytest.raises(ValueError, match="position 'start'; known: end, middle, front"):
        PromptLearner(tiny_backbone, NAMES, random_context(4, W), "start")
    with pytest.raises(ValueError, match="for 3 classes"):
        PromptLearner(tiny_backbone, NAMES, random_context(2, 4, W))
    with pytest.raises(ValueError, match="melanoma"):
        PromptLearner(tiny_backbone, NAMES, random_context(75, W))
