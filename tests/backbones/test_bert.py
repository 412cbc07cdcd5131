"""A CLIP whose text tower is a BERT computes what open_clip and transformers do, and works like any other backbone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_biomed import MEAN, STD, Small, build, load
from torch import Tensor

from xcoop.backbones.bert import BertClip
from xcoop.explain import maps
from xcoop.explain.maps import concept_target, explain_maps, explainers
from xcoop.explain.tower import trace
from xcoop.methods.alignment import unit
from xcoop.methods.prompts import PromptLearner, context_from_words

TEXTS = ["a photo of carcinoma.", "the skin lesions, dark nevus with bright spots", "x", ""]
CASES: dict[str, dict[str, Any]] = {
    "biomedclip": {},
    "pooled": {"pooler": "cls_pooler", "proj": "linear"},
    "mean": {"pooler": "mean_pooler", "proj": None, "scales": 0.3},
    "clip-trunk": {"pooler": None, "pre_norm": True, "act": "gelu_new"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The library's model."""
    return build(tmp_path_factory.mktemp("biomed") / "small")


@pytest.fixture(scope="module")
def backbone(small: Small) -> BertClip:
    """Ours, of its folder. Shared: whoever changes it takes a copy."""
    return load(small.folder)


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def embedded(backbone: BertClip, texts: list[str]) -> tuple[Tensor, Tensor]:
    tokens = backbone.tokenize(texts)
    return backbone.embed(tokens), backbone.end_positions(tokens)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_features_are_those_of_open_clip(case: str, tmp_path: Path) -> None:
    small = build(tmp_path / "model", **CASES[case])
    backbone, images = load(small.folder), drawn(3, 3, 32, 32)
    tokens = small.tokens(TEXTS)
    assert torch.equal(backbone.tokenize(TEXTS), tokens)
    torch.testing.assert_close(backbone.encode_text(TEXTS), small.model.encode_text(tokens), atol=1e-5, rtol=0)
    seen = backbone.encode_image(images, patches=True)
    torch.testing.assert_close(seen.pooled, small.model.encode_image(images), atol=1e-5, rtol=0)
    visual = small.model.visual
    local = visual.head(visual.trunk.forward_features(images)[:, 1:])
    torch.testing.assert_close(seen.patches, local, atol=1e-5, rtol=0)
    assert torch.equal(backbone.logit_scale, small.model.logit_scale)


def test_soft_prompts_get_the_gradients_of_the_library(small: Small, backbone: BertClip) -> None:
    tokens, text = small.tokens(TEXTS[:2]), small.model.text
    context = drawn(2, 4, 48).requires_grad_()

    def placed(embeddings: Tensor) -> Tensor:
        return torch.cat([embeddings[:, :1], context, embeddings[:, 5:]], dim=1)

    theirs = text.transformer(
        inputs_embeds=placed(text.transformer.get_input_embeddings()(tokens)), attention_mask=(tokens != 0).long()
    )
    theirs = text.proj(theirs.last_hidden_state[:, 0])
    ours = backbone.encode_embeddings(placed(backbone.embed(tokens)), backbone.end_positions(tokens))
    wanted, found = (torch.autograd.grad(out.square().sum(), context)[0] for out in (theirs, ours))
    assert wanted.abs().amax(dim=(1, 2)).min() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prompts_of_later_blocks_stand_in_the_place_of_the_context(small: Small, backbone: BertClip) -> None:
    """Stated anew, with the library's own layers; one more prompt than there are blocks is left over."""
    tokens, text = small.tokens(TEXTS[:2]), small.model.text
    prompts = drawn(1, 3, 48)
    bert = text.transformer
    x = bert.embeddings(input_ids=tokens)
    mask = torch.zeros(2, 1, 1, tokens.shape[1]).masked_fill((tokens == 0)[:, None, None], float("-inf"))
    x = bert.encoder.layer[0](x, mask)
    x[:, 1:4] = prompts[0]
    wanted = text.proj(bert.encoder.layer[1](x, mask)[:, 0])
    embeddings, end = embedded(backbone, TEXTS[:2])
    torch.testing.assert_close(backbone.encode_embeddings(embeddings, end, prompts), wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(backbone.encode_embeddings(embeddings, end), wanted, atol=1e-2)


@torch.no_grad()
def test_padding_is_cut_and_nothing_that_is_seen(backbone: BertClip, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind a text's end changes nothing; each token up to the end, itself included, changes [CLS]."""
    embeddings, end = embedded(backbone, [TEXTS[0]])
    plain, last = backbone.encode_embeddings(embeddings, end), int(end)
    for place in range(embeddings.shape[1]):
        other = embeddings.clone()
        other[:, place] += drawn(48)
        changed = backbone.encode_embeddings(other, end)
        assert torch.equal(changed, plain) == (place > last), place
    whole = backbone.encode_embeddings(embeddings, end), backbone.encode_embeddings(embeddings[:, : last + 1], end)
    assert torch.equal(*whole)
    monkeypatch.setattr(backbone, "placed", lambda x, _: x + backbone.model.positional_embedding[: x.shape[1]])
    torch.testing.assert_close(backbone.encode_embeddings(embeddings, end), plain, atol=1e-5, rtol=0)  # nothing cut


@torch.no_grad()
def test_a_text_is_the_same_beside_longer_ones(backbone: BertClip) -> None:
    alone = torch.cat([backbone.encode_text(text) for text in TEXTS])
    torch.testing.assert_close(backbone.encode_text(TEXTS), alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="do not lie within 4 embeddings"):
        backbone.encode_embeddings(torch.zeros(1, 4, 48), torch.tensor([4]))


@torch.no_grad()
def test_what_is_added_to_attention_is_as_if_its_weights_were_changed(backbone: BertClip) -> None:
    blocks = backbone.model.transformer.resblocks
    changes = [drawn(144, 48, seed=index) / 48 for index in range(len(blocks))]
    nothing = [lambda x: x.new_zeros(()) for _ in backbone.image_blocks]
    view = backbone.with_added([lambda x, change=change: x @ change.T for change in changes], nothing)
    merged = copy.deepcopy(backbone)
    for block, change in zip(merged.model.transformer.resblocks, changes, strict=True):
        block.attn.in_proj_weight.add_(change)
    features = view.encode_text(TEXTS)
    assert type(view) is BertClip
    torch.testing.assert_close(features, merged.encode_text(TEXTS), atol=1e-5, rtol=0)
    assert not torch.allclose(features, backbone.encode_text(TEXTS), atol=1e-2)


@torch.no_grad()
def test_in_16_bit_norms_stay_in_fp32_and_held_weights_give_the_same_numbers(backbone: BertClip) -> None:
    half = copy.deepcopy(backbone).half()
    norms = [half.model.ln_embed, *(block.ln_1 for block in half.model.transformer.resblocks)]
    assert all(norm.weight.dtype == torch.float32 for norm in norms)
    assert half.model.text_projection.dtype == half.encode_text(TEXTS).dtype == torch.float16
    torch.testing.assert_close(half.encode_text(TEXTS).float(), backbone.encode_text(TEXTS), atol=0.02, rtol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        held = backbone.held_in(torch.bfloat16)
        assert held.model.text_head[0].weight.dtype == torch.bfloat16
        assert torch.equal(held.encode_text(TEXTS), backbone.encode_text(TEXTS))


@torch.no_grad()
def test_the_image_tower_is_like_any_other(backbone: BertClip) -> None:
    images = drawn(2, 3, 32, 32)
    assert len(backbone.image_norms()) == 8
    seen = trace(backbone, images)
    torch.testing.assert_close(seen.features.pooled, backbone.encode_image(images).pooled, atol=1e-5, rtol=0)
    assert seen.attention[0].probs.shape == (2, 3, 17, 17)
    prompted = backbone.with_prompts(drawn(1, 2, 96))
    assert torch.equal(prompted.encode_text(TEXTS), backbone.encode_text(TEXTS))
    assert not torch.allclose(prompted.encode_image(images).pooled, backbone.encode_image(images).pooled, atol=1e-3)
    assert (backbone.pixel_mean, backbone.pixel_std) == (MEAN, STD)
    assert (backbone.grid, backbone.text_width, backbone.embed_dim, backbone.context_length) == ((4, 4), 48, 40, 24)


@pytest.mark.parametrize("name", sorted(name for name, one in explainers().items() if "vit" in one.towers))
def test_every_heat_map_looks_into_it(name: str, backbone: BertClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MASKS", 8)  # each of them is a pass
    vector = unit(backbone.encode_text("carcinoma"))[0]
    found = explain_maps(name, backbone, drawn(2, 3, 32, 32), concept_target("carcinoma", vector, 10.0))
    assert found.shape == (2, 4, 4)
    assert found.isfinite().all()
    assert (found.flatten(1).std(dim=1) > 0).all()


def test_the_fingerprint_tells_how_it_computes(tmp_path: Path) -> None:
    first, second = (build(tmp_path / pool, pooler=pool) for pool in ("cls_last_hidden_state_pooler", "mean_pooler"))
    prints = [load(one.folder).fingerprint() for one in (first, first, second)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@torch.no_grad()
def test_a_context_of_words_is_as_the_sentence(backbone: BertClip, position: str) -> None:
    learner = PromptLearner(
        backbone, ["carcinoma", "dark_spots"], context_from_words(backbone, "a photo of a"), position
    )
    places = {"end": "a photo of a {}.", "middle": "a photo {} of a.", "front": "{} a photo of a."}
    sentences = [places[position].format(name) for name in ("carcinoma", "dark spots")]
    torch.testing.assert_close(
        backbone.encode_embeddings(*learner()), backbone.encode_text(sentences), atol=1e-5, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_gives_the_features_and_gradients_of_a_cpu(backbone: BertClip, dtype: torch.dtype) -> None:
    there, found = copy.deepcopy(backbone).to("cuda"), []
    for one, device in ((backbone, "cpu"), (there, "cuda")):
        learner = PromptLearner(one, ["carcinoma", "dark_spots with streaks"], drawn(4, 48).to(device))
        with torch.autocast(device, dtype, enabled=device == "cuda" and dtype != torch.float32):
            features = one.encode_embeddings(*learner())
        features.float().square().sum().backward()
        found.append([features.detach().float().cpu(), learner.ctx.grad.cpu()])
    for wanted, other in zip(*found, strict=True):
        assert (other - wanted).norm() <= (1e-3 if dtype == torch.float32 else 0.05) * wanted.norm()
