"""A SigLIP computes what transformers does, and works like any other backbone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import load
from helpers_siglip import LENGTH, SIDE, build
from torch import Tensor

from xcoop.explain import maps
from xcoop.explain.maps import concept_target, explain_maps, explainers
from xcoop.explain.tower import trace
from xcoop.methods.alignment import unit
from xcoop.methods.prompts import PromptLearner, context_from_words

TEXTS = ["a photo of a nevus", "The dark skin-lesion, with a bright spot.", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("siglip") / "small"


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """The library's model."""
    return build(folder)


@pytest.fixture(scope="module")
def backbone(theirs: Any, folder: Path) -> Any:
    """Ours, of its folder. Shared: whoever changes it takes a copy."""
    return load("huggingface", folder)


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def library_tokens(folder: Path, texts: list[str]) -> Tensor:
    """As transformers' own tokenizer gives them."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    ids: Tensor = tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    return ids


def pooled(output: Any) -> Tensor:
    """Features of transformers, whose releases wrap them or do not."""
    return output if isinstance(output, Tensor) else output.pooler_output


@torch.no_grad()
def test_features_are_the_librarys(theirs: Any, backbone: Any, folder: Path) -> None:
    tokens, images = library_tokens(folder, TEXTS), drawn(3, 3, SIDE, SIDE)
    assert torch.equal(backbone.tokenize(TEXTS)[:, 1:], tokens)
    wanted = pooled(theirs.get_text_features(tokens))
    torch.testing.assert_close(backbone.encode_text(TEXTS), wanted, atol=1e-5, rtol=0)
    wanted = pooled(theirs.get_image_features(images))
    torch.testing.assert_close(backbone.encode_image(images).pooled, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.encode_image(images, patches=True).pooled, wanted, atol=1e-5, rtol=0)
    assert torch.equal(backbone.logit_scale, theirs.logit_scale[0])


@torch.no_grad()
def test_the_bias_of_the_logits_cancels_in_a_softmax(theirs: Any, backbone: Any, folder: Path) -> None:
    images = drawn(3, 3, SIDE, SIDE)
    wanted = theirs(input_ids=library_tokens(folder, TEXTS), pixel_values=images).logits_per_image
    cosines = unit(backbone.encode_image(images).pooled) @ unit(backbone.encode_text(TEXTS)).T
    torch.testing.assert_close((backbone.logit_scale.exp() * cosines).softmax(1), wanted.softmax(1))
    torch.testing.assert_close(backbone.logit_scale.exp() * cosines - 7, wanted)


def test_soft_prompts_get_the_gradients_of_the_library(theirs: Any, backbone: Any, folder: Path) -> None:
    """They are the first tokens: a text has no start token."""
    context, tokens = drawn(4, 40).requires_grad_(), library_tokens(folder, ["dark dark dark dark dark nevus"])
    table = theirs.text_model.embeddings.token_embedding
    hook = table.register_forward_hook(lambda _, __, out: torch.cat([context[None], out[:, 4:]], dim=1))
    (wanted,) = torch.autograd.grad(pooled(theirs.get_text_features(tokens)).square().sum(), context)
    hook.remove()
    learner = PromptLearner(backbone, ["dark_nevus"], context)
    backbone.encode_embeddings(*learner()).square().sum().backward()
    assert wanted.abs().amax(dim=1).min() > 1e-3
    torch.testing.assert_close(learner.ctx.grad, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_missing_behind_the_end_is_padding_which_is_seen(backbone: Any) -> None:
    """All up to the end changes the feature, but for the unseen place; what is given behind the end does not."""
    tokens = backbone.tokenize([TEXTS[0]])
    embeddings, end = backbone.embed(tokens), backbone.end_positions(tokens)
    assert backbone.pieces.padding == backbone.pieces.end
    plain, last = backbone.encode_embeddings(embeddings, end), int(end)
    assert last == backbone.count_tokens(TEXTS[0]) - 1
    for place in range(embeddings.shape[1]):
        other = embeddings.clone()
        other[:, place] += drawn(40)
        changed = backbone.encode_embeddings(other, end)
        assert torch.equal(changed, plain) == (place == 0 or place > last), place
    torch.testing.assert_close(backbone.encode_embeddings(embeddings[:, : last + 1], end), plain)
    padded = copy.deepcopy(backbone)
    padded.model.token_embedding.weight[backbone.pieces.padding] += drawn(40)
    assert not torch.allclose(padded.encode_embeddings(embeddings, end), plain, atol=1e-2)


@torch.no_grad()
def test_a_text_is_the_same_beside_longer_ones(backbone: Any) -> None:
    alone = torch.cat([backbone.encode_text(text) for text in TEXTS])
    torch.testing.assert_close(backbone.encode_text(TEXTS), alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="do not lie within 4 embeddings"):
        backbone.encode_embeddings(torch.zeros(1, 4, 40), torch.tensor([4]))
    with pytest.raises(ValueError, match=r"tokens, but huggingface takes 33: "):
        backbone.tokenize("dark " * 32)
    backbone.tokenize("dark " * 31)


@torch.no_grad()
def test_prompts_of_later_blocks_stand_in_the_place_of_the_context(theirs: Any, backbone: Any, folder: Path) -> None:
    """Stated anew, with the library's own layers."""
    tokens, prompts, text = library_tokens(folder, TEXTS[:2]), drawn(1, 3, 40), theirs.text_model
    x = text.encoder.layers[0](text.embeddings(tokens), None)
    x[:, :3] = prompts[0]
    wanted = text.head(text.final_layer_norm(text.encoder.layers[1](x, None))[:, -1])
    ids = backbone.tokenize(TEXTS[:2])
    found = backbone.encode_embeddings(backbone.embed(ids), backbone.end_positions(ids), prompts)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@torch.no_grad()
def test_a_context_of_words_is_as_the_sentence(backbone: Any, position: str) -> None:
    context = context_from_words(backbone, "a photo of")
    learner = PromptLearner(backbone, ["nevus", "dark_spot"], context, position)
    n, names = len(context), ("nevus", "dark spot")
    pieces = [backbone.tokenize(text)[0, 1 : backbone.count_tokens(text) - 1] for text in ("a photo of", *names)]
    for row, own in enumerate(pieces[1:]):
        before = {"end": n, "middle": n // 2, "front": 0}[position]
        ids = torch.cat([own.new_zeros(1), pieces[0][:before], own, pieces[0][before:], own.new_ones(1)])[None]
        wanted = backbone.encode_embeddings(backbone.embed(ids), torch.tensor([ids.shape[1] - 1]))
        torch.testing.assert_close(backbone.encode_embeddings(*learner())[row : row + 1], wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_patch_that_has_all_the_attention_is_the_feature(backbone: Any) -> None:
    images = drawn(2, 3, SIDE, SIDE)
    seen = backbone.encode_image(images, patches=True)
    assert seen.patches.shape == (2, 16, 48)
    assert backbone.encode_image(images).patches.shape == (2, 0, 48)
    tokens = drawn(2, 16, 48)
    pooled = backbone.model.visual.projected(tokens[:, 5:6], patches=False).pooled
    torch.testing.assert_close(pooled, backbone.model.visual.projected(tokens, patches=True).patches[:, 5])


@torch.no_grad()
def test_inside_the_image_tower(backbone: Any) -> None:
    images = drawn(2, 3, SIDE, SIDE)
    norms = backbone.image_norms()
    assert len(norms) == 12
    assert {id(parameter) for parameter in norms} <= set(map(id, backbone.model.visual.transformer.parameters()))
    seen = trace(backbone, images)
    torch.testing.assert_close(seen.features.pooled, backbone.encode_image(images).pooled, atol=1e-5, rtol=0)
    assert seen.attention[0].probs.shape == (2, 3, 16, 16)
    assert seen.pool is not None
    assert seen.pool.probs.shape == (2, 3, 1, 16)
    prompted = backbone.with_prompts(drawn(2, 2, 48))
    assert not torch.allclose(prompted.encode_image(images).pooled, backbone.encode_image(images).pooled, atol=1e-3)
    torch.testing.assert_close(trace(prompted, images).features.pooled, prompted.encode_image(images).pooled)


@pytest.mark.parametrize("name", sorted(name for name, one in explainers().items() if "vit" in one.towers))
def test_every_heat_map_looks_into_it(name: str, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MASKS", 8)  # each of them is a pass
    vector = unit(backbone.encode_text("nevus"))[0]
    target, images = concept_target("nevus", vector, 10.0), drawn(2, 3, SIDE, SIDE)
    found = explain_maps(name, backbone, images, target)
    assert found.shape == (2, 4, 4)
    assert found.isfinite().all()
    assert (found.flatten(1).std(dim=1) > 0).all()
    if name not in ("rise", "occlusion"):
        with_prompts = explain_maps(name, backbone.with_prompts(drawn(1, 2, 48)), images, target)
        assert not torch.allclose(with_prompts, found)


@torch.no_grad()
def test_in_16_bit_norms_stay_in_fp32_and_held_weights_give_the_same_numbers(backbone: Any) -> None:
    half, images = copy.deepcopy(backbone).half(), drawn(2, 3, SIDE, SIDE)
    visual = half.model.visual
    assert all(norm.weight.dtype == torch.float32 for norm in (half.model.ln_final, visual.ln_post, visual.pool.ln))
    assert half.encode_text(TEXTS).dtype == half.encode_image(images).pooled.dtype == torch.float16
    torch.testing.assert_close(half.encode_text(TEXTS).float(), backbone.encode_text(TEXTS), atol=0.02, rtol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        held = backbone.held_in(torch.bfloat16)
        assert torch.equal(held.encode_text(TEXTS), backbone.encode_text(TEXTS))
        assert torch.equal(held.encode_image(images).pooled, backbone.encode_image(images).pooled)


def test_what_the_folder_says_is_known_of_the_backbone(backbone: Any, folder: Path) -> None:
    assert (backbone.input_size, backbone.grid, backbone.embed_dim, backbone.text_width) == (SIDE, (4, 4), 48, 40)
    assert (backbone.pixel_mean, backbone.pixel_std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert backbone.architecture == (
        "ViT of 3 layers, width 48, patch 8, 32 pixels; text of 2 layers, width 40, 32 tokens; joint width 48; image "
        "tower with gelu, 3 heads of width 16, layer norms of eps 1e-06, MLPs of width 100; text tower with a SigLIP, "
        "gelu_tanh, 5 heads of width 8, layer norms of eps 0.001, MLPs of width 72, pool last"
    )
    words, ids = backbone.vocabulary()
    assert "photo" in words
    assert backbone.decode(ids) == words
    assert all(backbone.count_tokens(word) == 3 for word in (*words, backbone.placeholder))


def test_a_tokenizer_json_cuts_alike(backbone: Any, tmp_path: Path) -> None:
    build(tmp_path / "whole", tokenizer="tokenizer.json")
    assert torch.equal(load("huggingface", tmp_path / "whole").tokenize(TEXTS), backbone.tokenize(TEXTS))


def copied(folder: Path, to: Path, **files: Any) -> Path:
    """A copy of a folder with some JSON files changed, or without a file where None is said."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    for name, change in files.items():
        file = next(file for file in to.iterdir() if file.stem == name)
        if change is None:
            file.unlink()
        else:
            content = json.loads(file.read_text())
            for key, value in change.items():
                content[key] = {**content[key], **value} if isinstance(value, dict) else value
            file.write_text(json.dumps(content))
    return to


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config": {"vision_config": {"vision_use_head": False}}}, "vision_use_head False: nothing pools"),
        ({"config": {"vision_config": {"image_size": 40}}}, r"grid 5 \(the weights: 4\)"),
        ({"config": {"text_config": {"projection_size": 40}}}, r"joint 40 \(the weights: 48\)"),
        ({"config": {"text_config": {"max_position_embeddings": 64}}}, r"context_length 64 \(the weights: 32\)"),
        ({"config": {"vision_config": {"num_attention_heads": 5}}}, "image tower has width 48, .* 5 heads"),
        ({"config": {"text_config": {"hidden_act": "relu"}}}, "Unknown activation 'relu'"),
        ({"tokenizer_config": {"tokenizer_class": "GemmaTokenizer"}}, "tokenizer_class is 'GemmaTokenizer'"),
        ({"tokenizer_config": {"pad_token": "[PAD]"}}, r"its pad_token, '\[PAD\]', is none of its pieces"),
    ],
)
def test_what_does_not_fit_is_refused(
    theirs: Any, folder: Path, tmp_path: Path, files: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load("huggingface", copied(folder, tmp_path / "changed", **files))
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_that_is_missing_or_broken_is_named(theirs: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither spiece.model nor tokenizer.json"):
        load("huggingface", copied(folder, tmp_path / "none", spiece=None))
    broken = copied(folder, tmp_path / "broken")
    (broken / "spiece.model").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"spiece.model is no model of sentencepiece"):
        load("huggingface", broken)
    missing = copied(folder, tmp_path / "weights", model=None)
    with pytest.raises(FileNotFoundError, match="no weights in"):
        load("huggingface", missing)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vision_model.head.probe", "visual.pool.probe"),
        ("vision_model.encoder.layers.1.self_attn.k_proj.bias", "in_proj_bias"),
        ("text_model.head.bias", "text_bias"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ],
)
def test_weights_that_lack_something_are_named(theirs: Any, folder: Path, tmp_path: Path, name: str, says: str) -> None:
    changed = copied(folder, tmp_path / "changed", model=None)
    torch.save({key: tensor for key, tensor in theirs.state_dict().items() if key != name}, changed / "model.pt")
    with pytest.raises(ValueError, match=says):
        load("huggingface", changed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_gives_the_features_of_a_cpu(backbone: Any, dtype: torch.dtype) -> None:
    there, images, found = copy.deepcopy(backbone).to("cuda"), drawn(2, 3, SIDE, SIDE), []
    for one, device in ((backbone, "cpu"), (there, "cuda")):
        learner = PromptLearner(one, ["nevus", "dark_spot"], drawn(4, 40).to(device))
        with torch.autocast(device, dtype, enabled=device == "cuda" and dtype != torch.float32):
            text, seen = one.encode_embeddings(*learner()), one.encode_image(images.to(device), patches=True)
        text.float().square().sum().backward()
        found.append([part.detach().float().cpu() for part in (text, seen.pooled, seen.patches, learner.ctx.grad)])
    for wanted, other in zip(*found, strict=True):
        assert (other - wanted).norm() <= (1e-3 if dtype == torch.float32 else 0.05) * wanted.norm()
