"""Small CLIPs of other families with random weights, in folders as their hubs have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from helpers_clip import tiny_clip_state
from safetensors.torch import save_file
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone, load_backbone

TEXTS = ["a nevus", "a photo of a melanoma with irregular streaks, dark", "x"]
OPEN_CLIP: dict[str, Any] = {  # small, but for the vocabulary
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
HUGGING_FACE: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 48,
    "text_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1},
    "vision_config": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
}


def load(name: str, path: Path | str = "", **keys: Any) -> Any:
    """The backbone of a name, a path and more keys of MODEL.BACKBONE."""
    backbone: Backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": name, "PATH": str(path), **keys}}}))
    return backbone


def draw(model: nn.Module, seed: int = 0) -> Any:
    """The model in evaluation mode; its weights are drawn so that activations, heads and norms make a difference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() == 0 or "logit" in name:
                continue
            scale = 0.3 if tensor.dim() == 1 else tensor[0].numel() ** -0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
            if tensor.dim() == 1 and name.endswith("weight"):
                tensor.add_(1)
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def tiny_state(seed: int = 3) -> dict[str, Tensor]:
    """Weights of the sizes of both configs above, by OpenAI's names."""
    return {name: tensor.contiguous() for name, tensor in tiny_clip_state(seed, layers=2).items()}


def open_clip_folder(folder: Path, config: Mapping[str, Any] = OPEN_CLIP, state: Any = None, **images: Any) -> Path:
    """A folder as open_clip's library writes it, by hand."""
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": images}))
    save_file(state or tiny_state(), folder / "open_clip_model.safetensors")
    return folder


def hugging_face_folder(folder: Path, config: Mapping[str, Any] = HUGGING_FACE, state: Any = None) -> Path:
    """A folder as transformers writes it, by hand."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(hugging_face_names(state or tiny_state()), folder / "model.safetensors")
    return folder


def hugging_face_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's weights as transformers calls them."""
    whole = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    }
    parts = {
        "visual.transformer.resblocks": "vision_model.encoder.layers",
        "transformer.resblocks": "text_model.encoder.layers",
        "visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm", "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1",
        "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in ("text_projection", "visual.proj"):
            new[{"visual.proj": "visual_projection"}.get(name, name) + ".weight"] = tensor.t().contiguous()
            continue
        other = whole.get(name, name)
        for ours, theirs in parts.items():
            other = other.replace(ours, theirs)
        if "in_proj_" in other:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                new[other.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = part.clone()
        else:
            new[other] = tensor
    return new
