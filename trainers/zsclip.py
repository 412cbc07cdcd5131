"""Zero-shot CLIP: fixed sentences, nothing trained (Radford et al., ICML 2021, arXiv 2103.00020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank
from xcoop.concepts.features import clinical_features
from xcoop.model import PromptModel
from xcoop.plugins import register_trainer
from xcoop.training import PromptTrainer

DEFAULTS = CfgNode(
    {
        "CLINICAL": False,  # the clinical sentences of the concept bank in the place of class names
        "TEMPLATE": "",  # with {} for the class name; "" is the dataset's `template`, else "a photo of a {}."
    }
)


class ZeroshotModel(PromptModel):
    """CLIP's logits with text features that never change."""

    text: Tensor

    def __init__(self, backbone: Backbone, classnames: list[str], text: Tensor) -> None:
        super().__init__(backbone, classnames)
        self.register_buffer("text", text, persistent=False)

    def text_features(self) -> Tensor:
        """Features of the sentences, (C, D)."""
        return self.text


@register_trainer("ZEROSHOTCLIP", DEFAULTS)
class ZeroshotCLIP(PromptTrainer):
    """Trains nothing, and tests."""

    node = "ZEROSHOTCLIP"
    trains = False  # one run is all there is: no shots, no seeds
    variants = ((), ("TRAINER.ZEROSHOTCLIP.CLINICAL", "True"))  # what `xcoop run ... all` runs

    def uses_bank(self) -> bool:
        """Clinical sentences come from the bank."""
        return bool(self.settings.CLINICAL)

    def check_cfg(self, cfg: Any) -> None:
        """A template needs a place for the name."""
        super().check_cfg(cfg)
        template = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE
        if template and "{}" not in template:
            raise ValueError(f"TRAINER.ZEROSHOTCLIP.TEMPLATE {template!r} has no {{}} for the class name")

    @torch.no_grad()
    def build_method(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> PromptModel:
        """Encodes the sentences once."""
        if bank:
            return ZeroshotModel(backbone, classnames, clinical_features(backbone, bank))
        template = self.settings.TEMPLATE or self.template
        sentences = [template.format(name.replace("_", " ")) for name in classnames]
        return ZeroshotModel(backbone, classnames, backbone.encode_text(sentences))
