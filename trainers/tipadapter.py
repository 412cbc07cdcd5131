"""Tip-Adapter: a cache of the training images beside zero-shot CLIP, without training (Zhang et al., ECCV 2022).

The formula, and the search of alpha and beta, stand in `xcoop.cache_model` (arXiv 2111.03930). Differences from the
released code: keys are features of images that are not augmented (there, means over ten augmented views); the grid
is searched on the validation split only, and the configured values hold where there is none; settings that are
equally accurate are told apart by their cross entropy.
"""

from __future__ import annotations

from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.cache_model import CACHE, CacheModel, CacheTrainer
from xcoop.concepts import ConceptBank
from xcoop.features import LabelledFeatures
from xcoop.model import PromptModel
from xcoop.plugins import register_trainer

DEFAULTS = CfgNode({**CACHE})


class TipAdapterModel(CacheModel):
    """Fitted at once."""

    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Fills the cache, and searches alpha and beta."""
        super().prepare(training, validation)
        self.search(validation)


@register_trainer("TIPADAPTER", DEFAULTS)
class TipAdapter(CacheTrainer):
    """Fits Tip-Adapter; no epochs."""

    node = "TIPADAPTER"

    def build_method(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> PromptModel:
        """An empty cache beside the fixed sentences."""
        text = self.class_features(backbone, classnames, bank)
        return TipAdapterModel(backbone, classnames, text, self.settings)
