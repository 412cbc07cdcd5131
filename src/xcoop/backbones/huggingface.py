"""CLIP models of Hugging Face's `transformers`, read from their folders; that library is not needed.

A folder has `config.json`, `model.safetensors` or `pytorch_model.bin` (or several files and a list of them), and
`preprocessor_config.json`. Their weights are renamed to OpenAI's names, of which the towers are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones.base import Backbone, Wanted, register_backbone
from xcoop.backbones.clip_model import build_clip, import_clip
from xcoop.backbones.hub import hub_folder
from xcoop.backbones.making import CLIP_MEAN, CLIP_STD, Making, Tower
from xcoop.backbones.model_folder import (
    MOST_HEADS,
    channels,
    compare_sizes,
    find_weights,
    image_sizes,
    model_folder,
    read_object,
    read_weights,
    real_number,
    text_sizes,
    whole_number,
)
from xcoop.backbones.openai import ClipBackbone
from xcoop.utils.console import shown, unknown

logger = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
DATA = ("*.json", "*.txt")  # a tokenizer's files, too
PATTERNS = ((*DATA, "model*.safetensors"), (*DATA, "pytorch_model*.bin"))
KIND = "clip"
ACTIVATIONS = {  # by the names of transformers
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
}
VOCABULARY, END = 49408, 49407  # CLIP's own tokenizer, and the token that ends its texts
OLD_END = 2  # what configs stated before that was put right; texts end with the highest id then

# What a config that leaves something out means, by the defaults of transformers: both towers, image tower, text tower.
BOTH = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
IMAGE = BOTH | {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224, "patch_size": 32}
TEXT = BOTH | {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 77}
TEXT |= {"vocab_size": VOCABULARY, "eos_token_id": END}

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


def _found(name: str, wanted: Wanted) -> tuple[Path, Path | None, str]:
    """Folder, file of the weights if one is named, and what the record says of them; fetched if they are not here."""
    if not (wanted.path or wanted.source):
        raise ValueError(
            f"{name}: set MODEL.BACKBONE.PATH to a model's folder, or MODEL.BACKBONE.SOURCE to its name on the hub"
        )
    if wanted.path:
        folder, file = model_folder(wanted.path)
        return folder, file, str(file or folder)
    folder = hub_folder(wanted.source, PATTERNS, is_complete)
    return folder, None, f"{wanted.source} at {folder.name[:12]}"


@register_backbone("huggingface", fetch=_found)
def load_huggingface(name: str, wanted: Wanted) -> Backbone:
    """The CLIP in a folder (`MODEL.BACKBONE.PATH`), or of a name on the hub (`MODEL.BACKBONE.SOURCE`).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no CLIP, or one with another tokenizer; or config and weights do not fit each other.
        ConnectionError: it is not here and cannot be fetched.
    """
    folder, file, source = _found(name, wanted)
    return read_huggingface(name, folder, file, source, wanted)


def is_complete(folder: Path) -> bool:
    """Whether a folder has config and weights."""
    return (folder / CONFIG).is_file() and find_weights(folder, WEIGHTS) is not None


def read_huggingface(name: str, folder: Path, file: Path | None, source: str, wanted: Wanted) -> ClipBackbone:
    """The backbone of a model's folder.

    Args:
        name: what it is called.
        folder: with the config.
        file: of the weights; None looks for it in the folder.
        source: what the record says of it.
        wanted: activation and head width, where the user knows better than the config.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"no {CONFIG} in {folder}: it says how a model of transformers computes")
    config = read_object(folder / CONFIG)
    if (kind := config.get("model_type")) != KIND:
        raise ValueError(f"{source}: its config is of a model of the kind {shown(kind)}; only {KIND!r} is read so far")
    making = _making(config, folder, source).stated(wanted.activation, wanted.head_width)
    check_tokenizer(folder, source)
    state = renamed(read_weights(folder, file, WEIGHTS))
    compare_sizes(_stated(config, source), lambda: image_sizes(state) | text_sizes(state), source)
    backbone = ClipBackbone(name, build_clip(state, source, making), making=making)
    logger.info("%s holds %s", source, backbone.architecture)
    return backbone


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


def _section(config: Mapping[str, Any], which: str, usual: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What is said of one tower.

    Older configs may have a second section. As transformers has it, what that one leaves out is at its default then,
    whatever the first one says; where this makes another activation, it is said.
    """
    first, second = (config.get(key) for key in (which, f"{which}_dict"))
    for key, given in ((which, first), (f"{which}_dict", second)):
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"{source}: its config states {key} as {shown(given)}; it must be names and values")
    section = {**usual, **(first or {})}
    if second is None:
        return section
    both = {**section, **usual, **second}
    if both["hidden_act"] != section["hidden_act"]:
        logger.warning(
            "%s: %s states the activation %s, %s_dict %s, which counts", source, which, shown(section["hidden_act"]),
            which, shown(both["hidden_act"]),
        )  # fmt: skip
    return both


def _stated(config: Mapping[str, Any], source: str) -> dict[str, int]:
    """The sizes that a config states, as `image_sizes` and `text_sizes` call them."""
    image, text = _section(config, "vision_config", IMAGE, source), _section(config, "text_config", TEXT, source)
    patch = whole_number(image, "patch_size", 0, source)
    return {
        "width": whole_number(image, "hidden_size", 0, source),
        "patch_size": patch,
        "layers": whole_number(image, "num_hidden_layers", 0, source),
        "grid": whole_number(image, "image_size", 0, source) // patch,
        "text_width": whole_number(text, "hidden_size", 0, source),
        "text_layers": whole_number(text, "num_hidden_layers", 0, source),
        "context_length": whole_number(text, "max_position_embeddings", 0, source),
        "joint": whole_number(config, "projection_dim", 512, source),
    }


def _making(config: Mapping[str, Any], folder: Path, source: str) -> Making:
    """What a folder says that its weights do not tell."""
    image, text = _section(config, "vision_config", IMAGE, source), _section(config, "text_config", TEXT, source)
    if (end := text["eos_token_id"]) not in (END, OLD_END):
        raise ValueError(f"{source}: its texts end with the token {shown(end)}; CLIP's tokenizer has {END}")
    if (count := text["vocab_size"]) not in range(VOCABULARY, 2 * VOCABULARY):
        raise ValueError(f"{source}: its vocabulary has {shown(count)} tokens; that of CLIP's tokenizer {VOCABULARY}")
    mean, std = _normalisation(folder, source)
    return Making(
        image=_tower(image, source),
        text=_tower(text, source),
        pixel_mean=mean,
        pixel_std=std,
        family="CLIP of transformers",
        source=source,
    )


def _tower(section: Mapping[str, Any], source: str) -> Tower:
    activation = section["hidden_act"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = unknown("activation", activation if isinstance(activation, str) else shown(activation), ACTIVATIONS)
        raise ValueError(f"{source}: its config states hidden_act. {known}")
    return Tower(
        activation=ACTIVATIONS[activation],
        heads=whole_number(section, "num_attention_heads", 0, source, MOST_HEADS),
        eps=real_number(section, "layer_norm_eps", 1e-5, source),
    )


def _normalisation(folder: Path, source: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of the images; CLIP's own where no file states them."""
    stated: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            content = read_object(folder / name)
            inner = content.get("image_processor", content)
            stated |= inner if isinstance(inner, dict) else {}
    if stated.get("do_normalize", True) is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = channels(stated.get("image_mean"), CLIP_MEAN, "image_mean", source)
    return mean, channels(stated.get("image_std"), CLIP_STD, "image_std", source)


def check_tokenizer(folder: Path, source: str) -> None:
    """Refuses a folder whose tokenizer's files list other tokens than CLIP's own has; without files it is taken.

    Raises:
        ValueError: the vocabulary differs.
    """
    listed: Any = None
    if (folder / "vocab.json").is_file():
        listed = read_object(folder / "vocab.json")
    elif (folder / "tokenizer.json").is_file():
        model = read_object(folder / "tokenizer.json").get("model")
        listed = model.get("vocab") if isinstance(model, dict) else None
    own = import_clip().clip._tokenizer.encoder
    if listed is not None and not (
        isinstance(listed, dict) and all(listed.get(piece) == index for piece, index in own.items())
    ):
        raise ValueError(f"{source}: its tokenizer has another vocabulary than CLIP's own, which is the one used here")
