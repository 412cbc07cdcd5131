"""The cache model of Tip-Adapter (Zhang et al., ECCV 2022, arXiv 2111.03930): CLIP's logits plus those of a memory.

    logits = alpha exp(-beta (1 - f F^T)) L + scale f t^T

f: unit image feature. F (keys): the unit features of the training images. L (values): their labels, one-hot.
t: unit text features. scale: CLIP's inverse temperature (100 in the paper, 100 in OpenAI's weights).

Symbols: B images, N training images, V validation images, C classes, D joint width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.methods.alignment import unit
from xcoop.methods.fixed_text import TEXT, FixedTextModel
from xcoop.methods.selection import best, scores

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


class CacheModel(FixedTextModel):
    """Keys, values, alpha and beta; a subclass says when alpha and beta are searched.

    Before `prepare` the cache is empty, and the logits are zero-shot CLIP's.
    """

    trains_keys: bool = False  # whether the keys are parameters
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
        return self.scale * image @ unit(self.text).T + self.alpha * cache_logits(
            image @ self.keys.T, self.values, self.beta
        )

    @torch.no_grad()
    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Fills the cache."""
        self.keys.data = unit(training.features.pooled).to(self.keys)
        self.values = F.one_hot(training.labels, len(self.classnames)).to(self.values)

    @torch.no_grad()
    def search(self, validation: LabelledFeatures | None) -> None:
        """Sets alpha and beta to the best pair of the grid, if there are images to tell; else they stay."""
        if validation is None or not self.settings.SEARCH_HP:
            return
        image = unit(validation.features.pooled)
        zero_shot = self.scale * image @ unit(self.text).T
        betas, alphas = (
            grid(float(end), int(count))
            for end, count in zip(self.settings.SEARCH_SCALE, self.settings.SEARCH_STEP, strict=True)
        )
        found = search_grid(image @ self.keys.T, self.values, zero_shot, validation.labels, alphas, betas)
        self.alpha.fill_(found[0])
        self.beta.fill_(found[1])
        logger.info("alpha %.3f, beta %.3f: the best on %d validation images", *found, len(validation.labels))


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

    (The released code takes the first of equals, which on few images is mostly the smallest beta.)

    Args:
        affinity: (V, N).
        values: (N, C).
        zero_shot: CLIP's logits, (V, C).
        labels: (V,).
        alphas: to try.
        betas: to try.
    """
    weights = torch.tensor(alphas, device=zero_shot.device, dtype=zero_shot.dtype)[:, None, None]
    tables = [scores(zero_shot + weights * cache_logits(affinity, values, beta), labels) for beta in betas]
    row, column = divmod(best(torch.cat(tables)), len(alphas))
    return alphas[column], betas[row]
