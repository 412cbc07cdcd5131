"""Text features that are not trained: sentences with class names, clinical sentences, and ensembles of either.

What zero-shot CLIP compares images with, and what the methods on image features (adapters, caches, probes) add to.
Symbols: C classes, S sentences a class, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank
from xcoop.concepts.sentences import fill
from xcoop.methods.alignment import unit
from xcoop.methods.distillation import sentence_features
from xcoop.methods.model import Compared, PromptModel
from xcoop.methods.templates import MEDICAL

# The keys of each node whose trainer is a `FixedTextTrainer` (`xcoop.training.fixed_text`).
TEXT = {
    "TEMPLATE": "",  # with {} for the class name; "" is the dataset's `template`, else "a photo of a {}."
    "CLINICAL": False,  # the clinical sentences of the concept bank in the place of class names
    "ENSEMBLE": "",  # the mean over: `templates` (the one above and TEMPLATES), `concepts` (a clinical sentence each)
    "TEMPLATES": list(MEDICAL),
}


class FixedTextModel(PromptModel):
    """CLIP's logits with text features (C, D) that never change."""

    class_vector = Compared(
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
        """Features of the sentences, (C, D)."""
        return self.text


def templates(settings: CfgNode, template: str) -> list[str]:
    """The templates that a node asks for, each once: its own or the dataset's, and those of the ensemble."""
    own = settings.TEMPLATE or template
    return list(dict.fromkeys([own, *(settings.TEMPLATES if settings.ENSEMBLE == "templates" else [])]))


def concept_sentences(bank: ConceptBank, classname: str) -> list[str]:
    """The bank's sentence with each single concept of a class; the sentence without any if the class has none."""
    return [fill(bank.template, classname, [text]) for text in bank.texts(classname)] or [
        fill(bank.template, classname, [])
    ]


def mean_features(backbone: Backbone, sentences: Sequence[Sequence[str]]) -> Tensor:
    """CLIP's ensemble (arXiv 2103.00020, section 3.1.4): the mean of unit features, renormalised.

    Args:
        backbone: encodes the sentences.
        sentences: of each class, S >= 1, not necessarily equally many.

    Returns:
        (C, D), unit.
    """
    return unit(torch.stack([sentence_features(backbone, [texts])[0].mean(0) for texts in sentences]))
