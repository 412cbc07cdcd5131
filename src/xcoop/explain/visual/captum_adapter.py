"""Attributions of captum (the extra `[xai]`) as more visual methods, `captum:<their class>`.

Offered are those that give an image the same map each time and whatever its batch. Left out are those that draw random
numbers (Lime, KernelShap, ShapleyValueSampling), mix the images of a batch (FeaturePermutation), need more than an
image (layers, baselines, tokenizers), or replace the rules of activation modules (DeepLift, GuidedBackprop,
Deconvolution): CLIP's vision transformer has none that they know, and they would return plain gradients there under
another name.

Attributions of pixels are summed over colours and averaged over each patch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import Explainer
from xcoop.utils.suggest import unknown

COSTS = {
    "InputXGradient": "1 forward, 1 backward",
    "IntegratedGradients": "50 forward, 50 backward",
    "Occlusion": "1 forward a patch, and 1",
    "Saliency": "1 forward, 1 backward",
}
WINDOWS = ("Occlusion",)  # need the size of a window


class _Score(nn.Module):
    """A target's score as the module that captum asks for."""

    def __init__(self, backbone: Backbone, target: Target) -> None:
        super().__init__()
        self.backbone, self.target = backbone, target

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B,)."""
        return self.target.score(self.backbone.encode_image(images, patches=True))


def captum_explainer(name: str) -> Explainer:
    """The method `captum:<class>`.

    Raises:
        ImportError: captum is not installed.
        ValueError: it is none of those that are offered.
    """
    wanted = name.partition(":")[2]
    if wanted not in COSTS:
        raise ValueError(unknown("attribution of captum", wanted, COSTS))
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError(f"{name} needs captum: pip install 'xcoop[xai]'") from error
    kind: Any = getattr(attr, wanted)

    def method(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
        rows, columns = backbone.grid
        patch = (images.shape[2] // rows, images.shape[3] // columns)
        options = {"sliding_window_shapes": (3, *patch), "strides": (3, *patch)} if wanted in WINDOWS else {}
        pixels = kind(_Score(backbone, target)).attribute(images.detach().clone().requires_grad_(), **options)
        return F.adaptive_avg_pool2d(pixels.sum(1, keepdim=True), backbone.grid)[:, 0]

    return Explainer(
        name, method, ("vit", "resnet"), True, f"captum's {wanted}, averaged over each patch.", COSTS[wanted]
    )
