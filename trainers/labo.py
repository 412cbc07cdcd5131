"""LaBo: a language-guided concept bottleneck with learned class-concept weights (Yang et al., CVPR 2023).

arXiv 2211.11158. Each class is a weighted mean of concepts' text features, and the weights are trained:

    z_c     = sum_j softmax_j(W_c) t_j        the weights of a class are positive and sum to 1
    logit_c = 100 f . z_c                     again a sum over concepts: of 100 softmax_j(W_c) f . t_j
    W_cj    = INIT at the start where the language model names concept j for class c, else 0: the prior
    loss    = cross entropy

As in the released code (YueYANG1996/LaBo at 83ed4b0, models/asso_opt/asso_opt.py:11-15, 78-104, 133-135;
cfg/asso_opt/base.py): there is no bias, no other part of the loss is on, the softmax runs over the concepts of a class,
f and t are as they come out of the towers (UNIT_FEATURES is ours), the optimiser is Adam. INIT and rate were chosen for
each set and number of shots there; the CLIP configuration has those of HAM10000 at 16 shots, and like the release it
keeps the epoch that is best on the validation images.

Departures: the concepts are those of a concept bank (there, sentences by GPT-3). All of them are used: the release
chooses 50 a class of hundreds by a submodular function of their mutual information with the classes and their coverage
of each other, and keeps all where there are no more than that (models/select_concept/select_algo.py:154); banks have
about ten. A concept that several classes list has the prior in each of them (there, only in the first:
YueYANG1996/LaBo, issue 30). 1,000 epochs (there, 10,000).
Symbols: B images, C classes, J concepts, D joint width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import bank_or_control
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import ClassVector, PromptModel, Task
from xcoop.trainers.pcbm import BOTTLENECK, BottleneckTrainer, ConceptBottleneck
from xcoop.utils.rules import number

DEFAULTS = CfgNode(
    {
        **BOTTLENECK,
        "PREC": "fp32",  # fp32, amp, fp16, bf16, auto
        "INIT": 1.0,  # W at the start where the bank lists a concept for a class; 0 leaves the prior out
        "SCALE": 100.0,  # of the logits; that of CLIP
        "UNIT_FEATURES": False,  # images and concepts at length one; else as they come out of the towers
    }
)
RULES = {"INIT": number(0), "SCALE": number(above=0)}


class LaBoModel(ConceptBottleneck):
    """W (C, J) is trained, and nothing else."""

    class_vector = ClassVector(
        "class vector",
        learned=True,
        about="This method learns no prompt: the vector of a class is a mean of the text features of the bank's "
        "concepts, with weights that sum to 1. They start from what the bank lists for the class, and are trained.",
    )
    uncaptured = ""
    class_specific = True

    def __init__(self, backbone: Backbone, classnames: list[str], bank: ConceptBank, settings: CfgNode) -> None:
        super().__init__(backbone, classnames, bank, raw=not settings.UNIT_FEATURES)
        self.settings = settings
        self.weight = nn.Parameter(settings.INIT * self.concepts.listed.to(self.vectors))  # W, (C, J)

    def compared(self, features: ImageFeatures) -> Tensor:
        """What is compared with the concepts, (B, D)."""
        return unit(features.pooled) if self.settings.UNIT_FEATURES else features.pooled

    def concept_weights(self) -> Tensor:
        """Those of a class sum to SCALE, (C, J)."""
        return self.settings.SCALE * self.weight.softmax(-1)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.weight], "lr": lr, "name": "class-concept weights"}]


@register_trainer("LABO", DEFAULTS, RULES)
class LaBo(BottleneckTrainer):
    """Trains class-concept weights from the prior of the bank."""

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """The model, over the concepts of the bank or of what KNOWLEDGE puts in its place."""
        settings = cfg.TRAINER.LABO
        bank = bank_or_control(task.bank, settings.KNOWLEDGE, cfg.SEED)
        return LaBoModel(backbone, task.classnames, bank, settings)
