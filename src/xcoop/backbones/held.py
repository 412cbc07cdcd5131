"""A tower whose frozen weights are held in the precision of a run.

Autocast takes a weight to 16 bit each time it is multiplied with, and keeps the copy of a trained one only: a frozen
tower is cast anew at every step (215 of the 1,062 kernels of a step of XCoOp on an H100). Here it is cast once.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

MULTIPLY = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)  # modules whose weights autocast takes to 16 bit
MATRICES = ("proj", "text_projection")  # and matrices of a CLIP itself


def held(module: nn.Module, dtype: torch.dtype) -> Any:
    """A view of a module: what multiplies and is frozen is a copy in `dtype`, all else is shared.

    Under autocast to `dtype` it computes the same numbers, bit for bit; without it, its operands do not fit each other.
    A tower's first convolution is shared too: its type is what CLIP calls the type of the model.

    Args:
        module: of a CLIP, or the whole of it.
        dtype: bfloat16 or float16.
    """
    own = copy.copy(module)
    own._modules = {
        name: child if child is None or name == "conv1" else held(child, dtype)
        for name, child in module._modules.items()
    }
    multiplies = isinstance(module, MULTIPLY)
    own._parameters = {
        name: nn.Parameter(parameter.to(dtype), requires_grad=False)
        if parameter is not None and not parameter.requires_grad and (multiplies or name in MATRICES)
        else parameter
        for name, parameter in module._parameters.items()
    }
    return own
