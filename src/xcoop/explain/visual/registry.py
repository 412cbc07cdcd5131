"""The visual methods by name, and the one way to call them: an image, a target, a map of patches.

Symbols: B images, S their side, gh x gw patches, T = gh * gw, V width of the tower, D joint width.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.finer import finer_maps
from xcoop.utils.suggest import unknown

Method = Callable[[Backbone, Tensor, Target], Tensor]
FINER = "@2"  # behind a method's name: maps at half a patch


class Methods(NamedTuple):
    """Names of the methods that explain a class's logit, and the similarity with a concept."""

    of_class: str
    of_concept: str


DEFAULTS = {"vit": Methods("legrad", "maskclip@2"), "resnet": Methods("maskclip", "maskclip@2")}


@dataclass(frozen=True)
class Explainer:
    """A visual method.

    Attributes:
        name: as it is asked for.
        method: (backbone, images (B, 3, S, S), target) to maps (B, gh, gw), higher = more relevant.
        towers: the image towers that it can look into, "vit" and "resnet".
        class_specific: whether the map depends on what is explained.
        summary: one sentence for readers of its maps.
        cost: passes through the image tower, in words.
    """

    name: str
    method: Method
    towers: tuple[str, ...]
    class_specific: bool
    summary: str
    cost: str


_explainers: dict[str, Explainer] = {}


def register_explainer(
    name: str, towers: tuple[str, ...], summary: str, cost: str, class_specific: bool = True
) -> Callable[[Method], Method]:
    """Offers the decorated function as a visual method; see `Explainer`."""

    def collect(method: Method) -> Method:
        _explainers[name] = Explainer(name, method, towers, class_specific, summary, cost)
        return method

    return collect


def explainers() -> dict[str, Explainer]:
    """Every visual method of this package by name, sorted."""
    package = importlib.import_module("xcoop.explain.visual")
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"xcoop.explain.visual.{module}")
    return dict(sorted(_explainers.items()))


def explainer(name: str) -> Explainer:
    """The visual method of a name; `captum:IntegratedGradients` is captum's, `maskclip@2` maskclip at half a patch.

    Raises:
        ValueError: nobody offers it.
    """
    known = explainers()
    if name.endswith(FINER):
        return _finer(explainer(name.removesuffix(FINER)))
    if name.startswith("captum:"):
        from xcoop.explain.visual.captum_adapter import captum_explainer

        return captum_explainer(name)
    if name not in known:
        raise ValueError(unknown("visual explanation", name, known))
    return known[name]


def _finer(coarse: Explainer) -> Explainer:
    return replace(
        coarse,
        name=coarse.name + FINER,
        method=partial(finer_maps, coarse.method),
        summary=f"{coarse.summary} Four shifted images tell the halves of a patch apart.",
        cost=f"4 x ({coarse.cost})",
    )


def tower_of(backbone: Backbone) -> str:
    """`vit` or `resnet`."""
    return "vit" if getattr(backbone, "is_vit", False) else "resnet"


def methods(backbone: Backbone, asked: str = "") -> Methods:
    """The method that was asked for, for classes and concepts alike; "" is the backbone's default, for each its own.

    Raises:
        ValueError: nobody offers it.
    """
    return Methods(explainer(asked).name, asked) if asked else DEFAULTS[tower_of(backbone)]


def explain_maps(name: str, backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Where an image tower looked for what a target scores.

    Args:
        name: of the method.
        backbone: with the image tower that gives the target its features; nothing of it is changed.
        images: preprocessed, (B, 3, S, S).
        target: what is explained.

    Returns:
        Raw maps (B, gh, gw) in 32 bit, without gradient; each image's map is that of the image alone. A method at half
        a patch gives (B, 2 gh, 2 gw).

    Raises:
        ValueError: an unknown method, or one that cannot look into this tower.
    """
    chosen = explainer(name)
    tower = tower_of(backbone)
    if tower not in chosen.towers:
        able = [other.name for other in explainers().values() if tower in other.towers]
        raise ValueError(f"{name} cannot look into the {tower} of {backbone.name}; these can: {', '.join(able)}")
    with torch.enable_grad():
        maps = chosen.method(backbone, images.to(backbone.dtype), target)
    return maps.detach().float()


def as_grid(backbone: Backbone, relevance: Tensor) -> Tensor:
    """Relevance of the patches (B, T), row by row, as maps (B, gh, gw)."""
    return relevance.unflatten(1, backbone.grid)
