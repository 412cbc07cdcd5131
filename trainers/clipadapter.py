"""CLIP-Adapter: a small network changes the image feature (Gao et al., IJCV 2024, arXiv 2110.04544).

    f* = RATIO A(f) + (1 - RATIO) f        A(f) = relu(W2 relu(W1 f)), W1 (D/REDUCTION, D), W2 (D, D/REDUCTION)

and CLIP's logits for f*. As in the released code there is no adapter on the text side, and A has no bias.
Differences from it: images are not augmented, so that their features are computed once; and the YAML files train
with ten times CoOp's learning rate, with which the training loss hardly falls (on the phantom with 16 shots from 0.75
to 0.67 in 200 epochs; to 0.12 with ten times as much).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.model import PromptModel, Task
from xcoop.trainers.zsclip import TEXT, FixedTextModel, FixedTextTrainer, fixed_text
from xcoop.utils.rules import number, whole

DEFAULTS = CfgNode(
    {
        **TEXT,
        "PREC": "fp32",  # fp32, amp, fp16, bf16, auto
        "RATIO": 0.2,  # share of the adapted feature, in [0, 1]
        "REDUCTION": 4,  # D / width of the bottleneck
    }
)
RULES = {"RATIO": number(above=0, high=1), "REDUCTION": whole(1)}


class CLIPAdapterModel(FixedTextModel):
    """A bottleneck beside the identity, on image features (B, D)."""

    uncaptured = ""
    class_vector = FixedTextModel.class_vector._replace(
        about="This method learns no prompt: the text feature of a class comes from fixed sentences; what is trained "
        "changes the image features that it is compared with."
    )

    def __init__(self, backbone: Backbone, classnames: list[str], text: Tensor, settings: CfgNode) -> None:
        super().__init__(backbone, classnames, text)
        self.ratio = settings.RATIO
        D, width = backbone.embed_dim, max(1, backbone.embed_dim // settings.REDUCTION)
        down, up = nn.Linear(D, width, bias=False), nn.Linear(width, D, bias=False)
        self.adapter = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())

    def compared(self, features: ImageFeatures) -> Tensor:
        """The adapted features f*, (B, D)."""
        f = features.pooled
        return self.ratio * self.adapter(f) + (1 - self.ratio) * f

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(self.adapter.parameters()), "lr": lr, "name": "adapter"}]


@register_trainer("CLIPADAPTER", DEFAULTS, RULES)
class CLIPAdapter(FixedTextTrainer):
    """Trains the adapter."""

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        settings = cfg.TRAINER.CLIPADAPTER
        return CLIPAdapterModel(backbone, task.classnames, fixed_text(backbone, task, settings), settings)
