"""Which words a learned prompt's context vectors lie next to, and whether that is nearer than chance.

Read it as weak evidence: a vector that was learned need not be a word, and in many dimensions every vector has some
nearest word. So each distance stands beside a null, the distance of random vectors of the same length to the word that
is nearest to them, and beside the distance of real words from one another.

Symbols: n context tokens, W text width, N words, k neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xcoop.methods.alignment import unit

Metric = Literal["l2", "cosine"]

NULL_QUANTILE = 0.05
_STREAM = 20240611  # tells these draws from others of the same seed
_BLOCK = 256  # rows whose distances to all words are held at once


@dataclass(frozen=True)
class TokenWords:
    """The words nearest to one context vector.

    Attributes:
        index: where the vector stands among the leading axes of the context, e.g. (token,) or (class, token).
        words: (word, distance), the nearest first.
        null_low: the 5 % quantile of the distance from a random vector of equal norm to its nearest word.
        noise: whether the nearest word is no nearer than that.
    """

    index: tuple[int, ...]
    words: tuple[tuple[str, float], ...]
    null_low: float
    noise: bool


@torch.no_grad()
def nearest_words(
    context: Tensor,
    table: Tensor,
    words: Sequence[str],
    k: int = 5,
    draws: int = 1000,
    seed: int = 0,
    metric: Metric = "l2",
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
        metric: "l2", or "cosine" for 1 - cos.

    Raises:
        ValueError: shapes that do not fit, no words, k or draws below 1, an unknown metric, values that are not
            finite, or a zero vector with "cosine".
    """
    _check(context, table, metric)
    if len(words) != len(table):
        raise ValueError(f"{len(words)} words for a table of {len(table)} embeddings; one each is needed")
    if k < 1 or draws < 1:
        raise ValueError(f"k and draws must be at least 1, got {k} and {draws}")
    points, rows = (_points(values, metric) for values in (context.flatten(0, -2), table))
    rows = rows.to(points.device)
    directions = _directions(draws, rows.shape[1], seed).to(points.device)  # (draws, W)
    products, squares = directions @ rows.T, rows.square().sum(1)  # (draws, N), (N,)
    found = []
    for index, point in zip(_indices(context.shape[:-1]), points, strict=True):
        near = _distance(point, rows, metric)
        order = near.argsort(stable=True)[:k].tolist()
        # |r u - w|^2 less r^2, which moves no minimum; the products serve all norms r.
        norm = point.norm()
        closest = rows[(squares - 2 * norm * products).argmin(1)]
        null = torch.quantile(_distance(norm * directions, closest, metric), NULL_QUANTILE)
        named = tuple((words[j], float(near[j])) for j in order)
        found.append(TokenWords(index, named, float(null), named[0][1] >= float(null)))
    return found


@torch.no_grad()
def real_word_distance(table: Tensor, metric: Metric = "l2", sample: int = 2000, seed: int = 0) -> float:
    """The median distance of a real word to the nearest other word, among all of them.

    Args:
        table: (N, W), the embeddings of the words.
        metric: "l2", or "cosine" for 1 - cos.
        sample: of how many words the distance is taken, drawn without replacement where there are more.
        seed: of the drawing, 0 or more.

    Raises:
        ValueError: fewer than two words, a sample below 1, an unknown metric, values that are not finite, or a zero
            vector with "cosine".
    """
    _check(table, table, metric)
    if len(table) < 2 or sample < 1:
        raise ValueError(f"at least 2 words and a sample of 1 are needed, got {len(table)} and {sample}")
    rows = _points(table, metric)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:sample].to(rows.device)
    squares, distances = rows.square().sum(1), []
    for block in drawn.split(_BLOCK):
        ranking = squares - 2 * rows[block] @ rows.T  # (block, N)
        ranking.scatter_(1, block[:, None], math.inf)
        distances.append(_distance(rows[block], rows[ranking.argmin(1)], metric))
    return float(torch.quantile(torch.cat(distances), 0.5))


def _directions(draws: int, width: int, seed: int) -> Tensor:
    """Random unit vectors, (draws, W). From NumPy: the same seed in PyTorch may have drawn the table or the context."""
    drawn = np.random.default_rng([seed, _STREAM]).standard_normal((draws, width), dtype=np.float32)
    return unit(torch.from_numpy(drawn))


def _distance(one: Tensor, other: Tensor, metric: Metric) -> Tensor:
    """From differences, so that equal vectors are at exactly 0. Of unit vectors, 1 - cos = |a - b|^2 / 2."""
    lengths = (one - other).norm(dim=-1)
    return lengths.square() / 2 if metric == "cosine" else lengths


def _points(vectors: Tensor, metric: Metric) -> Tensor:
    points = vectors.detach().float()
    return unit(points) if metric == "cosine" else points


def _indices(shape: torch.Size) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, shape)))


def _check(context: Tensor, table: Tensor, metric: str) -> None:
    if metric not in ("l2", "cosine"):
        raise ValueError(f"unknown metric {metric!r}: 'l2' or 'cosine'")
    if table.dim() != 2 or not len(table) or context.dim() < 2 or context.shape[-1] != table.shape[1]:
        shapes = f"{tuple(context.shape)} and {tuple(table.shape)}"
        raise ValueError(f"context and table must be (..., n, W) and (N, W) with N at least 1, got {shapes}")
    for name, values in (("context", context), ("table", table)):
        if not values.isfinite().all():
            raise ValueError(f"the {name} holds values that are not finite")
        if metric == "cosine" and not values.any(dim=-1).all():
            raise ValueError(f"the {name} holds a zero vector, which has no angle: take the metric 'l2'")
