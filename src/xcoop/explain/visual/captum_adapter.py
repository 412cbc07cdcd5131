"""Any attribution of captum (the extra `[xai]`) as one more visual method, `captum:<its class>`.

Attributions of pixels are summed over colours and averaged over each patch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.explain.target import Target
from xcoop.explain.visual.registry import Explainer
from xcoop.names import unknown

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
        ValueError: captum has no such attribution of inputs.
    """
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError(f"{name} needs captum: pip install 'xcoop[xai]'") from error
    wanted = name.partition(":")[2]
    known = [other for other in dir(attr) if _takes_inputs(getattr(attr, other))]
    if wanted not in known:
        raise ValueError(unknown("attribution of captum", wanted, known))
    kind: Any = getattr(attr, wanted)

    def method(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
        rows, columns = backbone.grid
        patch = (images.shape[2] // rows, images.shape[3] // columns)
        options = {"sliding_window_shapes": (3, *patch), "strides": (3, *patch)} if wanted in WINDOWS else {}
        pixels = kind(_Score(backbone, target)).attribute(images.detach().clone().requires_grad_(), **options)
        return F.adaptive_avg_pool2d(pixels.sum(1, keepdim=True), backbone.grid)[:, 0]

    return Explainer(name, method, ("vit", "resnet"), True, f"captum's {wanted}, averaged over each patch.")


def _takes_inputs(kind: Any) -> bool:
    from captum.attr import Attribution, LayerAttribution, NeuronAttribution

    bases = (LayerAttribution, NeuronAttribution)
    return isinstance(kind, type) and issubclass(kind, Attribution) and not issubclass(kind, bases)
