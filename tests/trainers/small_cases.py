"""Three classes, a few images and a node of settings, for tests of a method's model without any data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures

D = 48  # of the tiny backbones
NAMES = ["melanoma", "blue nevus", "clear_lung"]
LABELS = torch.tensor([0, 2, 1, 0])
SENTENCES = [
    [f"{start} {name}{end}." for start in ("a", "the", "one") for end in ("", " on skin", " of a patient")]
    for name in ("melanoma", "blue nevus", "clear lung")
]


def one(x: np.ndarray) -> np.ndarray:
    """At length one."""
    return x / np.linalg.norm(x)


def settings(defaults: CfgNode, **keys: object) -> CfgNode:
    node = defaults.clone()
    node.merge_from_list([part for pair in keys.items() for part in pair])
    return node


def drawn_features(backbone: Backbone, n: int = 4) -> ImageFeatures:
    """Global features of n images that nobody encoded."""
    pooled = torch.randn(n, backbone.embed_dim, generator=torch.Generator().manual_seed(3))
    return ImageFeatures(pooled, pooled[:, None, :][:, :0])


def clusters(seed: int, n: int, classes: int = 3) -> LabelledFeatures:
    """Features of n images in noisy clusters, far from the origin as CLIP's are."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, D, generator=torch.Generator().manual_seed(0))
    pooled = 1 + centres[labels] + 2 * torch.randn(n, D, generator=draw)
    return LabelledFeatures(ImageFeatures(pooled, torch.zeros(n, 0, D)), labels)


def pictures(backbone: Backbone, n: int = 4) -> Tensor:
    return torch.randn(n, 3, backbone.input_size, backbone.input_size, generator=torch.Generator().manual_seed(1))
