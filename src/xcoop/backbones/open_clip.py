"""Models of open_clip: from their folders, from state dicts whose architecture is named, from the hub.

A folder has `open_clip_config.json` and the weights, and is read without that library. A state dict alone does not say
how it computes: `MODEL.BACKBONE.SOURCE` names its architecture then, which the installed open_clip knows, or a tag of
its weights as well (`ViT-B-32`, `ViT-B-32/laion2b_s34b_b79k`). Weights are renamed to OpenAI's names; a layer scale is
multiplied into the projection before it, which is exact. What OpenAI's modules cannot compute is refused by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from xcoop.backbones.base import Backbone, Wanted, register_backbone
from xcoop.backbones.bert import read_bert_clip
from xcoop.backbones.clip_model import build_clip
from xcoop.backbones.hub import SCHEME, hub_folder
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
from xcoop.backbones.timm_trunk import rename_trunk, trunk_tower
from xcoop.utils.console import shown, to_paste, unknown

logger = logging.getLogger(__name__)

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
DATA = ("*.json", "*.txt")
PATTERNS = ((*DATA, "open_clip*.safetensors"), (*DATA, "open_clip*.bin"))
END = 49407  # the token that ends a text in CLIP's vocabulary of 49408
TIMM, HUGGING_FACE = "timm_model_name", "hf_model_name"  # the keys of towers that other libraries have
UNUSED = ("logit_bias", "attn_mask")  # a constant added to all logits; a mask that older releases saved

# What each section may state, and what of it can be computed: any value (None), or one of these.
_MODEL: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"), None),
    **dict.fromkeys(("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "output_dict"), None),
}
_BLOCKS: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("layers", "width", "mlp_ratio", "ls_init_value", "output_tokens", "act_kwargs"), None),
    **dict.fromkeys(("norm_kwargs", "final_ln_after_pool"), None),  # a norm and the choice of a token may change places
    "block_type": (None, "default"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner"), (False,)),
    **dict.fromkeys(("scale_attn", "scale_fc"), (False,)),
}
_IMAGE: dict[str, tuple[Any, ...] | None] = {
    **_BLOCKS,
    **dict.fromkeys(("head_width", "patch_size", "image_size", "patch_dropout", "pos_embed_type"), None),
    **dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads", "no_ln_pre"), None),
    **dict.fromkeys(("timm_pool", "timm_proj", "timm_drop", "timm_drop_path", "timm_model_pretrained"), None),
    "timm_proj_bias": (False,),
    "attentional_pool": (False, None),
    "pool_type": ("tok",),
    "timm_model_name": (None, ""),
}
_TRUNK = _IMAGE | {"timm_model_name": None}
_TEXT: dict[str, tuple[Any, ...] | None] = {
    **_BLOCKS,
    **dict.fromkeys(("context_length", "vocab_size", "heads", "pad_id", "eos_id", "hf_model_pretrained"), None),
    **dict.fromkeys(("hf_proj_type", "hf_pooler_type"), None),
    **dict.fromkeys(("embed_cls", "no_causal_mask", "proj_bias"), (False,)),
    "pool_type": ("argmax", "eos"),
    "proj_type": ("linear",),
    "tokenizer_mode": (None, ""),
    "tokenizer_kwargs": (None, {}, {"clean": "lower"}),
    "hf_tokenizer_name": (None, ""),
    "hf_model_name": (None, ""),
}
_BERT = _TEXT | dict.fromkeys(("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"), None)  # asked for there


class Model(NamedTuple):
    """What was found of a model."""

    config: dict[str, Any]  # open_clip's `model_cfg`
    images: dict[str, Any]  # its `preprocess_cfg`
    folder: Path
    file: Path | None  # of the weights; None: to be found in the folder
    source: str  # for messages and the record


def _found(name: str, wanted: Wanted) -> Model:
    """Config and weights, from wherever the user says."""
    if wanted.path:
        folder, file = model_folder(wanted.path)
        source = str(file or folder)
        if wanted.source:
            config, images = _of_library(wanted.source)
            return Model(config, images, folder, file, f"{source} ({wanted.source})")
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(
                f"no {CONFIG} in {folder}, and weights alone do not tell how they compute: set MODEL.BACKBONE.SOURCE "
                "to their architecture in open_clip (ViT-B-32, or ViT-B-32/TAG), or to OpenAI's kind of model by "
                "naming one of its backbones"
            )
        return _of_folder(folder, file, source)
    if not wanted.source:
        raise ValueError(
            f"{name}: set MODEL.BACKBONE.PATH to a model's folder or weights, or MODEL.BACKBONE.SOURCE to its name on "
            "the hub, or to ARCHITECTURE/TAG of open_clip"
        )
    if wanted.source.startswith(SCHEME) or not _is_architecture(wanted.source.partition("/")[0]):
        folder = hub_folder(wanted.source, PATTERNS, is_complete)
        return _of_folder(folder, None, f"{wanted.source} at {folder.name[:12]}")
    config, images = _of_library(wanted.source)
    file = _fetch_tag(wanted.source)
    return Model(config, images, file.parent, file, f"{wanted.source} ({file.name})")


@register_backbone("open_clip", fetch=_found)
def load_open_clip(name: str, wanted: Wanted) -> Backbone:
    """The model at `MODEL.BACKBONE.PATH`, or of `MODEL.BACKBONE.SOURCE`; see the module.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: an architecture or a tag is named, and open_clip is not installed.
        ValueError: it cannot be computed here, or config and weights do not fit each other.
        ConnectionError: it is not here and cannot be fetched.
    """
    model = _found(name, wanted)
    backbone = read_open_clip(name, model, wanted)
    logger.info("%s holds %s", model.source, backbone.architecture)
    return backbone


def is_complete(folder: Path) -> bool:
    """Whether a folder has config and weights."""
    return (folder / CONFIG).is_file() and find_weights(folder, WEIGHTS) is not None


def _of_folder(folder: Path, file: Path | None, source: str) -> Model:
    content = read_object(folder / CONFIG)
    config, images = _section(content, "model_cfg", source), content.get("preprocess_cfg") or {}
    if not isinstance(images, dict):
        raise ValueError(f"{source}: preprocess_cfg in {CONFIG} must be names and values, not {shown(images)}")
    return Model(config, images, folder, file, source)


def _section(content: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    if not isinstance(value := content.get(key), dict):
        raise ValueError(f"{source}: {CONFIG} must have {key}, with names and values")
    return value


# What the library knows: architectures, and tags of weights.


def _library() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.SOURCE names an architecture of open_clip, which is not installed: "
            f"{to_paste('pip', 'install', 'xcoop[open_clip]')}; or use a folder with open_clip_config.json"
        ) from error
    return open_clip


def _is_architecture(name: str) -> bool:
    try:
        return name in _library().list_models()
    except ImportError:
        return False


def _of_library(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`model_cfg` and `preprocess_cfg` of ARCHITECTURE or ARCHITECTURE/TAG.

    The activation is the one that the tag's weights were trained with, where the architecture states another.
    """
    library, (architecture, _, tag) = _library(), source.partition("/")
    if architecture not in (known := library.list_models()):
        raise ValueError(f"MODEL.BACKBONE.SOURCE: {unknown('architecture of open_clip', architecture, known)}")
    config = dict(library.get_model_config(architecture))
    if not tag:
        return config, {}
    tags = library.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise ValueError(f"MODEL.BACKBONE.SOURCE: {unknown(f'tag of {architecture} in open_clip', tag, tags)}")
    stated = dict(library.get_pretrained_cfg(architecture, tag))
    quick = bool(stated.get("quick_gelu", False))
    if quick != bool(config.get("quick_gelu", False)):
        logger.info("%s was trained with %s, which %s alone does not state", source, _gelu(quick), architecture)
    return config | {"quick_gelu": quick}, stated


def _gelu(quick: bool) -> str:
    return "quick_gelu" if quick else "gelu"


def _fetch_tag(source: str) -> Path:
    """The file with a tag's weights: from the cache of open_clip's own downloader, or by it."""
    library, (architecture, _, tag) = _library(), source.partition("/")
    if not tag:
        tags = ", ".join(library.list_pretrained_tags_by_model(architecture)) or "none"
        raise ValueError(
            f"MODEL.BACKBONE.SOURCE is {source}: set MODEL.BACKBONE.PATH to its weights, or name a tag behind it as "
            f"in {architecture}/TAG (known: {tags})"
        )
    try:
        return Path(library.download_pretrained(library.get_pretrained_cfg(architecture, tag)))
    except Exception as error:  # whatever the downloader stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ConnectionError(
            f"the weights of {source} cannot be fetched ({reason}). Download them on a machine with network, bring "
            f"them here, and set MODEL.BACKBONE.PATH to the file beside MODEL.BACKBONE.SOURCE {source}"
        ) from error


# From a config and a state dict to a backbone.


def read_open_clip(name: str, model: Model, wanted: Wanted) -> ClipBackbone:
    """The backbone of a model; raises what `load_open_clip` does."""
    source = model.source
    _check(model.config, _MODEL, "", source)
    image, text = (_section(model.config, key, source) for key in ("vision_cfg", "text_cfg"))
    quick = model.config.get("quick_gelu", False)
    if type(quick) is not bool:
        raise ValueError(f"{source}: its config states quick_gelu as {shown(quick)}; it must be true or false")
    trunk, bert = (_named(section, key, source) for section, key in ((image, TIMM), (text, HUGGING_FACE)))
    _check(image, _TRUNK if trunk else _IMAGE, "vision_cfg.", source)
    _check(text, _BERT if bert else _TEXT, "text_cfg.", source)
    making = Making(
        image=_trunk_tower(image, source) if trunk else _image_tower(image, quick, source),
        text=Tower() if bert else _text_tower(text, quick, source),
        pixel_mean=channels(model.images.get("mean"), CLIP_MEAN, "mean", source),
        pixel_std=channels(model.images.get("std"), CLIP_STD, "std", source),
        family="open_clip",
        source=source,
    ).stated(wanted.activation, wanted.head_width)
    raw = read_weights(model.folder, model.file, WEIGHTS)
    state = renamed(raw) if not trunk else renamed(_without_image(raw)) | rename_trunk(raw, source)
    has_norm = "visual.ln_pre.weight" in state if trunk else not image.get("no_ln_pre", False)
    making = replace(making, has_ln_pre=has_norm)
    compare_sizes({} if trunk else _stated_image(image, source), lambda: image_sizes(state), source)
    if bert:
        towers = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
        backbone: ClipBackbone = read_bert_clip(name, towers, raw, text, model.folder, making)
    else:
        compare_sizes(_stated_text(model.config, text, source), lambda: text_sizes(state), source)
        backbone = ClipBackbone(name, build_clip(state, source, making), making=making)
    if backbone.input_size != (pixels := whole_number(image, "image_size", backbone.input_size, source)):
        raise ValueError(f"{source}: its config states images of {pixels} pixels, its weights {backbone.input_size}")
    return backbone


def _named(section: Mapping[str, Any], key: str, source: str) -> str:
    """A model of another library that stands for a tower; "" if there is none."""
    if not isinstance(name := section.get(key) or "", str):
        raise ValueError(f"{source}: its config states {key} as {shown(name)}; it must be a name")
    return name


def _without_image(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}


def _trunk_tower(image: Mapping[str, Any], source: str) -> Tower:
    """The image tower that timm names; open_clip's own defaults where the config leaves something out."""
    stated = (image[TIMM], image.get("timm_pool", "avg"), image.get("timm_proj", "linear") or "none")
    if not all(isinstance(value, str) for value in stated):
        raise ValueError(f"{source}: its config states timm's pool and projection as {shown(list(stated[1:]))}")
    try:
        return trunk_tower(*stated)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights by OpenAI's names, layer scales multiplied in; names that it does not know stay."""
    inner = "text."  # where a model keeps its text tower as a module of its own
    new = {name.removeprefix(inner): tensor for name, tensor in state.items()}
    new = {name: tensor for name, tensor in new.items() if name not in UNUSED}
    if "logit_scale" in new and new["logit_scale"].numel() == 1:
        new["logit_scale"] = new["logit_scale"].reshape(())  # some hold it as a list of one
    for name in [name for name in new if name.endswith((".ls_1.gamma", ".ls_2.gamma"))]:
        block, _, scale = name.removesuffix(".gamma").rpartition(".")
        projection = f"{block}.attn.out_proj" if scale == "ls_1" else f"{block}.mlp.c_proj"
        weight, bias = new.get(f"{projection}.weight"), new.get(f"{projection}.bias")
        if weight is not None and bias is not None and (*bias.shape, weight.dim()) == (*new[name].shape, 2):
            if len(weight) != len(bias):
                continue
            gamma = new.pop(name).float()
            new[f"{projection}.weight"], new[f"{projection}.bias"] = gamma[:, None] * weight.float(), gamma * bias
    return new


def _check(section: Mapping[str, Any], known: Mapping[str, tuple[Any, ...] | None], where: str, source: str) -> None:
    """Refuses what a section of a config states and OpenAI's modules cannot compute; what is off does not count."""
    for key, value in section.items():
        if key not in known and not value:
            continue
        if key not in known:
            raise ValueError(f"{source}: its config has {where}{key} {shown(value)}, which is not known here")
        if (taken := known[key]) is not None and value not in taken:
            raise ValueError(
                f"{source}: its config has {where}{key} {shown(value)}, which cannot be computed by OpenAI's modules "
                f"(only {shown(taken[0])})"
            )


def _tower(section: Mapping[str, Any], quick: bool, heads: int, source: str) -> Tower:
    """Activation and norms as a section states them."""
    norms, activation = section.get("norm_kwargs") or {}, section.get("act_kwargs") or {}
    if not isinstance(norms, dict) or set(norms) - {"eps"}:
        raise ValueError(f"{source}: its config states norm_kwargs as {shown(norms)}; only eps is known here")
    if activation not in ({}, {"approximate": "none"}, {"approximate": "tanh"}) or (quick and activation):
        raise ValueError(
            f"{source}: its config states act_kwargs as {shown(activation)}; only `approximate` of a GELU is known here"
        )
    kind = "gelu_tanh" if activation.get("approximate") == "tanh" else _gelu(quick)
    return Tower(activation=kind, heads=heads, eps=real_number(norms, "eps", 1e-5, source))


def _image_tower(image: Mapping[str, Any], quick: bool, source: str) -> Tower:
    head, width = whole_number(image, "head_width", 64, source), whole_number(image, "width", 768, source)
    width = 32 * width if isinstance(image.get("layers"), list) else width  # of a ResNet, what enters its pool
    if width < head:
        raise ValueError(f"{source}: its config states heads of width {head} in an image tower of width {width}")
    return _tower(image, quick, width // head, source)


def _text_tower(text: Mapping[str, Any], quick: bool, source: str) -> Tower:
    if text.get("pool_type") == "eos" and text.get("eos_id", 2) != END:
        raise ValueError(f"{source}: its texts end with the token {shown(text.get('eos_id', 2))}; CLIP's with {END}")
    if (count := text.get("vocab_size", END + 1)) not in range(END + 1, 2 * END):
        raise ValueError(f"{source}: its vocabulary has {shown(count)} tokens; that of CLIP's tokenizer {END + 1}")
    return _tower(text, quick, whole_number(text, "heads", 8, source, MOST_HEADS), source)


def _stated_image(image: Mapping[str, Any], source: str) -> dict[str, int]:
    """The sizes that a config states, as `image_sizes` calls them; open_clip's own where it leaves them out."""
    pixels, width = (whole_number(image, key, usual, source) for key, usual in (("image_size", 224), ("width", 768)))
    if isinstance(layers := image.get("layers"), list):
        if len(layers) != 4:
            raise ValueError(f"{source}: its config states layers as {shown(layers)}; a ResNet has four stages")
        blocks = {
            f"layer{n}": whole_number({"layers": count}, "layers", 0, source) for n, count in enumerate(layers, 1)
        }
        return {"width": width, "grid": pixels // 32, **blocks}
    patch = whole_number(image, "patch_size", 16, source)
    layers = whole_number(image, "layers", 12, source)
    return {"width": width, "patch_size": patch, "layers": layers, "grid": pixels // patch}


def _stated_text(config: Mapping[str, Any], text: Mapping[str, Any], source: str) -> dict[str, int]:
    """The same of the text tower, and the width of the joint space."""
    return {
        "text_width": whole_number(text, "width", 512, source),
        "text_layers": whole_number(text, "layers", 12, source),
        "context_length": whole_number(text, "context_length", 77, source),
        "joint": whole_number(config, "embed_dim", 0, source),
    }
