"""MaPLe and PromptSRC: features against the plain forward, losses by hand, the mean over epochs, what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import plain_deep
import pytest
import tiny_run
import torch
from helpers_clip import tiny_backbone as make_backbone
from helpers_clip import tiny_clip_state
from safetensors.torch import save_file
from small_cases import NAMES, pictures, settings
from test_load_run import finished
from tiny_run import ConfigMaker
from torch import Tensor

import xcoop
from xcoop.backbones import ImageFeatures
from xcoop.methods.model import PromptModel
from xcoop.trainers.maple import DEFAULTS as MAPLE
from xcoop.trainers.maple import MaPLeModel, split_words
from xcoop.trainers.promptsrc import DEFAULTS as PROMPTSRC
from xcoop.trainers.promptsrc import BothFeatures, PromptSRCModel, gaussian_weights

INSIDE = ["MaPLe", "PromptSRC", "CLIPLoRA"]  # the towers


def grown(model: PromptModel) -> PromptModel:
    """With prompts of the size of real tokens: the drawn ones are so small that mistakes could hide."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def assert_equal_to_plain(
    model: PromptModel, words: list[str], text: list[Tensor], vision: list[Tensor], images: Tensor
) -> None:
    clip = model.backbone.model
    want_text = torch.stack([plain_deep.text_feature(clip, each, text) for each in words])
    torch.testing.assert_close(model.text_features(), want_text, atol=2e-5, rtol=1e-4)
    model.needs_patches = True
    seen = model.encode_images(images)
    for index, image in enumerate(images):
        pooled, patches = plain_deep.image_features(clip, image, vision)
        torch.testing.assert_close(seen.pooled[index], pooled, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(seen.patches[index], patches, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_maple_is_the_plain_forward(depth: int) -> None:
    backbone = make_backbone()
    model = grown(MaPLeModel(backbone, NAMES, settings(MAPLE, PROMPT_DEPTH=depth)))
    own = model.trained_parameters()
    text = [own["ctx"], *(own["text_prompts"] if depth > 1 else [])]
    vision = [p @ own[f"coupling.{j}.weight"].T + own[f"coupling.{j}.bias"] for j, p in enumerate(text)]
    assert [p.shape for p in text] == [(2, 64)] * depth  # "a photo" of "a photo of a"
    words = ["of a melanoma.", "of a blue nevus.", "of a clear lung."]
    assert_equal_to_plain(model, words, text, vision, pictures(backbone))


@pytest.mark.parametrize(("text_depth", "vision_depth"), [(1, 3), (3, 1), (2, 2), (3, 0)])
def test_promptsrc_is_the_plain_forward(text_depth: int, vision_depth: int) -> None:
    backbone = make_backbone()
    keys = {"PROMPT_DEPTH_TEXT": text_depth, "PROMPT_DEPTH_VISION": vision_depth, "N_CTX_VISION": 3}
    model = grown(PromptSRCModel(backbone, NAMES, settings(PROMPTSRC, **keys)))
    own = model.trained_parameters()
    text = [own["ctx"], *(own["text_prompts"] if text_depth > 1 else [])]
    vision = list(own["patch_prompts"]) if vision_depth else []
    assert_equal_to_plain(model, [f"{name}." for name in ("melanoma", "blue nevus", "clear lung")], text, vision,
                          pictures(backbone))  # fmt: skip


def test_without_prompts_features_are_the_plain_ones() -> None:
    backbone = make_backbone()
    images = pictures(backbone)
    plain = backbone.encode_image(images, patches=True)
    empty = backbone.with_prompts(torch.zeros(0, 4, 128)).encode_image(images, patches=True)
    assert torch.equal(empty.pooled, plain.pooled)
    assert torch.equal(empty.patches, plain.patches)
    model = PromptSRCModel(backbone, NAMES, settings(PROMPTSRC, PROMPT_DEPTH_VISION=0, PROMPT_DEPTH_TEXT=1))
    assert model.image_tower_frozen  # so that its features are computed once
    assert model.image_backbone is backbone
    words = [f"a photo of a {name}." for name in ("melanoma", "blue nevus", "clear lung")]
    torch.testing.assert_close(model.text_features(), backbone.encode_text(words), atol=1e-5, rtol=0)


def test_a_prompted_view_leaves_the_backbone_as_it_was() -> None:
    backbone = make_backbone()
    before, prints = [set(vars(module)) for module in backbone.modules()], backbone.fingerprint()
    images = pictures(backbone)
    plain = backbone.encode_image(images)
    model = grown(MaPLeModel(backbone, NAMES, settings(MAPLE)))
    view = model.image_backbone
    changed = view.encode_image(images)
    assert not torch.allclose(changed.pooled, plain.pooled, atol=1e-2)
    assert torch.equal(view.encode_text("melanoma"), backbone.encode_text("melanoma"))
    assert torch.equal(backbone.encode_image(images).pooled, plain.pooled)
    assert view.fingerprint() == backbone.fingerprint() == prints
    assert [set(vars(module)) for module in backbone.modules()] == before
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in backbone.modules())


@pytest.mark.parametrize("shape", [(4, 2, 128), (2, 2, 64), (2, 128)])
def test_vision_prompts_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 blocks of width 128"):
        make_backbone().with_prompts(torch.zeros(shape))


def test_the_first_words_are_learned_and_the_others_stay() -> None:
    assert split_words("a_photo of a", 2) == ("a photo", "of a")
    assert split_words("a photo of a", 4) == ("a photo of a", "")
    assert split_words("", 4) == ("", "")


# The losses of PromptSRC.


def test_the_parts_of_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes, in a joint space whose first two axes alone are used; the temperature is 1."""
    model = PromptSRCModel(make_backbone(), NAMES[:2], settings(PROMPTSRC, TEXT_LOSS_WEIGHT=25.0))
    model.backbone.logit_scale.data.zero_()

    def plane(*rows: tuple[float, float]) -> Tensor:
        return torch.cat([torch.tensor(rows), torch.zeros(len(rows), 46)], dim=1)

    monkeypatch.setattr(model, "text_features", lambda: plane((3.0, 4.0), (0.0, 2.0)))  # unit: (0.6, 0.8), (0, 1)
    model.frozen_text = plane((1.0, 0.0), (0.0, 1.0))
    features = BothFeatures(plane((5.0, 0.0)), torch.zeros(1, 0, 48), plane((0.0, 0.5)))  # unit: (1, 0); frozen (0, 1)
    parts = model.losses(features, torch.tensor([0]))
    assert parts["text"].item() == pytest.approx(25 * (0.4 + 0.8) / (2 * 48), rel=1e-5)
    assert parts["image"].item() == pytest.approx(10 * 2 / 48, rel=1e-5)
    p0 = [1 / (1 + math.e), math.e / (1 + math.e)]  # logits (0, 1)
    p = [math.exp(0.6) / (1 + math.exp(0.6)), 1 / (1 + math.exp(0.6))]  # logits (0.6, 0)
    kl = sum(a * math.log(a / b) for a, b in zip(p0, p, strict=True))
    assert parts["logits"].item() == pytest.approx(kl / 2, rel=1e-5)
    assert parts["ce"].item() == pytest.approx(-math.log(p[0]), rel=1e-5)
    assert parts["acc"].item() == 100
    with pytest.raises(ValueError, match="encode_images"):
        model.losses(ImageFeatures(features.pooled, features.patches), torch.tensor([0]))


def test_frozen_features_are_those_without_prompts_and_have_no_gradient() -> None:
    backbone = make_backbone()
    model = grown(PromptSRCModel(backbone, NAMES, settings(PROMPTSRC)))
    images = pictures(backbone)
    seen = model.encode_images(images)
    assert isinstance(seen, BothFeatures)
    assert torch.equal(seen.frozen, backbone.encode_image(images).pooled)
    assert not seen.frozen.requires_grad
    assert seen.pooled.requires_grad
    with torch.no_grad():
        assert not isinstance(model.encode_images(images), BothFeatures)  # a test pays for one pass


# The mean over the epochs.


def test_gaussian_weights_by_hand() -> None:
    e = math.exp(-0.5)
    assert gaussian_weights(3, 2.0, 1.0) == pytest.approx([e / (1 + 2 * e), 1 / (1 + 2 * e), e / (1 + 2 * e)])
    assert gaussian_weights(2, 1e6, 1.0) == pytest.approx([0, 1])  # far off: the nearest epoch
    assert sum(gaussian_weights(50, 45, 5)) == pytest.approx(1)


def test_a_run_ends_with_the_mean_of_its_epochs(make_cfg: ConfigMaker) -> None:
    keys = ("OPTIM.MAX_EPOCH", 3, "TRAINER.PROMPTSRC.GPA_MEAN", 3.0, "TRAINER.PROMPTSRC.GPA_STD")
    last = tiny_run.trained(make_cfg("PromptSRC", *keys, 0.01, output="last"))
    even = tiny_run.trained(make_cfg("PromptSRC", *keys, 1e6, output="even"))
    each = [tiny_run.stored(last, epoch)["state_dict"] for epoch in (1, 2, 3)]  # all the weight is on the last
    for name, tensor in even.model.trained_state().items():
        torch.testing.assert_close(tensor, (each[0][name] + each[1][name] + each[2][name]) / 3, atol=1e-6, rtol=0)
        half_way = tiny_run.stored(even, 2)
        torch.testing.assert_close(half_way["average"][name], (each[0][name] + each[1][name]) / 3, atol=1e-6, rtol=0)
        assert torch.equal(half_way["state_dict"][name], each[1][name])  # training goes on from the prompts themselves


def test_a_checkpoint_without_the_mean_is_nothing_to_resume_from(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.trained(make_cfg("PromptSRC"))
    path = Path(trainer.output_dir, "prompt_learner", "model.pth.tar-2")
    content = torch.load(path, weights_only=True)
    del content["average"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"tar-2 is no checkpoint to resume from .*average"):
        tiny_run.trained(make_cfg("PromptSRC"))


# What is refused, and what runs and explanations make of it.


@pytest.mark.parametrize("name", INSIDE)
def test_a_resnet_is_refused_by_name_and_by_weights(name: str, make_cfg: ConfigMaker, tmp_path: Path) -> None:
    message = f"{name} works inside the blocks of a vision transformer; {{}} has a ResNet"
    with pytest.raises(ValueError, match=message.format("RN50")):
        tiny_run.build(make_cfg(name, "MODEL.BACKBONE.NAME", "RN50", "MODEL.BACKBONE.PATH", ""))
    path = tmp_path / "resnet.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tiny_clip_state(vision="resnet").items()}, path)
    with pytest.raises(ValueError, match=message.format("ViT-B/16")):
        tiny_run.build(make_cfg(name, "MODEL.BACKBONE.PATH", str(path), "INPUT.SIZE", [64, 64]))


def test_more_layers_than_there_are_mean_all_of_them(make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = tiny_run.build(make_cfg("MaPLe")).model
    assert "MaPLe: prompts in all 3 layers of ViT-B/16 (9 asked for)" in caplog.text
    assert model.vision_prompts().shape == (3, 2, 128)


@pytest.mark.parametrize("name", INSIDE)
def test_a_loaded_run_sees_images_as_it_was_trained_to(name: str, make_cfg: ConfigMaker, pictures: Path) -> None:
    run = xcoop.load_run(finished(make_cfg, name, "OPTIM.LR", 1.0), device="cpu")
    images = run.preprocess(sorted((pictures / "test").glob("*.png"))[:3])
    with torch.no_grad():
        want = run.model.encode_images(images).pooled
    torch.testing.assert_close(run.features(images).pooled, want)
    assert not torch.allclose(run.backbone.encode_image(images).pooled, want, atol=1e-3)
