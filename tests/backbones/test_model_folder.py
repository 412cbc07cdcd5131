"""Folders of models: nothing outside of them is read, nothing in them is executed, wrappings are undone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import HUGGING_FACE, OPEN_CLIP, hugging_face_folder, load, open_clip_folder, tiny_state
from hostile_pickle import Exploit
from safetensors.torch import load_file, save_file

from xcoop.backbones.model_folder import channels, read_weights
from xcoop.backbones.weight_files import read_state_dict

NAMES = ("model.safetensors", "pytorch_model.bin")


def listed(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two tensors in two files, and a file outside of the folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "two.safetensors")
    save_file({"a": torch.full((2,), 7.0)}, tmp_path / "outside.safetensors")
    return folder


def test_parts_are_put_together(parts: Path) -> None:
    listed(parts, {"a": "one.safetensors", "b": "two.safetensors"})
    state = read_weights(parts, None, NAMES)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {"a": (2,), "b": (3,)}


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": "../outside.safetensors"}, r"'../outside.safetensors' is no file of weights beside it"),
        ({"a": "/etc/passwd"}, "'/etc/passwd' is no file of weights"),
        ({"a": "..\\outside.safetensors"}, "is no file of weights"),
        ({"a": "config.json"}, "'config.json' is no file of weights"),
        ({"a": "two.safetensors"}, r"two.safetensors does not hold the tensors .* lists: a, b"),
        ({"a": ["one.safetensors"]}, "must list the file of each tensor"),
        ({}, "must list the file of each tensor"),
        ([1], "must list the file of each tensor"),
        ({str(n): f"{n}.bin" for n in range(600)}, "lists 600 files; at most 500"),
    ],
)
def test_lists_that_are_refused(parts: Path, weight_map: Any, says: str) -> None:
    listed(parts, weight_map)
    with pytest.raises(ValueError, match=says):
        read_weights(parts, None, NAMES)


def test_a_part_that_is_missing(parts: Path) -> None:
    listed(parts, {"a": "one.safetensors", "b": "three.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"three.safetensors is not there, which model.safetensors.index.json"):
        read_weights(parts, None, NAMES)


def test_several_files_of_weights_leave_it_open(parts: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights in .*: looked for model.safetensors, pytorch_model.bin"):
        read_weights(parts, None, NAMES)
    (parts / "two.safetensors").unlink()
    assert set(read_weights(parts, None, NAMES)) == {"a"}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip_pytorch_model.bin"])
def test_malicious_pickles_are_not_executed(tmp_path: Path, name: str) -> None:
    family, make = ("open_clip", open_clip_folder) if name.startswith("open") else ("huggingface", hugging_face_folder)
    folder = make(tmp_path / "model")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({"state_dict": {"a": Exploit(str(tmp_path / "owned"))}}, folder / name)
    with pytest.raises(ValueError, match=r"\(nothing in it was executed\)"):
        load(family, folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "is larger than what is stored of it"),
        (torch.zeros(64, 64).to_sparse(), "no plain tensor"),
        (torch.zeros(64, 64, device="meta"), "no plain tensor"),
    ],
)
def test_tensors_that_claim_more_than_they_hold(tmp_path: Path, bad: torch.Tensor, says: str) -> None:
    folder = hugging_face_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    torch.save(state | {"text_model.encoder.layers.0.self_attn.q_proj.weight": bad}, folder / "weights.pt")
    with pytest.raises(ValueError, match=says):
        load("huggingface", folder / "weights.pt")


ODD = (None, True, -1, 0, 1.5, float("nan"), 1 << 62, "x", [], [1, "a"], {}, {"a": 1})


@pytest.mark.parametrize("family", ["huggingface", "open_clip"])
def test_no_value_of_a_config_gets_further_than_a_refusal(tmp_path: Path, family: str) -> None:
    """Each key with values of each kind: what is not taken is refused in a line that names the folder."""
    make, config, name = {
        "huggingface": (hugging_face_folder, HUGGING_FACE, "config.json"),
        "open_clip": (open_clip_folder, OPEN_CLIP, "open_clip_config.json"),
    }[family]
    make(tmp_path)
    for file in tmp_path.glob("*.safetensors"):  # what is taken asks for the weights
        file.unlink()
    more = {"hidden_act", "layer_norm_eps", "eos_token_id", "vocab_size", "norm_kwargs", "act_kwargs", "hf_model_name"}
    more |= {
        "timm_model_name",
        "timm_pool",
        "timm_proj",
        "head_width",
        "pool_type",
        "eos_id",
        "tokenizer_kwargs",
        "rope",
    }
    tried = 0
    for section in ("", *(key for key, value in config.items() if isinstance(value, dict))):
        own = config[section] if section else config
        for key, odd in itertools.product(sorted({*own, *more}), ODD):
            changed = {**config, section: {**own, key: odd}} if section else {**config, key: odd}
            content = {"model_cfg": changed} if family == "open_clip" else changed
            (tmp_path / name).write_text(json.dumps(content))
            with pytest.raises((ValueError, FileNotFoundError)) as caught:
                load(family, tmp_path)
            assert str(tmp_path) in str(caught.value), (section, key, odd)
            assert "\n" not in str(caught.value), (section, key, odd)
            tried += 1
    assert tried > 500


@pytest.mark.parametrize("family", ["huggingface", "open_clip"])
def test_no_weight_of_a_shape_gets_further_than_a_refusal(tmp_path: Path, family: str) -> None:
    """Each weight of the first blocks and outside of blocks: left out, or of another shape."""
    folder = (hugging_face_folder if family == "huggingface" else open_clip_folder)(tmp_path)
    (file,) = folder.glob("*.safetensors")
    state = {name: t[:9].clone() if "token_embedding" in name else t for name, t in load_file(file).items()}
    torch.save(state, folder / "weights.pt")
    load(family, folder / "weights.pt")
    kinds = itertools.cycle((None, torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(2, 3, 4)))
    for name in [name for name in state if "layers.1" not in name and "resblocks.1" not in name]:
        changed = state | {name: bad} if (bad := next(kinds)) is not None else {k: state[k] for k in state if k != name}
        torch.save(changed, folder / "weights.pt")
        with pytest.raises(ValueError, match=str(tmp_path)):
            load(family, folder / "weights.pt")


@pytest.mark.parametrize("wrapping", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_a_training_wraps_round_its_weights(tmp_path: Path, wrapping: str, prefix: str) -> None:
    state = {"a": torch.ones(2), "b.model": torch.zeros(1)}
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    torch.save({wrapping: named, "epoch": 3, "optimizer": {"lr": 1.0}}, tmp_path / "w.pt")
    torch.save({"model": {wrapping: named}}, tmp_path / "twice.pt")
    save_file(named, tmp_path / "w.safetensors")
    for file in ("w.pt", "twice.pt", "w.safetensors"):
        assert set(read_state_dict(tmp_path / file)) == set(state)


def test_a_prefix_that_not_all_names_have_stays(tmp_path: Path) -> None:
    save_file({"model.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.safetensors")
    assert set(read_state_dict(tmp_path / "w.safetensors")) == {"model.a", "b"}


@pytest.mark.parametrize(
    "value", [[0.1, 0.2], "0.5", [0.1, 0.2, "0.3"], [0.1, 0.2, 1e9], [True, 0.1, 0.1], [0.0, 0.5, 0.5]]
)
def test_deviations_that_are_none(value: Any) -> None:
    with pytest.raises(ValueError, match="some: its config states image_std as"):
        channels(value, (1.0, 1.0, 1.0), "image_std", "some")


@pytest.mark.parametrize("family", ["huggingface", "open_clip"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"model_type": "clip", "n": 1e999'])
def test_configs_that_are_no_json(tmp_path: Path, family: str, content: bytes) -> None:
    folder = (open_clip_folder if family == "open_clip" else hugging_face_folder)(tmp_path)
    name = "open_clip_config.json" if family == "open_clip" else "config.json"
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load(family, folder)


def test_a_state_dict_is_not_openais_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Heads of width 32 and another activation leave no trace in the weights: what was taken is said and recorded."""
    save_file(tiny_state(), tmp_path / "w.safetensors")
    with caplog.at_level("INFO"):
        plain = load("ViT-B/16", tmp_path / "w.safetensors")
    assert (
        "is read with quick_gelu, heads of width 64, which its weights do not tell: MODEL.BACKBONE.ACT" in caplog.text
    )
    assert plain.source == "w.safetensors (as OpenAI's models: quick_gelu, heads of width 64)"
    stated = load("ViT-B/16", tmp_path / "w.safetensors", ACTIVATION="gelu", HEAD_WIDTH=32)
    images = torch.randn(4, 3, 32, 32)
    cosine = torch.cosine_similarity(plain.encode_image(images).pooled, stated.encode_image(images).pooled)
    assert cosine.max() < 0.99
    assert stated.source == "w.safetensors (as OpenAI's models: gelu, heads of width 32)"
    with pytest.raises(ValueError, match=r"width 128, which does not consist of heads of width 48: set MODEL.BACKB"):
        load("ViT-B/16", tmp_path / "w.safetensors", HEAD_WIDTH=48)
