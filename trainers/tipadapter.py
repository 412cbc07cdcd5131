"""Tip-Adapter: a cache of the training images beside zero-shot CLIP, without training (Zhang et al., ECCV 2022).

The formula, and the search of alpha and beta, stand in `xcoop.methods.cache_model` (arXiv 2111.03930). The released
code (gaopengcuhk/Tip-Adapter at d0e2d6f) has a grid for each of its eleven sets: up to 7 (beta) and 3 (alpha) for
ImageNet, pets and actions, up to 50 and 50 for flowers, between them for the others; 200 betas and 20 alphas. No one
of them is for medical sets, so the widest is searched, with the 200 alphas of those who ran Tip-Adapter on many sets
by one grid (FereshteShakeri/FewShot-CLIP-Strong-Baseline; HealthX-Lab/BiomedCoOp, on medical ones): every tenth is the
release's.

Differences: keys are features of images that are not augmented (there, means over ten augmented views); the configured
values hold where there is no validation split; settings that are equally accurate are told apart by their cross
entropy (there, the first of equals is taken: on few images mostly the smallest beta, which made both methods less
accurate on the benchmark's test sets, by five points in the mean; so this departure is in their favour).
"""

from __future__ import annotations

from yacs.config import CfgNode

from xcoop.backbones import Backbone, LabelledFeatures
from xcoop.concepts import ConceptBank
from xcoop.config.plugins import register_trainer
from xcoop.methods.cache_model import CACHE, CacheModel
from xcoop.methods.model import PromptModel
from xcoop.training.fixed_text import CacheTrainer

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
