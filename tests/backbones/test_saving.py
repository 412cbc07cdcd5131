"""What the image tower keeps for the backward pass: less, at the same numbers, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from helpers_clip import tiny_backbone
from torch import Tensor, nn

from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.saving import layer_norm, recomputed

Kept = dict[int, Tensor]


@contextmanager
def keeping(weights: nn.Module) -> Iterator[Kept]:
    """What autograd keeps inside, by its place in memory, but for weights."""
    known = {tensor.untyped_storage().data_ptr() for tensor in weights.parameters()}
    kept: Kept = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in known:
            kept.setdefault(place, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def size(kept: Kept) -> int:
    """In bytes."""
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class Change(nn.Module):
    """Something that is added to queries, keys and values, and draws."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * width, width) / width)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5) @ self.weight.T.to(x.dtype)


def tower(kind: str, dtype: torch.dtype | None, recompute: bool) -> tuple[ClipBackbone, list[Tensor]]:
    """An image tower that something is trained in, in a precision, and what is trained."""
    torch.manual_seed(4)
    backbone = tiny_backbone(seed=2)
    backbone.recompute = recompute
    width = backbone.model.visual.conv1.out_channels
    trained: list[Tensor] = []
    if kind == "norms":
        trained = list(backbone.image_norms())
        for parameter in trained:
            parameter.requires_grad_(True)
    if dtype is not None:
        backbone = backbone.held_in(dtype)
    if kind == "prompts":
        trained = [torch.randn(2, 3, width, requires_grad=True)]
        backbone = backbone.with_prompts(trained[0])
    if kind == "added":
        changes = [Change(width) for _ in backbone.image_blocks]
        trained = [change.weight for change in changes]
        texts = [Change(backbone.text_width) for _ in backbone.model.transformer.resblocks]
        backbone = backbone.with_added(texts, changes)
    return backbone, trained


def step(kind: str, dtype: torch.dtype | None, recompute: bool) -> tuple[Kept, list[Tensor]]:
    """What is kept, and then the features and gradients."""
    backbone, trained = tower(kind, dtype, recompute)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    with keeping(backbone) as kept, torch.autocast("cpu", dtype, enabled=dtype is not None):
        pooled = backbone.encode_image(images).pooled
    torch.rand(9)  # what is drawn in between changes nothing
    gradients = torch.autograd.grad(pooled.float().square().sum(), trained)
    return kept, [pooled, *gradients]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", ["norms", "prompts", "added"])
def test_computed_again_the_numbers_are_the_same_and_less_is_kept(kind: str, dtype: torch.dtype | None) -> None:
    (kept, plain), (less, again) = step(kind, dtype, recompute=False), step(kind, dtype, recompute=True)
    assert all(torch.equal(one, other) for one, other in zip(again, plain, strict=True))
    assert all(one.any() for one in plain)
    assert size(less) < size(kept) / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_of_16_bit_keeps_its_input_and_not_a_copy(dtype: torch.dtype) -> None:
    norm = import_clip().model.LayerNorm(12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 5, 12).to(dtype).requires_grad_()
    results, sizes = [], []
    for less in (False, True):
        with keeping(norm) as kept:
            out = layer_norm(norm, x, less)
        results.append([out, *torch.autograd.grad((out.float() ** 3).sum(), (x, norm.weight, norm.bias))])
        sizes.append(size(kept))
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(*results, strict=True))
    assert sizes[1] == sizes[0] - 2 * x.numel()
    (only,) = torch.autograd.grad(layer_norm(norm.requires_grad_(False), x, True).float().square().sum(), [x])
    (expected,) = torch.autograd.grad(norm(x).float().square().sum(), [x])
    assert torch.equal(only, expected)


@pytest.mark.parametrize("kind", ["norms", "prompts"])
def test_in_16_bit_no_input_of_a_block_is_kept_in_32(kind: str) -> None:
    kept, _ = step(kind, torch.bfloat16, recompute=False)
    inputs = [tensor for tensor in kept.values() if tensor.shape[1:] in ((17, 128), (20, 128))]  # with prompts, 20
    assert len(inputs) >= 6  # of two norms in each of three blocks
    assert {tensor.dtype for tensor in inputs} == {torch.bfloat16}


def test_without_gradients_nothing_is_set_up_for_a_second_time() -> None:
    calls: list[int] = []

    def double(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not recomputed(double, x).requires_grad
    recomputed(lambda x: double(x).square(), x).sum().backward()
    assert len(calls) == 3
    assert x.grad is not None
    assert x.grad.tolist() == [8, 8]
