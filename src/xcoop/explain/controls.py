"""Maps that know nothing, and models that know nothing: what an explanation must be told apart from.

Symbols: B images, gh x gw patches. Maps are (B, gh, gw), higher = more relevant.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from xcoop.backbones import Backbone

Model = TypeVar("Model", bound=nn.Module)

CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in sides of the picture
_TIES = 20240309  # seed of the fixed order among equal values


def random_maps(indices: Sequence[int], grid: tuple[int, int], seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1), (B, gh, gw). An image's map depends on its index and the seed, not on its batch.

    Args:
        indices: the number of each image in its set, 0 or more.
        grid: (gh, gw).
        seed: 0 or more.
    """
    noise = [np.random.default_rng([seed, index]).random(grid, dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(noise))


def centre_maps(count: int, grid: tuple[int, int], width: float = CENTRE_WIDTH) -> Tensor:
    """The same Gaussian about the centre for each image, (B, gh, gw): where photographers put what matters.

    Args:
        count: B.
        grid: (gh, gw).
        width: standard deviation in sides of the picture.
    """
    rows, columns = (((torch.arange(side) + 0.5) / side - 0.5) / width for side in grid)
    bell = torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 2)
    return bell.expand(count, *grid).clone()


def order_of(maps: Tensor) -> Tensor:
    """The patches of each map by falling relevance: (B, gh, gw) to (B, P), P = gh * gw, indices in row-major order.

    Equal values follow a fixed pseudo-random order of the patches, the same for each image. By rows, a map that is
    mostly zero (all rectified maps are) would remove the picture from its top.

    Raises:
        ValueError: a map holds NaN, or the shape is another.
    """
    if maps.dim() != 3 or maps.isnan().any():
        raise ValueError(f"maps must be (B, gh, gw) without NaN, got shape {tuple(maps.shape)}")
    flat = maps.detach().flatten(1)  # (B, P)
    ties = torch.from_numpy(np.random.default_rng(_TIES).permutation(flat.shape[1])).to(flat.device)
    return ties[flat[:, ties].argsort(dim=1, descending=True, stable=True)]


def reversed_maps(maps: Tensor) -> Tensor:
    """Each map turned upside down, as ranks: exactly the opposite order, equal values included. (B, gh, gw)."""
    order = order_of(maps)
    ranks = torch.empty(order.shape, dtype=torch.float32, device=maps.device)
    place = torch.arange(order.shape[1], dtype=torch.float32, device=maps.device)
    return ranks.scatter_(1, order, place.expand_as(ranks)).view(maps.shape)


def control_maps(maps: Tensor, indices: Sequence[int], seed: int = 0, other: Tensor | None = None) -> dict[str, Tensor]:
    """The controls of some maps by name: `random`, `centre`, `reversed`, and `other class` if its maps are given.

    Args:
        maps: (B, gh, gw).
        indices: the number of each image in its set.
        seed: of the random maps.
        other: maps of another class for the same images.
    """
    grid = (maps.shape[1], maps.shape[2])
    controls = {
        "random": random_maps(indices, grid, seed).to(maps.device),
        "centre": centre_maps(len(maps), grid).to(maps.device),
        "reversed": reversed_maps(maps),
    }
    return controls if other is None else controls | {"other class": other}


@torch.no_grad()
def randomised(model: Model, seed: int = 0) -> Model:
    """A copy whose image tower has forgotten all it learned; the original is not touched.

    Each of the tower's parameters is drawn anew from a normal distribution with its own mean and deviation, so that
    activations keep their order of magnitude. (Parameter randomisation test: Adebayo et al., "Sanity checks for
    saliency maps", NeurIPS 2018.) What a prompt learned, and the text tower, stay.

    Args:
        model: a `Backbone`, or a model that has one as `backbone`.
        seed: 0 or more.

    Raises:
        TypeError: neither is the case, or the backbone's image tower is not at `model.visual`.
    """
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(_image_tower(copied).named_parameters()):
        mean, deviation = parameter.float().mean(), parameter.float().std(correction=0)
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.copy_(noise * deviation + mean)
    return copied


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's correlation of two maps, image by image; ties share the mean of their ranks.

    Args:
        one: (B, gh, gw).
        other: the same shape.

    Returns:
        (B,) float64 on the CPU, in [-1, 1]; NaN where a map is constant.

    Raises:
        ValueError: shapes that differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"maps of shapes {tuple(one.shape)} and {tuple(other.shape)} cannot be compared")
    a, b = (_centred_ranks(maps.detach().flatten(1).cpu().double()) for maps in (one, other))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def _centred_ranks(values: Tensor) -> Tensor:
    """Ranks less their mean, (B, P): half of how many are smaller, less half of how many are larger."""
    return torch.stack([(row[:, None] - row[None]).sign().sum(1) / 2 for row in values])


def _image_tower(model: nn.Module) -> nn.Module:
    backbone = model if isinstance(model, Backbone) else getattr(model, "backbone", None)
    tower = getattr(getattr(backbone, "model", None), "visual", None)
    if not isinstance(tower, nn.Module):
        raise TypeError(f"a backbone with an image tower at `model.visual` is needed, not {type(model).__name__}")
    return tower
