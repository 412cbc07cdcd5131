"""PMC-CLIP's three files compute what their authors' notebook does with the libraries' own towers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers_families import load
from helpers_pmc_clip import SIDE, Small, build
from small_families import keep
from torch import Tensor

from xcoop.backbones.bert import BertClip
from xcoop.backbones.pmc_clip import BERT, FILES
from xcoop.methods.prompts import PromptLearner

TEXTS = ["a photo of carcinoma.", "the skin lesions, dark nevus with bright spots", "x", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pmc") / "small"


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Small:
    return build(folder)


@pytest.fixture(scope="module")
def backbone(theirs: Small, folder: Path) -> BertClip:
    found = load("pmc_clip", folder)
    assert isinstance(found, BertClip)
    return found


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_features_are_those_of_the_notebook(theirs: Small, backbone: BertClip) -> None:
    images, tokens = drawn(3, 3, SIDE, SIDE), backbone.tokenize(TEXTS)
    assert tokens.shape == (4, 77)
    torch.testing.assert_close(backbone.encode_image(images).pooled, theirs.image(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.encode_text(TEXTS), theirs.encode_text(tokens), atol=1e-5, rtol=0)
    masked = theirs.text(tokens, attention_mask=(tokens != 0).long()).pooler_output @ theirs.projection
    assert not torch.allclose(backbone.encode_text(TEXTS), masked, atol=1e-2)  # so the padding is really seen
    assert backbone.logit_scale.item() == pytest.approx(4.4292)


def test_soft_prompts_get_the_gradients_of_the_library(theirs: Small, backbone: BertClip) -> None:
    context, tokens = drawn(4, 48).requires_grad_(), backbone.tokenize(["x x x x dark nevus."])
    table = theirs.text.get_input_embeddings()
    hook = table.register_forward_hook(lambda _, __, out: torch.cat([out[:, :1], context[None], out[:, 5:]], dim=1))
    (wanted,) = torch.autograd.grad(theirs.encode_text(tokens).square().sum(), context)
    hook.remove()
    learner = PromptLearner(backbone, ["dark_nevus"], context)
    backbone.encode_embeddings(*learner()).square().sum().backward()
    assert wanted.abs().amax(dim=1).min() > 1e-3
    torch.testing.assert_close(learner.ctx.grad, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_given_behind_an_end_is_padding(backbone: BertClip) -> None:
    tokens = backbone.tokenize(TEXTS)
    embeddings, ends = backbone.embed(tokens), backbone.end_positions(tokens)
    other = embeddings.clone()
    for row, end in enumerate(ends.tolist()):
        other[row, end + 1 :] += drawn(48)
    plain = backbone.encode_embeddings(embeddings, ends)
    torch.testing.assert_close(backbone.encode_embeddings(other, ends), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.encode_embeddings(embeddings[:, : ends.max() + 1], ends), plain)


def test_without_a_config_the_bert_is_the_one_it_was_built_on(tmp_path: Path) -> None:
    theirs = build(tmp_path / "plain", config=False, heads=12)
    backbone = load("pmc_clip", tmp_path / "plain")
    with torch.no_grad():
        wanted = theirs.encode_text(backbone.tokenize(TEXTS))
        torch.testing.assert_close(backbone.encode_text(TEXTS), wanted, atol=1e-5, rtol=0)
    assert backbone.architecture.endswith(
        "joint width 40; image tower with 8 heads of width 32; text tower with a BERT, gelu, 12 heads of width 4, "
        "layer norms of eps 1e-12, MLPs of width 80, padding seen, pool tanh, projection linear"
    )


def test_the_number_of_heads_can_be_said_otherwise(backbone: BertClip, theirs: Small, folder: Path) -> None:
    other = load("pmc_clip", folder, HEAD_WIDTH=64)
    assert backbone.model.visual.attnpool.num_heads == 8
    assert other.model.visual.attnpool.num_heads == 4
    assert other.fingerprint() != backbone.fingerprint()


def test_what_the_hubs_client_has_kept_is_used(theirs: Small, folder: Path, tmp_path: Path, hub: Path) -> None:
    weights, words = tmp_path / "weights", tmp_path / "words"
    for place, files in ((weights, FILES), (words, ("vocab.txt", "config.json"))):
        place.mkdir()
        for file in files:
            shutil.copy(folder / file, place / file)
    revision = keep(hub, "axiong/pmc_oa", weights, kind="datasets")
    with pytest.raises(ConnectionError, match=f"hf download {BERT} --local-dir FOLDER"):
        load("PMC-CLIP")
    keep(hub, BERT, words)
    found = load("PMC-CLIP")
    assert found.source == f"datasets/axiong/pmc_oa at {revision[:12]}"
    assert found.fingerprint() == load("pmc_clip", folder).fingerprint()


@pytest.mark.parametrize("missing", [*FILES, "vocab.txt"])
def test_a_missing_file_is_named(theirs: Small, folder: Path, tmp_path: Path, missing: str) -> None:
    place = tmp_path / "less"
    shutil.copytree(folder, place)
    (place / missing).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load("pmc_clip", place)
    assert missing in str(caught.value)
    assert str(place) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight": torch.zeros(48, 40)}, "holds dict, not one tensor"),
        (torch.zeros(48), r"of shape \(48,\), not a matrix"),
        (torch.zeros(48, 41), "images come to 40 numbers, its texts to 41"),
        (torch.zeros(48, 40).to_sparse(), "holds no plain tensor"),
        (torch.full((48, 40), float("nan")), "does not hold finite numbers"),
    ],
)
def test_a_projection_that_is_none(theirs: Small, folder: Path, tmp_path: Path, content: object, says: str) -> None:
    place = tmp_path / "other"
    shutil.copytree(folder, place)
    torch.save(content, place / "text_projection_layer.pth")
    with pytest.raises(ValueError, match=says):
        load("pmc_clip", place)


def test_nothing_to_load_is_said() -> None:
    with pytest.raises(ValueError, match=r"pmc_clip: set MODEL.BACKBONE.PATH to the folder with image_encoder"):
        load("pmc_clip")
