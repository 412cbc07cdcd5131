"""timm's vision transformers, as open_clip keeps them behind a projection (`visual.trunk.*`, `visual.head.*`).

Their weights are renamed to those of OpenAI's image tower, which then computes the same. What timm has and OpenAI's
tower has not is folded into what it has, exactly: layer scales into the projections before them, and, where the model
is built, the bias of the patch convolution into the positions of the patches. What cannot be expressed so is refused
by its name.

The weights do not tell how many heads a trunk has, nor its activation, nor the eps of its norms; timm's names do.
Symbols: T patches, V width of the trunk, D joint width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from xcoop.backbones.making import Tower

HEADS = {"tiny": 3, "small": 6, "medium": 8, "base": 12, "large": 16, "huge": 16}  # of timm's sizes
# `vit_base_patch16_224`; CLIP's own towers have a word between patch and pixels, DINOv2's one in the place of pixels.
_NAME = re.compile(rf"(?:vit|deit)_({'|'.join(HEADS)})_patch\d+(_clip|_clip_quickgelu)?_(?:\d+|dinov2)(?:\.\w+)?")

# What a trunk may have beside the blocks, by the beginning of its names, and what it is called.
_REFUSED = {
    "reg_token": "register tokens",
    "dist_token": "a distillation token",
    "attn_pool.": "attention pooling",
    "fc_norm.": "a norm behind its pool, as global pooling other than `token` has",
    "head.": "a classifier for its projection",
    "rel_pos": "relative positions",
    "patch_embed.norm.": "a norm of its patches",
    "patch_embed.backbone.": "a convolutional network in the place of its patches",
}
_REFUSED_IN_BLOCKS = {
    "attn.q_norm.": "norms of its queries and keys",
    "attn.k_norm.": "norms of its queries and keys",
    "attn.norm.": "a norm in its attention",
    "attn.gate.": "a gate in its attention",
    "attn.rel_pos": "relative positions",
    "attn.relative_position": "relative positions",
    "mlp.norm.": "a norm in its MLPs",
    "mlp.w": "gated MLPs (SwiGLU)",
    "mlp.fc1_": "gated MLPs (SwiGLU)",
}
_SAME = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
    "mlp.fc1.weight": "mlp.c_fc.weight",
    "mlp.fc1.bias": "mlp.c_fc.bias",
    "mlp.fc2.weight": "mlp.c_proj.weight",
    "mlp.fc2.bias": "mlp.c_proj.bias",
}
_SCALES = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}  # layer scales, and the projection that each scales
_TRUNK, _HEAD = "visual.trunk.", "visual.head."


def trunk_tower(model_name: str, pool: str = "", proj: str = "linear") -> Tower:
    """How a trunk of timm computes, by its name.

    Args:
        model_name: timm's, e.g. "vit_base_patch16_224"; a tag behind a dot says nothing of the architecture.
        pool: open_clip's `timm_pool`: "" is the trunk's own, which is its class token.
        proj: open_clip's `timm_proj`.

    Raises:
        ValueError: a name that is not known, another pool, or another projection.
    """
    found = _NAME.fullmatch(model_name)
    if found is None:
        raise ValueError(
            f"the image tower is timm's {model_name!r}; those that are read here are vision transformers named "
            f"vit_SIZE_patchP_PIXELS, vit_SIZE_patchP_clip_PIXELS and deit_SIZE_patchP_PIXELS, SIZE one of "
            f"{', '.join(HEADS)}"
        )
    if pool not in ("", "token"):
        raise ValueError(f"the image tower {model_name} pools by {pool!r}; only the class token (timm_pool `token`) is")
    if proj != "linear":
        raise ValueError(f"the image tower {model_name} has the projection {proj!r}; only `linear` is read")
    size, clip = found.groups()
    activation = "quick_gelu" if clip == "_clip_quickgelu" else "gelu"
    return Tower(activation=activation, heads=HEADS[size], eps=1e-5 if clip else 1e-6)


def rename_trunk(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The image tower's weights under OpenAI's names, `visual.*`.

    Args:
        state: open_clip's; names that do not begin with "visual." are passed over.
        source: what the weights come from, for messages.

    Returns:
        New tensors in fp32 where something was folded, else those of `state`; `visual.ln_pre.*` and `visual.conv1.bias`
        only if the trunk has them.

    Raises:
        ValueError: the trunk has what OpenAI's tower cannot compute, or lacks something; the message names it.
    """
    trunk = {name.removeprefix(_TRUNK): tensor for name, tensor in state.items() if name.startswith(_TRUNK)}
    head = {name.removeprefix(_HEAD): tensor for name, tensor in state.items() if name.startswith(_HEAD)}
    for name in trunk:
        _, _, inside = name.partition(".")[2].partition(".") if name.startswith("blocks.") else ("", "", "")
        kinds, tail = (_REFUSED_IN_BLOCKS, inside) if inside else (_REFUSED, name)
        for beginning, kind in kinds.items():
            if tail.startswith(beginning):
                raise ValueError(f"{source}: the image tower has {kind} ({name}), which is not read here")
    if set(head) != {"proj.weight"}:
        raise ValueError(
            f"{source}: behind the image tower stands {', '.join(sorted(head)) or 'nothing'}; a projection without "
            "bias (proj.weight) is read"
        )
    try:
        renamed = _stem(trunk, source) | {"visual.proj": head["proj.weight"].T}
        for index in sorted({int(name.split(".")[1]) for name in trunk if name.startswith("blocks.")}):
            renamed |= _block(trunk, index)
    except KeyError as error:
        raise ValueError(f"{source}: the image tower lacks {error}; is it a vision transformer of timm?") from error
    if trunk:
        raise ValueError(f"{source}: the image tower has {', '.join(sorted(trunk)[:3])}, which is not read here")
    return renamed


def _stem(trunk: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """What stands before and behind the blocks; it is taken out of `trunk`."""
    first, positions = trunk.pop("cls_token"), trunk.pop("pos_embed")  # (1, 1, V), (1, T or 1 + T, V)
    patches, bias = trunk.pop("patch_embed.proj.weight"), trunk.pop("patch_embed.proj.bias", None)
    positions = positions.detach().float().squeeze(0)
    if math.isqrt(len(positions)) ** 2 == len(positions):  # T alone: the class token has no position
        positions = torch.cat([torch.zeros_like(positions[:1]), positions])
    if math.isqrt(len(positions) - 1) ** 2 != len(positions) - 1:
        raise ValueError(f"{source}: {len(positions)} positions are those of no square grid and a class token")
    stem = {
        "visual.class_embedding": first.reshape(-1),
        "visual.positional_embedding": positions,
        "visual.conv1.weight": patches,
        "visual.ln_post.weight": trunk.pop("norm.weight"),
        "visual.ln_post.bias": trunk.pop("norm.bias"),
    }
    if bias is not None:
        stem["visual.conv1.bias"] = bias
    if "norm_pre.weight" in trunk:
        stem |= {f"visual.ln_pre.{name}": trunk.pop(f"norm_pre.{name}") for name in ("weight", "bias")}
    return stem


def _block(trunk: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The weights of one block; they are taken out of `trunk`."""
    start = f"blocks.{index}."
    own = {name.removeprefix(start): trunk.pop(name) for name in list(trunk) if name.startswith(start)}
    for gamma, projection in _SCALES.items():
        if gamma in own:
            scale = own.pop(gamma).detach().float()  # (V,), of what the projection gives
            own[f"{projection}.weight"] = own[f"{projection}.weight"].detach().float() * scale[:, None]
            own[f"{projection}.bias"] = own[f"{projection}.bias"].detach().float() * scale
    if "attn.qkv.bias" not in own:
        own["attn.qkv.bias"] = own["attn.qkv.weight"].new_zeros(len(own["attn.qkv.weight"]))
    trunk.update({f"{start}{name}": own.pop(name) for name in list(own) if name not in _SAME})  # what is not known
    return {f"visual.transformer.resblocks.{index}.{new}": own[old] for old, new in _SAME.items()}
