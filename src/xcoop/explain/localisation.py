"""Does a map lie where the finding lies? Four answers, image by image, each beside what a blind guess would reach.

Maps are upsampled bilinearly to the size of the mask. With a = the share of the image inside the mask:

    pointing   1 if the map's maximum lies inside the mask (Zhang et al., IJCV 2018, without tolerance); of several
               equal maxima the share inside counts. By chance: a. The maximum of a bilinear surface is the centre of
               the highest cell, and is taken there: pixels lie beside the centres of inner cells, but on the plateau
               of those at the border, and the highest pixel of a random map would lie at the border too often
    energy     the share of the map, less its own minimum, that lies inside (Wang et al., "Score-CAM", CVPRW 2020).
               By chance: a
    iou_area   overlap of the mask with as many of the map's highest pixels as the mask has; of equal pixels at the edge
               the expected number counts. By chance: about a / (2 - a)
    iou_best   the largest overlap at any threshold; the whole picture is one, so at least a
    pixel_auc  the chance that a pixel inside has a higher value than one outside, ties half. By chance: 0.5

An empty mask says nothing: all values are NaN there, to be left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float64]
_LEVELS = 2.0**40


@dataclass(frozen=True)
class Localisation:
    """The values of each image, all (B,), in [0, 1]; NaN where the mask is empty.

    Attributes:
        pointing: see the head of this module.
        energy: see there.
        iou_area: see there.
        iou_best: see there.
        pixel_auc: see there; NaN too where the mask is the whole picture.
        area: the share of the image inside the mask, the chance level of pointing and energy.
    """

    pointing: Floats
    energy: Floats
    iou_area: Floats
    iou_best: Floats
    pixel_auc: Floats
    area: Floats

    @property
    def empty(self) -> int:
        """How many masks were empty."""
        return int(np.isnan(self.area).sum())


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, gh, gw) at the size (H, W) of the picture, bilinear: (B, H, W), in float64 if they are."""
    return F.interpolate(maps.detach()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def localise(maps: Tensor, masks: Tensor) -> Localisation:
    """Compares maps with masks.

    Args:
        maps: (B, gh, gw), higher = more relevant; not NaN.
        masks: (B, H, W) bool, in the geometry of the images that were explained (see `truth.fit_mask`).

    Raises:
        ValueError: shapes that do not fit, a mask that is not bool, or NaN in a map.
    """
    if maps.dim() != 3 or masks.dim() != 3 or len(maps) != len(masks) or masks.dtype != torch.bool:
        raise ValueError(
            f"maps (B, gh, gw) and masks (B, H, W) of bool are needed, not {tuple(maps.shape)} and "
            f"{tuple(masks.shape)} of {masks.dtype}"
        )
    if maps.isnan().any():
        raise ValueError("a map holds NaN")
    large = upsample(_stretched(maps), (masks.shape[1], masks.shape[2]))
    large = (large * _LEVELS).round() / _LEVELS  # pixels that differ by rounding alone are equal
    rows = [_one(values, mask) for values, mask in zip(large.flatten(1), masks.cpu().flatten(1), strict=True)]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 5)
    pointing = np.where(np.isnan(table[:, -1]), np.nan, _pointing(maps.detach().cpu(), masks.cpu()).numpy())
    return Localisation(pointing, *table.T)


def _stretched(maps: Tensor) -> Tensor:
    """Each map from 0 to 1, in float64 on the CPU; a constant one is 0 everywhere."""
    flat = maps.detach().cpu().double()
    flat = flat - flat.amin((1, 2), keepdim=True)
    return flat / flat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def _pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's maxima that lies inside, (B,); a centre between pixels counts by their share."""
    highest = maps == maps.amax((1, 2), keepdim=True)  # (B, gh, gw)
    inside = masks.double()
    for axis in (1, 2):
        before, after = _centres(masks.shape[axis], maps.shape[axis])
        inside = (inside.index_select(axis, before) + inside.index_select(axis, after)) / 2
    return (highest * inside).sum((1, 2)) / highest.sum((1, 2))


def _centres(pixels: int, cells: int) -> tuple[Tensor, Tensor]:
    """The pixels before and after the centre of each cell, (cells,); the same pixel where it holds the centre."""
    doubled = torch.arange(1, 2 * cells, 2) * pixels - cells  # the centre, counted from that of pixel 0, * 2 * cells
    before, after = doubled // (2 * cells), -(-doubled // (2 * cells))
    return before.clamp(0, pixels - 1), after.clamp(0, pixels - 1)


def _one(values: Tensor, mask: Tensor) -> tuple[float, ...]:
    """Energy, both overlaps, AUC and area of one picture: values (N,) and mask (N,) of its pixels."""
    pixels, inside = len(mask), int(mask.sum())
    if not inside:
        return (float("nan"),) * 5
    levels, which = torch.unique(values, return_inverse=True)  # ascending
    total = torch.bincount(which, minlength=len(levels)).flip(0).double()  # pixels at each level, the highest first
    hits = torch.bincount(which[mask], minlength=len(levels)).flip(0).double()  # of them inside the mask
    above, hits_above = total.cumsum(0) - total, hits.cumsum(0) - hits
    return (
        _energy(values, mask, inside / pixels),
        _overlap_at_area(total, hits, above, hits_above, inside),
        float((hits.cumsum(0) / (total.cumsum(0) + inside - hits.cumsum(0))).max()),
        float(((total - hits) * (hits_above + hits / 2)).sum() / (inside * (pixels - inside)))
        if inside < pixels
        else float("nan"),
        inside / pixels,
    )


def _energy(values: Tensor, mask: Tensor, area: float) -> float:
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else area  # a constant map points everywhere alike


def _overlap_at_area(total: Tensor, hits: Tensor, above: Tensor, hits_above: Tensor, inside: int) -> float:
    edge = int((above < inside).nonzero()[-1])  # the level at which as many pixels as the mask has are reached
    taken = (inside - above[edge]) / total[edge]
    found = float(hits_above[edge] + taken * hits[edge])
    return found / (2 * inside - found)
