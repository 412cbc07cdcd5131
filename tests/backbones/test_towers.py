"""The towers equal those of the unmodified model, and independent formulations of what is not in it."""

from __future__ import annotations

import pytest
import torch
from helpers_clip import tiny_backbone
from torch.nn import functional as F

from xcoop.backbones.clip_model import import_clip

TEXTS = ["a photo of a nevus.", "melanoma", "an irregular pigment network with a blue-whitish veil, and streaks"]


@pytest.fixture(scope="module", params=["vit", "resnet"])
def backbone(request):
    return tiny_backbone(seed=1, vision=request.param)


@pytest.fixture(scope="module")
def vit():
    return tiny_backbone(seed=2)


@pytest.fixture(scope="module")
def resnet():
    return tiny_backbone(seed=3, vision="resnet", image_size=96)


def images(backbone, count=3, seed=0):
    size = backbone.input_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def soft_prompts(backbone, lengths, seed=0):
    """Random embeddings of full length, each text ending where `lengths` says."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(len(lengths), backbone.context_length, backbone.text_width, generator=generator)
    return embeddings, torch.tensor(lengths) - 1


def encode_at_full_length(model, embeddings, end):
    """CoOp's TextEncoder: all positions, the model's own transformer and mask."""
    x = (embeddings + model.positional_embedding).permute(1, 0, 2)
    x = model.ln_final(model.transformer(x).permute(1, 0, 2))
    return x[torch.arange(len(x)), end] @ model.text_projection


# --- text


def test_text_equals_encode_text(backbone):
    expected = backbone.model.encode_text(backbone.tokenize(TEXTS))
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[2], [9, 5, 20], [77, 3]])
def test_soft_prompts_equal_the_full_length(vit, lengths):
    embeddings, end = soft_prompts(vit, lengths)
    expected = encode_at_full_length(vit.model, embeddings, end)
    torch.testing.assert_close(vit.encode_embeddings(embeddings, end), expected, atol=1e-5, rtol=0)


def test_what_follows_the_end_does_not_count(vit):
    embeddings, end = soft_prompts(vit, [6, 11])
    expected = vit.encode_embeddings(embeddings, end)
    other = embeddings.clone()
    other[0, 6:] = 50.0
    other[1, 11:] = float("nan")  # beyond every end: not even read
    other[0, 11:] = float("nan")
    torch.testing.assert_close(vit.encode_embeddings(other, end), expected)
    torch.testing.assert_close(vit.encode_embeddings(embeddings[:, :11], end), expected)


def test_the_model_is_left_as_it_was_after_success_and_failure(vit):
    masks = [block.attn_mask for block in vit.model.transformer.resblocks]
    before = vit.fingerprint()
    vit.encode_embeddings(*soft_prompts(vit, [6]))

    def fail(*_):
        raise KeyboardInterrupt

    handle = vit.model.transformer.resblocks[1].mlp.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        vit.encode_embeddings(*soft_prompts(vit, [6]))
    handle.remove()
    blocks = vit.model.transformer.resblocks
    assert all(block.attn_mask is mask for block, mask in zip(blocks, masks, strict=True))
    assert all(mask.shape == (77, 77) for mask in masks)
    assert vit.fingerprint() == before
    test_text_equals_encode_text(vit)


@pytest.mark.parametrize("end", [[8], [-1], [3, 8]])
def test_an_end_outside_the_embeddings_is_refused(vit, end):
    with pytest.raises(ValueError, match="do not lie within 8 embeddings"):
        vit.encode_embeddings(torch.zeros(len(end), 8, vit.text_width), torch.tensor(end))
    with pytest.raises(ValueError, match="context of 77 tokens"):
        vit.encode_embeddings(torch.zeros(1, 90, vit.text_width), torch.tensor([80]))


def test_blocks_that_do_not_crop_their_mask_will_do(vit, monkeypatch):
    """OpenAI's package and CoOp's copy give each block's whole mask to the attention, whatever the input's length."""

    def attention(self, x):
        return self.attn(x, x, x, need_weights=False, attn_mask=self.attn_mask)[0]

    monkeypatch.setattr(import_clip().model.ResidualAttentionBlock, "attention", attention)
    with pytest.raises(RuntimeError):  # such a block cannot take a short input by itself
        vit.model.transformer(torch.zeros(5, 1, vit.text_width))
    test_text_equals_encode_text(vit)


# --- images


def test_pooled_equals_encode_image(backbone):
    x = images(backbone)
    expected = backbone.model.encode_image(x)
    for patches in (False, True):
        torch.testing.assert_close(backbone.encode_image(x, patches).pooled, expected, atol=1e-5, rtol=0)


def test_vit_patches_are_the_last_tokens_through_ln_post_and_proj(vit):
    x, visual, captured = images(vit), vit.model.visual, []
    handle = visual.transformer.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    visual(x)
    handle.remove()
    tokens = captured[0].permute(1, 0, 2)[:, 1:]  # (B, T, V)
    centred = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = (centred * visual.ln_post.weight + visual.ln_post.bias) @ visual.proj
    torch.testing.assert_close(vit.encode_image(x, patches=True).patches, expected, atol=1e-5, rtol=1e-4)


def test_resnet_patches_are_the_pool_with_all_attention_on_one_position(resnet):
    x, pool, captured = images(resnet), resnet.model.visual.attnpool, []
    handle = resnet.model.visual.layer4.register_forward_hook(lambda _m, _i, output: captured.append(output))
    resnet.model.visual(x)
    handle.remove()
    tokens = captured[0].flatten(2).permute(2, 0, 1)  # (T, B, V)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + pool.positional_embedding[:, None]
    patches = resnet.encode_image(x, patches=True).patches
    for position in range(patches.shape[1]):
        torch.testing.assert_close(patches[:, position], attend_to(pool, tokens, position + 1), atol=1e-5, rtol=1e-4)


def attend_to(pool, tokens, position):
    """The attention pool's output, every other key hidden from its query."""
    hidden = torch.ones(tokens.shape[1], len(tokens), dtype=torch.bool)
    hidden[:, position] = False
    return F.multi_head_attention_forward(
        query=tokens[:1],
        key=tokens,
        value=tokens,
        embed_dim_to_check=tokens.shape[-1],
        num_heads=pool.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        training=False,
        key_padding_mask=hidden,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )[0][0]


def tuned(seed):
    """A ViT whose norm layers are trained."""
    backbone = tiny_backbone(seed=seed)
    for norm in backbone.image_norms():
        norm.requires_grad_(True)
    return backbone


def norm_gradients(backbone, pooled):
    return torch.autograd.grad(pooled.square().sum(), backbone.image_norms())


def test_gradients_of_the_norms_equal_those_through_the_model_itself():
    backbone = tuned(seed=6)
    x = images(backbone)
    found = norm_gradients(backbone, backbone.encode_image(x, patches=True).pooled)
    for got, expected in zip(found, norm_gradients(backbone, backbone.model.encode_image(x)), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_mixed_precision_is_as_near_to_full_precision_as_the_model_itself():
    backbone = tuned(seed=6)
    x = images(backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, plain = backbone.encode_image(x, patches=True).pooled, backbone.model.encode_image(x)
    assert pooled.dtype == plain.dtype
    pairs = zip(
        [pooled, *norm_gradients(backbone, pooled.float())],
        [plain, *norm_gradients(backbone, plain.float())],
        [exact := backbone.encode_image(x).pooled, *norm_gradients(backbone, exact)],
        strict=True,
    )
    for got, expected, truth in pairs:
        own, theirs = ((value.float() - truth).norm() / truth.norm() for value in (got, expected))
        assert own < max(1.5 * theirs, 0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_weights_held_in_16_bit_give_what_autocast_gives_bit_for_bit(tower, dtype, request):
    plain = request.getfixturevalue(tower)
    own = plain.held_in(dtype)
    x, tokens = images(plain), plain.tokenize(["a photo of a nevus.", "an x-ray"])
    embeddings, end = plain.embed(tokens), plain.end_positions(tokens)
    found = []
    for backbone in (plain, own):
        given = embeddings.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            features = backbone.encode_image(x, patches=True)
            text = backbone.encode_embeddings(given, end)
        (gradient,) = torch.autograd.grad(text.float().square().sum(), given)
        found.append((features.pooled, features.patches, text, gradient))
    assert text.dtype == dtype
    for got, expected in zip(found[1], found[0], strict=True):
        assert torch.equal(got, expected)
    kinds = {name: parameter.dtype for name, parameter in own.model.named_parameters()}
    assert kinds["transformer.resblocks.1.mlp.c_fc.weight"] == kinds["text_projection"] == dtype
    assert kinds["transformer.resblocks.1.ln_1.weight"] == kinds["visual.conv1.weight"] == torch.float32
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}


def test_held_weights_share_what_is_trained():
    backbone = tuned(seed=6)
    own = backbone.held_in(torch.bfloat16)
    assert [id(p) for p in own.image_norms()] == [id(p) for p in backbone.image_norms()]


def test_a_covered_attention_is_called(vit):
    x = images(vit)
    block, expected = vit.image_blocks[1], vit.encode_image(x).pooled
    seen = []
    block.attention = lambda tokens: seen.append(tokens.shape) or type(block).attention(block, tokens)
    try:
        torch.testing.assert_close(vit.encode_image(x).pooled, expected, atol=1e-5, rtol=1e-5)
    finally:
        del block.attention
    assert seen == [(1 + vit.grid[0] * vit.grid[1], 3, vit.model.visual.conv1.out_channels)]


@pytest.mark.parametrize("path", ["", "attn", "mlp.gelu"])
@pytest.mark.parametrize("kind", ["register_forward_pre_hook", "register_forward_hook", "register_full_backward_hook"])
def test_hooks_inside_the_blocks_are_called(path, kind):
    backbone, shapes = tuned(seed=6), []
    module = backbone.image_blocks[1].get_submodule(path)
    handle = getattr(module, kind)(lambda _module, values, *_: shapes.append(tuple(values[0].shape)))
    backbone.encode_image(images(backbone)).pooled.sum().backward()
    handle.remove()
    assert len(shapes) == 1
    assert shapes[0][:2] == (1 + backbone.grid[0] * backbone.grid[1], 3)  # as CLIP shows them: (L, N, ...)


def test_vit_patches_are_in_row_major_order():
    backbone = tiny_backbone(seed=4)
    for block in backbone.image_blocks:  # without attention and MLP a patch token sees its own pixels alone
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            layer.weight.data.zero_()
    x = images(backbone, count=1)
    changed = x.clone()
    changed[:, :, 8:16, 16:24] += 1.0  # row 1, column 2 of 8-pixel patches
    difference = backbone.encode_image(x, True).patches - backbone.encode_image(changed, True).patches
    touched = difference[0].abs().amax(-1).view(backbone.grid) > 1e-6
    assert touched.nonzero().tolist() == [[1, 2]]


def test_norms_are_those_of_the_image_blocks(vit):
    norms = vit.image_norms()
    named = dict(vit.model.named_parameters())
    expected = {
        f"visual.transformer.resblocks.{block}.{norm}.{kind}"
        for block in range(3)
        for norm in ("ln_1", "ln_2")
        for kind in ("weight", "bias")
    }
    found = {name for name, parameter in named.items() if any(parameter is norm for norm in norms)}
    assert found == expected
    assert len(norms) == len(expected)


def test_a_resnet_in_training_keeps_its_batch_statistics(resnet):
    before = resnet.fingerprint()
    parent = torch.nn.ModuleList([resnet]).train()
    resnet.encode_image(images(resnet))
    assert parent.training
    assert not any(module.training for module in resnet.modules())
    assert resnet.fingerprint() == before
