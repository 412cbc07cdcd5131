"""CoOp and CoCoOp against their plain formulation: logits, losses and gradients."""

from __future__ import annotations

import plain
import pytest
import torch
from helpers_clip import tiny_backbone as make_backbone
from small_cases import LABELS, NAMES, pictures, settings
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.methods.prompts import POSITIONS
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


def test_cocoop_stores_the_names_that_cocoop_stores(tiny_backbone: Backbone) -> None:
    model = CoCoOpModel(tiny_backbone, NAMES, settings(COCOOP))
    layers = [f"meta_net.linear{i}.{kind}" for i in (1, 2) for kind in ("bias", "weight")]
    assert sorted(model.trained_state()) == ["ctx", *layers]
    assert model.meta_net.linear1.weight.shape == (tiny_backbone.embed_dim // 16, tiny_backbone.embed_dim)


def test_words_win_over_class_specific_contexts_as_in_coop(tiny_backbone: Backbone) -> None:
    model = CoOpModel(tiny_backbone, NAMES, settings(COOP, CSC=True, CTX_INIT="a photo of a"))
    assert model.prompt_learner.ctx.shape == (4, tiny_backbone.text_width)
