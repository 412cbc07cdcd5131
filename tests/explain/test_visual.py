"""Every visual method: planted truths, independent statements of the formulas, and what all of them owe."""

import pytest
import torch
from helpers_clip import tiny_backbone
from torch.nn import functional as F

from xcoop.backbones import ImageFeatures
from xcoop.explain.attention import attention_tap
from xcoop.explain.localisation import upsample
from xcoop.explain.target import Target, concept_target
from xcoop.explain.visual import DEFAULTS, Methods, explain_maps, explainer, explainers, methods
from xcoop.methods.alignment import unit

NAMES = sorted(explainers())
PAIRS = [(name, tower) for name in NAMES for tower in explainers()[name].towers]


@pytest.fixture(scope="module")
def towers():
    return {"vit": tiny_backbone(), "resnet": tiny_backbone(vision="resnet")}


def images_for(backbone, count=3, seed=0):
    side = backbone.input_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def text(backbone, seed=1):
    return torch.randn(backbone.embed_dim, generator=torch.Generator().manual_seed(seed))


def with_local(backbone, seed=1):
    """A score with a global and a local term, as XCoOp's."""
    t = unit(text(backbone, seed))

    def score(features):
        local = (unit(features.patches) @ t).mean(1)
        return 14.0 * (unit(features.pooled) @ t + 0.5 * local)

    return Target("both", score, lambda features: t.expand(len(features.pooled), -1))


@pytest.mark.parametrize(("name", "tower"), PAIRS)
def test_maps_of_a_batch_are_those_of_single_images(name, tower, towers):
    backbone = towers[tower]
    images, target = images_for(backbone), with_local(backbone)
    maps = explain_maps(name, backbone, images, target)
    assert maps.shape == (3, *backbone.grid)
    assert maps.isfinite().all()
    assert not maps.requires_grad
    assert maps.dtype == torch.float32
    alone = torch.cat([explain_maps(name, backbone, one[None], target) for one in images])
    torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "tower"), PAIRS)
def test_a_map_depends_on_the_target_if_its_method_says_so(name, tower, towers):
    backbone = towers[tower]
    images = images_for(backbone)
    one, other = (explain_maps(name, backbone, images, with_local(backbone, seed)) for seed in (1, 2))
    assert torch.allclose(one, other) is not explainer(name).class_specific


@pytest.mark.parametrize(("name", "tower"), PAIRS)
def test_nothing_is_left_on_the_backbone(name, tower, towers):
    backbone = towers[tower]
    before, prints = [dict(vars(module)) for module in backbone.modules()], backbone.fingerprint()
    explain_maps(name, backbone, images_for(backbone, 1), with_local(backbone))
    after = [dict(vars(module)) for module in backbone.modules()]
    assert [list(one) for one in before] == [list(one) for one in after]
    assert all(not module._forward_hooks and not module._backward_hooks for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert backbone.fingerprint() == prints


@pytest.mark.parametrize("name", ["relevancy", "gradeclip", "legrad", "rollout"])
def test_methods_of_attention_refuse_a_resnet_and_name_others(name, towers):
    with pytest.raises(ValueError, match=f"{name} cannot look into the resnet .*gradcam.*maskclip"):
        explain_maps(name, towers["resnet"], images_for(towers["resnet"], 1), with_local(towers["resnet"]))


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="gradeclip"):
        explainer("grad-eclip")


def test_every_method_states_its_cost():
    assert all(one.cost and one.summary for one in explainers().values())


def test_the_default_looks_into_its_tower(towers):
    for tower, backbone in towers.items():
        assert methods(backbone) == DEFAULTS[tower]
        for name in DEFAULTS[tower]:
            assert tower in explainer(name).towers
            assert name.partition("@")[0] != "similarity"


def test_a_method_that_is_asked_for_explains_classes_and_concepts(towers):
    assert methods(towers["vit"], "gradcam@2") == Methods("gradcam@2", "gradcam@2")
    with pytest.raises(ValueError, match="gradcam"):
        methods(towers["vit"], "gradkam@2")


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_maps_at_half_a_patch_have_twice_the_grid(tower, towers):
    backbone = towers[tower]
    images, target = images_for(backbone), with_local(backbone)
    maps = explain_maps("maskclip@2", backbone, images, target)
    assert maps.shape == (3, *(2 * side for side in backbone.grid))
    alone = torch.cat([explain_maps("maskclip@2", backbone, one[None], target) for one in images])
    torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-6)
    assert explainer("maskclip@2").cost == "4 x (1 forward)"


def test_relevancy_is_the_loop_over_heads(towers):
    backbone = towers["vit"]
    images, target = images_for(backbone, 2), with_local(backbone)
    with attention_tap(backbone.image_blocks) as taps:
        score = target.score(backbone.encode_image(images, patches=True)).sum()
    (gradient,) = torch.autograd.grad(score, [taps[-1].probs])
    probs = taps[-1].probs.detach()
    want = torch.zeros(2, 16)
    for b in range(2):
        for i in range(16):
            for h in range(2):
                want[b, i] += max(0.0, float(gradient[b, h, 0, i + 1] * probs[b, h, 0, i + 1])) / 2
    torch.testing.assert_close(
        explain_maps("relevancy", backbone, images, target).flatten(1), want, rtol=1e-4, atol=1e-7
    )


def test_gradeclip_is_the_sum_over_channels(towers):
    backbone = towers["vit"]
    images, target = images_for(backbone, 1), with_local(backbone)
    with attention_tap(backbone.image_blocks) as taps:
        score = target.score(backbone.encode_image(images, patches=True)).sum()
    tap, W = taps[-1], backbone.image_blocks[-1].attn.out_proj.weight
    (gradient,) = torch.autograd.grad(score, [tap.mixed])
    side_by_side = [torch.cat([part[0, h] for h in range(2)], dim=1) for part in (tap.queries, tap.keys, tap.values)]
    q, k, v = side_by_side
    near = torch.stack([F.cosine_similarity(W @ q[0], W @ k[i], dim=0) for i in range(1, 17)])
    near = (near - near.min()) / (near.max() - near.min())
    want = torch.stack([(gradient[0, 0] * v[i + 1]).sum() * near[i] for i in range(16)]).clamp(min=0)
    got = explain_maps("gradeclip", backbone, images, target).flatten()
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-6)


def test_legrad_sums_the_blocks(towers):
    backbone = towers["vit"]
    images, target = images_for(backbone, 1), with_local(backbone)
    visual, outputs = backbone.model.visual, []
    handles = [block.register_forward_hook(lambda m, i, o: outputs.append(o)) for block in backbone.image_blocks]
    with attention_tap(backbone.image_blocks) as taps:
        backbone.encode_image(images, patches=True)
    for handle in handles:
        handle.remove()
    total = torch.zeros(16)
    for tap, output in zip(taps, outputs, strict=True):
        tokens = output[:, 0]  # (L, V)
        pooled = (visual.ln_post(tokens.mean(0)) @ visual.proj)[None]
        patches = (visual.ln_post(tokens) @ visual.proj)[None, 1:]
        (gradient,) = torch.autograd.grad(
            target.score(ImageFeatures(pooled, patches)).sum(), [tap.probs], retain_graph=True
        )
        for h in range(2):
            for row in range(17):
                total += gradient[0, h, row, 1:].clamp(min=0) / (2 * 17)
    want = (total - total.min()) / (total.max() - total.min())
    torch.testing.assert_close(explain_maps("legrad", backbone, images, target).flatten(), want, rtol=1e-3, atol=1e-5)


def test_rollout_multiplies_the_blocks(towers):
    backbone = towers["vit"]
    images = images_for(backbone, 1)
    with torch.no_grad(), attention_tap(backbone.image_blocks) as taps:
        backbone.encode_image(images)
    R = torch.eye(17)
    for tap in taps:
        mixed = tap.probs[0].mean(0) + torch.eye(17)
        R = mixed / mixed.sum(1, keepdim=True) @ R
    torch.testing.assert_close(explain_maps("rollout", backbone, images, with_local(backbone)).flatten(), R[0, 1:])


def test_gradcam_of_a_resnet_by_hand(towers):
    backbone = towers["resnet"]
    images, target = images_for(backbone, 1), with_local(backbone)
    kept = []
    handle = backbone.model.visual.layer4.register_forward_hook(lambda m, i, o: kept.append(o))
    pixels = images.clone().requires_grad_()
    score = target.score(backbone.encode_image(pixels, patches=True)).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    want = sum(gradient[0, c].mean() * kept[0][0, c] for c in range(kept[0].shape[1])).clamp(min=0)
    torch.testing.assert_close(
        explain_maps("gradcam", backbone, images, target)[0], want.detach(), rtol=1e-4, atol=1e-6
    )


def test_occlusion_finds_the_one_patch_that_a_score_reads(towers):
    backbone = towers["vit"]
    images = images_for(backbone, 2)

    class Brightness:
        grid, input_size, name, is_vit, dtype = backbone.grid, 32, "brightness", True, torch.float32

        def encode_image(self, batch, patches=False):
            return ImageFeatures(batch[:, :, 8:16, 16:24].flatten(1), batch.new_zeros(len(batch), 0, 0))

    target = Target("patch", lambda features: features.pooled.abs().sum(1), lambda features: features.pooled)
    maps = explain_maps("occlusion", Brightness(), images, target).flatten(1)
    assert maps.argmax(1).tolist() == [6, 6]  # row 1, column 2 of 4
    assert (maps > 0).sum(1).tolist() == [1, 1]


def test_maskclip_points_at_the_patch_whose_own_value_is_the_text(towers):
    backbone = towers["vit"]
    images = images_for(backbone, 1)
    visual, block = backbone.model.visual, backbone.image_blocks[-1]
    inputs = []
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


def test_upsampling_is_bilinear():
    got = upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    torch.testing.assert_close(got, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))
