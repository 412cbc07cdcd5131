"""Every registered backbone keeps the interface's promises."""

from __future__ import annotations

import copy
import string

import pytest
import torch
from helpers_biomed import build, load
from helpers_clip import tiny_clip_state
from helpers_families import HUGGING_FACE, OPEN_CLIP, hugging_face_folder, open_clip_folder, tiny_state
from safetensors.torch import save_file
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, backbone_names, base, load_backbone
from xcoop.backbones.openai import NAMES
from xcoop.backbones.presets import presets

# Each backbone must be listed here, with the kind of small random weights that stand for the real ones.
KINDS = {name: "resnet" if name.startswith("RN") else "vit" for name in NAMES} | {"phantom": "vit"}
KINDS |= {"huggingface": "huggingface", "open_clip": "open_clip"}
GELU = HUGGING_FACE | {"text_config": HUGGING_FACE["text_config"] | {"hidden_act": "gelu"}}
NARROW = OPEN_CLIP | {"quick_gelu": False, "vision_cfg": OPEN_CLIP["vision_cfg"] | {"head_width": 32}}
TEXTS = ["a nevus", "a melanoma with irregular streaks", "x"]


def make_cfg(name, path=""):
    return CfgNode({"MODEL": {"BACKBONE": {"NAME": name, "PATH": str(path)}}})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    paths = {}
    for kind in ("vit", "resnet"):
        paths[kind] = folder / f"{kind}.safetensors"
        save_file({name: value.contiguous() for name, value in tiny_clip_state(5, kind).items()}, paths[kind])
    paths["huggingface"] = hugging_face_folder(folder / "huggingface", GELU, tiny_state(5))
    paths["open_clip"] = open_clip_folder(folder / "open_clip", NARROW, tiny_state(5))
    return paths


@pytest.fixture(scope="module", params=["RN50", "ViT-B/16", "phantom", "huggingface", "open_clip", "biomedclip"])
def backbone(request, files, tmp_path_factory):
    if request.param == "biomedclip":  # of open_clip too, with a BERT and a trunk of timm
        return load(build(tmp_path_factory.mktemp("biomed") / "small", length=40).folder)
    return load_backbone(make_cfg(request.param, files[KINDS[request.param]]))


@pytest.fixture
def images(backbone):
    size = backbone.input_size
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_every_backbone_is_listed_and_loads(files):
    assert {*KINDS, *presets(), "huggingface", "open_clip", "pmc_clip"} == set(
        backbone_names()
    )  # these have tests of their own
    for name, kind in KINDS.items():
        backbone = load_backbone(make_cfg(name, files[kind]))
        assert (backbone.name, backbone.is_vit) == (name, kind != "resnet")


def test_handed_out_frozen_in_fp32_in_evaluation_mode(backbone):
    assert isinstance(backbone, Backbone)
    assert backbone.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert {value.dtype for value in backbone.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert not any(module.training for module in backbone.train().modules())


def test_metadata(backbone):
    assert len(backbone.pixel_mean) == len(backbone.pixel_std) == 3
    assert all(0 < value < 1 for value in (*backbone.pixel_mean, *backbone.pixel_std))
    assert backbone.family
    assert backbone.logit_scale.shape == ()
    assert all(isinstance(side, int) and side > 0 for side in backbone.grid)


def test_tokens(backbone):
    tokens = backbone.tokenize(TEXTS)
    assert tokens.shape == (3, backbone.context_length)
    assert tokens.dtype == torch.int64
    ends = backbone.end_positions(tokens)
    assert ends.dtype == torch.int64
    assert ends.tolist() == [backbone.count_tokens(text) - 1 for text in TEXTS]
    assert torch.equal(backbone.tokenize(TEXTS[0]), tokens[:1])
    words = backbone.decode(tokens[1, 1 : ends[1]])
    assert " ".join(words) == TEXTS[1]
    assert backbone.decode(tokens[1, 1 : ends[1]].tolist()) == words


def test_a_text_that_is_too_long_is_named_not_cut(backbone):
    letters = " ".join(string.ascii_lowercase * 20)
    fits = letters[: 2 * (backbone.context_length - 2) - 1]
    assert backbone.count_tokens(fits) == backbone.context_length
    backbone.tokenize([fits])
    with pytest.raises(ValueError, match=f"{backbone.context_length + 1} tokens.*takes.*a b c d"):
        backbone.tokenize(["short", fits + " z"])


def test_text_shapes_and_gradient(backbone):
    tokens = backbone.tokenize(TEXTS)
    embeddings = backbone.embed(tokens).detach().requires_grad_(True)
    assert embeddings.shape == (3, backbone.context_length, backbone.text_width)
    features = backbone.encode_embeddings(embeddings, backbone.end_positions(tokens))
    assert features.shape == (3, backbone.embed_dim)
    torch.testing.assert_close(features, backbone.encode_text(TEXTS))
    features.square().sum().backward()
    assert torch.isfinite(embeddings.grad).all()
    for row, end in zip(embeddings.grad, backbone.end_positions(tokens), strict=True):
        assert (row[: end + 1].abs().sum(-1) > 0).all()


def test_image_shapes(backbone, images):
    rows, columns = backbone.grid
    features = backbone.encode_image(images, patches=True)
    assert isinstance(features, ImageFeatures)
    assert features.pooled.shape == (4, backbone.embed_dim)
    assert features.patches.shape == (4, rows * columns, backbone.embed_dim)
    bare = backbone.encode_image(images)
    assert bare.patches.shape == (4, 0, backbone.embed_dim)
    torch.testing.assert_close(bare.pooled, features.pooled)


def test_images_of_another_size_are_refused(backbone):
    with pytest.raises(ValueError, match=f"set INPUT.SIZE to .{backbone.input_size}"):
        backbone.encode_image(torch.zeros(1, 3, 16, 16))


def test_features_do_not_depend_on_the_batch(backbone, images):
    whole = backbone.encode_image(images, patches=True)
    for index in range(len(images)):
        alone = backbone.encode_image(images[index : index + 1], patches=True)
        torch.testing.assert_close(alone.pooled[0], whole.pooled[index], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.patches[0], whole.patches[index], atol=1e-5, rtol=1e-4)
    together = backbone.encode_text(TEXTS)
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(backbone.encode_text([text])[0], together[index], atol=1e-5, rtol=1e-4)


def test_norms_or_a_refusal(backbone):
    if KINDS[backbone.name] == "resnet":
        with pytest.raises(ValueError, match=f"{backbone.name} has a ResNet"):
            backbone.image_norms()
        return
    own = {id(parameter) for parameter in backbone.parameters()}
    assert backbone.image_norms()
    assert all(id(norm) in own for norm in backbone.image_norms())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backbone, images, dtype):
    half = copy.deepcopy(backbone).to(dtype)
    assert half.dtype == dtype
    if KINDS[backbone.name] == "resnet" and not pools(dtype):
        pytest.skip(f"this PyTorch cannot pool in {dtype} on a CPU")
    features, text = half.encode_image(images, patches=True), half.encode_text(TEXTS)
    assert features.pooled.dtype == features.patches.dtype == text.dtype == dtype
    exact = backbone.encode_image(images, patches=True)
    for found, expected in (
        (features.pooled, exact.pooled),
        (features.patches, exact.patches),
        (text, backbone.encode_text(TEXTS)),
    ):
        assert cosine(found.float(), expected).min() > 0.999
    assert half.float().dtype == torch.float32


def pools(dtype):
    try:
        torch.nn.functional.avg_pool2d(torch.zeros(1, 1, 2, 2, dtype=dtype), 2)
    except RuntimeError:  # PyTorch 2.2, fp16
        return False
    return True


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(one, other, dim=-1)


def test_autocast(backbone, images):
    with torch.autocast("cpu", torch.bfloat16):
        features, text = backbone.encode_image(images, patches=True), backbone.encode_text(TEXTS)
    assert cosine(features.pooled.float(), backbone.encode_image(images).pooled).min() > 0.999
    assert cosine(text.float(), backbone.encode_text(TEXTS)).min() > 0.999


def test_fingerprint(backbone):
    other = copy.deepcopy(backbone)
    original = backbone.fingerprint()
    assert len(original) == 64
    assert other.fingerprint() == original == backbone.fingerprint()
    weight = list(other.parameters())[-1].view(-1)
    with torch.no_grad():
        weight[0] += 1e-3
    changed = other.fingerprint()
    assert changed != original
    other.load_state_dict(backbone.state_dict())
    assert other.fingerprint() == original


def test_loading_draws_no_random_numbers(files):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_backbone(make_cfg("phantom", files["vit"]))
    assert torch.equal(torch.rand(3), expected)


def test_the_shipped_phantom_needs_no_path():
    backbone = load_backbone(make_cfg("phantom"))
    assert backbone.encode_text("a nevus").isfinite().all()
    size = backbone.input_size
    assert backbone.encode_image(torch.zeros(1, 3, size, size), patches=True).patches.isfinite().all()


# --- the registry itself


def test_a_config_without_our_keys_will_do(files, monkeypatch):
    monkeypatch.setattr("xcoop.backbones.openai.fetch_openai", lambda name: files[KINDS[name]])
    backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "RN50"}}}))
    assert backbone.name == "RN50"


@pytest.mark.parametrize(("name", "near"), [("vit_b16", "ViT-B/16"), ("ViT-B16", "ViT-B/16"), ("fantom", "phantom")])
def test_unknown_names_get_the_nearest(name, near):
    with pytest.raises(ValueError, match=rf"Unknown backbone '{name}'. Did you mean '{near}'"):
        load_backbone(make_cfg(name))


def test_a_name_is_registered_once(monkeypatch):
    monkeypatch.setattr(base, "_registered", dict(base._registered))

    @base.register_backbone("mine")
    def load_mine(name, path):
        raise AssertionError

    assert "mine" in backbone_names()
    with pytest.raises(KeyError, match="'mine' is registered twice"):
        base.register_backbone("yours", "mine")(load_mine)
    assert "yours" not in backbone_names()
