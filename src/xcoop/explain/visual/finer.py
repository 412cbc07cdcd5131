"""Maps at half a patch: a method's maps of four images that are shifted by half a patch, put back and averaged.

A map of patches says of a thin line only which patch it crosses. Each half patch lies in one patch of each of the four
shifted images; the mean of what these four say of it tells the halves of a patch apart. At the lower and right edge
fewer shifts cover a half patch. What a shift leaves free at that edge is filled with the image's last row or column.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.target import Target

SHIFTS = tuple((down, right) for down in (0, 1) for right in (0, 1))


def finer_maps(
    method: Callable[[Backbone, Tensor, Target], Tensor], backbone: Backbone, images: Tensor, target: Target
) -> Tensor:
    """Four times the cost of the method, and twice its grid.

    Args:
        method: gives maps (B, gh, gw); the name of one, with `@2` behind it, is this function's map of it.
        backbone: with the image tower.
        images: preprocessed, (B, 3, S, S).
        target: what is explained.

    Returns:
        Raw maps (B, 2 gh, 2 gw) in 32 bit, without gradient.
    """
    rows, columns = backbone.grid
    high, wide = images.shape[2] // rows // 2, images.shape[3] // columns // 2  # pixels of half a patch
    total = torch.zeros(len(images), 2 * rows, 2 * columns, device=images.device)
    covered = torch.zeros_like(total)
    for down, right in SHIFTS:
        edged = F.pad(images, (0, right * wide, 0, down * high), mode="replicate")
        maps = method(backbone, edged[:, :, down * high :, right * wide :], target).detach().float()
        halves = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
        total[:, down:, right:] += halves[:, : 2 * rows - down, : 2 * columns - right]
        covered[:, down:, right:] += 1
    return total / covered
