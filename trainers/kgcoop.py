"""KgCoOp: a context that stays near what people wrote (Yao et al., CVPR 2023, arXiv 2303.13283)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import prompt_distance
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import template_features
from xcoop.trainers.coop import DEFAULTS as COOP
from xcoop.trainers.coop import CoOpModel
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number

DEFAULTS = CfgNode(
    {
        **COOP,
        "N_CTX": 4,
        "CTX_INIT": "a photo of a",
        "W": 8.0,  # of the distance between learned and hand-written class features
        "TEMPLATE": "",  # the hand-written sentence, with {} for the class name; "" is the dataset's `template`
    }
)


class KgCoOpModel(CoOpModel):
    """CoOp's loss + W * d(w, h): w the learned class features, h those of a hand-written sentence.

    d is the mean over the classes of 1 - cos(w_c, h_c), as in the released code (htyao89/KgCoOp,
    KgCoOp/trainers/kgcoop.py at c43ccc3): half of the squared distance of the unit features, the paper's regulariser.
    W = 8 is the paper's. Departures: the sentence is the dataset's own (the release has a list for its datasets), a
    bias vector and two networks that the release makes but neither trains nor uses are not there, and AMP works (the
    release's branch for it fails).
    """

    hand_written: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode, template: str) -> None:
        super().__init__(backbone, classnames, settings)
        self.weight = settings.W
        features = template_features(backbone, [template], classnames)[:, 0]  # (C, D)
        self.register_buffer("hand_written", features, persistent=False)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, and how far the prompts are from the sentences; a weight of 0 is CoOp."""
        text = self.text_features()  # (C, D)
        parts = classification(self.compare(features, text), labels)
        if self.weight:
            parts["distance"] = self.weight * prompt_distance(text, self.hand_written)
        return parts


@register_trainer("KGCOOP", DEFAULTS, {"W": number(0)})
class KgCoOp(PromptTrainer):
    """Trains KgCoOp's contexts."""

    side_by_side = True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        settings = cfg.TRAINER.KGCOOP
        return KgCoOpModel(backbone, task.classnames, settings, settings.TEMPLATE or task.template)
