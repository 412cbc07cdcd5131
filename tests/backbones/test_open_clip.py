"""Models of open_clip: the same features as that library's own, and what cannot be computed is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import OPEN_CLIP, TEXTS, draw, load, open_clip_folder, tiny_state
from safetensors.torch import save_file

from xcoop.backbones.clip_model import build_clip

SAME = {"atol": 1e-5, "rtol": 1e-5}
VIT = {"image_size": 32, "layers": 2, "width": 96, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None}
MODELS: dict[str, dict[str, Any]] = {
    "quick": {"quick_gelu": True, "vision_cfg": VIT | {"head_width": 32}, "text_cfg": TEXT},
    "gelu": {"vision_cfg": VIT | {"head_width": 48}, "text_cfg": TEXT},
    "ratio": {"vision_cfg": VIT | {"head_width": 24, "mlp_ratio": 2.5}, "text_cfg": TEXT | {"mlp_ratio": 3.0}},
    "scaled": {"vision_cfg": VIT | {"head_width": 32, "ls_init_value": 0.3}, "text_cfg": TEXT | {"ls_init_value": 0.2}},
    "no-norm": {
        "vision_cfg": VIT | {"head_width": 32, "no_ln_pre": True, "final_ln_after_pool": True},
        "text_cfg": TEXT,
    },
    "own-text": {
        "custom_text": True,
        "vision_cfg": VIT | {"head_width": 32},
        "text_cfg": TEXT | {"context_length": 20},
    },
    "norms": {
        "vision_cfg": VIT | {"head_width": 32, "norm_kwargs": {"eps": 1e-2}, "act_kwargs": {"approximate": "tanh"}},
        "text_cfg": TEXT | {"norm_kwargs": {"eps": 1e-3}, "pool_type": "eos", "eos_id": 49407},
        "nonscalar_logit_scale": True,
        "init_logit_bias": -10,
    },
    "sines": {
        "vision_cfg": VIT | {"head_width": 32, "pos_embed_type": "sin_cos_2d", "patch_dropout": 0.5},
        "text_cfg": TEXT,
    },
    "resnet": {"vision_cfg": RESNET | {"head_width": 32}, "text_cfg": TEXT},
}


@pytest.fixture(params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, Path]:
    """The library's model, ours, and the folder that ours is read from."""
    library = pytest.importorskip("open_clip")
    config = {"embed_dim": 40} | MODELS[request.param]
    kind = library.model.CustomTextCLIP if config.get("custom_text") else library.model.CLIP
    theirs = draw(kind(**{key: value for key, value in config.items() if key != "custom_text"}))
    state = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    return theirs, load("open_clip", open_clip_folder(tmp_path, config, state)), tmp_path


def test_features_are_the_librarys(pair: tuple[Any, Any, Path]) -> None:
    theirs, ours, _ = pair
    images = torch.randn(3, 3, ours.input_size, ours.input_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        text, image = theirs.encode_text(ours.tokenize(TEXTS)), theirs.encode_image(images)
    torch.testing.assert_close(ours.encode_text(TEXTS), text, **SAME)
    found = ours.encode_image(images, patches=True)
    torch.testing.assert_close(found.pooled, image, **SAME)
    assert found.patches.shape == (3, ours.grid[0] * ours.grid[1], 40)
    torch.testing.assert_close(ours.logit_scale, theirs.logit_scale.detach().reshape(()))


def test_prompts_get_the_librarys_gradients(pair: tuple[Any, Any, Path]) -> None:
    theirs, ours, _ = pair
    tokens = ours.tokenize(TEXTS)
    soft = ours.embed(tokens).requires_grad_()
    ours.encode_embeddings(soft, ours.end_positions(tokens)).square().sum().backward()
    seen: list[torch.Tensor] = []
    table = getattr(theirs, "text", theirs).token_embedding
    hook = table.register_forward_hook(lambda _, __, out: seen.append(out.detach().requires_grad_()) or seen[0])
    theirs.encode_text(tokens).square().sum().backward()
    hook.remove()
    assert soft.grad is not None
    torch.testing.assert_close(soft.grad, seen[0].grad, atol=1e-4, rtol=1e-4)


def test_its_tokenizer_is_ours(pair: tuple[Any, Any, Path]) -> None:
    _, ours, folder = pair
    library = pytest.importorskip("open_clip")
    words = [*TEXTS, "X-ray   of the LUNG: caf\u00e9 &amp; 3 mm", "a lesion's border."]
    theirs = library.get_tokenizer(f"local-dir:{folder}")(words)
    assert torch.equal(ours.tokenize(words), theirs)


# --- where a model comes from


def small_architecture(folder: Path) -> Any:
    """The library, which knows one more architecture, `Small`, and two tags of it."""
    library = pytest.importorskip("open_clip")
    (folder / "Small.json").write_text(json.dumps(OPEN_CLIP | {"quick_gelu": False}))
    library.add_model_config(folder / "Small.json")
    return library


def test_a_state_dict_of_a_named_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = small_architecture(tmp_path)
    save_file(tiny_state(), tmp_path / "weights.safetensors")
    found = load("open_clip", tmp_path / "weights.safetensors", SOURCE="Small")
    assert found.architecture.endswith("image tower with gelu; text tower with gelu")
    assert found.source == f"{tmp_path / 'weights.safetensors'} (Small)"
    tags = {
        "Small": {"quick": {"quick_gelu": True, "mean": (0.5, 0.5, 0.5), "file": str(tmp_path / "weights.safetensors")}}
    }
    monkeypatch.setattr(library.pretrained, "_PRETRAINED", tags)
    quick = load("open_clip", SOURCE="Small/quick")  # the tag says what its weights were trained with
    assert "tower with" not in quick.architecture
    assert (quick.pixel_mean, quick.source) == ((0.5, 0.5, 0.5), "Small/quick (weights.safetensors)")
    for source, says in (
        ("Small/quik", "Unknown tag of Small in open_clip 'quik'. Did you mean 'quick'"),
        ("Smal", "Unknown architecture of open_clip 'Smal'. Did you mean 'Small'"),
    ):
        with pytest.raises(ValueError, match=says):
            load("open_clip", tmp_path / "weights.safetensors", SOURCE=source)
    with pytest.raises(ValueError, match=r"set MODEL.BACKBONE.PATH to its weights, or name a tag .* \(known: quick\)"):
        load("open_clip", SOURCE="Small")


def test_a_tag_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = small_architecture(tmp_path)
    monkeypatch.setattr(library.pretrained, "_PRETRAINED", {"Small": {"far": {"url": "http://127.0.0.1:9/x.pt"}}})
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"weights of Small/far cannot be fetched .*BACKBONE.PATH to the file"):
        load("open_clip", SOURCE="Small/far")


def test_weights_alone_do_not_tell(tmp_path: Path) -> None:
    save_file(tiny_state(), tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no open_clip_config.json .* set MODEL.BACKBONE.SOURCE to their arch"):
        load("open_clip", tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"set MODEL.BACKBONE.PATH to a model's folder or weights"):
        load("open_clip")


def test_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder, asked = open_clip_folder(tmp_path / "fedcba9876543210"), []

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        if local_files_only:
            raise OSError("not in the cache")
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert load("open_clip", SOURCE="hf-hub:nobody/clip").source == "hf-hub:nobody/clip at fedcba987654"
    assert asked[-1] == ("nobody/clip", False)


def test_a_folder_made_by_hand_is_openais_model(tmp_path: Path) -> None:
    """Without the library: the config alone."""
    backbone = load("open_clip", open_clip_folder(tmp_path, mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3]))
    expected, images = build_clip(tiny_state(), "test"), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.encode_image(images).pooled, expected.encode_image(images), **SAME)
    assert (backbone.pixel_mean, backbone.pixel_std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


# --- what is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"multimodal_cfg": {"width": 64}}, "multimodal_cfg .*not known here"),
        ({"embed_dim": 64}, r"joint 64 \(the weights: 48\)"),
        ({"quick_gelu": "yes"}, "quick_gelu as 'yes'"),
        ({"vision_cfg": {"attentional_pool": True}}, "vision_cfg.attentional_pool True, which cannot be computed"),
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type 'avg'"),
        ({"vision_cfg": {"qk_norm": True}}, "vision_cfg.qk_norm True"),
        ({"vision_cfg": {"rope": 100}}, "vision_cfg.rope 100, which is not known here"),
        ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "timm's 'convnext_base'"),
        ({"vision_cfg": {"timm_model_name": "vit_base_patch16_224"}}, "vit_base_patch16_224 pools by 'avg'"),
        ({"vision_cfg": {"timm_model_name": ["x"]}}, "timm_model_name as .*it must be a name"),
        ({"vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_pool": 3}}, "timm's pool and projection as"),
        ({"vision_cfg": {"layers": 3}}, r"layers 3 \(the weights: 2\)"),
        ({"vision_cfg": {"image_size": [32, 64]}}, r"image_size as \[32, 64\]"),
        ({"vision_cfg": {"image_size": 40}}, r"grid 5 \(the weights: 4\)"),
        ({"vision_cfg": {"image_size": 36}}, "images of 36 pixels, its weights 32"),
        ({"vision_cfg": {"head_width": 256}}, "heads of width 256 in an image tower of width 128"),
        ({"vision_cfg": {"norm_kwargs": {"bias": 1}}}, "norm_kwargs as"),
        ({"vision_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "act_kwargs as"),  # of a QuickGELU
        ({"text_cfg": {"no_causal_mask": True}}, "text_cfg.no_causal_mask True"),
        ({"text_cfg": {"embed_cls": True}}, "text_cfg.embed_cls True"),
        ({"text_cfg": {"pool_type": "last"}}, "text_cfg.pool_type 'last'"),
        ({"text_cfg": {"pool_type": "eos", "eos_id": 2}}, "texts end with the token 2"),
        ({"text_cfg": {"proj_bias": True}}, "text_cfg.proj_bias True"),
        ({"text_cfg": {"hf_tokenizer_name": "bert-base-uncased"}}, "text_cfg.hf_tokenizer_name 'bert-base-uncased'"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}, "text_cfg.tokenizer_kwargs"),
        ({"text_cfg": {"vocab_size": 32000}}, "vocabulary has 32000 tokens"),
        ({"text_cfg": {"context_length": 64}}, r"context_length 64 \(the weights: 77\)"),
        ({"text_cfg": {"hf_model_name": "roberta-base", "hf_pooler_type": "mean_pooler"}}, "roberta-base"),
        ({"text_cfg": None}, "must have text_cfg, with names and values"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    config = dict(OPEN_CLIP)
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        load("open_clip", open_clip_folder(tmp_path, config))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_of_its_architectures_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    """Without weights: what is not refused for its config asks for them."""
    library = pytest.importorskip("open_clip")
    read, refused = set(), set()
    for name in library.list_models():
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            load("open_clip", tmp_path, SOURCE=name)
        assert "\n" not in str(caught.value), name
        (read if "no weights in" in str(caught.value) else refused).add(name)
    assert {"RN50", "ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "ViT-bigG-14", "ViT-B-16-plus-240"} <= read
    assert {"coca_base", "convnext_base", "ViT-B-16-SigLIP", "EVA02-B-16", "PE-Core-B-16"} <= refused
