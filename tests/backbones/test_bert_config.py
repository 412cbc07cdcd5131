"""What configs say of a text tower that is a BERT: read as it stands, and refused by name where it is none of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_biomed import WORDS, Small, build, load

from xcoop.backbones.bert_config import BASES, Bert, read_bert
from xcoop.backbones.making import Tower

BIOMEDCLIP = {
    "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    "hf_proj_type": "mlp",
    "hf_pooler_type": "cls_last_hidden_state_pooler",
    "context_length": 256,
}
OWN = {"model_type": "bert", "num_attention_heads": 3, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5}


def test_a_published_bert_needs_no_config_of_its_own(tmp_path: Path) -> None:
    wanted = Bert(Tower("gelu", heads=12, eps=1e-12), "first", "mlp", 256, 0)
    assert read_bert(tmp_path, BIOMEDCLIP, "here") == wanted
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["CLIP"]}))  # not the BERT's
    assert all(read_bert(tmp_path, BIOMEDCLIP | {"hf_model_name": name}, "here") == wanted for name in BASES)


def test_the_shape_of_these_is_what_transformers_takes_a_bert_to_have(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(transformers.BertConfig().to_json_string())
    assert read_bert(tmp_path, BIOMEDCLIP | {"hf_model_name": "some/other"}, "here") == read_bert(
        tmp_path / "nowhere", BIOMEDCLIP, "here"
    )


def test_what_open_clip_leaves_out_is_as_it_has_it(tmp_path: Path) -> None:
    """Its own defaults: 77 tokens, the mean of all, two matrices."""
    (tmp_path / "config.json").write_text(json.dumps(OWN))
    text = pytest.importorskip("open_clip.model").CLIPTextCfg(hf_model_name="some/bert")
    wanted = Bert(Tower("gelu_tanh", heads=3, eps=1e-5), "mean", "mlp", text.context_length, 0)
    assert (text.hf_pooler_type, text.hf_proj_type) == ("mean_pooler", "mlp")
    assert read_bert(tmp_path, {"hf_model_name": "some/bert"}, "here") == wanted


@pytest.mark.parametrize(
    ("own", "text", "reason"),
    [
        ({"model_type": "roberta"}, {}, "is of the kind 'roberta'"),
        ({"position_embedding_type": "relative_key"}, {}, "positions of the kind 'relative_key'"),
        ({"hidden_act": "silu"}, {}, "the activation 'silu'; known: gelu"),
        ({"hidden_act": ["gelu"]}, {}, "the activation"),
        ({"num_attention_heads": "3"}, {}, "num_attention_heads is '3'; it must be a number"),
        ({"num_attention_heads": 0}, {}, "num_attention_heads is 0"),
        ({"layer_norm_eps": -1.0}, {}, r"layer_norm_eps is -1\.0"),
        ({"pad_token_id": None}, {}, "pad_token_id is None"),
        ({}, {"hf_pooler_type": "max_pooler"}, "the pool 'max_pooler'"),
        ({}, {"hf_proj_type": "conv"}, "the projection 'conv'"),
        ({}, {"context_length": 10**9}, "context_length is 1000000000"),
        ({}, {"context_length": True}, "context_length is True"),
        ({}, {"tokenizer_kwargs": {"strip_sep_token": True}}, "its tokenizer is changed by"),
        ({}, {"tokenizer_kwargs": {"clean": "canonicalize"}}, "its tokenizer is changed by"),
        ({}, {"tokenizer_kwargs": ["clean"]}, "its tokenizer is changed by"),
    ],
)
def test_other_towers_are_refused_by_name(
    own: dict[str, Any], text: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OWN | own))
    with pytest.raises(ValueError, match=f"here: .*{reason}"):
        read_bert(tmp_path, BIOMEDCLIP | text, "here")


def test_an_unknown_bert_without_its_config_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is 'some/bert', whose heads .* put the config\.json of that model"):
        read_bert(tmp_path, {"hf_model_name": "some/bert"}, "here")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return build(tmp_path_factory.mktemp("biomed") / "small", length=24)


TABLE, NORM = "text.transformer.embeddings.word_embeddings.weight", "text.transformer.embeddings.LayerNorm.weight"
POSITIONS = "text.transformer.embeddings.position_embeddings.weight"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text.proj.0.weight": None}, r"lacks 'proj\.0\.weight'"),
        ({NORM: None}, r"lacks 'transformer\.embeddings\.LayerNorm\.weight'"),
        ({"text.more.weight": torch.zeros(2)}, r"has more\.weight, which a BERT has not"),
        ({POSITIONS: torch.zeros(20, 48)}, "positional_embedding"),
        ({POSITIONS: torch.zeros(40, 47)}, "does not fit"),
        ({TABLE: torch.zeros(48)}, "does not fit"),
        ({TABLE: torch.full((len(WORDS), 48), float("nan"))}, "does not hold finite numbers"),
        ({TABLE: torch.zeros(20, 48)}, f"its tokenizer knows {len(WORDS)} tokens, and 20 have embeddings"),
        ({"logit_scale": None}, "logit_scale"),
        ({"visual.head.proj.weight": torch.zeros(39, 96)}, "its images come to 39 numbers, its texts to 40"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else None,
)
def test_weights_that_do_not_fit_are_said(small: Small, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    for file in small.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {**small.model.state_dict(), **changes}
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, tmp_path / small.weights)
    with pytest.raises(ValueError, match=reason):
        load(tmp_path)


def test_counts_of_old_releases_and_a_scale_in_a_list_are_read(small: Small, tmp_path: Path) -> None:
    for file in small.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = small.model.state_dict()
    state |= {"text.transformer.embeddings.position_ids": torch.arange(40)[None], "logit_scale": torch.tensor([2.5])}
    torch.save(state, tmp_path / small.weights)
    backbone = load(tmp_path)
    assert backbone.logit_scale.shape == ()
    assert float(backbone.logit_scale) == 2.5
    assert torch.equal(backbone.encode_text("a photo"), load(small.folder).encode_text("a photo"))


def test_heads_that_do_not_make_up_the_width_are_refused(small: Small, tmp_path: Path) -> None:
    for file in small.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | {"num_attention_heads": 7}))
    with pytest.raises(ValueError, match="its text tower has width 48, which does not consist of 7 heads"):
        load(tmp_path)
