"""Tip-Adapter: a cache of the training images beside zero-shot CLIP, without training.

Zhang et al., ECCV 2022, arXiv 2111.03930:

    logits = alpha exp(-beta (1 - f F^T)) L + scale f t^T

f: unit image feature. F (keys): the unit features of the training images. L (values): their labels, one-hot.
t: unit text features. scale: CLIP's inverse temperature (100 in the paper, 100 in OpenAI's weights).

Alpha and beta are chosen on the validation split. The released code (gaopengcuhk/Tip-Adapter at d0e2d6f) has a grid for
each of its eleven sets: up to 7 (beta) and 3 (alpha) for ImageNet, pets and actions, up to 50 and 50 for flowers,
between them for the others; 200 betas and 20 alphas. No one of them is for medical sets, so the widest is searched,
with the 200 alphas of those who ran Tip-Adapter on many sets by one grid (FereshteShakeri/FewShot-CLIP-Strong-Baseline;
HealthX-Lab/BiomedCoOp, on medical ones): every tenth is the release's.

Differences: keys are features of images that are not augmented (there, means over ten augmented views); the configured
values hold where there is no validation split; settings that are equally accurate are told apart by their cross
entropy (there, the first of equals is taken: on few images mostly the smallest beta, which made both methods less
accurate on the benchmark's test sets, by five points in the mean; so this departure is in their favour).
Symbols: B images, N training images, V validation images, C classes, D joint width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task, best_setting, validation_scores
from xcoop.trainers.zsclip import TEXT, FixedTextModel, FixedTextTrainer, fixed_text
from xcoop.utils.rules import Rule, each, number, whole

logger = logging.getLogger(__name__)

# The keys of the nodes of Tip-Adapter and Tip-Adapter-F, named as in the released code.
CACHE = {
    **TEXT,
    "INIT_BETA": 1.0,  # sharpness; Tip-Adapter-F trains with it
    "INIT_ALPHA": 1.17,  # weight of the cache
    "SEARCH_HP": True,  # choose both on the validation split, if there is one
    "SEARCH_SCALE": [50.0, 50.0],  # largest beta and alpha of the grid, which begins at 0.1
    "SEARCH_STEP": [200, 200],  # how many of each
}
DEFAULTS = CfgNode(CACHE)


class TipAdapterModel(FixedTextModel):
    """Keys, values, alpha and beta. Before `prepare` the cache is empty, and the logits are zero-shot CLIP's."""

    trains_keys: bool = False  # whether the keys are parameters; alpha and beta are then searched after the training
    fitted = ("keys", "values", "alpha", "beta")
    per_image = ("keys", "values")
    class_vector = FixedTextModel.class_vector._replace(
        about="This method learns no prompt: the text feature of a class comes from fixed sentences. What its cache of "
        "training images adds to the logits is no part of it."
    )
    keys: Tensor
    values: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, backbone: Backbone, classnames: Sequence[str], text: Tensor, settings: CfgNode) -> None:
        super().__init__(backbone, classnames, text)
        self.settings = settings
        keys = torch.zeros(0, backbone.embed_dim)
        if self.trains_keys:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("values", torch.zeros(0, len(classnames)), persistent=False)
        self.register_buffer("alpha", torch.tensor(float(settings.INIT_ALPHA)), persistent=False)
        self.register_buffer("beta", torch.tensor(float(settings.INIT_BETA)), persistent=False)

    def logits(self, features: ImageFeatures) -> Tensor:
        """The formula above, (B, C)."""
        image = unit(features.pooled)
        cached = cache_logits(image @ self.keys.T, self.values, self.beta)
        return self.scale * image @ unit(self.text).T + self.alpha * cached

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Fills the cache, and searches alpha and beta."""
        self.keys.data = unit(training.features.pooled).to(self.keys)
        self.values = F.one_hot(training.labels, len(self.classnames)).to(self.values)
        if not self.trains_keys:
            self.conclude(training, validation)

    @torch.no_grad()
    def conclude(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Sets alpha and beta to the best pair of the grid, if there are images to tell; else they stay."""
        if validation is None or not self.settings.SEARCH_HP:
            return
        image = unit(validation.features.pooled)
        zero_shot = self.scale * image @ unit(self.text).T
        ends, counts = self.settings.SEARCH_SCALE, self.settings.SEARCH_STEP
        betas, alphas = (grid(float(end), int(count)) for end, count in zip(ends, counts, strict=True))
        alpha, beta = search_grid(image @ self.keys.T, self.values, zero_shot, validation.labels, alphas, betas)
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)
        logger.info("alpha %.3f, beta %.3f: the best on %d validation images", alpha, beta, len(validation.labels))


def cache_logits(affinity: Tensor, values: Tensor, beta: Tensor | float) -> Tensor:
    """What the cache says, (B, C): the labels of the training images, weighted by exp(-beta (1 - affinity)).

    Args:
        affinity: cosine with each key, (B, N).
        values: labels, (N, C).
        beta: sharpness.
    """
    return torch.exp(-beta * (1 - affinity)) @ values


def grid(end: float, count: int, start: float = 0.1) -> list[float]:
    """`count` numbers in equal steps from `start`, up to but without `end`: the released code's grid."""
    return [start + index * (end - start) / count for index in range(count)]


def search_grid(
    affinity: Tensor, values: Tensor, zero_shot: Tensor, labels: Tensor, alphas: Sequence[float], betas: Sequence[float]
) -> tuple[float, float]:
    """The (alpha, beta) that classifies most validation images right; of equals the one with the lowest cross entropy.

    Args:
        affinity: (V, N).
        values: (N, C).
        zero_shot: CLIP's logits, (V, C).
        labels: (V,).
        alphas: to try.
        betas: to try.
    """
    weights = torch.tensor(alphas, device=zero_shot.device, dtype=zero_shot.dtype)[:, None, None]
    scores = [validation_scores(zero_shot + weights * cache_logits(affinity, values, b), labels) for b in betas]
    row, column = divmod(best_setting(torch.cat(scores)), len(alphas))
    return alphas[column], betas[row]


@register_trainer("TIPADAPTER", DEFAULTS)
class TipAdapter(FixedTextTrainer):
    """Fits Tip-Adapter; no epochs."""

    node_rules: ClassVar[dict[str, Rule]] = {
        **FixedTextTrainer.node_rules,
        "INIT_BETA": number(0),
        "INIT_ALPHA": number(0),
        "SEARCH_SCALE": each(number(0), 2),
        "SEARCH_STEP": each(whole(1), 2),
    }
    method = TipAdapterModel

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Always: the cache holds images of these classes."""
        return True

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """An empty cache beside the fixed sentences."""
        settings = cfg.TRAINER[cls.node]
        return cls.method(backbone, task.classnames, fixed_text(backbone, task, settings), settings)
