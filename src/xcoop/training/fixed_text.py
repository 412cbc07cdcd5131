"""The trainers of methods whose text features never change, and of those with a cache beside them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import clinical_features
from xcoop.methods.alignment import unit
from xcoop.methods.distillation import template_features
from xcoop.methods.fixed_text import concept_sentences, mean_features, templates
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import TEMPLATES, Rule, each, number, one_of, whole


class FixedTextTrainer(PromptTrainer):
    """Base of the trainers whose text features are fixed; its node has the keys of `TEXT`."""

    node_rules: ClassVar[dict[str, Rule]] = {
        **PromptTrainer.node_rules,
        "ENSEMBLE": one_of("", "templates", "concepts"),
        "TEMPLATES": TEMPLATES,
    }

    def uses_bank(self) -> bool:
        """Clinical sentences come from the bank."""
        return bool(self.settings.CLINICAL) or self.settings.ENSEMBLE == "concepts"

    def check_cfg(self, cfg: Any) -> None:
        """Class names and concepts are not averaged."""
        super().check_cfg(cfg)
        node, settings = f"TRAINER.{self.node}", cfg.TRAINER[self.node]
        if settings.CLINICAL and settings.ENSEMBLE == "templates":
            raise ValueError(f"{node}.CLINICAL has no class names for {node}.ENSEMBLE templates: choose one of them")

    @torch.no_grad()
    def class_features(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> Tensor:
        """The text features that the settings ask for, (C, D)."""
        settings = self.settings
        if bank is not None and settings.ENSEMBLE == "concepts":
            return mean_features(backbone, [concept_sentences(bank, name) for name in bank.classes])
        if bank is not None:
            return clinical_features(backbone, bank)
        return unit(template_features(backbone, templates(settings, self.template), classnames).mean(1))


class CacheTrainer(FixedTextTrainer):
    """Base of the trainers of such models; its node has the keys of `CACHE`."""

    node_rules: ClassVar[dict[str, Rule]] = {
        **FixedTextTrainer.node_rules,
        "INIT_BETA": number(0),
        "INIT_ALPHA": number(0),
        "SEARCH_SCALE": each(number(0), 2),
        "SEARCH_STEP": each(whole(1), 2),
    }

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: the cache holds images of these classes."""
        return True
