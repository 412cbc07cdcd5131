"""CLIPs of transformers: the same features as that library's own, and no folder taken for what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import HUGGING_FACE, TEXTS, draw, hugging_face_folder, hugging_face_names, load, tiny_state
from torch import Tensor

from xcoop.backbones.clip_model import build_clip, import_clip

ODD: dict[str, Any] = {  # heads, activations, eps and MLPs unlike OpenAI's, and unlike each other
    "projection_dim": 40,
    "text_config": {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "hidden_act": "gelu", "layer_norm_eps": 1e-3, "max_position_embeddings": 20, "projection_dim": 40,
    },
    "vision_config": {
        "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": 40, "patch_size": 8, "hidden_act": "gelu_new", "layer_norm_eps": 1e-2, "projection_dim": 40,
    },
}  # fmt: skip
SAME = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers")
    return draw(transformers.CLIPModel(transformers.CLIPConfig(**ODD)))


@pytest.fixture(scope="module")
def folder(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 0.5, 1]})
    )
    return path


def pooled(output: Any) -> Tensor:
    """Features of transformers, whose releases wrap them or do not."""
    return output if isinstance(output, Tensor) else output.pooler_output


def test_features_are_the_librarys(theirs: Any, folder: Path) -> None:
    backbone = load("huggingface", folder)
    tokens, images = backbone.tokenize(TEXTS), torch.randn(3, 3, 40, 40)
    with torch.no_grad():
        text, image = pooled(theirs.get_text_features(tokens)), pooled(theirs.get_image_features(images))
    torch.testing.assert_close(backbone.encode_text(TEXTS), text, **SAME)
    torch.testing.assert_close(backbone.encode_image(images, patches=True).pooled, image, **SAME)
    assert torch.equal(backbone.logit_scale, theirs.logit_scale)


def test_prompts_get_the_librarys_gradients(theirs: Any, folder: Path) -> None:
    backbone = load("huggingface", folder)
    tokens = backbone.tokenize(TEXTS)
    ends, soft = backbone.end_positions(tokens), backbone.embed(tokens).requires_grad_()
    backbone.encode_embeddings(soft, ends).square().sum().backward()
    table = theirs.text_model.embeddings.token_embedding
    seen: list[Tensor] = []
    hook = table.register_forward_hook(lambda _, __, out: seen.append(out.detach().requires_grad_()) or seen[0])
    pooled(theirs.get_text_features(tokens)).square().sum().backward()
    hook.remove()
    assert soft.grad is not None
    torch.testing.assert_close(soft.grad, seen[0].grad, atol=1e-4, rtol=1e-4)


def test_what_the_folder_says_is_known_of_the_backbone(folder: Path) -> None:
    backbone = load("huggingface", folder)
    assert (backbone.input_size, backbone.grid, backbone.context_length) == (40, (5, 5), 20)
    assert (backbone.pixel_mean, backbone.pixel_std) == ((0.1, 0.2, 0.3), (1.0, 0.5, 1.0))
    assert backbone.architecture == (
        "ViT of 3 layers, width 96, patch 8, 40 pixels; text of 2 layers, width 48, 20 tokens; joint width 40; "
        "image tower with gelu_tanh, 3 heads of width 32, layer norms of eps 0.01, MLPs of width 200; "
        "text tower with gelu, 4 heads of width 12, layer norms of eps 0.001, MLPs of width 80"
    )
    assert str(folder) in backbone.source
    assert backbone.held_in(torch.bfloat16).pixel_mean == backbone.pixel_mean


@pytest.mark.parametrize("form", ["parts", "bin", "file"])
def test_other_forms_of_weights(theirs: Any, folder: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    path = tmp_path
    if form == "parts":
        theirs.save_pretrained(tmp_path, max_shard_size="2MB")
        assert not (tmp_path / "model.safetensors").exists()
    else:
        path = tmp_path / ("pytorch_model.bin" if form == "bin" else "mine.pt")
        counted = {"text_model.embeddings.position_ids": torch.arange(20)[None]}  # of older releases
        torch.save({"model": {f"module.{name}": t for name, t in (theirs.state_dict() | counted).items()}}, path)
        path = path if form == "file" else tmp_path
    found = load("huggingface", path)
    assert found.fingerprint() == load("huggingface", folder).fingerprint()


def test_a_folder_made_by_hand_is_openais_model(tmp_path: Path) -> None:
    """Without the library: renaming alone."""
    backbone = load("huggingface", hugging_face_folder(tmp_path))
    expected = build_clip(tiny_state(), "test")
    images, tokens = torch.randn(2, 3, 32, 32), import_clip().tokenize(TEXTS)
    torch.testing.assert_close(backbone.encode_image(images).pooled, expected.encode_image(images), **SAME)
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected.encode_text(tokens), **SAME)
    assert "tower with" not in backbone.architecture


def test_an_activation_of_ones_own(tmp_path: Path) -> None:
    hugging_face_folder(tmp_path)
    plain, stated = load("huggingface", tmp_path), load("huggingface", tmp_path, ACTIVATION="gelu", HEAD_WIDTH=32)
    assert "gelu, 4 heads of width 32; text tower with gelu, 2 heads of width 32" in stated.architecture
    assert plain.fingerprint() != stated.fingerprint()  # else features of one would be taken for the other's


# --- what is refused


def change(**parts: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(HUGGING_FACE))
    for key, value in parts.items():
        if key in ("text", "vision"):
            config[f"{key}_config"].update(value)
        else:
            config[key] = value
    return config


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (change(model_type="blip"), r"of the kind 'blip'; read are 'clip' and 'siglip'"),
        (change(model_type=None), "of the kind None"),
        (change(text={"hidden_act": "relu"}), "hidden_act. Unknown activation 'relu'"),
        (change(text={"hidden_size": 128}), r"other sizes .*text_width 128 \(the weights: 64\)"),
        (change(vision={"image_size": 64}), r"grid 8 \(the weights: 4\)"),
        (change(vision={"num_hidden_layers": 12}), r"layers 12 \(the weights: 2\)"),
        (change(text={"max_position_embeddings": 1 << 60}), "max_position_embeddings as 1152921504606846976; it must"),
        (
            change(vision={"num_attention_heads": 7}),
            "image tower has width 128, .* 7 heads: set MODEL.BACKBONE.HEAD_WI",
        ),
        (change(vision={"num_attention_heads": True}), "num_attention_heads as True"),
        (change(vision={"layer_norm_eps": "1e-5"}), "layer_norm_eps as '1e-5'"),
        (change(text={"vocab_size": 30522}), "vocabulary has 30522 tokens"),
        (change(text={"eos_token_id": 3}), "end with the token 3"),
        (change(vision_config=[1]), "vision_config as .*names and values"),
        ([1], "must hold names and values"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, config: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load("huggingface", hugging_face_folder(tmp_path, config))
    assert str(tmp_path) in str(caught.value)


def test_texts_of_older_configs_end_with_the_highest_id(tmp_path: Path) -> None:
    old = hugging_face_folder(tmp_path / "old", change(text={"eos_token_id": 2}))
    assert torch.equal(load("huggingface", old).tokenize("x").argmax(-1), torch.tensor([2]))


@pytest.mark.parametrize(
    ("first", "second"),
    [("gelu", None), ("gelu", {}), ("quick_gelu", {"hidden_act": "gelu"}), ("gelu", {"hidden_act": "gelu_new"})],
)
def test_a_second_section_counts_as_the_library_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, second: dict[str, Any] | None
) -> None:
    sizes = HUGGING_FACE["text_config"]
    config = change(text={"hidden_act": first}, text_config_dict=second if second is None else sizes | second)
    hugging_face_folder(tmp_path, config)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPConfig.from_pretrained(tmp_path).text_config.hidden_act
    ours = load("huggingface", tmp_path).architecture.partition("text tower with ")[2] or "quick_gelu"
    assert ours == {"gelu_new": "gelu_tanh"}.get(theirs, theirs)
    assert ("text_config states the activation" in caplog.text) == (theirs != first)


@pytest.mark.parametrize(
    ("missing", "says"), [("config.json", "no config.json in"), ("model.safetensors", "no weights in")]
)
def test_missing_files_are_named(tmp_path: Path, missing: str, says: str) -> None:
    hugging_face_folder(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=says):
        load("huggingface", tmp_path)


def test_nothing_to_load_is_said() -> None:
    with pytest.raises(ValueError, match=r"set MODEL.BACKBONE.PATH to a model's folder, or MODEL.BACKBONE.SOURCE"):
        load("huggingface")
    with pytest.raises(FileNotFoundError, match="there is no /nowhere"):
        load("huggingface", "/nowhere")


def test_weights_that_lack_something_are_named(tmp_path: Path) -> None:
    state = hugging_face_names(tiny_state())
    hugging_face_folder(tmp_path)
    torch.save({k: v for k, v in state.items() if "layers.1.self_attn.k_proj" not in k}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="in_proj_weight"):
        load("huggingface", tmp_path / "weights.pt")


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    hugging_face_folder(tmp_path)
    own = dict(import_clip().clip._tokenizer.encoder)
    (tmp_path / "vocab.json").write_text(json.dumps(own))
    load("huggingface", tmp_path)
    own["a</w>"], own["b</w>"] = own["b</w>"], own["a</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="another vocabulary than CLIP's own"):
        load("huggingface", tmp_path)


def test_a_name_that_is_neither_here_nor_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[bool] = []

    def offline(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert (name, "config.json" in allow_patterns or "*.json" in allow_patterns) == ("nobody/clip", True)
        asked.append(local_files_only)
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ConnectionError, match=r"nobody/clip cannot be fetched \(no route to the hub\).*BACKBONE.PATH"):
        load("huggingface", SOURCE="nobody/clip")
    assert asked == [True, True, False, False]  # the cache first


def test_a_name_in_the_hubs_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = hugging_face_folder(tmp_path / "0123456789abcdef")

    def cached(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert local_files_only
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", cached)
    assert load("huggingface", SOURCE="nobody/clip").source == "nobody/clip at 0123456789ab"
