"""timm's trunks: what their names tell is what timm builds, and what OpenAI's tower cannot compute is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xcoop.backbones.clip_model import assembled, empty_visual, own_weights
from xcoop.backbones.making import Making, Tower
from xcoop.backbones.timm_trunk import rename_trunk, trunk_tower
from xcoop.backbones.vit import run_block, vit_projected, vit_tokens

NAMES = (
    *("vit_tiny_patch16_224", "vit_small_patch32_384", "vit_base_patch16_224", "vit_large_patch14_clip_336"),
    *("vit_base_patch32_clip_quickgelu_224", "vit_small_patch14_dinov2", "deit_tiny_patch16_224"),
    *("vit_medium_patch16_clip_224", "vit_huge_patch14_224"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_what_timm_builds_under_it(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        trunk = timm.create_model(name, num_classes=0)
    tower = trunk_tower(f"{name}.some_tag")
    block, act = trunk.blocks[0], type(trunk.blocks[0].mlp.act).__name__.lower()
    assert (tower.heads, tower.eps) == (block.attn.num_heads, block.norm1.eps)
    assert trunk.norm.eps == tower.eps
    assert act == tower.activation.replace("_", "")
    assert trunk.global_pool == "token"


@pytest.mark.parametrize(
    ("name", "pool", "proj", "reason"),
    [
        ("vit_base_patch16_siglip_224", "", "linear", "is timm's 'vit_base_patch16_siglip_224'; those that are read"),
        ("vit_base_patch14_reg4_dinov2", "", "linear", "those that are read here are"),
        ("convnext_base", "", "linear", "those that are read here are"),
        ("vit_base_patch16_224", "avg", "linear", "pools by 'avg'; only the class token"),
        ("vit_base_patch16_224", "", "mlp", "has the projection 'mlp'"),
    ],
)
def test_other_trunks_are_refused_by_name(name: str, pool: str, proj: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        trunk_tower(name, pool, proj)


def state_of(**changes: Any) -> tuple[Any, dict[str, Tensor]]:
    """A small trunk of timm with random weights, and open_clip's names of them with a projection to 10 numbers."""
    vit = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = vit.VisionTransformer(**sizes | changes).eval()
        for parameter in trunk.parameters():
            nn.init.normal_(parameter, std=0.3)
        head = torch.randn(10, 24)
    named = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    return trunk, named | {"visual.head.proj.weight": head, "text.x": torch.zeros(1), "logit_scale": torch.zeros(())}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"no_embed_class": True},
        {"qkv_bias": False},
        {"init_values": 0.5},
        {"pre_norm": True},
        {"mlp_ratio": 1.5},
    ],
    ids=str,
)
@torch.no_grad()
def test_the_tower_computes_what_the_trunk_does(changes: dict[str, Any]) -> None:
    trunk, state = state_of(**changes)
    making = Making(image=Tower("gelu", heads=3, eps=1e-6), has_ln_pre="pre_norm" in changes)
    weights = own_weights(rename_trunk(state, "the file").items(), "the file")
    assert all(name.startswith("visual.") for name in weights)

    def holder() -> nn.Module:
        return nn.ModuleDict({"visual": empty_visual(weights, making, "the file")})

    visual = assembled(weights, holder, "the file").visual
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x = vit_tokens(visual, images)
    for block in visual.transformer.resblocks:
        x = run_block(block, x)
    wanted = trunk.forward_features(images) @ state["visual.head.proj.weight"].T
    found = vit_projected(visual, x)
    torch.testing.assert_close(found.pooled, wanted[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.patches, wanted[:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reg_tokens": 2, "no_embed_class": True}, r"has register tokens \(reg_token\)"),
        ({"qk_norm": True, "norm_layer": nn.LayerNorm}, r"norms of its queries and keys \(blocks\.0\.attn\.q_norm"),
        ({"global_pool": "avg"}, "a norm behind its pool"),
        ({"global_pool": "map", "class_token": False}, "attention pooling"),
        ({"num_classes": 10}, "a classifier for its projection"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "lacks 'cls_token'"),
    ],
    ids=str,
)
def test_what_openais_tower_cannot_compute_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    _, state = state_of(**changes)
    with pytest.raises(ValueError, match=f"the file: the image tower.*{reason}"):
        rename_trunk(state, "the file")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("visual.head.proj.bias", "behind the image tower stands proj.bias, proj.weight"),
        ("visual.trunk.blocks.1.mlp.w12.weight", "gated MLPs"),
        ("visual.trunk.blocks.1.attn.rel_pos.table", "relative positions"),
        ("visual.trunk.blocks.1.other.weight", r"has blocks\.1\.other\.weight, which is not read here"),
        ("visual.trunk.other", "has other, which is not read here"),
    ],
)
def test_a_weight_too_many_is_refused_by_name(name: str, reason: str) -> None:
    _, state = state_of()
    with pytest.raises(ValueError, match=reason):
        rename_trunk(state | {name: torch.zeros(10)}, "the file")


def test_a_weight_too_few_is_refused_by_name() -> None:
    _, state = state_of()
    del state["visual.trunk.blocks.1.mlp.fc2.weight"]
    with pytest.raises(ValueError, match=r"lacks 'mlp\.fc2\.weight'"):
        rename_trunk(state, "the file")
    _, state = state_of()
    state["visual.trunk.pos_embed"] = torch.zeros(1, 7, 24)
    with pytest.raises(ValueError, match="7 positions are those of no square grid"):
        rename_trunk(state, "the file")
