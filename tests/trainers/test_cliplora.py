"""CLIP-LoRA: towers against merged weights, the start, dropout and gradient by hand, maps, what a checkpoint holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_run
import torch
from helpers_clip import tiny_backbone, tiny_clip_state
from small_cases import LABELS, NAMES, pictures, settings
from tiny_run import ConfigMaker, Usual

import xcoop
from xcoop.backbones.clip_model import build_clip
from xcoop.backbones.openai import ClipBackbone
from xcoop.concepts import load_bank
from xcoop.concepts.sentences import clinical_features
from xcoop.explain.maps import class_target, explain_maps, explainers
from xcoop.methods.alignment import unit
from xcoop.trainers.cliplora import DEFAULTS, CLIPLoRAModel, LowRank

SENTENCES = ["a photo of a melanoma.", "a photo of a blue nevus.", "a photo of a clear lung."]
TOWERS = {"text": "transformer", "image": "visual.transformer"}


def model_of(**keys: object) -> CLIPLoRAModel:
    return CLIPLoRAModel(tiny_backbone(), NAMES, [[text] for text in SENTENCES], settings(DEFAULTS, **keys))


def grown(**keys: object) -> CLIPLoRAModel:
    """With changes as large as the weights themselves, in which mistakes could not hide."""
    model = model_of(**keys)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.normal_(std=0.3)
    return model.eval()


def merged(model: CLIPLoRAModel, gamma: float) -> ClipBackbone:
    """A plain CLIP whose weights are W + gamma B A, made from those of the tiny one."""
    state = tiny_clip_state()
    for tower, place in TOWERS.items():
        for index, lora in enumerate(getattr(model, tower)):
            change = torch.cat([gamma * lora.B[p] @ lora.A[p] for p in range(3)])  # (3 V, V)
            state[f"{place}.resblocks.{index}.attn.in_proj_weight"] += change.detach()
    backbone = ClipBackbone("merged", build_clip(state, "merged weights"))
    return backbone.requires_grad_(False)


@pytest.mark.parametrize(("rank", "alpha", "gamma"), [(2, 1.0, 1 / math.sqrt(2)), (4, 3.0, 1.5)])
def test_both_towers_are_clip_with_merged_weights(rank: int, alpha: float, gamma: float) -> None:
    model = grown(R=rank, ALPHA=alpha)
    plain = merged(model, gamma)
    torch.testing.assert_close(model.text_features(), unit(plain.encode_text(SENTENCES)), atol=2e-5, rtol=1e-4)
    model.needs_patches = True
    images = pictures(plain)
    seen, want = model.encode_images(images), plain.encode_image(images, patches=True)
    torch.testing.assert_close(seen.pooled, want.pooled, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(seen.patches, want.patches, atol=5e-5, rtol=1e-4)
    assert not torch.allclose(seen.pooled, model.backbone.encode_image(images).pooled, atol=1e-2)

    handles = [block.register_forward_hook(lambda *_: None) for block in model.backbone.image_blocks]
    torch.testing.assert_close(model.encode_images(images).pooled, want.pooled, atol=5e-5, rtol=1e-4)  # CLIP's own way
    for handle in handles:
        handle.remove()


def test_the_start_is_zero_shot_clip() -> None:
    model = model_of().train()
    images = pictures(model.backbone)
    text, image = unit(model.backbone.encode_text(SENTENCES)), unit(model.backbone.encode_image(images).pooled)
    torch.testing.assert_close(model(images), model.scale * image @ text.T, atol=1e-4, rtol=0)
    for tower, width in (("text", 64), ("image", 128)):
        for lora in getattr(model, tower):
            assert lora.A.shape == (3, 2, width)
            assert 0.9 < lora.A.abs().max() * math.sqrt(width) <= 1
            assert not lora.B.any()


def test_queries_keys_and_values_lose_inputs_of_their_own() -> None:
    """With A and B the identity the change is gamma d(x)."""
    lora = LowRank(64, settings(DEFAULTS, R=64, ALPHA=8.0, DROPOUT=0.25))  # gamma = 1
    with torch.no_grad():
        lora.A.copy_(torch.eye(64))
        lora.B.copy_(torch.eye(64))
    x = torch.full((50, 7, 64), 3.0)
    torch.testing.assert_close(lora.eval()(x), torch.full((50, 7, 192), 3.0))
    torch.manual_seed(0)
    parts = lora.train()(x).detach().chunk(3, dim=-1)
    for part in parts:
        gone = part == 0
        assert gone.float().mean().item() == pytest.approx(0.25, abs=0.01)
        torch.testing.assert_close(part[~gone], torch.full_like(part[~gone], 4.0))  # 3 / (1 - 0.25)
    assert not torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[1], parts[2])


def test_the_gradient_is_that_of_the_weights_through_a_and_b() -> None:
    """With W' = W + gamma B A: dL/dB = gamma dL/dW' A', dL/dA = gamma B' dL/dW'."""
    model = grown(DROPOUT=0.0).train()
    plain = merged(model, 2**-0.5)
    images = pictures(plain)
    model.losses(model.encode_images(images), LABELS)["ce"].backward()

    plain.requires_grad_(True)
    cosines = unit(plain.encode_image(images).pooled) @ unit(plain.encode_text(SENTENCES)).T
    torch.nn.functional.cross_entropy(plain.logit_scale.exp() * cosines, LABELS).backward()
    for tower, place in TOWERS.items():
        blocks = plain.model.get_submodule(f"{place}.resblocks")
        for block, lora in zip(blocks, getattr(model, tower), strict=True):
            for p, slope in enumerate(block.attn.in_proj_weight.grad.chunk(3)):
                torch.testing.assert_close(lora.B.grad[p], 2**-0.5 * slope @ lora.A[p].T, atol=1e-4, rtol=1e-3)
                torch.testing.assert_close(lora.A.grad[p], 2**-0.5 * lora.B[p].T @ slope, atol=1e-4, rtol=1e-3)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_the_view_leaves_the_backbone_as_it_was() -> None:
    model = grown()
    backbone = model.backbone
    before, prints = [set(vars(module)) for module in backbone.modules()], backbone.fingerprint()
    images = pictures(backbone)
    plain = backbone.encode_image(images)
    view = model.image_backbone
    view.encode_image(images)
    assert torch.equal(backbone.encode_image(images).pooled, plain.pooled)
    assert view.fingerprint() == backbone.fingerprint() == prints  # both have the same weights
    assert [set(vars(module)) for module in backbone.modules()] == before
    with pytest.raises(ValueError, match="zip"):
        backbone.with_added(list(model.text)[:2], list(model.image))


@pytest.mark.parametrize("name", [*sorted(explainers().keys() - {"rise"}), "maskclip@2"])
def test_maps_are_those_of_merged_weights(name: str) -> None:
    if "vit" not in explainers()[name.removesuffix("@2")].towers:
        pytest.skip("for a ResNet alone")
    model = grown()
    plain, target = merged(model, 2**-0.5), class_target(model, 1)
    images = pictures(plain, 2)
    maps = explain_maps(name, model.image_backbone, images, target)
    torch.testing.assert_close(maps, explain_maps(name, plain, images, target), atol=1e-3, rtol=1e-2)
    assert not torch.allclose(maps, explain_maps(name, model.backbone, images, target), atol=1e-2)


def test_clinical_sentences_are_those_of_the_bank(make_cfg: ConfigMaker, pictures: Path) -> None:
    trainer = tiny_run.build(make_cfg("CLIPLoRA", "TRAINER.CLIPLORA.CLINICAL", True))
    bank = load_bank(pictures / "bank.yaml").for_classes(tiny_run.NAMES)
    torch.testing.assert_close(unit(trainer.model.text_features()), clinical_features(trainer.backbone, bank))


def test_a_checkpoint_holds_the_low_rank_matrices_alone(usual: Usual) -> None:
    state = tiny_run.stored(usual("CLIPLoRA").trainer, 2)["state_dict"]
    assert state.keys() == {f"{tower}.{i}.{which}" for tower in TOWERS for i in range(3) for which in "AB"}
    assert sum(tensor.numel() for tensor in state.values()) == 3 * 3 * 2 * 2 * (64 + 128)


@torch.no_grad()
def test_concepts_of_an_explanation_are_told_by_the_text_tower_that_was_trained(usual: Usual) -> None:
    run = xcoop.load_run(usual("CLIPLoRA").trainer.output_dir, device="cpu")
    for name, parameter in run.model.named_parameters():
        if name.endswith(".B"):
            parameter.normal_(std=0.3)
    sentences = [f"a photo of a {name}, low brightness." for name in ("dark spot", "bright spot")]
    trained, plain = (unit(tower.encode_text(sentences)) for tower in (run.image_backbone, run.backbone))
    vector = run.concepts.vectors[run.concepts.texts.index("low brightness")]
    torch.testing.assert_close(vector, unit(trained.mean(0)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(vector, unit(plain.mean(0)), atol=1e-2)
