"""MaPLe: text prompts of the first layers, coupled to vision prompts (Khattak et al., CVPR 2023, arXiv 2210.03117).

Symbols: n prompts a layer, J layers, W text width, V width of the image tower.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.config.plugins import register_trainer
from xcoop.methods.deep_prompts import DeepPromptModel, depth_within, vision_width
from xcoop.methods.model import PromptModel, Task
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import whole

DEFAULTS = CfgNode(
    {
        "N_CTX": 2,  # n, prompts of each layer, in either tower
        "CTX_INIT": "a photo of a",  # words to start from: the first n are learned, the rest stays; "" is random
        "PREC": "fp16",  # fp32, amp, fp16, bf16
        "PROMPT_DEPTH": 9,  # J, layers with prompts of their own; a smaller tower has them in all its layers
    }
)


class MaPLeModel(DeepPromptModel):
    """Layer j has text prompts P_j (n, W), and vision prompts F_j(P_j) (n, V) by a linear map of its own.

    As in the released code (muzairkhattak/multimodal-prompt-learning, trainers/maple.py at 69bce21) the first map has
    random numbers of its own, and all later ones start as copies of one other.
    """

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode) -> None:
        J = depth_within(settings.PROMPT_DEPTH, backbone, "MaPLe")
        super().__init__(backbone, classnames, settings.CTX_INIT, settings.N_CTX, J, "MaPLe")
        W, V = backbone.text_width, vision_width(backbone, "MaPLe")
        first, later = nn.Linear(W, V), nn.Linear(W, V)
        self.coupling = nn.ModuleList([first, *(deepcopy(later) for _ in range(J - 1))])

    def vision_prompts(self) -> Tensor:
        """F_j(P_j), (J, n, V)."""
        pairs = zip(self.coupling, self.text_layers(), strict=True)
        return torch.stack([couple(prompts) for couple, prompts in pairs])


@register_trainer("MAPLE", DEFAULTS, {"PROMPT_DEPTH": whole(1)})
class MaPLe(PromptTrainer):
    """Trains the text prompts of MaPLe and their couplings."""

    node = "MAPLE"
    needs_vit = True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return MaPLeModel(backbone, task.classnames, cfg.TRAINER.MAPLE)
