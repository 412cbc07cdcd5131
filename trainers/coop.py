"""CoOp: the words round the class name are learned (Zhou et al., IJCV 2022, arXiv 2109.01134)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.config.plugins import register_trainer
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.prompts import PromptLearner, start_context
from xcoop.training.trainer import PromptTrainer

DEFAULTS = CfgNode(
    {
        "N_CTX": 16,  # context tokens
        "CSC": False,  # class-specific contexts
        "CTX_INIT": "",  # words to start from; one context for all classes, whatever CSC says
        "PREC": "fp16",  # fp32, amp, fp16, bf16, auto
        "CLASS_TOKEN_POSITION": "end",  # end, middle, front
    }
)


class CoOpModel(PromptModel):
    """Contexts, generic or class-specific; CLIP's own logits; cross entropy."""

    uncaptured = ""

    def __init__(self, backbone: Backbone, classnames: list[str], settings: CfgNode) -> None:
        super().__init__(backbone, classnames)
        leading = [len(classnames)] if settings.CSC else []
        context = start_context(backbone, settings.CTX_INIT, settings.N_CTX, *leading)
        self.prompt_learner = PromptLearner(backbone, classnames, context, settings.CLASS_TOKEN_POSITION)

    def text_features(self) -> Tensor:
        """Features of the prompts, (C, D)."""
        return self.encode_prompts(*self.prompt_learner())


@register_trainer("COOP", DEFAULTS)
class CoOp(PromptTrainer):
    """Trains CoOp's contexts."""

    side_by_side = True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return CoOpModel(backbone, task.classnames, cfg.TRAINER.COOP)
