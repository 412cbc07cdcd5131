"""Every visual method: planted truths, independent statements of the formulas, and what all of them owe."""

import sys

import pytest
import torch
from helpers_clip import tiny_backbone
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures, load_backbone
from xcoop.explain import maps as maps_module
from xcoop.explain.maps import (
    CAPTUM_COSTS,
    DEFAULTS,
    MASKS,
    Methods,
    Target,
    concept_target,
    explain_maps,
    explainer,
    explainers,
    methods,
    random_masks,
)
from xcoop.explain.tower import trace
from xcoop.methods.alignment import unit
from xcoop.phantom.corpus import UNIFORM, draw_corpus
from xcoop.phantom.model import normalise

LAYERS, PROMPTS, OWN = 2, 3, 17  # of three blocks of the prompted tower; 4 x 4 patches and the class token
# RISE asks each tower as occlusion does: one tower is enough.
PAIRS = [(name, tower) for name, one in sorted(explainers().items()) for tower in one.towers
         if (name, tower) != ("rise", "resnet")]  # fmt: skip
PAIRS += [(name, "prompted") for name, tower in PAIRS if tower == "vit" and name != "rise"]
PAIRS += [(name, tower) for name in ("maskclip@2", *(f"captum:{one}" for one in sorted(CAPTUM_COSTS)))
          for tower in ("vit", "resnet")]  # fmt: skip


@pytest.fixture(scope="module")
def towers():
    prompts = torch.randn(LAYERS, PROMPTS, 128, generator=torch.Generator().manual_seed(4))
    return {
        "vit": tiny_backbone(),
        "resnet": tiny_backbone(vision="resnet"),
        "prompted": tiny_backbone().with_prompts(prompts),
    }


def images_for(backbone, count=3, seed=0):
    side = backbone.input_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def with_local(backbone, seed=1):
    """A score with a global and a local term, as XCoOp's."""
    t = unit(torch.randn(backbone.embed_dim, generator=torch.Generator().manual_seed(seed)))

    def score(features):
        return 14.0 * (unit(features.pooled) @ t + 0.5 * (unit(features.patches) @ t).mean(1))

    return Target("both", score, lambda features: t.expand(len(features.pooled), -1))


# What all methods owe.


@pytest.mark.parametrize(("name", "tower"), PAIRS)
def test_maps_are_of_single_images_and_targets_and_leave_nothing_behind(name, tower, towers, monkeypatch):
    if name.startswith("captum:"):
        pytest.importorskip("captum")
    monkeypatch.setattr(maps_module, "MASKS", 32)  # each of them is a pass
    backbone = towers[tower]
    images, target = images_for(backbone), with_local(backbone)
    before, prints = [dict(vars(module)) for module in backbone.modules()], backbone.fingerprint()
    maps = explain_maps(name, backbone, images, target)
    assert maps.shape == (3, *(side * (1 + name.endswith("@2")) for side in backbone.grid))
    assert maps.isfinite().all()
    assert maps.abs().sum() > 0
    assert (maps.requires_grad, maps.dtype) == (False, torch.float32)
    torch.testing.assert_close(maps[1:2], explain_maps(name, backbone, images[1:2], target), rtol=1e-4, atol=1e-6)
    other = explain_maps(name, backbone, images, with_local(backbone, seed=2))
    assert torch.allclose(maps, other) is not explainer(name).class_specific
    assert [list(one) for one in before] == [list(vars(module)) for module in backbone.modules()]
    assert all(not module._forward_hooks and not module._backward_hooks for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert backbone.fingerprint() == prints
    if tower == "prompted":
        plain = explain_maps(name, towers["vit"], images, target)
        assert not torch.allclose(maps, plain, atol=1e-3)


def test_methods_by_name(towers):
    for tower in ("vit", "resnet"):
        assert methods(towers[tower]) == DEFAULTS[tower]
        assert all(tower in explainer(name).towers for name in DEFAULTS[tower])
    assert methods(towers["vit"], "gradcam@2") == Methods("gradcam@2", "gradcam@2")
    assert all(one.cost and one.summary for one in explainers().values())
    assert explainer("maskclip@2").summary.startswith(explainer("maskclip").summary)
    assert explainer("maskclip@2").cost == "4 x (1 forward)"
    for wrong in ("grad-eclip", "grad-eclip@2"):
        with pytest.raises(ValueError, match="gradeclip"):
            methods(towers["vit"], wrong)


@pytest.mark.parametrize("name", ["relevancy", "gradeclip", "legrad", "rollout"])
def test_methods_of_attention_refuse_a_resnet_and_name_others(name, towers):
    with pytest.raises(ValueError, match=f"{name} cannot look into the resnet .*gradcam.*maskclip"):
        explain_maps(name, towers["resnet"], images_for(towers["resnet"], 1), with_local(towers["resnet"]))


def test_on_the_phantom_only_rollout_is_blind_to_the_concept():
    backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "phantom", "PATH": ""}}}))
    drawn = draw_corpus("derm", 1, "probe", 3, 64, (UNIFORM,)).images
    images = normalise(torch.from_numpy(drawn).permute(0, 3, 1, 2) / 255)[:1]
    texts = (f"a dermoscopic photo of a skin lesion, with {one}." for one in ("irregular streaks", "veil"))
    targets = [concept_target("concept", text, 14.0) for text in backbone.encode_text(list(texts)).detach()]
    for name in sorted(explainers().keys() - {"rise"}):
        one, other = (explain_maps(name, backbone, images, target) for target in targets)
        assert torch.equal(one, other) is not explainer(name).class_specific, name


# The trace: the tower's own pass, step by step.


@pytest.mark.parametrize("tower", ["vit", "prompted"])
def test_a_trace_is_the_towers_own_pass(tower, towers):
    backbone = towers[tower]
    images = images_for(backbone)
    block, entered, left = backbone.image_blocks[1], [], []
    handles = [block.ln_1.register_forward_hook(lambda module, given, output: entered.append(output))]
    handles += [one.register_forward_hook(lambda module, given, output: left.append(output)) for one in
                backbone.image_blocks]  # fmt: skip
    plain = backbone.encode_image(images, patches=True)
    for handle in handles:
        handle.remove()
    seen = trace(backbone, images)
    torch.testing.assert_close(seen.features.pooled, plain.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.features.patches, plain.patches, rtol=1e-5, atol=1e-5)
    for tokens, output in zip(seen.tokens[1:], left, strict=True):
        torch.testing.assert_close(tokens, output.transpose(0, 1), rtol=1e-4, atol=1e-5)
    length = OWN + (PROMPTS if tower == "prompted" else 0)
    assert [one.probs.shape[-1] for one in seen.attention] == [length] * 3
    # The second head of the second image's second block, by hand.
    x = entered[0][:, 1]  # (L, V)
    heads, width = block.attn.num_heads, x.shape[1] // block.attn.num_heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    q, k, v = ((x @ weight[i * x.shape[1] :][: x.shape[1]].T + bias[i * x.shape[1] :][: x.shape[1]]) for i in range(3))
    head = slice(width, 2 * width)
    want = torch.softmax(q[:, head] @ k[:, head].T / width**0.5, dim=1)
    assert heads == 2
    torch.testing.assert_close(seen.attention[1].probs[1, 1], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.attention[1].mixed[1, :, head], want @ v[:, head], rtol=1e-4, atol=1e-5)


# The formulas, stated independently.


@pytest.mark.parametrize("tower", ["vit", "prompted"])
def test_relevancy_is_the_loop_over_heads(tower, towers):
    backbone = towers[tower]
    images, target = images_for(backbone, 2), with_local(backbone)
    seen = trace(backbone, images)
    probs = seen.attention[-1].probs
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [probs])
    probs = probs.detach()
    want = [
        [sum(max(0.0, float(gradient[b, h, 0, i] * probs[b, h, 0, i])) / 2 for h in range(2)) for i in range(1, OWN)]
        for b in range(2)
    ]
    got = explain_maps("relevancy", backbone, images, target).flatten(1)
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-4, atol=1e-7)


def test_gradeclip_is_the_sum_over_channels(towers):
    backbone = towers["vit"]
    images, target = images_for(backbone, 1), with_local(backbone)
    seen, W = trace(backbone, images), backbone.image_blocks[-1].attn.out_proj.weight
    last = seen.attention[-1]
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [last.mixed])
    q, k, v = (torch.cat([part[0, h] for h in range(2)], dim=1) for part in (last.queries, last.keys, last.values))
    near = torch.stack([F.cosine_similarity(W @ q[0], W @ k[i], dim=0) for i in range(1, 17)])
    near = (near - near.min()) / (near.max() - near.min())
    want = torch.stack([(gradient[0, 0] * v[i + 1]).sum() * near[i] for i in range(16)]).clamp(min=0)
    got = explain_maps("gradeclip", backbone, images, target).flatten()
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-6)


def test_legrad_sums_the_blocks(towers):
    backbone = towers["vit"]
    images, target = images_for(backbone, 1), with_local(backbone)
    visual, seen, total = backbone.model.visual, trace(backbone, images), torch.zeros(16)
    for attention, output in zip(seen.attention, seen.tokens[1:], strict=True):
        tokens = output[0]  # (L, V)
        pooled = (visual.ln_post(tokens.mean(0)) @ visual.proj)[None]
        patches = (visual.ln_post(tokens) @ visual.proj)[None, 1:]
        score = target.score(ImageFeatures(pooled, patches)).sum()
        (gradient,) = torch.autograd.grad(score, [attention.probs], retain_graph=True)
        total += sum(gradient[0, h, row, 1:].clamp(min=0) / (2 * 17) for h in range(2) for row in range(17))
    torch.testing.assert_close(explain_maps("legrad", backbone, images, target).flatten(), total, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tower", ["vit", "prompted"])
def test_rollout_says_which_patch_each_token_comes_from(tower, towers):
    """Block by block; a block's own prompts come from no patch when they enter."""
    backbone = towers[tower]
    images, layers = images_for(backbone, 1), LAYERS if tower == "prompted" else 0
    origin = torch.eye(OWN)  # of the image's tokens, in the image's tokens
    prompts = torch.zeros(PROMPTS if layers else 0, OWN)
    for layer, attention in enumerate(trace(backbone, images).attention):
        if layer < layers:
            prompts = torch.zeros(PROMPTS, OWN)
        before = torch.cat([origin, prompts])
        after = (attention.probs[0].mean(0) @ before + before) / 2
        origin, prompts = after[:OWN], after[OWN:]
    got = explain_maps("rollout", backbone, images, with_local(backbone))
    torch.testing.assert_close(got.flatten(), origin[0, 1:].detach())


def test_gradcam_of_a_resnet_by_hand(towers):
    backbone = towers["resnet"]
    images, target, kept = images_for(backbone, 1), with_local(backbone), []
    handle = backbone.model.visual.layer4.register_forward_hook(lambda m, i, o: kept.append(o))
    score = target.score(backbone.encode_image(images.clone().requires_grad_(), patches=True)).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    want = sum(gradient[0, c].mean() * kept[0][0, c] for c in range(kept[0].shape[1])).clamp(min=0)
    got = explain_maps("gradcam", backbone, images, target)[0]
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-6)


def test_maskclip_points_at_the_patch_whose_own_value_is_the_text(towers):
    backbone = towers["vit"]
    images = images_for(backbone, 1)
    visual, block, inputs = backbone.model.visual, backbone.image_blocks[-1], []
    handle = block.register_forward_pre_hook(lambda m, given: inputs.append(given[0]))
    backbone.encode_image(images)
    handle.remove()
    x = inputs[0][8:9, 0]  # token 8, patch 7
    normed, width = block.ln_1(x), x.shape[1]
    value = normed @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
    x = x + block.attn.out_proj(value)
    x = x + block.mlp(block.ln_2(x))
    own = (visual.ln_post(x) @ visual.proj)[0]
    maps = explain_maps("maskclip", backbone, images, concept_target("planted", own, 1.0)).flatten()
    assert maps.argmax() == 7
    assert maps[7] == pytest.approx(1.0, abs=1e-5)


# Black-box methods, and maps at half a patch, on a backbone that sees brightness.


class Brightness:
    """Pooled are the pixels of one patch of 4 x 4 (row 1, column 2), patches the means of each."""

    grid, input_size, name, is_vit, dtype = (4, 4), 32, "brightness", True, torch.float32

    def encode_image(self, images, patches=False):
        means = F.avg_pool2d(images[:, :1], 8).flatten(2).transpose(1, 2)  # (B, 16, 1)
        local = torch.cat([means, torch.ones_like(means)], dim=2)
        return ImageFeatures(images[:, :, 8:16, 16:24].flatten(1), local)


BRIGHT = Target("bright", lambda f: f.pooled.sum(1), lambda f: torch.tensor([[1.0, 0.0]]).expand(len(f.pooled), -1))


def test_occlusion_and_rise_find_the_one_patch_that_a_score_reads():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    occluded = explain_maps("occlusion", Brightness(), images, BRIGHT).flatten(1)
    assert occluded.argmax(1).tolist() == [6, 6]
    assert (occluded > 0).sum(1).tolist() == [1, 1]
    torch.testing.assert_close(occluded[:, 6], images[:, :, 8:16, 16:24].sum((1, 2, 3)))
    maps = explain_maps("rise", Brightness(), images, BRIGHT).flatten(1)
    assert maps.argmax(1).tolist() == [6, 6]
    assert (maps[:, 12].abs() < 0.2 * maps[:, 6]).all()  # row 3, column 0: its coins are independent of those there


def test_rise_is_the_covariance_of_score_and_mask():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = random_masks(MASKS, 32)
    scores = [float((images[0] * mask)[:, 8:16, 16:24].sum()) for mask in masks]
    mean = sum(scores) / MASKS
    want = sum((s - mean) * float(m[24:, 8:16].mean()) for s, m in zip(scores, masks, strict=True)) / MASKS / 0.5
    assert float(explain_maps("rise", Brightness(), images, BRIGHT)[0, 3, 1]) == pytest.approx(want, abs=1e-3)


def test_masks_are_on_half_the_time_and_always_the_same():
    masks = random_masks(MASKS, 96)
    assert masks.shape == (MASKS, 96, 96)
    assert 0 <= masks.min() <= masks.max() <= 1
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(masks, random_masks(MASKS, 96))
    spread = masks.std(0)  # without shifts it is 2.2 times as large amid a coin as between four; with them 1.3 times
    assert spread.max() < 1.7 * spread.min()


def test_finer_maps_tell_the_halves_of_a_patch_apart():
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, 12:16, 20:24] = 1.0  # the lower right quarter of patch (1, 2): half patch (3, 5)
    assert explain_maps("similarity", Brightness(), images, BRIGHT).flatten().argmax() == 6
    fine = explain_maps("similarity@2", Brightness(), images, BRIGHT)
    assert fine.shape == (1, 8, 8)
    assert divmod(int(fine.flatten().argmax()), 8) == (3, 5)
    assert (fine == fine.max()).sum() == 1
    even = explain_maps("similarity@2", Brightness(), torch.full((2, 3, 32, 32), 0.5), BRIGHT)
    torch.testing.assert_close(even, torch.full((2, 8, 8), float(even[0, 0, 0])))


# captum's.


def test_captums_occlusion_is_ours(towers):
    pytest.importorskip("captum")
    backbone = towers["prompted"]
    images, target = images_for(backbone, 2), with_local(backbone)
    ours, theirs = (explain_maps(name, backbone, images, target) for name in ("occlusion", "captum:Occlusion"))
    torch.testing.assert_close(ours, theirs / 3, rtol=1e-3, atol=1e-5)  # each of three colours has the whole fall


@pytest.mark.parametrize("name", ["KernelShap", "FeaturePermutation", "DeepLift", "IntegratedGradient"])
def test_other_attributions_of_captum_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*IntegratedGradients"):
        explainer(f"captum:{name}")


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ImportError, match=r"xcoop\[xai\]"):
        explainer("captum:Saliency")
