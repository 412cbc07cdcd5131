"""SigLIP models of Hugging Face's `transformers`: MedSigLIP is one. They differ from a CLIP in both towers.

The image tower has no class token; attention pools its patches (`PooledVit`). The text tower

* begins with a text's first word. To the rest of the house each text has a token before its first word, whose place a
  context stands behind: here it is a place that the tower does not see, so learned tokens are the first that it does;
* sees in both directions, and sees the padding as well, which stands behind the end up to the full length: nothing may
  be cut, and what is missing behind an end is put there;
* gives its last token, which is padding unless the text fills the tower.

SigLIP is trained with a sigmoid of each cosine, s cos + b. Classes are told apart here by a softmax over them, in which
a constant b cancels: the scale is used, the bias is not (Zhai et al., "Sigmoid Loss for Language Image Pre-Training",
ICCV 2023).

Symbols: N texts, L tokens, W text width, n context tokens, J layers with prompts, V width of the image tower; D joint
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones.base import Wanted
from xcoop.backbones.clip_model import MOST_POSITIONS, assembled, count_blocks, import_clip, own_weights, set_up
from xcoop.backbones.hf_folder import WEIGHTS, making_of, renamed, section, stated_sizes
from xcoop.backbones.making import Making, tower_words
from xcoop.backbones.model_folder import compare_sizes, read_weights, text_sizes, whole_number
from xcoop.backbones.own_tokens import OwnTokensClip
from xcoop.backbones.pooled_vit import PooledVit
from xcoop.backbones.sentencepieces import SentencePieces, read_sentence_pieces
from xcoop.backbones.vit import run_block, text_prompted

# What a config that leaves something out means, by the defaults of transformers: both towers, image tower, text tower.
BOTH: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
BOTH |= {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
IMAGE = BOTH | {"image_size": 224, "patch_size": 16, "vision_use_head": True}
TEXT = BOTH | {"max_position_embeddings": 64}
HALF = (0.5, 0.5, 0.5)  # mean and deviation of the images, by the default of transformers
START = 1  # places before the first word that the tower does not see

_WHOLE = {
    "text_model.head.bias": "text_bias",
    "vision_model.head.probe": "visual.pool.probe",
    "vision_model.head.attention.in_proj_weight": "visual.pool.attn.in_proj_weight",
    "vision_model.head.attention.in_proj_bias": "visual.pool.attn.in_proj_bias",
}
_PARTS = {
    "vision_model.head.attention.out_proj": "visual.pool.attn.out_proj",
    "vision_model.head.layernorm": "visual.pool.ln",
    "vision_model.head.mlp.fc1": "visual.pool.mlp.c_fc",
    "vision_model.head.mlp.fc2": "visual.pool.mlp.c_proj",
}
_WHOLE |= {f"{old}.{kind}": f"{new}.{kind}" for old, new in _PARTS.items() for kind in ("weight", "bias")}
_TURNED = "text_model.head.weight"  # (D, W) there
_BIAS = "logit_bias"


class SiglipModel(nn.Module):
    """Both towers, named as those of `clip.model.CLIP`, of the sizes of their weights."""

    def __init__(self, weights: Mapping[str, Tensor], making: Making) -> None:
        super().__init__()
        clip = import_clip().model
        length, width = weights["positional_embedding"].shape
        heads = making.text.heads_of(width, f"{making.source}: its text tower")
        self.context_length = length
        self.visual = PooledVit(weights, making.image, making.source)
        self.token_embedding = nn.Embedding(len(weights["token_embedding.weight"]), width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.transformer = clip.Transformer(width, count_blocks(weights, "transformer.resblocks."), heads)
        set_up(self.transformer, making.text, weights, "transformer.")
        self.ln_final = clip.LayerNorm(width, eps=making.text.eps)
        self.text_projection = nn.Parameter(torch.empty(width, weights["text_projection"].shape[1]))
        self.text_bias = nn.Parameter(torch.empty(weights["text_projection"].shape[1]))
        self.logit_scale = nn.Parameter(torch.empty(()))

    @property
    def dtype(self) -> torch.dtype:
        """As `clip.model.CLIP` has it."""
        dtype: torch.dtype = self.visual.conv1.weight.dtype
        return dtype


class SiglipClip(OwnTokensClip):
    """A SigLIP; all that works inside the blocks of its towers is as in the base class."""

    unseen = START

    def __init__(self, name: str, model: SiglipModel, pieces: SentencePieces, making: Making) -> None:
        """Wraps a model without changing it.

        Args:
            name: what it is called.
            model: both towers.
            pieces: its tokenizer.
            making: what it was built with, and where it comes from.

        Raises:
            ValueError: the tokenizer knows more tokens than have embeddings.
        """
        super().__init__(name, model, pieces, pieces.padding, making)
        self.end = pieces.end
        if self.count_tokens(self.placeholder) != START + 2:
            self.placeholder = next((word for _, word in pieces.words()), "")
        if not self.placeholder:
            raise ValueError(
                f"{making.source}: its tokenizer has no word that is one token, to hold a learned one's place"
            )

    def text_words(self) -> str:
        """The text tower in words."""
        return ", ".join(filter(None, ["a SigLIP", tower_words(self.model.transformer), "pool last"]))

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Where each text's end stands, which is what padding may look like, too: the first one."""
        return START + (tokens[:, START:] == self.end).int().argmax(dim=1)

    def project_text(self, states: Tensor) -> Tensor:
        """`end_states` in the joint space: (N, W) to (N, D)."""
        return F.linear(states, self.model.text_projection.T, self.model.text_bias)

    def end_states(self, embeddings: Tensor, end: Tensor, prompts: Tensor | None = None) -> Tensor:
        """What the tower makes of its last token, (N, W), which has seen the text and the padding behind it.

        Args:
            embeddings: (N, L, W), the first of each row for the unseen place. Behind an end stands padding, whatever
                the embeddings have there.
            end: (N,) int64, the index of each end.
            prompts: (J, n, W), the context tokens of the second block to block 1 + J; None: they are never replaced.

        Raises:
            ValueError: an end token lies outside the embeddings, or beyond the model's context.
        """
        x = self.filled(embeddings, end, self.padding)[:, START:]  # (N, context_length - START, W)
        x = x + self.model.positional_embedding.to(self.dtype)
        for index, block in enumerate(self.model.transformer.resblocks):
            x = run_block(block, text_prompted(x, prompts, index, before=0))
        states: Tensor = self.model.ln_final(x[:, -1])
        return states


def read_siglip(
    name: str, config: Mapping[str, Any], folder: Path, file: Path | None, source: str, wanted: Wanted
) -> SiglipClip:
    """The SigLIP of a folder with that config.

    Args:
        name: what it is called.
        config: of the kind `siglip`.
        folder: with the tokenizer, and the weights.
        file: of the weights; None looks for it in the folder.
        source: what the record says of it.
        wanted: activation and head width, where the user knows better than the config.

    Raises:
        FileNotFoundError: a file is not there.
        ImportError: what reads the tokenizer is not installed.
        ValueError: config, weights and tokenizer do not fit each other, or the image tower has no pool.
    """
    image, text = section(config, "vision_config", IMAGE, source), section(config, "text_config", TEXT, source)
    if image["vision_use_head"] is not True:
        raise ValueError(
            f"{source}: its config states vision_use_head {image['vision_use_head']}: nothing pools images"
        )
    making = making_of(image, text, folder, (HALF, HALF), "SigLIP of transformers", source)
    making = making.stated(wanted.activation, wanted.head_width)
    pieces = read_sentence_pieces(folder)
    state = by_openais_names(read_weights(folder, file, WEIGHTS), source)
    joint = whole_number(text, "projection_size", 0, source) if text.get("projection_size") else None
    stated = stated_sizes(image, text, joint or whole_number(text, "hidden_size", 0, source), source)
    compare_sizes(stated, lambda: _found(state), source)
    weights = own_weights(state.items(), source)
    length = len(weights["positional_embedding"]) if "positional_embedding" in weights else 1
    if length > MOST_POSITIONS:
        raise ValueError(f"{source}: texts of {length} tokens; at most {MOST_POSITIONS}")
    making = replace(making, context_length=START + length)
    model = assembled(weights, lambda: SiglipModel(weights, making), source)
    if len(model.visual.pool.probe) != len(model.text_bias):
        raise ValueError(
            f"{source}: its images come to {len(model.visual.pool.probe)} numbers, its texts to {len(model.text_bias)}"
        )
    return SiglipClip(name, model.eval(), pieces, making)


def by_openais_names(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights of transformers' `SiglipModel` by the names of `SiglipModel`; names that it does not know stay.

    The bias of the patch convolution is added to the positions of the patches, where it gives the same.

    Raises:
        ValueError: it does not fit them.
    """
    state = {name: tensor for name, tensor in state.items() if name != _BIAS}
    if _TURNED in state:
        state["text_projection.weight"] = state.pop(_TURNED)
    new = {_WHOLE.get(name, name): tensor for name, tensor in renamed(state).items()}
    for name in ("logit_scale", "visual.pool.probe"):
        if name in new:
            new[name] = new[name].reshape(() if name == "logit_scale" and new[name].numel() == 1 else -1)
    bias, positions = new.pop("visual.conv1.bias", None), new.get("visual.positional_embedding")
    if bias is not None and positions is not None:
        if positions.dim() != 2 or bias.shape != positions.shape[1:]:
            raise ValueError(f"{source}: the bias of its patches has shape {tuple(bias.shape)}, unlike their positions")
        new["visual.positional_embedding"] = positions.float() + bias.float()
    return new


def _found(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes that the weights have, as a config states them."""
    patches = state["visual.conv1.weight"].shape
    return text_sizes(state) | {
        "width": patches[0],
        "patch_size": patches[-1],
        "layers": count_blocks(state, "visual.transformer.resblocks."),
        "grid": round(len(state["visual.positional_embedding"]) ** 0.5),
    }
