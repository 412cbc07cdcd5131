"""BiomedCoOp: a context that learns from many sentences about each class (Koleilat et al., CVPR 2025, 2411.15232).

The release (HealthX-Lab/BiomedCoOp at 7ceb5a8) chose weights and TAU for each of its eleven sets, anew for base to new:
they stand in these sets' files, `configs/datasets/<set>.yaml`. In those of the phantoms and the chest X-rays stand
ours, chosen on their validation splits (docs/benchmark.md). All other sets have the release's own defaults.
Symbols: B images, C classes, N sentences a class, D joint width.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.concepts.sentences import bank_ensemble, read_ensemble
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task, classification
from xcoop.methods.prompts import distillation, sentence_features
from xcoop.trainers.coop import DEFAULTS as COOP
from xcoop.trainers.coop import CoOpModel
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import Rule, number, whole

logger = logging.getLogger(__name__)

DEFAULTS = CfgNode(
    {
        **COOP,
        "N_CTX": 4,
        "CTX_INIT": "a photo of a",
        "SCCM_LAMBDA": 1.0,  # of the squared error against the mean of all sentences
        "KDSP_LAMBDA": 1.0,  # of the divergence from the teacher with selected sentences
        "TAU": 1.5,  # standard deviations from the mean score beyond which a sentence is left out
        "BASE_TO_NEW": [],  # these three where DATASET.SUBSAMPLE_CLASSES is base or new; [] leaves them
        "N_PROMPTS": 50,  # N
        "SENTENCES": "",  # a JSON file, {"class": ["sentence", ...]}; "" makes them of the concept bank
    }
)
_WEIGHT, _TAU = number(0), number(above=0)
RULES = {
    "SCCM_LAMBDA": _WEIGHT,
    "KDSP_LAMBDA": _WEIGHT,
    "TAU": _TAU,
    "BASE_TO_NEW": Rule(
        "[], or three numbers, for SCCM_LAMBDA, KDSP_LAMBDA (0 or more) and TAU (above 0)",
        lambda value: (
            isinstance(value, (list, tuple))
            and (not value or (len(value) == 3 and all(map(_WEIGHT.holds, value[:2])) and _TAU.holds(value[2])))
        ),
    ),
    "N_PROMPTS": whole(1),
}


class BiomedCoOpModel(CoOpModel):
    """CoOp's loss + SCCM_LAMBDA * MSE(w, h) + KDSP_LAMBDA * KL(teacher || prompts) / C.

    w are the unit class features of the prompts and h those of the mean of each class's sentences; the squared error
    is a mean over C x D numbers. The teacher is CLIP with the mean of the sentences whose score is no outlier: the
    n-th one's score is the mean over the batch of the largest logit that the n-th sentences of the classes give, and
    an outlier is beyond TAU standard deviations of the mean score. (The released code, trainers/BiomedCoOp/
    biomedcoop_clip.py, first takes the median and divides by the median absolute deviation, as the paper says; it then
    standardises once more, which undoes both.)

    Departures from it: the sentences come from a concept bank or a file in the place of a list by GPT-4, the teacher
    shares the frozen image features in the place of a second CLIP, and AMP works (the release's branch for it stops
    with an error).
    """

    sentences: Tensor
    ensemble: Tensor

    def __init__(
        self, backbone: Backbone, classnames: list[str], settings: CfgNode, sentences: list[list[str]]
    ) -> None:
        super().__init__(backbone, classnames, settings)
        self.settings = settings
        features = sentence_features(backbone, sentences)
        self.register_buffer("sentences", features, persistent=False)  # (C, N, D), unit
        self.register_buffer("ensemble", unit(features.mean(1)), persistent=False)  # (C, D)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, consistency with all sentences (`sccm`), distillation from the selected ones (`kdsp`)."""
        text = self.text_features()  # (C, D)
        logits = self.compare(features, text)
        parts = classification(logits, labels)
        if self.settings.SCCM_LAMBDA:
            parts["sccm"] = self.settings.SCCM_LAMBDA * F.mse_loss(unit(text), self.ensemble)
        if self.settings.KDSP_LAMBDA:
            teacher = self.compare(features, self.selected(features))
            parts["kdsp"] = self.settings.KDSP_LAMBDA * distillation(logits, teacher) / len(text)
        return parts

    def selected(self, features: ImageFeatures) -> Tensor:
        """The mean of each class's sentences whose score on these images is no outlier, (C, D)."""
        scores = sentence_scores(features.pooled, self.sentences, self.scale)
        kept = inliers(scores, self.settings.TAU).to(self.sentences.dtype)  # (N,)
        return (self.sentences * kept[:, None]).sum(1) / kept.sum()


@torch.no_grad()
def sentence_scores(images: Tensor, sentences: Tensor, scale: Tensor | float) -> Tensor:
    """How strongly some images answer to the n-th sentences of the classes: the mean of each image's largest logit.

    Args:
        images: (B, D).
        sentences: (C, N, D), unit.
        scale: CLIP's inverse temperature.

    Returns:
        (N,), computed in 32 bit: the scores lie close together.
    """
    with torch.autocast(images.device.type, enabled=False):
        cosines = torch.einsum("bd,cnd->bcn", unit(images.float()), sentences.float())
        return scale * cosines.amax(1).mean(0)


@torch.no_grad()
def inliers(scores: Tensor, tau: float) -> Tensor:
    """Which scores lie within `tau` standard deviations (n - 1) of their mean.

    Args:
        scores: (N,).
        tau: > 0.

    Returns:
        (N,) bool; what is nearest to the mean is always in, so that something is.
    """
    distance = (scores - scores.mean()).abs()
    limit = tau * scores.std(correction=min(1, len(scores) - 1))  # one score has none
    return distance <= torch.maximum(limit, distance.min())


def in_force(cfg: Any) -> CfgNode:
    """The settings of a run: with those for base to new in their places, if it is one."""
    settings = cfg.TRAINER.BIOMEDCOOP.clone()
    settings.defrost()
    if settings.BASE_TO_NEW and cfg.DATASET.SUBSAMPLE_CLASSES != "all":
        settings.SCCM_LAMBDA, settings.KDSP_LAMBDA, settings.TAU = settings.BASE_TO_NEW
        logger.info("base to new: SCCM_LAMBDA %g, KDSP_LAMBDA %g, TAU %g", *settings.BASE_TO_NEW)
    return settings


@register_trainer("BIOMEDCOOP", DEFAULTS, RULES)
class BiomedCoOp(PromptTrainer):
    """Trains BiomedCoOp's contexts."""

    side_by_side = True

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        """Unless a file has the sentences."""
        return not cfg.TRAINER.BIOMEDCOOP.SENTENCES

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """The model, with N_PROMPTS sentences a class from the bank or the file."""
        settings = in_force(cfg)
        count = settings.N_PROMPTS
        if task.bank:
            sentences = bank_ensemble(
                task.bank, count, lambda text: backbone.count_tokens(text) <= backbone.context_length
            )
        else:
            sentences = read_ensemble(Path(settings.SENTENCES).expanduser(), task.classnames, count)
        return BiomedCoOpModel(backbone, task.classnames, settings, sentences)
