"""Heat maps by the name of their method: an image, a target, a map of patches.

Beside the registered methods (`xcoop.explain.map_methods`): `<name>@2`, any of them at half a patch, and
`captum:<class>`, attributions of captum (the extra `[xai]`). Symbols as there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.map_methods import EXPLAINERS, Explainer, Method, Target, tower_of
from xcoop.utils.console import unknown


class Methods(NamedTuple):
    """Names of the methods that explain a class's logit, and the similarity with a concept."""

    of_class: str
    of_concept: str


DEFAULTS = {"vit": Methods("legrad", "maskclip@2"), "resnet": Methods("maskclip", "maskclip@2")}
FINER = "@2"  # behind a method's name: maps at half a patch


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


def methods(backbone: Backbone, asked: str = "") -> Methods:
    """The method that was asked for, for classes and concepts alike; "" is the backbone's default, for each its own.

    Raises:
        ValueError: nobody offers it.
    """
    return Methods(explainer(asked).name, asked) if asked else DEFAULTS[tower_of(backbone)]


def explainers() -> dict[str, Explainer]:
    """Every registered method by name, sorted."""
    return dict(sorted(EXPLAINERS.items()))


def explainer(name: str) -> Explainer:
    """The visual method of a name; `captum:IntegratedGradients` is captum's, `maskclip@2` maskclip at half a patch.

    Raises:
        ValueError: nobody offers it.
        ImportError: it is captum's, which is not installed.
    """
    if name.endswith(FINER):
        coarse = explainer(name.removesuffix(FINER))
        return replace(
            coarse,
            name=name,
            method=partial(finer_maps, coarse.method),
            summary=f"{coarse.summary} Four shifted images tell the halves of a patch apart.",
            cost=f"4 x ({coarse.cost})",
        )
    if name.startswith("captum:"):
        return captum_explainer(name)
    if name not in EXPLAINERS:
        raise ValueError(unknown("visual explanation", name, explainers()))
    return EXPLAINERS[name]


def finer_maps(method: Method, backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Maps at half a patch: a method's maps of four images that are shifted by half a patch, put back and averaged.

    A map of patches says of a thin line only which patch it crosses. Each half patch lies in one patch of each of the
    four shifted images; the mean of what these four say of it tells the halves of a patch apart. At the lower and right
    edge fewer shifts cover a half patch. What a shift leaves free there is filled with the image's last row or column.

    Returns:
        Raw maps (B, 2 gh, 2 gw) in 32 bit, without gradient.
    """
    rows, columns = backbone.grid
    high, wide = images.shape[2] // rows // 2, images.shape[3] // columns // 2  # pixels of half a patch
    total = torch.zeros(len(images), 2 * rows, 2 * columns, device=images.device)
    covered = torch.zeros_like(total)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        edged = F.pad(images, (0, right * wide, 0, down * high), mode="replicate")
        maps = method(backbone, edged[:, :, down * high :, right * wide :], target).detach().float()
        halves = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
        total[:, down:, right:] += halves[:, : 2 * rows - down, : 2 * columns - right]
        covered[:, down:, right:] += 1
    return total / covered


# Attributions of captum that give an image the same map each time and whatever its batch. Left out are those that draw
# random numbers (Lime, KernelShap, ShapleyValueSampling), mix the images of a batch (FeaturePermutation), need more
# than an image (layers, baselines, tokenizers), or replace the rules of activation modules (DeepLift, GuidedBackprop,
# Deconvolution): CLIP's vision transformer has none that they know, and they would return plain gradients there under
# another name.
CAPTUM_COSTS = {
    "InputXGradient": "1 forward, 1 backward",
    "IntegratedGradients": "50 forward, 50 backward",
    "Occlusion": "1 forward a patch, and 1",
    "Saliency": "1 forward, 1 backward",
}


class _Score(nn.Module):
    """A target's score as the module that captum asks for."""

    def __init__(self, backbone: Backbone, target: Target) -> None:
        super().__init__()
        self.backbone, self.target = backbone, target

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B,)."""
        return self.target.score(self.backbone.encode_image(images, patches=True))


def captum_explainer(name: str) -> Explainer:
    """The method `captum:<class>`: attributions of pixels, summed over colours and averaged over each patch.

    Raises:
        ImportError: captum is not installed.
        ValueError: it is none of those that are offered.
    """
    wanted = name.partition(":")[2]
    if wanted not in CAPTUM_COSTS:
        raise ValueError(unknown("attribution of captum", wanted, CAPTUM_COSTS))
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError(f"{name} needs captum: pip install 'xcoop[xai]'") from error
    kind: Any = getattr(attr, wanted)

    def method(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
        rows, columns = backbone.grid
        patch = (3, images.shape[2] // rows, images.shape[3] // columns)
        options = {"sliding_window_shapes": patch, "strides": patch} if wanted == "Occlusion" else {}
        pixels = kind(_Score(backbone, target)).attribute(images.detach().clone().requires_grad_(), **options)
        return F.adaptive_avg_pool2d(pixels.sum(1, keepdim=True), backbone.grid)[:, 0]

    summary = f"captum's {wanted}, averaged over each patch."
    return Explainer(name, method, ("vit", "resnet"), True, summary, CAPTUM_COSTS[wanted])
