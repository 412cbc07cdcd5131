"""What a pretraining step learns from: what is said of a batch, and the losses.

CLIP takes the caption of an image as its only match. Short captions of concepts are true of several images of a
batch, and calling those false teaches nonsense; as the concepts are known, all matches are known, and targets are
spread over them (the multi-positive form of UniCL, arXiv:2204.03610).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from xcoop.phantom.captions import DIAGNOSES, make_caption, phrase, terms
from xcoop.phantom.corpus import Corpus
from xcoop.phantom.tables import TABLES


@dataclass(frozen=True)
class Sentences:
    """What the sentences of a batch say; each of its P phrases states one term.

    Attributes:
        captions: (N, P) bool, which terms the captions of the batch's first N images state.
        groups: (N,) the diagnosis that each caption names as the number of a group, or -1.
        rivals: (P,) the number of the concept whose values exclude each other, or -1 for vague terms.
    """

    captions: Tensor
    groups: Tensor
    rivals: Tensor


class TrainingSet:
    """What a step needs of one kind of image, ready as tensors."""

    def __init__(self, corpus: Corpus) -> None:
        table = TABLES[corpus.kind]
        self.corpus = corpus
        self.terms = terms(corpus.kind)
        self.truth = torch.from_numpy(corpus.truth())  # (N, P)
        numbers = [[v.index(profile[c]) for c, v in table.values.items()] for profile in corpus.profiles]
        self.values = torch.tensor(numbers)  # (N, concepts)
        names = list(DIAGNOSES[corpus.kind])
        self.groups = torch.tensor([names.index(group) if group else -1 for group in corpus.groups])  # (N,)
        exact = [len(term.values) == 1 and term.concept in table.concepts for term in self.terms]
        self.rivals = torch.tensor(
            [table.concepts.index(t.concept) if one else -1 for t, one in zip(self.terms, exact, strict=True)]
        )

    def batch(
        self, size: int, captioned: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, Sentences, list[str], list[str]]:
        """Numbers of images (B,), what is said of them, the captions of the first N of them, and P phrases."""
        corpus = self.corpus
        chosen = rng.choice(len(corpus), size=min(size, len(corpus)), replace=False)
        first = chosen[:captioned]
        captions = [make_caption(corpus.kind, corpus.profiles[i], rng, corpus.groups[i]) for i in first]
        said = torch.tensor([[term in caption.said for term in self.terms] for caption in captions])
        named = torch.tensor([caption.diagnosis is not None for caption in captions])
        groups = torch.where(named, self.groups[first], -1)
        phrases = [phrase(term, rng) for term in self.terms]
        return chosen, Sentences(said, groups, self.rivals), [caption.text for caption in captions], phrases


def matches(said: Tensor, truth: Tensor) -> Tensor:
    """(N, B) bool: sentence i, which states the terms said[i] (N, P), is true of image j with truth[j] (B, P)."""
    wrong = said.float() @ (~truth).float().T  # (N, B) number of false statements
    return wrong == 0


def contrastive_loss(
    cosines: Tensor, scale: Tensor, truth: Tensor, groups: Tensor, said: Sentences
) -> dict[str, Tensor]:
    """The parts of the loss; their sum is what is minimised.

    Args:
        cosines: (N + P, B) of each caption, then each phrase, with each image.
        scale: the temperature's inverse.
        truth: (B, P) bool, which terms are true of each image.
        groups: (B,) the diagnostic group of each image, -1 where there is none.
        said: what the sentences say.

    Returns:
        "captions": caption to image and image to caption, averaged;
        "phrases": phrase to image;
        "values": for each image and concept, its value among the phrases of that concept's values.
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
    """The parts "phrases" and "values" of the loss, from scaled similarities (P, B) of phrases with images."""
    losses = []
    for concept in said.rivals[said.rivals >= 0].unique():
        rows = said.rivals == concept
        losses.append(_spread(logits[rows].T, truth[:, rows]))
    return {"phrases": _spread(logits, truth.T), "values": torch.stack(losses).mean()}


def _spread(logits: Tensor, match: Tensor) -> Tensor:
    """Cross-entropy with each row's target spread evenly over its matches (N, M); rows without any do not count."""
    count = match.sum(dim=1)
    rows = -(logits.log_softmax(dim=1) * match).sum(dim=1) / count.clamp(min=1)
    return rows[count > 0].mean()


def place_loss(logits: Tensor, values: Tensor, covered: Tensor) -> Tensor:
    """Cross entropy of one concept's value in each patch; patches with and without the concept count the same.

    Args:
        logits: (B, T, V) of its values in each patch; value 0 is its absence.
        values: (B,) the value in the whole image.
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
    """A smooth maximum over the patches of each image: a phrase must be true somewhere, not everywhere.

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
