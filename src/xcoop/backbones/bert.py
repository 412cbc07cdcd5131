"""A CLIP whose text tower is a BERT, as open_clip builds it from Hugging Face's: BiomedCLIP's is PubMedBERT.

The image tower is one of OpenAI's modules. The text tower is the BERT's own arithmetic in modules that are named as
OpenAI's, so that what adds to attention or holds weights in 16 bit finds them. Other than OpenAI's, it

* takes embeddings that positions, the type of a first sentence and a norm are added to: E = LN(e + p + t);
* has its norms behind the sums, y = LN1(x + attention(x)), LN2(y + MLP(y)), and ordinary GELUs;
* sees in both directions: a token sees all but the padding, which stands behind the end, or where it was trained
  without a mask the padding, too;
* gives its first token, [CLS], or the mean of all, and not its end.

Symbols: N texts, L tokens, W width, n context tokens, J layers with prompts, H width in the projection, D joint width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xcoop.backbones.bert_config import Bert, read_bert
from xcoop.backbones.clip_model import assembled, empty_visual, import_clip, own_weights
from xcoop.backbones.making import Making, Tower, activation_module, tower_words
from xcoop.backbones.own_tokens import OwnTokensClip
from xcoop.backbones.vit import self_attention, text_prompted
from xcoop.backbones.wordpieces import WordPieces, read_word_pieces


class BertBlock(nn.Module):
    """A block with its norms behind the sums, named as `clip.model.ResidualAttentionBlock`."""

    def __init__(self, width: int, heads: int, hidden: int, tower: Tower) -> None:
        super().__init__()
        clip = import_clip().model
        norm, gelu = clip.LayerNorm, activation_module(tower.activation) or clip.QuickGELU()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = norm(width, eps=tower.eps)
        layers = {"c_fc": nn.Linear(width, hidden), "gelu": gelu, "c_proj": nn.Linear(hidden, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = norm(width, eps=tower.eps)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """(N, L, W) to the same; `seen` (N, 1, 1, L): which tokens are looked at, all without it."""
        x = self.ln_1(x + self_attention(self.attn, x, mask=seen))
        out: Tensor = self.ln_2(x + self.mlp(x))
        return out


class BertTower(nn.Module):
    """The blocks, named as `clip.model.Transformer`."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, tower: Tower) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(*(BertBlock(width, heads, hidden, tower) for _ in range(layers)))


class BertClipModel(nn.Module):
    """Both towers, named as those of `clip.model.CLIP`, of the sizes of their weights."""

    def __init__(self, weights: Mapping[str, Tensor], making: Making, bert: Bert) -> None:
        super().__init__()
        vocabulary, width = weights["token_embedding.weight"].shape
        first = "transformer.resblocks."
        layers = len({name[len(first) :].partition(".")[0] for name in weights if name.startswith(first)})
        hidden = len(weights[f"{first}0.mlp.c_fc.weight"])
        heads = bert.tower.heads_of(width, f"{making.source}: its text tower")
        self.context_length = bert.context_length
        self.visual = empty_visual(weights, making, making.source)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(bert.context_length, width))
        self.ln_embed = import_clip().model.LayerNorm(width, eps=bert.tower.eps)
        self.transformer = BertTower(width, layers, heads, hidden, bert.tower)
        self.text_head = nn.Sequential()  # from the pooled state to what `text_projection` takes
        if bert.pool == "tanh":
            self.text_head.extend([nn.Linear(width, width), nn.Tanh()])
        if bert.projection == "mlp":
            between = weights["text_projection"].shape[0]
            self.text_head.extend([nn.Linear(width, between, bias=False), nn.GELU()])
        self.text_projection = nn.Parameter(torch.empty(weights["text_projection"].shape))
        self.logit_scale = nn.Parameter(torch.empty(()))

    @property
    def dtype(self) -> torch.dtype:
        """As `clip.model.CLIP` has it."""
        dtype: torch.dtype = self.visual.conv1.weight.dtype
        return dtype


class BertClip(OwnTokensClip):
    """A CLIP whose text tower is a BERT; the image tower, and all that works inside it, is as in the base class."""

    def __init__(self, name: str, model: BertClipModel, pieces: WordPieces, bert: Bert, making: Making) -> None:
        """Wraps a model without changing it.

        Args:
            name: what it is called.
            model: of `build_bert_clip`.
            pieces: its tokenizer.
            bert: what it was built with.
            making: what the image tower was built with, and where the model comes from.

        Raises:
            ValueError: the tokenizer knows more tokens than have embeddings.
        """
        super().__init__(name, model, pieces, bert.padding, making)
        self.text_width = model.token_embedding.weight.shape[1]
        self.bert = bert

    def text_words(self) -> str:
        """The text tower in words, pool and projection too: no name of a weight tells them all."""
        seen = "padding seen" if self.bert.sees_padding else ""
        words = ["a BERT", tower_words(self.model.transformer), seen, f"pool {self.bert.pool}"]
        return ", ".join([*filter(None, words), f"projection {self.bert.projection}"])

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Where each text's last token stands, [SEP]; behind it is padding."""
        own = tokens != self.padding  # (N, L)
        return tokens.shape[1] - 1 - own.flip(1).int().argmax(dim=1)

    def project_text(self, states: Tensor) -> Tensor:
        """`end_states` in the joint space: (N, W) to (N, D)."""
        projected: Tensor = self.model.text_head(states) @ self.model.text_projection
        return projected

    def end_states(self, embeddings: Tensor, end: Tensor, prompts: Tensor | None = None) -> Tensor:
        """What the tower makes of each text, (N, W): of its first token or, by the pool, the mean of its tokens.

        A token sees all tokens of its text in both directions, so none of them is cut. What stands behind the last end
        of all texts is padding, which nothing sees: cutting that is exact. Where it is seen, nothing is cut.

        Args:
            embeddings: (N, L, W) of words alone; with prompts, the context stands right behind [CLS].
            end: (N,) int64, the index of each [SEP].
            prompts: (J, n, W), the context tokens of the second block to block 1 + J; None: they are never replaced.

        Raises:
            ValueError: an end token lies outside the embeddings, or beyond the model's context.
        """
        if self.bert.sees_padding:
            x = self.filled(embeddings, end, self.padding) + self.model.positional_embedding.to(self.dtype)
        else:
            x = self.placed(embeddings, end)
        x = self.model.ln_embed(x)  # (N, L, W)
        own = torch.arange(x.shape[1], device=x.device) <= end.to(x.device)[:, None]  # (N, L)
        seen = None if self.bert.sees_padding else own[:, None, None]
        for index, block in enumerate(self.model.transformer.resblocks):
            x = block(text_prompted(x, prompts, index), seen)
        if self.bert.pool != "mean":
            return x[:, 0]
        return (x * own[..., None]).sum(dim=1) / own.sum(dim=1, keepdim=True)


def build_bert_clip(
    name: str, image: Mapping[str, Tensor], text: Mapping[str, Tensor], pieces: WordPieces, bert: Bert, making: Making
) -> BertClip:
    """The backbone of these weights, in fp32.

    Args:
        name: what it is called.
        image: the image tower's weights and the logit scale, by OpenAI's names.
        text: the text tower's by open_clip's names, without "text.": `transformer.*` are Hugging Face's, `proj.*` the
            projection.
        pieces: its tokenizer.
        bert: what the text tower's weights do not tell.
        making: what the image tower's do not tell.

    Raises:
        ValueError: the names or shapes are not those of the two towers, or a tensor holds anything but finite numbers.
    """
    source = making.source
    text = {name: tensor for name, tensor in text.items() if name not in _NOT_WEIGHTS}
    making = replace(making, text=bert.tower, context_length=bert.context_length)
    weights = own_weights(image.items(), source) | _renamed(own_weights(text.items(), source), bert, source)
    ends = {"visual.proj": -1, "visual.attnpool.c_proj.weight": 0, "text_projection": -1}  # a ViT's, a ResNet's
    widths = [weights[name].shape[axis] for name, axis in ends.items() if name in weights]
    if len(set(widths)) > 1:
        raise ValueError(f"{source}: its images come to {widths[0]} numbers, its texts to {widths[1]}")
    if "logit_scale" in weights:  # open_clip may hold one number in a list
        weights["logit_scale"] = weights["logit_scale"].reshape(())
    model = assembled(weights, lambda: BertClipModel(weights, making, bert), source)
    return BertClip(name, model.eval(), pieces, bert, making)


def read_bert_clip(
    name: str,
    image: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    text: Mapping[str, Any],
    folder: Path,
    making: Making,
) -> BertClip:
    """The backbone of an open_clip model with such a text tower, whose tokenizer lies in its folder.

    Args:
        name: what it is called.
        image: the image tower's weights by OpenAI's names.
        state: open_clip's state dict, for `text.*` and the logit scale.
        text: open_clip's `text_cfg`.
        folder: where the tokenizer's files lie, and the `config.json` of a BERT that is not known by its name.
        making: what the image tower's weights do not tell, and where the model comes from.

    Raises:
        FileNotFoundError: a file is not there.
        ImportError: `tokenizers` is not installed.
        ValueError: it is none that is read here; see `read_bert`, `read_word_pieces` and `build_bert_clip`.
    """
    bert, pieces = read_bert(folder, text, making.source), read_word_pieces(folder)
    image = {**image, **{key: state[key] for key in ("logit_scale",) if key in state}}
    tower = {key.removeprefix("text."): tensor for key, tensor in state.items() if key.startswith("text.")}
    return build_bert_clip(name, image, tower, pieces, bert, making)


# Hugging Face's names of what stands in a block, and OpenAI's.
_IN_BLOCK = {
    "attention.output.dense": "attn.out_proj",
    "attention.output.LayerNorm": "ln_1",
    "intermediate.dense": "mlp.c_fc",
    "output.dense": "mlp.c_proj",
    "output.LayerNorm": "ln_2",
}
_WORDS, _TYPES = "transformer.embeddings.word_embeddings.weight", "transformer.embeddings.token_type_embeddings.weight"
_POSITIONS, _NORM = "transformer.embeddings.position_embeddings.weight", "transformer.embeddings.LayerNorm"
_POOL, _LAYERS = "transformer.pooler.dense", "transformer.encoder.layer."
# Releases of old hold these numbers, too.
_NOT_WEIGHTS = ("transformer.embeddings.position_ids", "transformer.embeddings.token_type_ids")


def _renamed(text: dict[str, Tensor], bert: Bert, source: str) -> dict[str, Tensor]:
    """The text tower's weights by the names of `BertClipModel`.

    The type of a first sentence, which all tokens have, is added to the positions.

    Raises:
        ValueError: one is missing, or there are some that such a tower does not have.
    """
    pairs = ("weight", "bias")
    try:
        width = text[_WORDS].shape[1]
        positions = text.pop(_POSITIONS)[: bert.context_length] + text.pop(_TYPES)[0]
        renamed = {"token_embedding.weight": text.pop(_WORDS), "positional_embedding": positions}
        renamed |= {f"ln_embed.{kind}": text.pop(f"{_NORM}.{kind}") for kind in pairs}
        for index in sorted({name[len(_LAYERS) :].partition(".")[0] for name in text if name.startswith(_LAYERS)}):
            old, new = f"{_LAYERS}{index}.", f"transformer.resblocks.{index}."
            for kind in pairs:
                parts = [text.pop(f"{old}attention.self.{part}.{kind}") for part in ("query", "key", "value")]
                renamed[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
                for theirs, ours in _IN_BLOCK.items():
                    renamed[f"{new}{ours}.{kind}"] = text.pop(f"{old}{theirs}.{kind}")
        pool = {kind: text.pop(f"{_POOL}.{kind}", None) for kind in pairs}
        if bert.pool == "tanh":
            renamed |= {f"text_head.0.{kind}": tensor for kind, tensor in pool.items() if tensor is not None}
        if bert.projection == "mlp":
            renamed[f"text_head.{2 if bert.pool == 'tanh' else 0}.weight"] = text.pop("proj.0.weight")
        renamed["text_projection"] = {
            "none": lambda: torch.eye(width),
            "linear": lambda: text.pop("proj.weight").T.contiguous(),
            "mlp": lambda: text.pop("proj.2.weight").T.contiguous(),
        }[bert.projection]()
    except KeyError as error:
        raise ValueError(
            f"{source}: its text tower lacks {error}; is it a BERT with the projection that it states?"
        ) from error
    except (IndexError, RuntimeError) as error:
        raise ValueError(f"{source}: its text tower is no BERT, a weight does not fit the others: {error}") from error
    if text:
        raise ValueError(f"{source}: its text tower has {', '.join(sorted(text)[:3])}, which a BERT has not")
    return renamed
