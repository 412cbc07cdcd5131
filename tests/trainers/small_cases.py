"""Three classes, four images and a node of settings, for tests of a method's model without any data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures

NAMES = ["melanoma", "blue nevus", "clear_lung"]
LABELS = torch.tensor([0, 2, 1, 0])


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


def pictures(backbone: Backbone, n: int = 4) -> Tensor:
    return torch.randn(n, 3, backbone.input_size, backbone.input_size, generator=torch.Generator().manual_seed(1))
