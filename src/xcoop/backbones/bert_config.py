"""What a text tower that is a BERT does beyond its weights, from open_clip's config and Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.backbones.clip_model import MOST_POSITIONS
from xcoop.backbones.making import Tower
from xcoop.utils.console import shown
from xcoop.utils.reading import read_json

CONFIG = "config.json"
# open_clip's poolers, and what they do: the state of [CLS], tanh of its linear map, the mean of all but padding.
POOLERS = {"cls_last_hidden_state_pooler": "first", "cls_pooler": "tanh", "mean_pooler": "mean"}
USUAL_POOLER = "cls_last_hidden_state_pooler"  # what a BERT gets where none is named
PROJECTIONS = {name: name for name in ("linear", "mlp", "none")}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

# Models that were published with this shape (Devlin et al., NAACL 2019, table 1: BERT base, 12 heads), whose own config
# need not lie beside the weights: a CLIP that is built on one names it, and holds its trained weights itself.
BASE = {
    "model_type": "bert",
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
BASES = (
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext",
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "bert-base-uncased",
    "bert-base-cased",
    "google-bert/bert-base-uncased",
    "google-bert/bert-base-cased",
)


@dataclass(frozen=True)
class Bert:
    """What the weights of such a text tower do not tell.

    Attributes:
        tower: activation, heads and eps of its blocks.
        pool: "first": the state of [CLS]; "tanh": tanh of its linear map; "mean": the mean of all but padding.
        projection: one of `PROJECTIONS`: a matrix, two with a GELU between them, or none at all.
        context_length: tokens that a text may have.
        padding: the id behind the end.
        sees_padding: whether the tower was trained without a mask, on texts that padding fills up to the full length.
    """

    tower: Tower
    pool: str = "first"
    projection: str = "linear"
    context_length: int = 256
    padding: int = 0
    sees_padding: bool = False


def read_bert(folder: Path, text: Mapping[str, Any], source: str) -> Bert:
    """The text tower of an open_clip model.

    Args:
        folder: where a `config.json` of the BERT may lie; without one its name must be among `BASES`.
        text: open_clip's `text_cfg`; what it leaves out is as open_clip has it.
        source: what it belongs to, for messages.

    Raises:
        ValueError: it is none that is read here, or a value is missing or wrong; the message names it.
        FileNotFoundError: the BERT's config is not here, and its name is not known.
    """
    name = text.get("hf_model_name")
    own = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not (isinstance(own, Mapping) and "num_attention_heads" in own):  # a CLIP's own config may stand there
        if name not in BASES:
            raise FileNotFoundError(
                f"{source}: its text tower is {shown(name)}, whose heads and norms its weights do not tell: put the "
                f"{CONFIG} of that model into {folder}"
            )
        own = BASE
    if (kind := own.get("model_type")) != "bert":
        raise ValueError(f"{source}: its text tower is of the kind {shown(kind)}; of Hugging Face's, `bert` is read")
    if own.get("position_embedding_type") not in (None, "absolute"):
        raise ValueError(f"{source}: its text tower has positions of the kind {shown(own['position_embedding_type'])}")
    activation, pool, projection = (
        _choice("activation", own.get("hidden_act", "gelu"), ACTIVATIONS, source),
        _choice("pool", text.get("hf_pooler_type", "mean_pooler") or USUAL_POOLER, POOLERS, source),
        _choice("projection", text.get("hf_proj_type", "mlp") or "none", PROJECTIONS, source),
    )
    if (changed := text.get("tokenizer_kwargs")) not in (None, {}, {"clean": "whitespace"}, {"strip_sep_token": False}):
        raise ValueError(f"{source}: its tokenizer is changed by {shown(changed)}, which is not read here")
    tower = Tower(
        activation=activation,
        heads=_number(own, "num_attention_heads", None, 1, 1024, source),
        eps=float(_number(own, "layer_norm_eps", 1e-12, 0, 1, source)),
    )
    return Bert(
        tower,
        pool,
        projection,
        _number(text, "context_length", 77, 2, MOST_POSITIONS, source),
        _number(own, "pad_token_id", 0, 0, 1 << 24, source),
    )


def _choice(what: str, value: Any, known: Mapping[str, str], source: str) -> str:
    """What a value of a config stands for here; ValueError if it is not known."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{source}: its text tower has the {what} {shown(value)}; known: {', '.join(known)}")
    return known[value]


def _number(config: Mapping[str, Any], key: str, usual: Any, least: float, most: float, source: str) -> Any:
    """A number of a config, `usual` where it is not there; whole unless the usual one is not.

    Raises:
        ValueError: it is none, or outside of its range.
    """
    value = config.get(key, usual)
    kinds = (int, float) if isinstance(usual, float) else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise ValueError(f"{source}: {key} is {shown(value)}; it must be a number from {least} to {most}")
    return value
