"""In words: what a learned context lies next to, and sentences that say what numbers say. Nothing is invented.

Read nearest words as weak evidence: a vector that was learned need not be a word, and in many dimensions every vector
has some nearest word. So each distance stands beside a null, the distance of random vectors of the same length to the
word that is nearest to them.

Symbols: n context tokens, W text width, N words, k neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xcoop.methods.alignment import unit

NULL_QUANTILE = 0.05
_STREAM = 20240611  # tells these draws from others of the same seed


@dataclass(frozen=True)
class TokenWords:
    """The words nearest to one context vector.

    Attributes:
        index: where the vector stands among the leading axes of the context, e.g. (token,) or (class, token).
        words: (word, Euclidean distance), the nearest first.
        null_low: the 5 % quantile of the distance from a random vector of equal norm to its nearest word.
        noise: whether the nearest word is no nearer than that.
    """

    index: tuple[int, ...]
    words: tuple[tuple[str, float], ...]
    null_low: float
    noise: bool


@torch.no_grad()
def nearest_words(
    context: Tensor, table: Tensor, words: Sequence[str], k: int = 5, draws: int = 1000, seed: int = 0
) -> list[TokenWords]:
    """The k words nearest to each context vector, in row-major order of the leading axes.

    Of vectors that are in truth random, about one in twenty is not told as noise; as the null is drawn too, 3 to 6 %
    with 1000 draws on the phantom's words.

    Args:
        context: (..., n, W), of the backbone that the prompt was trained with.
        table: (N, W), the embeddings of the words; see `Backbone.vocabulary`.
        words: N of them.
        k: at least 1; fewer are given where there are fewer words.
        draws: how many random vectors make the null. Their directions are the same for all context vectors.
        seed: of the directions, 0 or more.

    Raises:
        ValueError: shapes that do not fit, no words, or values that are not finite.
    """
    if len(words) != len(table):
        raise ValueError(f"{len(words)} words for a table of {len(table)} embeddings; one each is needed")
    if table.dim() != 2 or not len(table) or context.dim() < 2 or context.shape[-1] != table.shape[1]:
        shapes = f"{tuple(context.shape)} and {tuple(table.shape)}"
        raise ValueError(f"context and table must be (..., n, W) and (N, W) with N at least 1, got {shapes}")
    for name, values in (("context", context), ("table", table)):
        if not values.isfinite().all():
            raise ValueError(f"the {name} holds values that are not finite")
    rows = table.float().to(context.device)
    # From NumPy: the same seed in PyTorch may have drawn the table or the context.
    drawn = np.random.default_rng([seed, _STREAM]).standard_normal((draws, rows.shape[1]), dtype=np.float32)
    directions = unit(torch.from_numpy(drawn)).to(rows.device)  # (draws, W)
    products, squares = directions @ rows.T, rows.square().sum(1)  # (draws, N), (N,)
    found = []
    places = itertools.product(*map(range, context.shape[:-1]))
    for index, point in zip(places, context.flatten(0, -2).float(), strict=True):
        near = (point - rows).norm(dim=-1)  # from differences, so that equal vectors are at exactly 0
        order = near.argsort(stable=True)[:k].tolist()
        # |r u - w|^2 less r^2, which moves no minimum; the products serve all norms r.
        norm = point.norm()
        closest = rows[(squares - 2 * norm * products).argmin(1)]
        null = float(torch.quantile((norm * directions - closest).norm(dim=-1), NULL_QUANTILE))
        named = tuple((words[j], float(near[j])) for j in order)
        found.append(TokenWords(index, named, null, named[0][1] >= null))
    return found


# Sentences: each says one thing, and the number that it rests on.

SHOWN = 3  # concepts for, and against, that are named


def image_sentences(predicted: str, probability: float, changes: Mapping[str, float]) -> list[str]:
    """What speaks for and against the predicted class in an image, the strongest first, at most `SHOWN` on each side.

    Args:
        predicted: the class.
        probability: in [0, 1].
        changes: by concept, the class's logit with it less that without it.
    """
    sentences = [f"The model sees {predicted} with a probability of {probability:.0%}."]
    ordered = sorted(changes.items(), key=lambda pair: -pair[1])
    for text, value in [pair for pair in ordered if pair[1] > 0][:SHOWN]:
        sentences.append(f"{text} speaks for {predicted}: without it the logit falls by {value:.2f}.")
    for text, value in [pair for pair in reversed(ordered) if pair[1] < 0][:SHOWN]:
        sentences.append(f"{text} speaks against {predicted}: without it the logit rises by {-value:.2f}.")
    if len(sentences) == 1:
        sentences.append(f"No concept of the bank moves the logit of {predicted}.")
    return sentences


def class_sentences(
    name: str,
    explained: float | None,
    own_share: float | None,
    strongest: Sequence[tuple[str, float]],
    noise: tuple[int, int] | None = None,
    noun: str = "prompt",
) -> list[str]:
    """What the prompt of a class says, or whatever else the method compares images with.

    Args:
        name: of the class.
        explained: share of what sets the prompt apart that a sum of concepts accounts for, in [0, 1].
        own_share: share of the weights on the class's own concepts.
        strongest: concepts with their weights, the largest first.
        noise: of how many context vectors the nearest word is no nearer than chance, and how many there are.
        noun: names what is spoken of.
    """
    sentences = []
    if explained is not None:
        sentences.append(
            f"A sum of the bank's concepts accounts for {explained:.0%} of what sets the {noun} of {name} apart."
        )
    if own_share is not None:
        sentences.append(f"{own_share:.0%} of its weights lie on the concepts that the bank lists for {name}.")
    if strongest:
        listed = ", ".join(f"{text} ({weight:.2f})" for text, weight in strongest)
        sentences.append(f"Its largest weights: {listed}.")
    if noise is not None:
        sentences.append(f"Of its {noise[1]} context vectors, {noise[0]} are no nearer to a word than random ones.")
    return sentences
