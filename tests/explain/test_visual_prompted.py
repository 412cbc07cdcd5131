"""Visual methods on a tower with prompts in its first blocks: maps of the image alone, by the same formulas."""

import pytest
import torch
from helpers_clip import tiny_backbone

from xcoop.backbones.openai import PromptedClip
from xcoop.explain.attention import attention_tap
from xcoop.explain.target import Target
from xcoop.explain.visual import explain_maps, explainers
from xcoop.explain.visual.trace import trace
from xcoop.methods.alignment import unit

# Without RISE, which asks the tower as occlusion does, and takes seconds for it.
NAMES = sorted(name for name, one in explainers().items() if "vit" in one.towers and name != "rise")
LAYERS, PROMPTS, OWN = 2, 3, 17  # of three blocks; 4 x 4 patches and the class token


@pytest.fixture(scope="module")
def prompted():
    prompts = torch.randn(LAYERS, PROMPTS, 128, generator=torch.Generator().manual_seed(4))
    return PromptedClip(tiny_backbone(), prompts)


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def target_of(backbone, seed=1):
    """A score with a global and a local term."""
    t = unit(torch.randn(backbone.embed_dim, generator=torch.Generator().manual_seed(seed)))

    def score(features):
        return 14.0 * (unit(features.pooled) @ t + 0.5 * (unit(features.patches) @ t).mean(1))

    return Target("both", score, lambda features: t.expand(len(features.pooled), -1))


def tapped(backbone, images):
    """Taps of the tower's own pass, and the features of it."""
    with attention_tap(backbone.image_blocks) as taps:
        features = backbone.encode_image(images, patches=True)
    return taps, features


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_of_patches_alone_and_of_single_images(name, prompted, images):
    maps = explain_maps(name, prompted, images, target_of(prompted))
    assert maps.shape == (3, *prompted.grid)
    assert maps.isfinite().all()
    alone = torch.cat([explain_maps(name, prompted, one[None], target_of(prompted)) for one in images])
    torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_of_the_prompted_tower(name, prompted, images):
    plain = explain_maps(name, tiny_backbone(), images, target_of(prompted))
    assert not torch.allclose(explain_maps(name, prompted, images, target_of(prompted)), plain, atol=1e-3)


def test_a_trace_is_the_towers_own_pass(prompted, images):
    seen = trace(prompted, images)
    taps, features = tapped(prompted, images)
    torch.testing.assert_close(seen.features.pooled, features.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.features.patches, features.patches, rtol=1e-5, atol=1e-5)
    assert [tap.probs.shape[-1] for tap in seen.taps] == [OWN + PROMPTS] * 3
    for ours, theirs in zip(seen.taps, taps, strict=True):
        torch.testing.assert_close(ours.probs, theirs.probs, rtol=1e-4, atol=1e-6)
    assert [tokens.shape[1] for tokens in seen.tokens] == [OWN] * 4
    assert all("attention" not in vars(block) for block in prompted.image_blocks)


def test_rollout_forgets_what_replaced_prompts_had_seen(prompted, images):
    """Block by block: which patch each token comes from; a block's own prompts come from none when they enter."""
    with torch.no_grad():
        taps, _ = tapped(prompted, images[:1])
    origin = torch.eye(OWN)  # of the image's tokens, in the image's tokens
    prompts = torch.zeros(PROMPTS, OWN)
    for layer, tap in enumerate(taps):
        if layer < LAYERS:
            prompts = torch.zeros(PROMPTS, OWN)
        before = torch.cat([origin, prompts])
        after = (tap.probs[0].mean(0) @ before + before) / 2
        origin, prompts = after[:OWN], after[OWN:]
    got = explain_maps("rollout", prompted, images[:1], target_of(prompted))
    torch.testing.assert_close(got.flatten(), origin[0, 1:])


def test_relevancy_is_the_loop_over_heads(prompted, images):
    taps, features = tapped(prompted, images[:1])
    (gradient,) = torch.autograd.grad(target_of(prompted).score(features).sum(), [taps[-1].probs])
    probs = taps[-1].probs.detach()
    want = [sum(max(0.0, float(gradient[0, h, 0, i] * probs[0, h, 0, i])) / 2 for h in range(2)) for i in range(1, OWN)]
    got = explain_maps("relevancy", prompted, images[:1], target_of(prompted)).flatten()
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-4, atol=1e-7)


def test_occlusion_covers_patches_of_the_prompted_tower(prompted, images):
    target = target_of(prompted)
    with torch.no_grad():
        covered = images[:1].clone()
        covered[:, :, 8:16, 24:32] = 0  # row 1, column 3 of 4
        fall = [target.score(prompted.encode_image(each, patches=True)) for each in (images[:1], covered)]
    got = explain_maps("occlusion", prompted, images[:1], target)[0, 1, 3]
    torch.testing.assert_close(got, (fall[0] - fall[1])[0], rtol=1e-3, atol=1e-5)
