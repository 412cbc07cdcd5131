"""Deletion and insertion at patch level: does the score fall when what a map marks is taken away?

    k_j    = round(j P / steps),  j = 0 ... steps,  P = gh * gw patches
    x_j    = the image with its k_j most relevant patches replaced by the baseline (deletion); for insertion, the
             baseline with the k_j most relevant patches of the image
    AUC    = trapezoid of score(x_j) over j / steps

A good map has a low deletion and a high insertion AUC; how low and high depends on the image and the model, hence
always beside the maps of `controls` and never alone. (Petsiuk et al., "RISE", BMVC 2018, at pixel level; here patches,
and two baselines, since no result should hang on one way to erase.) Images with erased patches lie outside of what a
model was trained on, and only the order of a map counts, not its values (Gomez et al., arXiv 2201.13291).

Symbols: B images, S their side in pixels, P patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xcoop.explain.controls import order_of
from xcoop.utils.suggest import unknown

ScoreFunction = Callable[[Tensor], Tensor]
"""Images (N, 3, S, S) to the score of the explained class, (N,)."""

STEPS = 28  # as many as divide the 14 x 14 patches of a ViT-B/16 evenly
SHARES = (0.1, 0.2, 0.5)  # of the patches, for comprehensiveness and sufficiency
BLUR_WIDTH = 0.1  # standard deviation of the blur, in sides of the picture
CHUNK = 64  # images that are scored at once


@dataclass(frozen=True)
class Curves:
    """Scores while patches are replaced, most relevant first.

    Attributes:
        deletion: (B, steps + 1), from the full image to the baseline.
        insertion: (B, steps + 1), from the baseline to the full image.
        shares: (steps + 1,), the share of patches that is replaced or inserted, from 0 to 1.
    """

    deletion: Tensor
    insertion: Tensor
    shares: Tensor

    def deletion_auc(self) -> Tensor:
        """Mean height of the deletion curve, (B,): lower is better."""
        return _area(self.deletion)

    def insertion_auc(self) -> Tensor:
        """Mean height of the insertion curve, (B,): higher is better."""
        return _area(self.insertion)

    def comprehensiveness(self, shares: Sequence[float] = SHARES) -> Tensor:
        """How far the score falls without the best patches, averaged over these shares, (B,): higher is better."""
        return self.deletion[:, 0] - _at(self.deletion, self.shares, shares).mean(1)

    def sufficiency(self, shares: Sequence[float] = SHARES) -> Tensor:
        """How far the score is from the full image's with the best patches alone, (B,): lower is better."""
        return self.insertion[:, -1] - _at(self.insertion, self.shares, shares).mean(1)


def mean_baseline(images: Tensor, mean: Tensor | None = None) -> Tensor:
    """One colour everywhere: of normalised images 0, the mean colour that the backbone subtracts; or the set's own.

    Args:
        images: normalised, (B, 3, S, S).
        mean: (3,), the mean colour of the data set's normalised images.
    """
    return torch.zeros_like(images) if mean is None else mean.to(images).view(1, 3, 1, 1).expand_as(images)


def blur_baseline(images: Tensor, width: float = BLUR_WIDTH) -> Tensor:
    """The images, so blurred that no finding is left: the colours of large areas stay.

    Args:
        images: (B, 3, S, S).
        width: standard deviation of the Gaussian, in sides of the picture; at the border it is cut off and rescaled.
    """
    rows, columns = (_blur_matrix(side, width * side).to(images) for side in images.shape[-2:])
    return rows @ images @ columns.T


BASELINES: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": mean_baseline, "blur": blur_baseline}


@torch.no_grad()
def curves(
    score_fn: ScoreFunction,
    images: Tensor,
    maps: Tensor,
    baseline: str | Tensor = "mean",
    steps: int = STEPS,
    chunk: int = CHUNK,
) -> Curves:
    """The deletion and the insertion curve of each image; both take 2 * steps scores an image in all.

    Args:
        score_fn: the score that is explained, logit or probability. Where it mixes the images of a batch
            (`VARIANT: released`), `chunk` must be 1.
        images: normalised, (B, 3, S, S).
        maps: (B, gh, gw), higher = more relevant.
        baseline: what replaces a patch: a name of `BASELINES`, or images that (B, 3, S, S) broadcasts with.
        steps: how many times patches are taken away, 1 to gh * gw.
        chunk: images that are scored at once; bounds the memory.

    Raises:
        ValueError: shapes that do not fit, an unknown baseline, steps out of range, or a score that is no (N,).
    """
    patches = maps.shape[-2] * maps.shape[-1]
    _check(images, maps, steps, patches)
    blank = make_baseline(images, baseline)
    rank = order_of(maps.to(images.device)).argsort(1)  # (B, P): the place of each patch in the order
    counts = patch_counts(patches, steps)
    plan = _plan(len(images), counts)  # (N, 3)
    scores = torch.cat([_scored(score_fn, images, blank, rank, maps.shape, part) for part in plan.split(chunk)])
    deletion, insertion = _assembled(scores, len(images), steps)
    return Curves(deletion, insertion, torch.tensor(counts) / patches)


def make_baseline(images: Tensor, baseline: str | Tensor) -> Tensor:
    """What replaces the patches of some images, (B, 3, S, S).

    Raises:
        ValueError: an unknown name, or a shape that does not broadcast.
    """
    if isinstance(baseline, Tensor):
        return torch.broadcast_to(baseline.to(images), images.shape)
    if baseline not in BASELINES:
        raise ValueError(unknown("baseline", baseline, BASELINES))
    return BASELINES[baseline](images)


def patch_counts(patches: int, steps: int) -> list[int]:
    """k_j of the formula, steps + 1 numbers from 0 to P; k_j + k_(steps - j) = P wherever P allows it."""
    lower = [(2 * j * patches + steps) // (2 * steps) for j in range(steps // 2 + 1)]  # halves are rounded up
    return lower + [patches - count for count in reversed(lower[: (steps + 1) // 2])]


def _check(images: Tensor, maps: Tensor, steps: int, patches: int) -> None:
    if images.dim() != 4 or maps.dim() != 3 or len(images) != len(maps):
        raise ValueError(f"images (B, 3, S, S) and maps (B, gh, gw), not {tuple(images.shape)} and {tuple(maps.shape)}")
    if not 1 <= steps <= patches:
        raise ValueError(f"steps must be 1 to {patches}, the number of patches; not {steps}")


def _plan(images: int, counts: list[int]) -> Tensor:
    """What is scored, one row each: image, first rank that is kept, first rank that is not kept any more.

    The full images and the baselines stand first: they end both curves, and are scored once.
    """
    patches = counts[-1]
    ends = [(i, 0, patches) for i in range(images)] + [(i, 0, 0) for i in range(images)]
    deleted = [(i, k, patches) for i in range(images) for k in counts[1:-1]]
    inserted = [(i, 0, k) for i in range(images) for k in counts[1:-1]]
    return torch.tensor(ends + deleted + inserted)


def _scored(
    score_fn: ScoreFunction, images: Tensor, blank: Tensor, rank: Tensor, shape: Sequence[int], part: Tensor
) -> Tensor:
    which, first, end = part.to(images.device).unbind(1)
    own = rank[which]  # (N, P)
    kept = ((own >= first[:, None]) & (own < end[:, None])).view(-1, *shape[1:])  # (N, gh, gw)
    for axis, side in ((1, images.shape[2]), (2, images.shape[3])):
        kept = kept.index_select(axis, _cells(side, shape[axis]).to(images.device))
    scores = score_fn(torch.where(kept[:, None], images[which], blank[which]))
    if scores.shape != (len(part),):
        raise ValueError(f"score_fn gave shape {tuple(scores.shape)} for {len(part)} images; ({len(part)},) is needed")
    return scores.detach()


def _assembled(scores: Tensor, images: int, steps: int) -> tuple[Tensor, Tensor]:
    full, empty, deleted, inserted = scores.split([images, images, *[images * (steps - 1)] * 2])
    deletion = torch.cat([full[:, None], deleted.view(images, -1), empty[:, None]], dim=1)
    insertion = torch.cat([empty[:, None], inserted.view(images, -1), full[:, None]], dim=1)
    return deletion, insertion


def _cells(pixels: int, cells: int) -> Tensor:
    """The row (column) of patches that each row (column) of pixels belongs to, (pixels,)."""
    return torch.arange(pixels) * cells // pixels


def _blur_matrix(side: int, deviation: float) -> Tensor:
    """Row i holds the weights of a Gaussian about pixel i, (side, side); each row sums to one."""
    place = torch.arange(side, dtype=torch.float64)
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * deviation**2))
    return weights / weights.sum(1, keepdim=True)


def _area(curve: Tensor) -> Tensor:
    return torch.trapezoid(curve.double(), dim=1) / (curve.shape[1] - 1)


def _at(curve: Tensor, places: Tensor, shares: Sequence[float]) -> Tensor:
    """The curve's heights at these shares of the patches, interpolated between its points, (B, len(shares))."""
    known = places.double()
    wanted = torch.tensor(list(shares), dtype=torch.float64)
    right = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
    weight = ((wanted - known[right - 1]) / (known[right] - known[right - 1])).to(curve.device)
    heights = curve.double()
    return heights[:, right - 1] * (1 - weight) + heights[:, right] * weight
