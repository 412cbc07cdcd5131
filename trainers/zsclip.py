"""Zero-shot CLIP: fixed sentences, nothing trained (Radford et al., ICML 2021, arXiv 2103.00020).

The ensembles are the paper's (section 3.1.4), over templates of our own or over the concepts of a bank. What is
compared with images here is also what the methods on image features (adapters, caches, LP++) add to.
Symbols: C classes, S sentences a class, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.concepts.sentences import clinical_features, fill
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import ClassVector, PromptModel, Task
from xcoop.methods.prompts import MEDICAL, sentence_features, template_features
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import TEMPLATES, Rule, one_of

TEXT = {
    "TEMPLATE": "",  # with {} for the class name; "" is the dataset's `template`, else "a photo of a {}."
    "CLINICAL": False,  # the clinical sentences of the concept bank in the place of class names
    "ENSEMBLE": "",  # the mean over: `templates` (the one above and TEMPLATES), `concepts` (a clinical sentence each)
    "TEMPLATES": list(MEDICAL),
}
DEFAULTS = CfgNode(TEXT)


class FixedTextModel(PromptModel):
    """CLIP's logits with text features (C, D) that never change."""

    class_vector = ClassVector(
        "text feature",
        learned=False,
        about="This method learns no prompt: the text feature of a class comes from fixed sentences, and training does "
        "not change it.",
    )
    text: Tensor

    def __init__(self, backbone: Backbone, classnames: Sequence[str], text: Tensor) -> None:
        super().__init__(backbone, classnames)
        self.register_buffer("text", text, persistent=False)

    def text_features(self) -> Tensor:
        return self.text


@torch.no_grad()
def fixed_text(backbone: Backbone, task: Task, settings: CfgNode) -> Tensor:
    """The text features that a node with the keys of `TEXT` asks for, (C, D), unit.

    An ensemble is the mean of unit features, renormalised.
    """
    bank, name_alone = task.bank, settings.TEMPLATE or task.template
    if bank is None:
        more = settings.TEMPLATES if settings.ENSEMBLE == "templates" else []
        templates = list(dict.fromkeys([name_alone, *more]))  # each once
        return unit(template_features(backbone, templates, task.classnames).mean(1))
    if settings.ENSEMBLE != "concepts":
        return clinical_features(backbone, bank)
    means = []
    for name in bank.classes:  # the sentence with each single concept; a class without any has its plain sentence
        concepts = [[text] for text in bank.texts(name)] or [[]]
        sentences = [fill(bank.template, name, concept) for concept in concepts]
        means.append(sentence_features(backbone, [sentences])[0].mean(0))
    return unit(torch.stack(means))


class FixedTextTrainer(PromptTrainer):
    """Base of the trainers whose text features are fixed; its node has the keys of `TEXT`."""

    node_rules: ClassVar[dict[str, Rule]] = {
        **PromptTrainer.node_rules,
        "ENSEMBLE": one_of("", "templates", "concepts"),
        "TEMPLATES": TEMPLATES,
    }

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        """Clinical sentences come from the bank."""
        settings = cfg.TRAINER[cls.node]
        return bool(settings.CLINICAL) or settings.ENSEMBLE == "concepts"

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        """Class names and concepts are not averaged."""
        super().check_cfg(cfg)
        node, settings = f"TRAINER.{cls.node}", cfg.TRAINER[cls.node]
        if settings.CLINICAL and settings.ENSEMBLE == "templates":
            raise ValueError(f"{node}.CLINICAL has no class names for {node}.ENSEMBLE templates: choose one of them")


@register_trainer("ZEROSHOTCLIP", DEFAULTS)
class ZeroshotCLIP(FixedTextTrainer):
    """Trains nothing, and tests."""

    trains = False  # one run is all there is: no shots, no seeds
    variants = (  # what `xcoop run ... all` runs
        (),
        ("TRAINER.ZEROSHOTCLIP.CLINICAL", "True"),
        ("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "templates"),
        ("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "concepts"),
    )

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        return FixedTextModel(backbone, task.classnames, fixed_text(backbone, task, cfg.TRAINER.ZEROSHOTCLIP))
