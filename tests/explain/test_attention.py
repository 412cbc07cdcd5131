"""The attention tap: it changes nothing, records what was computed, and leaves nothing behind."""

import pytest
import torch
from helpers_clip import tiny_backbone

from xcoop.explain.attention import attention_tap


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_unmodified_model(images):
    backbone = tiny_backbone()
    plain = backbone.encode_image(images, patches=True)
    with attention_tap(backbone.image_blocks) as taps:
        tapped = backbone.encode_image(images, patches=True)
    assert len(taps) == len(backbone.image_blocks)
    torch.testing.assert_close(tapped.pooled, plain.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tapped.patches, plain.patches, rtol=1e-5, atol=1e-5)


def test_probabilities_are_a_hand_computed_softmax(images):
    backbone = tiny_backbone()
    block = backbone.image_blocks[0]
    seen = []
    handle = block.ln_1.register_forward_hook(lambda module, given, output: seen.append(output))
    with attention_tap(backbone.image_blocks) as taps:
        backbone.encode_image(images)
    handle.remove()
    x = seen[0][:, 1]  # (L, V) of the second image
    heads, width = block.attn.num_heads, x.shape[1] // block.attn.num_heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    q, k, v = ((x @ weight[i * x.shape[1] :][: x.shape[1]].T + bias[i * x.shape[1] :][: x.shape[1]]) for i in range(3))
    head = slice(width, 2 * width)  # of the second of them
    want = torch.softmax(q[:, head] @ k[:, head].T / width**0.5, dim=1)
    assert heads == 2
    torch.testing.assert_close(taps[0].probs[1, 1], want)
    torch.testing.assert_close(taps[0].mixed[1, :, head], want @ v[:, head], rtol=1e-4, atol=1e-5)


def test_probabilities_are_part_of_the_graph_of_a_frozen_tower(images):
    backbone = tiny_backbone()
    with attention_tap(backbone.image_blocks) as taps:
        score = backbone.encode_image(images).pooled.sum()
    gradients = torch.autograd.grad(score, [tap.probs for tap in taps])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_nothing_is_left_behind_even_after_an_exception(images):
    backbone = tiny_backbone()
    before = [dict(vars(block)) for block in backbone.image_blocks]
    with pytest.raises(RuntimeError, match="planned"), attention_tap(backbone.image_blocks):
        raise RuntimeError("planned")
    assert all(vars(block).keys() == old.keys() for block, old in zip(backbone.image_blocks, before, strict=True))
    assert all("attention" not in vars(block) for block in backbone.image_blocks)


def test_a_second_tap_is_refused_and_the_first_goes_on(images):
    backbone = tiny_backbone()
    with attention_tap(backbone.image_blocks) as taps:
        with pytest.raises(RuntimeError, match=r"\[0, 1, 2\] is tapped"), attention_tap(backbone.image_blocks):
            pass
        backbone.encode_image(images)
        assert len(taps) == 3


def test_the_causal_mask_of_a_text_tower_is_kept():
    backbone = tiny_backbone()
    blocks = backbone.model.transformer.resblocks
    x = torch.randn(5, 2, backbone.text_width)
    with attention_tap(blocks) as taps:
        got = blocks[0](x)
    assert taps[0].probs[0, 0].triu(1).abs().max() == 0
    torch.testing.assert_close(got, blocks[0](x), rtol=1e-5, atol=1e-5)
