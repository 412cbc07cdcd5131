"""Less kept for the backward pass of a tower, at equal numbers.

What autograd keeps of a block when its weights are frozen: the inputs of both layer norms, queries, keys and values,
what attention gives, and the input of the activation; in widths of the tower 1 + 1 + 3 + 1 + 4. No product keeps its
input, as a trained weight would ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


class _Norm(torch.autograd.Function):
    """CLIP's layer norm of numbers of 16 bit, which keeps these, and not the copy in 32 bit that it computes with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        shape = weight.shape
        out, mean, rstd = torch.native_layer_norm(x.float(), shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        of_x, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
            gradient.float(), x.float(), weight.shape, mean, rstd, weight, bias, wanted
        )
        return (of_x.to(x.dtype) if wanted[0] else None), of_weight, of_bias, None


def layer_norm(norm: Any, x: Tensor, less: bool) -> Tensor:
    """What a `clip.model.LayerNorm` makes of (..., V): computed in 32 bit, given back in the type of x.

    Args:
        norm: the module.
        x: its input.
        less: keep `x` of 16 bit for the backward pass as it is; that takes a little more time.
    """
    if not less or x.dtype not in (torch.float16, torch.bfloat16) or not torch.is_grad_enabled():
        plain: Tensor = norm(x)
        return plain
    out: Tensor = _Norm.apply(x, norm.weight, norm.bias, norm.eps)
    return out


def recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """What a function gives; for the backward pass only its arguments are kept, and all else is computed once more."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    out: Tensor = checkpoint(function, *arguments, use_reentrant=False)
    return out
