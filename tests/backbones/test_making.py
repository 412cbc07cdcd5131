"""What weights do not tell: stated, it is computed, seen, recorded, and held against the shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_families import TEXTS, draw, tiny_state
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones.base import tensors_sha256
from xcoop.backbones.clip_model import build_clip, import_clip
from xcoop.backbones.making import ACTIVATIONS, OPENAI, Making, Tower
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.vit import run_block
from xcoop.config.merge import settings
from xcoop.config.plugins import get_cfg
from xcoop.explain.tower import trace

ODD = Making(
    image=Tower(activation="gelu", heads=4, eps=1e-3),
    text=Tower(activation="gelu_tanh", head_width=16, eps=1e-2),
    has_ln_pre=False,
    context_length=20,
    pixel_mean=(0.1, 0.2, 0.3),
    pixel_std=(0.5, 0.6, 0.7),
    family="odd",
    source="drawn",
)
FORMULAS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
}


def odd_state() -> dict[str, Tensor]:
    """MLPs of another width, no norm before the first block, and a patch convolution with a bias."""
    state = {name: tensor for name, tensor in tiny_state().items() if "ln_pre" not in name}
    generator = torch.Generator().manual_seed(1)
    for tower, width in (("visual.transformer", 128), ("transformer", 64)):
        for index in (0, 1):
            mlp = f"{tower}.resblocks.{index}.mlp"
            state[f"{mlp}.c_fc.weight"] = torch.randn(96, width, generator=generator) / width**0.5
            state[f"{mlp}.c_fc.bias"] = torch.randn(96, generator=generator)
            state[f"{mlp}.c_proj.weight"] = torch.randn(width, 96, generator=generator) / 96**0.5
    return state | {"visual.conv1.bias": torch.randn(128, generator=generator)}


@pytest.fixture
def odd() -> ClipBackbone:
    return ClipBackbone("odd", build_clip(odd_state(), "odd", ODD), making=ODD).requires_grad_(False)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def norm(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def plain_block(state: dict[str, Tensor], name: str, x: Tensor, tower: Tower, heads: int, causal: bool) -> Tensor:
    """A block by its formulas: x + A(LN x), then + M(LN x)."""
    length, width = x.shape[-2:]
    normed = norm(state, f"{name}.ln_1", x, tower.eps)
    q, k, v = F.linear(normed, state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
    mixed = torch.zeros_like(x)
    for part in torch.arange(width).chunk(heads):
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / len(part) ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf) if causal else scores
        mixed[..., part] = scores.softmax(-1) @ v[..., part]
    x = x + F.linear(mixed, state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"])
    hidden = F.linear(
        norm(state, f"{name}.ln_2", x, tower.eps), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"]
    )
    activated = FORMULAS[tower.activation](hidden)
    return x + F.linear(activated, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])


def test_the_image_tower_by_its_formulas(odd: ClipBackbone) -> None:
    state = odd_state()
    x = F.conv2d(images(), state["visual.conv1.weight"], state["visual.conv1.bias"], stride=8).flatten(2).mT
    x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), x], 1) + state["visual.positional_embedding"]
    for index in (0, 1):
        x = plain_block(state, f"visual.transformer.resblocks.{index}", x, ODD.image, 4, causal=False)
    joint = norm(state, "visual.ln_post", x, 1e-3) @ state["visual.proj"]
    found = odd.encode_image(images(), patches=True)
    torch.testing.assert_close(found.pooled, joint[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.patches, joint[:, 1:], atol=1e-5, rtol=1e-5)


def test_the_text_tower_by_its_formulas(odd: ClipBackbone) -> None:
    state, tokens = odd_state(), odd.tokenize(TEXTS)
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][:20]
    for index in (0, 1):
        x = plain_block(state, f"transformer.resblocks.{index}", x, ODD.text, 4, causal=True)
    expected = norm(state, "ln_final", x[torch.arange(3), tokens.argmax(-1)], 1e-2) @ state["text_projection"]
    torch.testing.assert_close(odd.encode_text(TEXTS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_block_that_is_looked_into_computes_the_same(activation: str, causal: bool) -> None:
    tower = Tower(activation=activation)
    model = build_clip(tiny_state(), "test", Making(image=tower, text=tower))
    block = (model.transformer if causal else model.visual.transformer).resblocks[1]
    x = torch.randn(2, 7, block.attn.embed_dim)
    plain = run_block(block, x, causal)
    seen: list[Tensor] = []
    hook = block.mlp.gelu.register_forward_hook(lambda _, __, out: seen.append(out))
    torch.testing.assert_close(run_block(block, x, causal), plain, atol=1e-5, rtol=1e-5)
    hook.remove()
    assert len(seen) == 1


def test_maps_look_into_the_same_tower(odd: ClipBackbone) -> None:
    seen = trace(odd, images())
    features = odd.encode_image(images(), patches=True)
    torch.testing.assert_close(seen.features.pooled, features.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.features.patches, features.patches, atol=1e-5, rtol=1e-5)
    assert seen.attention[0].probs.shape == (2, 4, 17, 17)


def test_its_norms_are_found_for_tuning(odd: ClipBackbone) -> None:
    assert [tuple(parameter.shape) for parameter in odd.image_norms()] == [(128,)] * 8


@pytest.mark.parametrize("kind", ["prompts", "added", "held"])
def test_views_are_of_the_same_making(odd: ClipBackbone, kind: str) -> None:
    class Own(ClipBackbone):
        def text_words(self) -> str:
            return "texts of its own"

    own = Own("own", odd.model, [1, 2], ODD)
    own.recompute = True
    nothing = [lambda x: x.new_zeros(*x.shape[:-1], 3 * x.shape[-1])] * 2
    view: Any = {
        "prompts": lambda: own.with_prompts(torch.zeros(0, 3, 128)),
        "added": lambda: own.with_added(nothing, nothing),
        "held": lambda: own.held_in(torch.bfloat16),
    }[kind]()
    assert type(view) is Own
    for name in ("name", "source", "family", "pixel_mean", "pixel_std", "context_length", "trained_ids", "recompute"):
        assert getattr(view, name) == getattr(own, name)
    assert view.architecture == own.architecture
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "held"):
        found, expected = view.encode_image(images()).pooled, odd.encode_image(images()).pooled
    torch.testing.assert_close(found, expected)
    assert own.prompts is None


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_computed_twice_the_gradients_are_the_same(odd: ClipBackbone, dtype: torch.dtype | None) -> None:
    gradients = []
    for again in (False, True):
        odd.recompute = again
        prompts = torch.full((2, 3, 128), 0.1, requires_grad=True)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            features = odd.with_prompts(prompts).encode_image(images()).pooled
        gradients += torch.autograd.grad(features.float().square().sum(), prompts)
    assert torch.equal(*gradients)


def test_what_is_not_openais_is_said_and_is_part_of_the_fingerprint(odd: ClipBackbone) -> None:
    assert odd.architecture.endswith(
        "; image tower with gelu, 4 heads of width 32, layer norms of eps 0.001, MLPs of width 96"
        "; text tower with gelu_tanh, 4 heads of width 16, layer norms of eps 0.01, MLPs of width 96"
    )
    state, prints = tiny_state(), []
    makings = [OPENAI, replace(OPENAI, image=Tower(activation="gelu")), replace(OPENAI, text=Tower(activation="gelu"))]
    makings += [replace(OPENAI, image=Tower(heads=8)), replace(OPENAI, text=Tower(eps=1e-6))]
    for making in makings:
        prints.append(ClipBackbone("x", build_clip(state, "x", making), making=making).fingerprint())
    assert len(set(prints)) == len(makings)
    # OpenAI's are known by their weights alone, as ever.
    assert prints[0] == tensors_sha256({f"model.{name}": tensor for name, tensor in state.items()})


def test_a_shorter_context_holds(odd: ClipBackbone) -> None:
    assert odd.tokenize("x").shape == (1, 20)
    with pytest.raises(ValueError, match="24 tokens, but odd takes 20"):
        odd.tokenize("a " * 22)


@pytest.mark.parametrize(
    ("tower", "says"),
    [
        (Tower(heads=3), "some.pt: its image tower has width 128, which does not consist of 3 heads"),
        (Tower(head_width=48), "its image tower has width 128, which does not consist of heads of width 48"),
        (Tower(head_width=256), "heads of width 256: set MODEL.BACKBONE.HEAD_WIDTH"),
    ],
)
def test_heads_that_do_not_fit(tower: Tower, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_clip(tiny_state(), "some.pt", Making(image=tower))


def test_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match="'relu' is not known; known are quick_gelu, gelu, gelu_tanh"):
        Tower(activation="relu")


def test_a_bias_that_does_not_fit_the_positions() -> None:
    with pytest.raises(ValueError, match=r"some.pt: visual.conv1.bias of shape \(3,\) does not fit"):
        build_clip(tiny_state() | {"visual.conv1.bias": torch.zeros(3)}, "some.pt")


def test_the_pool_of_a_resnet_has_its_heads() -> None:
    with torch.random.fork_rng(devices=[]):
        model = draw(import_clip().model.ModifiedResNet((1, 1, 1, 1), 48, 8, 64, 8))
    state = {f"visual.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {name: tensor for name, tensor in tiny_state().items() if not name.startswith("visual.")}
    making = Making(image=Tower(head_width=32))
    backbone = ClipBackbone("rn", build_clip(state, "rn", making), making=making)
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone.encode_image(pixels).pooled, model(pixels), atol=1e-4, rtol=1e-4)
    assert backbone.architecture.endswith("; image tower with 8 heads of width 32")


def test_keys_that_are_not_set_leave_no_trace_in_the_hash() -> None:
    cfg = get_cfg()
    cfg.TRAINER.NAME = "CoOp"
    old = CfgNode(cfg.clone())
    for key in ("SOURCE", "ACTIVATION", "HEAD_WIDTH"):
        del old.MODEL.BACKBONE[key]
    assert settings(cfg) == settings(old)
    cfg.MODEL.BACKBONE.HEAD_WIDTH = 32
    assert settings(cfg) != settings(old)


def test_modules_are_those_of_clip(odd: ClipBackbone) -> None:
    """Whatever looks into a tower finds what it knows."""
    clip = import_clip().model
    assert isinstance(odd.model, clip.CLIP)
    assert isinstance(odd.model.visual, clip.VisionTransformer)
    assert isinstance(odd.model.visual.ln_pre, nn.Identity)
    assert all(type(block) is clip.ResidualAttentionBlock for block in odd.image_blocks)
