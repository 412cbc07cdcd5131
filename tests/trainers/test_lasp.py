"""LASP: its text-to-text loss in plain numbers, groups, virtual classes, the correction, norm layers."""

from __future__ import annotations

import math

import pytest
import tiny_run
import torch
from small_cases import LABELS, NAMES, drawn_features, settings
from tiny_run import ConfigMaker

from xcoop.backbones import Backbone
from xcoop.methods.alignment import prompt_contrast
from xcoop.methods.model import PromptModel
from xcoop.trainers.lasp import DEFAULTS, LASPModel, text_to_text

PROMPTS = ["a photo of a {}.", "signs of {}.", "a case of {}.", "the {} here.", "{}"]


def made(backbone: Backbone, **keys: object) -> LASPModel:
    torch.manual_seed(0)
    return LASPModel(backbone, NAMES, settings(DEFAULTS, LASP_PROMPTS=PROMPTS, **keys))


def test_the_written_prompt_looks_for_the_learned_one() -> None:
    """Learned prompts that are all alike are no help, whatever is written; the other direction would be 0.127."""
    learned, written = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.eye(2)[:, None]
    assert text_to_text(learned, written, 2.0).item() == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_each_group_learns_from_its_own_templates(groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    learned = torch.randn(groups, 4, 6, generator=generator, requires_grad=True)
    written = torch.randn(4, 5, 6, generator=generator)
    loss = text_to_text(learned, written, 3.0)
    each = [prompt_contrast(learned[n % groups], written[:, n], 3.0) for n in range(5)]
    assert loss.item() == pytest.approx(sum(one.item() for one in each) / 5, rel=1e-5)
    (gradient,) = torch.autograd.grad(text_to_text(learned, written[:, :1], 3.0), learned)
    assert gradient[0].abs().max() > 0
    assert not gradient[1:].any()


def test_the_image_is_compared_with_the_mean_of_the_groups(tiny_backbone: Backbone) -> None:
    model = made(tiny_backbone, N_GROUPS=3, CTX_INIT="", N_CTX=2)
    features = drawn_features(tiny_backbone)
    text = model.text_features()
    assert text.shape == (3, 3, tiny_backbone.embed_dim)
    each = torch.stack([PromptModel.compare(model, features, group) for group in text])  # as plain CLIP compares
    assert each.std(0).max() > 0.01  # groups start apart
    torch.testing.assert_close(model.logits(features), each.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model.losses(features, LABELS)["ce"], torch.nn.functional.cross_entropy(each.mean(0), LABELS)
    )


def test_one_group_without_the_text_loss_and_correction_is_coop(make_cfg: ConfigMaker) -> None:
    node = "TRAINER.LASP."
    keys = ("LASP_LOSS_WEIGHT", 0.0, "ENABLE_CORRECTION", False, "N_CTX", 16, "CTX_INIT", "", "CLIP_GRAD_NORM", 0.0)
    pairs = [part if i % 2 else f"{node}{part}" for i, part in enumerate(keys)]
    ours = tiny_run.trained(make_cfg("LASP", *pairs)).model.trained_state()["ctx"]
    coop = tiny_run.trained(make_cfg("CoOp", output="coop")).model.trained_state()["ctx"]
    assert ours.shape == (1, 1, *coop.shape)
    torch.testing.assert_close(ours[0, 0], coop, atol=1e-6, rtol=1e-4)


def test_virtual_classes_are_told_apart_in_text_alone(tiny_backbone: Backbone) -> None:
    model = made(tiny_backbone, VIRTUAL_CLASSES=["fractured_rib", "cyst"])
    plain = made(tiny_backbone)
    features = drawn_features(tiny_backbone)
    torch.testing.assert_close(model.logits(features), plain.logits(features), atol=1e-5, rtol=1e-5)
    ours, theirs = model.losses(features, LABELS), plain.losses(features, LABELS)
    torch.testing.assert_close(ours["ce"], theirs["ce"])
    expected = text_to_text(model.all_features(), model.written, model.scale)
    assert model.written.shape[:2] == (5, len(PROMPTS))
    assert ours["text"].item() == pytest.approx(5.0 * expected.item(), rel=1e-5)
    assert ours["text"].item() != pytest.approx(theirs["text"].item(), rel=1e-3)
    written = tiny_backbone.encode_text("signs of fractured rib.")[0]
    torch.testing.assert_close(model.written[3, 1], written / written.norm(), atol=1e-6, rtol=1e-5)


def test_the_correction_starts_at_nothing_and_shifts_all_classes(tiny_backbone: Backbone) -> None:
    model = made(tiny_backbone)
    before = model.text_features()
    torch.testing.assert_close(before, made(tiny_backbone, ENABLE_CORRECTION=False).text_features())
    with torch.no_grad():
        model.w += 0.5
    torch.testing.assert_close(model.text_features(), before + 0.5)


def test_contexts_are_shared_by_all_classes_and_serve_others(tiny_backbone: Backbone) -> None:
    model = made(tiny_backbone, N_GROUPS=2)
    assert model.prompt_learner.ctx.shape == (2, 1, 4, tiny_backbone.text_width)
    assert not model.class_specific
    other = LASPModel(tiny_backbone, ["lung", "rib"], model.settings)
    other.load_trained_state(model.trained_state())
    assert other.text_features().shape == (2, 2, tiny_backbone.embed_dim)


def test_norm_layers_are_trained_at_a_rate_of_their_own_if_asked_for(make_cfg: ConfigMaker) -> None:
    frozen = tiny_run.build(make_cfg("LASP"))
    assert frozen.model.image_tower_frozen
    assert list(frozen.model.trained_state()) == ["w", "ctx"]
    tuned = tiny_run.trained(make_cfg("LASP", "TRAINER.LASP.FINETUNE_VIT_LN", True, "OPTIM.LR", 0.02))
    rates = {group["name"]: group["initial_lr"] for group in tuned.optim.param_groups}
    assert rates == {"prompts": 0.02, "norm layers": pytest.approx(0.002)}
    assert not tuned.model.image_tower_frozen
    assert len(tuned.model.trained_state()) == 2 + 3 * 2 * 2  # 3 blocks x 2 norms x weight and bias
