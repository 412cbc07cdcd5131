"""Three classes, four images and a node of settings, for tests of a method's model without any data."""

from __future__ import annotations

import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone

NAMES = ["melanoma", "blue nevus", "clear_lung"]
LABELS = torch.tensor([0, 2, 1, 0])


def settings(defaults: CfgNode, **keys: object) -> CfgNode:
    node = defaults.clone()
    node.merge_from_list([part for pair in keys.items() for part in pair])
    return node


def pictures(backbone: Backbone, n: int = 4) -> Tensor:
    return torch.randn(n, 3, backbone.input_size, backbone.input_size, generator=torch.Generator().manual_seed(1))
