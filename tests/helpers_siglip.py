"""A SigLIP in small: of transformers, with random weights and a tokenizer, in a folder as it is published."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import draw
from torch import nn

SENTENCES = [
    "a photo of a nevus",
    "a photo of a melanoma with irregular streaks",
    "the dark skin lesion with a bright spot",
    "an image of a melanoma that has a dark spot",
    " ".join(string.ascii_lowercase),
    " ".join(string.digits),
]
WHOLE = ("photo", "nevus", "melanoma", "irregular", "dark", "spot", "skin", "bright", "image")
SIDE, LENGTH = 32, 32  # pixels, in 4 x 4 patches; tokens
SIZES: dict[str, Any] = {
    "text_config": {
        "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 5,
        "vocab_size": 120, "projection_size": 48, "layer_norm_eps": 1e-3,
    },
    "vision_config": {
        "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": SIDE, "patch_size": 8, "hidden_act": "gelu",
    },
}  # fmt: skip


def build(folder: Path, length: int = LENGTH, tokenizer: str = "spiece.model", **sizes: int) -> Any:
    """transformers' own model, in evaluation mode, saved to a folder.

    Args:
        folder: made, and filled.
        length: of the texts.
        tokenizer: the file that says how texts are cut: `spiece.model` or `tokenizer.json`.
        sizes: of both towers, in the place of the above.
    """
    transformers = pytest.importorskip("transformers")
    text, image = ({**SIZES[f"{tower}_config"], **sizes} for tower in ("text", "vision"))
    text |= {"max_position_embeddings": length}
    if sizes:
        text["projection_size"] = image["hidden_size"]
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=image))
    draw(model)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-7.0)
    model.save_pretrained(folder)
    images = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    settings = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "model_max_length": length}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pieces = train_pieces()
    if tokenizer == "spiece.model":
        (folder / tokenizer).write_bytes(pieces)
    else:
        whole(pieces).save(str(folder / tokenizer))
    return model


def train_pieces() -> bytes:
    """A model of sentencepiece with the special tokens of SigLIP's: <pad> 0, </s> 1, <unk> 2.

    Some words are a piece each, which so few sentences would not make them. "x" is two: the space before it and itself.
    """
    sentencepiece = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=out, vocab_size=90, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, minloglevel=2, num_threads=1, user_defined_symbols=[f"\u2581{word}" for word in WHOLE],
    )  # fmt: skip
    return out.getvalue()


def whole(pieces: bytes) -> Any:
    """The same pieces as a `tokenizers.Tokenizer`."""
    sentencepiece, tokenizers = pytest.importorskip("sentencepiece"), pytest.importorskip("tokenizers")
    model = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    table = [(model.id_to_piece(index), model.get_score(index)) for index in range(model.get_piece_size())]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(table, unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    return made
