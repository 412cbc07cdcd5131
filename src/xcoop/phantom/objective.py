"""The contrastive loss of the pretraining: every sentence against every picture of which it is true.

CLIP takes the caption of a picture as its only match. Short captions of concepts are true of several pictures of a
batch, and calling those false teaches nonsense; as the concepts are known, all matches are known, and targets are
spread over them (the multi-positive form of UniCL, arXiv:2204.03610).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Sentences:
    """What the sentences of a batch say.

    Attributes:
        captions: (N, P) bool, which terms the captions of the batch's first N pictures state.
        groups: (N,) the diagnosis that each caption names as the number of a group, or -1.
        phrases: (Q,) the one term that each of the batch's phrases states.
        rivals: (P,) the number of the concept whose values exclude each other, or -1 for vague terms.
    """

    captions: Tensor
    groups: Tensor
    phrases: Tensor
    rivals: Tensor


def matches(said: Tensor, truth: Tensor) -> Tensor:
    """(N, B) bool: sentence i, which states the terms said[i] (N, P), is true of picture j with truth[j] (B, P)."""
    wrong = said.float() @ (~truth).float().T  # (N, B) number of false statements
    return wrong == 0


def contrastive_loss(
    cosines: Tensor, scale: Tensor, truth: Tensor, groups: Tensor, said: Sentences
) -> dict[str, Tensor]:
    """The parts of the loss; their sum is what is minimised.

    Args:
        cosines: (N + Q, B) of each caption, then each phrase, with each picture.
        scale: the temperature's inverse.
        truth: (B, P) bool, which terms are true of each picture.
        groups: (B,) the diagnostic group of each picture, -1 where there is none.
        said: what the sentences say.

    Returns:
        "captions": caption to picture and picture to caption, averaged;
        "phrases": phrase to picture;
        "values": for each picture and concept, its value among the phrases of that concept's values.
    """
    count = len(said.captions)
    logits = scale * cosines
    match = matches(said.captions, truth)
    named = said.groups >= 0
    match &= ~named[:, None] | (said.groups[:, None] == groups[None, :])
    match |= torch.eye(count, len(truth), dtype=torch.bool, device=match.device)
    captions = (_spread(logits[:count], match) + _spread(logits[:count].T, match.T)) / 2
    return {"captions": captions} | phrase_losses(logits[count:], truth, said)


def phrase_losses(logits: Tensor, truth: Tensor, said: Sentences) -> dict[str, Tensor]:
    """The parts "phrases" and "values" of the loss, from scaled similarities (Q, B) of phrases with pictures."""
    phrase_truth = truth[:, said.phrases].T  # (Q, B)
    return {
        "phrases": _spread(logits, phrase_truth),
        "values": _values_loss(logits, phrase_truth, said.rivals[said.phrases]),
    }


def place_loss(logits: Tensor, values: Tensor, covered: Tensor) -> Tensor:
    """Cross entropy of one concept's value in each patch; patches with and without the concept count the same.

    Args:
        logits: (B, T, V) of its values in each patch; value 0 is its absence.
        values: (B,) the value in the whole picture.
        covered: (B, T) bool, the patches in which it lies.

    Returns:
        A scalar.
    """
    targets = torch.where(covered, values[:, None], 0)
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    inside = covered.to(losses.dtype)
    parts = [(losses * share).sum() / share.sum().clamp(min=1) for share in (inside, 1 - inside)]
    return (parts[0] + parts[1]) / 2


def best_patches(texts: Tensor, patches: Tensor, sharpness: float = 10.0) -> Tensor:
    """A smooth maximum over the patches of each picture: a phrase must be true somewhere, not everywhere.

        (1/s) log mean_t exp(s cos(text, patch_t))

    Args:
        texts: (Q, D) unit vectors.
        patches: (B, T, D) unit vectors.
        sharpness: s; the larger, the nearer to the maximum.

    Returns:
        (Q, B), in [-1, 1].
    """
    cosines = patches @ texts.T  # (B, T, Q)
    return ((sharpness * cosines).logsumexp(1) - math.log(cosines.shape[1])).T / sharpness


def _spread(logits: Tensor, match: Tensor) -> Tensor:
    """Cross-entropy with each row's target spread evenly over its matches (N, M); rows without any do not count."""
    count = match.sum(dim=1)
    usable = count > 0
    rows = -(logits.log_softmax(dim=1) * match).sum(dim=1) / count.clamp(min=1)
    return rows[usable].mean()


def _values_loss(logits: Tensor, truth: Tensor, rivals: Tensor) -> Tensor:
    """Cross-entropy of each picture's true value among the phrases of one concept, averaged over concepts."""
    losses = []
    for concept in rivals.unique().tolist():
        rows = rivals == concept
        if concept >= 0 and int(rows.sum()) > 1:
            losses.append(_spread(logits[rows].T, truth[rows].T))
    return torch.stack(losses).mean() if losses else logits.sum() * 0
