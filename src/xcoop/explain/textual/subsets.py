"""Comprehensiveness and sufficiency of the concepts that speak most for a class, image by image.

    comprehensiveness = margin(all) - margin(without the top k)      higher is better: they were needed
    sufficiency       = margin(all) - margin(the top k alone)        lower is better: they were enough

DeYoung et al., "ERASER", ACL 2020, for words; here the concepts that a class's prompt holds. The margin is the class's
logit less the largest other one. What counts as "without" is that of `intervention`: the clinical sentence is made anew
from the concepts that are kept, or their part of the decomposed prompt is taken out.

Symbols: B images, C classes, J concepts, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.explain.textual.intervention import holds_concepts, knowing, only
from xcoop.methods.alignment import unit

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

Floats = NDArray[np.float64]
Ask = Callable[[ImageFeatures, int, frozenset[int]], Tensor]
"""Features of B images, a class and those of its concepts (of J) that it keeps: logits (B, C)."""


def margin(logits: Tensor, label: int) -> Tensor:
    """A class's logit less the largest of the others, (B,): its own alone may rise with all others together."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.amax(1) if others.shape[1] else logits[:, label]


def held(run: TrainedModel, label: int) -> list[int]:
    """Which of the J concepts a class's prompt holds: those of its clinical sentence, or those it decomposes into."""
    if run.concepts is None:
        return []
    if holds_concepts(run.model):
        return run.concepts.own[label].nonzero()[:, 0].tolist()
    return (run.decomposition.weights[label] > 0).nonzero()[:, 0].tolist() if run.decomposition else []


def asking(run: TrainedModel) -> Ask:
    """How a run is asked again while one class keeps only some of its concepts; each subset is encoded once."""
    return _of_sentences(run) if holds_concepts(run.model) else _of_parts(run)


def _of_sentences(run: TrainedModel) -> Ask:
    model: Any = run.model
    known: dict[tuple[int, frozenset[int]], Tensor] = {}

    def ask(features: ImageFeatures, label: int, kept: frozenset[int]) -> Tensor:
        if (label, kept) not in known:
            texts = [run.concepts.texts[j] for j in sorted(kept)]  # type: ignore[union-attr]
            with knowing(model, only(run.bank, run.classnames[label], texts)):  # type: ignore[arg-type]
                known[label, kept] = model.text_features()
        logits: Tensor = model.image_logits(features, known[label, kept])
        return logits

    return ask


def _of_parts(run: TrainedModel) -> Ask:
    def ask(features: ImageFeatures, label: int, kept: frozenset[int]) -> Tensor:
        parts = run.decomposition
        if parts is None:
            raise ValueError(f"{run.folder}: its prompts are not decomposed; a bank of two concepts or more is needed")
        dropped = [j for j in held(run, label) if j not in kept]
        vectors = unit(run.class_vectors()).clone()  # (C, D)
        vectors[label] -= parts.weights[label, dropped] @ parts.directions[dropped]
        return run.model.temperature(features) * (unit(run.model.compared(features)) @ unit(vectors).T)

    return ask


@torch.no_grad()
def effects(
    run: TrainedModel, features: ImageFeatures, labels: Sequence[int], chosen: Sequence[frozenset[int]]
) -> dict[str, Floats]:
    """Comprehensiveness and sufficiency of chosen concepts, (B,) each in logits; NaN where a class holds no others.

    Args:
        run: the trained model.
        features: of B images.
        labels: the class that is looked at in each image.
        chosen: of J concepts those chosen in each image; all of them held by its class.
    """
    ask, count = asking(run), len(labels)
    found = {name: np.full(count, np.nan) for name in ("comprehensiveness", "sufficiency")}
    groups: dict[tuple[int, frozenset[int]], list[int]] = {}
    for i, key in enumerate(zip(labels, chosen, strict=True)):
        groups.setdefault(key, []).append(i)
    for (label, some), which in groups.items():
        every = frozenset(held(run, label))
        if not some or some == every:
            continue
        own = ImageFeatures(features.pooled[which], features.patches[which])
        whole = margin(ask(own, label, every), label)
        for name, kept in (("comprehensiveness", every - some), ("sufficiency", some)):
            found[name][which] = (whole - margin(ask(own, label, kept), label)).double().cpu().numpy()
    return found
