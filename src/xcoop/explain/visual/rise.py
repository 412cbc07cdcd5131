"""RISE (Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018).

    map = mean_n( (S(x * m_n) - mean_n S(x * m_n)) * m_n ) / p

m_n: random masks of CELLS x CELLS coins, on with probability p, stretched bilinearly and shifted at random within a
cell. The authors weight by S itself, a probability; S is a logit of any level here, and without its mean the map would
show mostly how often a pixel happened to be on. What is hidden is 0, the mean colour of the backbone's training.

A slow, black-box referee. The masks are the same for all images and calls.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import register_explainer

MASKS = 512
CELLS = 7
ON = 0.5
_SEED = 20180617


@register_explainer("rise", ("vit", "resnet"), "Where the score is high when a patch is in sight.", f"{MASKS} forward")
@torch.no_grad()
def rise(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """One forward pass a mask; see `registry.explain_maps`."""
    masks = random_masks(MASKS, images.shape[-1]).to(images)  # (N, S, S)
    scores = torch.stack([target.score(backbone.encode_image(images * mask, patches=True)) for mask in masks])  # (N, B)
    centred = (scores - scores.mean(0)).float()
    patches = F.adaptive_avg_pool2d(masks[:, None].float(), backbone.grid)[:, 0]  # (N, gh, gw)
    return torch.einsum("nb,nij->bij", centred, patches) / (ON * len(masks))


def random_masks(count: int, side: int) -> Tensor:
    """(count, side, side) in [0, 1], always the same; on the CPU."""
    generator = torch.Generator().manual_seed(_SEED)
    cell = -(-side // CELLS)  # pixels, rounded up: the cells cover the picture wherever it is cut out
    coins = (torch.rand(count, 1, CELLS + 1, CELLS + 1, generator=generator) < ON).float()
    shifts = torch.randint(cell, (count, 2), generator=generator).tolist()
    large = F.interpolate(coins, size=((CELLS + 1) * cell,) * 2, mode="bilinear", align_corners=False)[:, 0]
    cut = [mask[down : down + side, right : right + side] for mask, (down, right) in zip(large, shifts, strict=True)]
    return torch.stack(cut)
