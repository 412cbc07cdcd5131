"""What folders of Hugging Face's `transformers` have in common: sections of a config, names of blocks, images.

The CLIPs and SigLIPs of that library call their towers, blocks and projections alike; their weights are renamed to
OpenAI's names here, as far as both have them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones.making import Making, Tower
from xcoop.backbones.model_folder import MOST_HEADS, channels, read_object, real_number, whole_number
from xcoop.utils.console import shown, unknown

logger = logging.getLogger(__name__)

Triple = tuple[float, float, float]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ACTIVATIONS = {  # by the names of transformers
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
}

_WHOLE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.patch_embedding.bias": "visual.conv1.bias",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TURNED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}  # (out, in) there
_TOWERS = {"text_model.encoder.layers.": "transformer.", "vision_model.encoder.layers.": "visual.transformer."}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_PACKED = ("q_proj", "k_proj", "v_proj")  # in the order in which OpenAI's blocks keep them


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers' `CLIPModel` by OpenAI's names; names that it does not know stay as they are."""
    new: dict[str, Tensor] = {}
    for name in list(state):
        if name.endswith(".position_ids"):  # counted, not trained; older releases saved them
            continue
        if name in _WHOLE:
            new[_WHOLE[name]] = state[name]
        elif name in _TURNED:
            new[_TURNED[name]] = state[name].t() if state[name].dim() == 2 else state[name]
        else:
            new |= _of_block(name, state)
    return new


def _of_block(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a weight of a block becomes; queries, keys and values become one, in the place of the queries."""
    for prefix, tower in _TOWERS.items():
        if not name.startswith(prefix):
            continue
        index, _, inner = name[len(prefix) :].partition(".")
        part, _, kind = inner.rpartition(".")
        if part in _BLOCK:
            return {f"{tower}resblocks.{index}.{_BLOCK[part]}.{kind}": state[name]}
        attention, _, which = part.rpartition(".")
        parts = [f"{prefix}{index}.self_attn.{each}.{kind}" for each in _PACKED]
        if attention == "self_attn" and which in _PACKED and len({_shape(state, each) for each in parts}) == 1:
            first = which == _PACKED[0]
            packed = {f"{tower}resblocks.{index}.attn.in_proj_{kind}": torch.cat([state[each] for each in parts])}
            return packed if first else {}
    return {name: state[name]}


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    """The shape of a weight that can be put behind others; the name of any other, and of one that is not there."""
    return tuple(state[name].shape) if name in state and state[name].dim() else name


def section(config: Mapping[str, Any], which: str, usual: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What is said of one tower.

    Older configs may have a second section. As transformers has it, what that one leaves out is at its default then,
    whatever the first one says; where this makes another activation, it is said.
    """
    first, second = (config.get(key) for key in (which, f"{which}_dict"))
    for key, given in ((which, first), (f"{which}_dict", second)):
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"{source}: its config states {key} as {shown(given)}; it must be names and values")
    stated = {**usual, **(first or {})}
    if second is None:
        return stated
    both = {**stated, **usual, **second}
    if both["hidden_act"] != stated["hidden_act"]:
        logger.warning(
            "%s: %s states the activation %s, %s_dict %s, which counts", source, which, shown(stated["hidden_act"]),
            which, shown(both["hidden_act"]),
        )  # fmt: skip
    return both


def stated_sizes(image: Mapping[str, Any], text: Mapping[str, Any], joint: int, source: str) -> dict[str, int]:
    """The sizes that the sections of a config state, as `image_sizes` and `text_sizes` call them."""
    patch = whole_number(image, "patch_size", 0, source)
    return {
        "width": whole_number(image, "hidden_size", 0, source),
        "patch_size": patch,
        "layers": whole_number(image, "num_hidden_layers", 0, source),
        "grid": whole_number(image, "image_size", 0, source) // patch,
        "text_width": whole_number(text, "hidden_size", 0, source),
        "text_layers": whole_number(text, "num_hidden_layers", 0, source),
        "context_length": whole_number(text, "max_position_embeddings", 0, source),
        "joint": joint,
    }


def read_tower(section: Mapping[str, Any], source: str) -> Tower:
    """Activation, heads and norms as a section of a config states them."""
    activation = section["hidden_act"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = unknown("activation", activation if isinstance(activation, str) else shown(activation), ACTIVATIONS)
        raise ValueError(f"{source}: its config states hidden_act. {known}")
    return Tower(
        activation=ACTIVATIONS[activation],
        heads=whole_number(section, "num_attention_heads", 0, source, MOST_HEADS),
        eps=real_number(section, "layer_norm_eps", 0.0, source),
    )


def making_of(
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    folder: Path,
    usual: tuple[Triple, Triple],
    family: str,
    source: str,
) -> Making:
    """What a folder says that its weights do not tell.

    Args:
        image: the section of the image tower.
        text: that of the text tower.
        folder: may state the normalisation of images.
        usual: mean and deviation if it does not.
        family: of the model, in words.
        source: of the model, for messages and the record.

    Raises:
        ValueError: what it says cannot be computed.
    """
    mean, std = normalisation(folder, usual, source)
    return Making(
        image=read_tower(image, source),
        text=read_tower(text, source),
        pixel_mean=mean,
        pixel_std=std,
        family=family,
        source=source,
    )


def normalisation(folder: Path, usual: tuple[Triple, Triple], source: str) -> tuple[Triple, Triple]:
    """Mean and deviation of the images; the usual ones where no file states them."""
    stated: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            content = read_object(folder / name)
            inner = content.get("image_processor", content)
            stated |= inner if isinstance(inner, dict) else {}
    if stated.get("do_normalize", True) is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = channels(stated.get("image_mean"), usual[0], "image_mean", source)
    return mean, channels(stated.get("image_std"), usual[1], "image_std", source)
