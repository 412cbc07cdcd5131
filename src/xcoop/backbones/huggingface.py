"""CLIP and SigLIP models of Hugging Face's `transformers`, read from their folders; that library is not needed.

A folder has `config.json`, `model.safetensors` or `pytorch_model.bin` (or several files and a list of them), and
`preprocessor_config.json`. CLIPs are read here: their weights are renamed to OpenAI's names, whose towers they have.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xcoop.backbones.base import Backbone, Wanted, register_backbone
from xcoop.backbones.clip_model import build_clip, import_clip
from xcoop.backbones.hf_folder import WEIGHTS, making_of, renamed, section, stated_sizes
from xcoop.backbones.hub import hub_folder
from xcoop.backbones.making import CLIP_MEAN, CLIP_STD
from xcoop.backbones.model_folder import (
    compare_sizes,
    find_weights,
    image_sizes,
    model_folder,
    read_object,
    read_weights,
    text_sizes,
    whole_number,
)
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.siglip import read_siglip
from xcoop.utils.console import shown

logger = logging.getLogger(__name__)

CONFIG = "config.json"
DATA = ("*.json", "*.txt", "spiece.model")  # a tokenizer's files, too
PATTERNS = ((*DATA, "model*.safetensors"), (*DATA, "pytorch_model*.bin"))
VOCABULARY, END = 49408, 49407  # CLIP's own tokenizer, and the token that ends its texts
OLD_END = 2  # what configs stated before that was put right; texts end with the highest id then

# What a config that leaves something out means, by the defaults of transformers: both towers, image tower, text tower.
BOTH = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
IMAGE = BOTH | {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224, "patch_size": 32}
TEXT = BOTH | {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 77}
TEXT |= {"vocab_size": VOCABULARY, "eos_token_id": END}


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
    """The CLIP or SigLIP in a folder (`MODEL.BACKBONE.PATH`), or of a name on the hub (`MODEL.BACKBONE.SOURCE`).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is neither, or one with another tokenizer; or config and weights do not fit each other.
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
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        known = " and ".join(map(repr, KINDS))
        raise ValueError(f"{source}: its config is of a model of the kind {shown(kind)}; read are {known}")
    backbone = KINDS[kind](name, config, folder, file, source, wanted)
    logger.info("%s holds %s", source, backbone.architecture)
    return backbone


def read_clip_folder(
    name: str, config: Mapping[str, Any], folder: Path, file: Path | None, source: str, wanted: Wanted
) -> ClipBackbone:
    """The CLIP of a folder with that config; see `read_huggingface`."""
    image, text = section(config, "vision_config", IMAGE, source), section(config, "text_config", TEXT, source)
    _check_texts(text, source)
    making = making_of(image, text, folder, (CLIP_MEAN, CLIP_STD), "CLIP of transformers", source)
    making = making.stated(wanted.activation, wanted.head_width)
    check_tokenizer(folder, source)
    state = renamed(read_weights(folder, file, WEIGHTS))
    stated = stated_sizes(image, text, whole_number(config, "projection_dim", 512, source), source)
    compare_sizes(stated, lambda: image_sizes(state) | text_sizes(state), source)
    return ClipBackbone(name, build_clip(state, source, making), making=making)


KINDS = {"clip": read_clip_folder, "siglip": read_siglip}  # by the `model_type` of a config


def _check_texts(text: Mapping[str, Any], source: str) -> None:
    """ValueError if a config states another vocabulary, or another end of texts, than CLIP's tokenizer has."""
    if (end := text["eos_token_id"]) not in (END, OLD_END):
        raise ValueError(f"{source}: its texts end with the token {shown(end)}; CLIP's tokenizer has {END}")
    if (count := text["vocab_size"]) not in range(VOCABULARY, 2 * VOCABULARY):
        raise ValueError(f"{source}: its vocabulary has {shown(count)} tokens; that of CLIP's tokenizer {VOCABULARY}")


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
