"""RISE, maps at half a patch, captum's attributions, and what the phantom's own CLIP is expected to show."""

import sys

import pytest
import torch
from helpers_clip import tiny_backbone
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures, load_backbone
from xcoop.explain.target import Target, concept_target
from xcoop.explain.visual import explain_maps, explainer, explainers
from xcoop.explain.visual.captum_adapter import COSTS
from xcoop.explain.visual.rise import MASKS, random_masks
from xcoop.methods.alignment import unit
from xcoop.phantom.corpus import UNIFORM, draw_corpus
from xcoop.phantom.model import normalise


class Brightness:
    """Stands for a backbone: pooled are the pixels of one patch of 4 x 4, patches the means of each."""

    grid, input_size, name, is_vit, dtype = (4, 4), 32, "brightness", True, torch.float32

    def encode_image(self, images, patches=False):
        means = torch.nn.functional.avg_pool2d(images[:, :1], 8).flatten(2).transpose(1, 2)  # (B, 16, 1)
        local = torch.cat([means, torch.ones_like(means)], dim=2)
        return ImageFeatures(images[:, :, 8:16, 16:24].flatten(1), local)


BRIGHT = Target("bright", lambda f: f.pooled.sum(1), lambda f: torch.tensor([[1.0, 0.0]]).expand(len(f.pooled), -1))


def test_rise_finds_the_square_that_a_score_reads():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    maps = explain_maps("rise", Brightness(), images, BRIGHT).flatten(1)
    assert maps.argmax(1).tolist() == [6, 6]  # row 1, column 2 of 4
    far = maps[:, 12]  # row 3, column 0: its coins are independent of those at the square
    assert (far.abs() < 0.2 * maps[:, 6]).all()


def test_rise_is_the_covariance_of_score_and_mask():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = random_masks(MASKS, 32)
    scores = [float((images[0] * mask)[:, 8:16, 16:24].sum()) for mask in masks]
    mean = sum(scores) / MASKS
    want = sum((s - mean) * float(m[24:, 8:16].mean()) for s, m in zip(scores, masks, strict=True)) / MASKS / 0.5
    assert float(explain_maps("rise", Brightness(), images, BRIGHT)[0, 3, 1]) == pytest.approx(want, abs=1e-3)


def test_masks_are_on_half_the_time_and_always_the_same():
    masks = random_masks(MASKS, 224)
    assert masks.shape == (MASKS, 224, 224)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(masks, random_masks(MASKS, 224))
    spread = masks.std(0)  # without shifts it is 2.2 times as large amid a coin as between four; with them 1.3 times
    assert spread.max() < 1.7 * spread.min()


def test_finer_maps_tell_the_halves_of_a_patch_apart():
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, 12:16, 20:24] = 1.0  # the lower right quarter of patch (1, 2): half patch (3, 5)
    coarse = explain_maps("similarity", Brightness(), images, BRIGHT)
    assert coarse.flatten().argmax() == 6
    fine = explain_maps("similarity@2", Brightness(), images, BRIGHT)
    assert fine.shape == (1, 8, 8)
    assert divmod(int(fine.flatten().argmax()), 8) == (3, 5)
    assert (fine == fine.max()).sum() == 1


def test_finer_maps_of_an_even_image_are_even():
    fine = explain_maps("similarity@2", Brightness(), torch.full((2, 3, 32, 32), 0.5), BRIGHT)
    torch.testing.assert_close(fine, torch.full((2, 8, 8), float(fine[0, 0, 0])))


def test_a_finer_method_names_itself():
    assert explainer("maskclip@2").name == "maskclip@2"
    assert explainer("maskclip@2").summary.startswith(explainer("maskclip").summary)


@pytest.fixture(scope="module")
def tiny():
    return tiny_backbone(), tiny_backbone(vision="resnet")


@pytest.mark.parametrize("name", sorted(COSTS))
def test_captums_attributions_of_a_batch_are_those_of_single_images(name, tiny):
    pytest.importorskip("captum")
    for backbone in tiny:
        t = unit(torch.randn(backbone.embed_dim, generator=torch.Generator().manual_seed(1)))
        side = backbone.input_size
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        maps = explain_maps(f"captum:{name}", backbone, images, concept_target("t", t, 14.0))
        alone = [explain_maps(f"captum:{name}", backbone, one[None], concept_target("t", t, 14.0)) for one in images]
        assert maps.shape == (2, *backbone.grid)
        assert maps.abs().sum() > 0
        torch.testing.assert_close(maps, torch.cat(alone), rtol=1e-3, atol=1e-5)
        assert all(parameter.grad is None for parameter in backbone.parameters())
        assert not any(module._forward_hooks or module._backward_hooks for module in backbone.modules())


@pytest.mark.parametrize("name", ["KernelShap", "FeaturePermutation", "DeepLift", "IntegratedGradient"])
def test_other_attributions_of_captum_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*IntegratedGradients"):
        explainer(f"captum:{name}")


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ImportError, match=r"xcoop\[xai\]"):
        explainer("captum:Saliency")


def test_on_the_phantom_only_rollout_is_blind_to_the_concept():
    backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "phantom", "PATH": ""}}}))
    pictures = draw_corpus("derm", 2, "probe", 3, 64, (UNIFORM,)).images
    images = normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    texts = (f"a dermoscopic photo of a skin lesion, with {one}." for one in ("irregular streaks", "veil"))
    targets = [concept_target("concept", text, 14.0) for text in backbone.encode_text(list(texts)).detach()]
    for name in sorted(explainers()):
        one, other = (explain_maps(name, backbone, images, target) for target in targets)
        assert torch.equal(one, other) is not explainer(name).class_specific, name
