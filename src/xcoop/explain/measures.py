"""How good is a map: does the model use what it marks, does it lie where the finding lies, is it better than controls?

Maps are (B, gh, gw), higher = more relevant. Symbols: B images, S their side in pixels, P = gh * gw patches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.explain.tower import visual_of

Floats = NDArray[np.float64]
Model = TypeVar("Model", bound=nn.Module)

# Controls: maps that know nothing, and models that know nothing.

CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in sides of the picture
_TIES = 20240309  # seed of the fixed order among equal values


def random_maps(count: int, grid: tuple[int, int], seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1), (count, gh, gw). The map of an image depends on its place and the seed alone."""
    noise = [np.random.default_rng([seed, index]).random(grid, dtype=np.float32) for index in range(count)]
    return torch.from_numpy(np.stack(noise))


def centre_maps(count: int, grid: tuple[int, int]) -> Tensor:
    """The same Gaussian about the centre for each image, (count, gh, gw): where photographers put what matters."""
    rows, columns = (((torch.arange(side) + 0.5) / side - 0.5) / CENTRE_WIDTH for side in grid)
    bell = torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 2)
    return bell.expand(count, *grid).clone()


def order_of(maps: Tensor) -> Tensor:
    """The patches of each map by falling relevance: (B, gh, gw) to (B, P), indices in row-major order.

    Equal values follow a fixed pseudo-random order of the patches, the same for each image. By rows, a map that is
    mostly zero (all rectified maps are) would remove the picture from its top.

    Raises:
        ValueError: a map holds NaN.
    """
    if maps.isnan().any():
        raise ValueError("a map holds NaN")
    flat = maps.detach().flatten(1)  # (B, P)
    ties = torch.from_numpy(np.random.default_rng(_TIES).permutation(flat.shape[1])).to(flat.device)
    return ties[flat[:, ties].argsort(dim=1, descending=True, stable=True)]


def reversed_maps(maps: Tensor) -> Tensor:
    """Each map turned upside down, as ranks: exactly the opposite order, equal values included. (B, gh, gw)."""
    return order_of(maps).argsort(1).float().view(maps.shape)


def control_maps(maps: Tensor) -> dict[str, Tensor]:
    """The controls of some maps by name: `random`, `centre` and `reversed`."""
    grid = (maps.shape[1], maps.shape[2])
    return {
        "random": random_maps(len(maps), grid).to(maps.device),
        "centre": centre_maps(len(maps), grid).to(maps.device),
        "reversed": reversed_maps(maps),
    }


@torch.no_grad()
def randomised(model: Model, seed: int = 0) -> Model:
    """A copy of a backbone, or of a model with one, whose image tower has forgotten all it learned.

    Each of the tower's parameters is drawn anew from a normal distribution with its own mean and deviation, so that
    activations keep their order of magnitude. (Parameter randomisation test: Adebayo et al., "Sanity checks for
    saliency maps", NeurIPS 2018.) What a prompt learned, and the text tower, stay.
    """
    copied = copy.deepcopy(model)
    owner: Any = getattr(copied, "backbone", copied)
    tower = visual_of(owner)
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(tower.named_parameters()):
        mean, deviation = parameter.float().mean(), parameter.float().std(correction=0)
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.copy_(noise * deviation + mean)
    return copied


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's correlation of two maps, image by image, (B,) float64 in [-1, 1]; NaN where a map is constant."""
    from scipy.stats import rankdata

    ranks = (torch.from_numpy(rankdata(maps.detach().flatten(1).double().cpu(), axis=1)) for maps in (one, other))
    a, b = (each - each.mean(1, keepdim=True) for each in ranks)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


# Faithfulness: deletion and insertion at patch level.
#
#     k_j    = round(j P / steps),  j = 0 ... steps
#     x_j    = the image with its k_j most relevant patches replaced by the baseline (deletion); for insertion, the
#              baseline with the k_j most relevant patches of the image
#     AUC    = trapezoid of score(x_j) over j / steps
#
# A good map has a low deletion and a high insertion AUC; how low and high depends on the image and the model, hence
# always beside the controls and never alone. (Petsiuk et al., "RISE", BMVC 2018, at pixel level; here patches, and two
# baselines, since no result should hang on one way to erase.) Images with erased patches lie outside of what a model
# was trained on, and only the order of a map counts, not its values (Gomez et al., arXiv 2201.13291).

ScoreFunction = Callable[[Tensor], Tensor]
"""Images (N, 3, S, S) to the score of the explained class, (N,)."""

STEPS = 28  # as many as divide the 14 x 14 patches of a ViT-B/16 evenly
BLUR_WIDTH = 0.1  # standard deviation of the blur, in sides of the picture
CHUNK = 64  # images that are scored at once


@dataclass(frozen=True)
class Curves:
    """Scores while patches are replaced, most relevant first, (B, steps + 1)."""

    deletion: Tensor  # from the full image to the baseline
    insertion: Tensor  # from the baseline to the full image

    def deletion_auc(self) -> Tensor:
        """Mean height of the deletion curve, (B,): lower is better."""
        return _area(self.deletion)

    def insertion_auc(self) -> Tensor:
        """Mean height of the insertion curve, (B,): higher is better."""
        return _area(self.insertion)


def _area(curve: Tensor) -> Tensor:
    return torch.trapezoid(curve.double(), dim=1) / (curve.shape[1] - 1)


def blur_baseline(images: Tensor) -> Tensor:
    """The images (B, 3, S, S), so blurred that no finding is left: the colours of large areas stay.

    At the border the Gaussian is cut off and rescaled.
    """
    weights = []
    for side in images.shape[-2:]:
        place = torch.arange(side, dtype=torch.float64)
        bell = torch.exp(-((place[:, None] - place) ** 2) / (2 * (BLUR_WIDTH * side) ** 2))
        weights.append((bell / bell.sum(1, keepdim=True)).to(images))  # (side, side)
    return weights[0] @ images @ weights[1].T


# Of normalised images 0 is the mean colour, which the backbone subtracts.
BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.zeros_like, "blur": blur_baseline}


@torch.no_grad()
def curves(
    score_fn: ScoreFunction,
    images: Tensor,
    maps: Tensor,
    baseline: str = "mean",
    steps: int = STEPS,
    chunk: int = CHUNK,
) -> Curves:
    """The deletion and the insertion curve of each image; both take 2 * steps scores an image in all.

    Args:
        score_fn: the score that is explained, logit or probability. Where it mixes the images of a batch
            (`VARIANT: released`), `chunk` must be 1.
        images: normalised, (B, 3, S, S).
        maps: (B, gh, gw).
        baseline: what replaces a patch, a name of `BASELINES`.
        steps: how many times patches are taken away, 1 to gh * gw.
        chunk: images that are scored at once; bounds the memory.
    """
    B, gh, gw = maps.shape
    P = gh * gw
    blank = BASELINES[baseline](images)
    rank = order_of(maps.to(images.device)).argsort(1)  # (B, P): the place of each patch in the order
    # The row (column) of patches that each row (column) of pixels belongs to.
    rows, columns = (
        (torch.arange(pixels) * cells // pixels).to(images.device)
        for pixels, cells in zip(images.shape[2:], (gh, gw), strict=True)
    )
    # What is scored, one row each: image, first rank that is kept, first rank that is not kept any more. The full
    # images and the baselines stand first: they end both curves, and are scored once.
    counts = patch_counts(P, steps)
    plan = [(i, 0, P) for i in range(B)] + [(i, 0, 0) for i in range(B)]
    plan += [(i, k, P) for i in range(B) for k in counts[1:-1]]
    plan += [(i, 0, k) for i in range(B) for k in counts[1:-1]]
    found = []
    for part in torch.tensor(plan).to(images.device).split(chunk):
        which, first, end = part.unbind(1)
        own = rank[which]  # (N, P)
        kept = ((own >= first[:, None]) & (own < end[:, None])).view(-1, gh, gw)
        pixels = kept.index_select(1, rows).index_select(2, columns)[:, None]  # (N, 1, S, S)
        found.append(score_fn(torch.where(pixels, images[which], blank[which])))  # (N,)
    full, empty, deleted, inserted = torch.cat(found).split([B, B, *[B * (steps - 1)] * 2])
    deletion = torch.cat([full[:, None], deleted.view(B, -1), empty[:, None]], dim=1)
    insertion = torch.cat([empty[:, None], inserted.view(B, -1), full[:, None]], dim=1)
    return Curves(deletion, insertion)


def patch_counts(patches: int, steps: int) -> list[int]:
    """k_j of the formula, steps + 1 numbers from 0 to P; k_j + k_(steps - j) = P wherever P allows it."""
    lower = [(2 * j * patches + steps) // (2 * steps) for j in range(steps // 2 + 1)]  # halves are rounded up
    return lower + [patches - count for count in reversed(lower[: (steps + 1) // 2])]


# Localisation against ground truth, image by image, each beside what a blind guess would reach.

_LEVELS = 2.0**40


@dataclass(frozen=True)
class Localisation:
    """How well each map lies inside a mask, all (B,), in [0, 1]; NaN where the mask is empty, which says nothing.

    Attributes:
        pointing: 1 if the map's maximum lies inside the mask (Zhang et al., IJCV 2018, without tolerance); of several
            equal maxima the share inside counts. By chance: `area`.
        energy: the share of the map, less its own minimum, that lies inside (Wang et al., "Score-CAM", CVPRW 2020). By
            chance: `area`.
        iou_best: the largest overlap at any threshold; the whole picture is one, so at least `area`.
        area: the share of the image inside the mask.
    """

    pointing: Floats
    energy: Floats
    iou_best: Floats
    area: Floats


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, gh, gw) at the size (H, W) of the picture, bilinear: (B, H, W), in float64 if they are."""
    return F.interpolate(maps.detach()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def localise(maps: Tensor, masks: Tensor) -> Localisation:
    """Compares maps, upsampled bilinearly to the size of the masks, with them.

    Args:
        maps: (B, gh, gw), not NaN.
        masks: (B, H, W) bool, in the geometry of the images that were explained (see `ground_truth.fit_mask`).

    Raises:
        ValueError: a map holds NaN.
    """
    if maps.isnan().any():
        raise ValueError("a map holds NaN")
    maps, masks = maps.detach().cpu(), masks.cpu()
    # From 0 to 1, in float64; a constant map is 0 everywhere. Pixels that differ by rounding alone are equal.
    flat = maps.double() - maps.double().amin((1, 2), keepdim=True)
    flat = flat / flat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    large = (upsample(flat, (masks.shape[1], masks.shape[2])) * _LEVELS).round() / _LEVELS
    table = np.full((3, len(maps)), np.nan)  # energy, best overlap, area
    for column, values, mask in zip(table.T, large.flatten(1), masks.flatten(1), strict=True):
        inside = int(mask.sum())
        if not inside:
            continue
        area = inside / len(mask)
        total = float(values.sum())
        energy = float(values[mask].sum()) / total if total > 0 else area  # a constant map points everywhere alike
        levels, which = torch.unique(values, return_inverse=True)  # ascending
        marked = torch.bincount(which, minlength=len(levels)).flip(0).cumsum(0).double()  # pixels from each level up
        hits = torch.bincount(which[mask], minlength=len(levels)).flip(0).cumsum(0).double()  # of them inside the mask
        column[:] = energy, float((hits / (marked + inside - hits)).max()), area
    energies, overlaps, areas = table
    pointing = np.where(np.isnan(areas), np.nan, _pointing(maps, masks).numpy())
    return Localisation(pointing, energies, overlaps, areas)


def _pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's maxima that lies inside, (B,); a centre between pixels counts by their share.

    The maximum of a bilinear surface is the centre of the highest cell, and is taken there: pixels lie beside the
    centres of inner cells, but on the plateau of those at the border, and the highest pixel of a random map would lie
    at the border too often.
    """
    highest = maps == maps.amax((1, 2), keepdim=True)  # (B, gh, gw)
    inside = masks.double()
    for axis in (1, 2):
        pixels, cells = masks.shape[axis], maps.shape[axis]
        doubled = torch.arange(1, 2 * cells, 2) * pixels - cells  # 2 * cells * the centre, from that of pixel 0
        before, after = doubled // (2 * cells), -(-doubled // (2 * cells))  # one pixel where it holds the centre
        before, after = before.clamp(0, pixels - 1), after.clamp(0, pixels - 1)
        inside = (inside.index_select(axis, before) + inside.index_select(axis, after)) / 2
    return (highest * inside).sum((1, 2)) / highest.sum((1, 2))
