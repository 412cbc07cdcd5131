"""Zero-shot CLIP: fixed sentences, nothing trained (Radford et al., ICML 2021, arXiv 2103.00020).

The ensembles are the paper's (section 3.1.4), over templates of our own or over the concepts of a bank.
"""

from __future__ import annotations

from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank
from xcoop.config.plugins import register_trainer
from xcoop.methods.fixed_text import TEXT, FixedTextModel
from xcoop.methods.model import PromptModel
from xcoop.training.fixed_text import FixedTextTrainer

DEFAULTS = CfgNode({**TEXT})


@register_trainer("ZEROSHOTCLIP", DEFAULTS)
class ZeroshotCLIP(FixedTextTrainer):
    """Trains nothing, and tests."""

    node = "ZEROSHOTCLIP"
    trains = False  # one run is all there is: no shots, no seeds
    variants = (  # what `xcoop run ... all` runs
        (),
        ("TRAINER.ZEROSHOTCLIP.CLINICAL", "True"),
        ("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "templates"),
        ("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "concepts"),
    )

    def build_method(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> PromptModel:
        """Encodes the sentences once."""
        return FixedTextModel(backbone, classnames, self.class_features(backbone, classnames, bank))
