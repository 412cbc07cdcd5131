"""What each concept adds to a class's logit for an image, read off the prompt's decomposition.

    t_c = m + sum_j w_cj g_j + rest_c   =>   s cos(f, t_c) = s f.m + sum_j s w_cj f.g_j + s f.rest_c

The sum is exact: nothing is left out, and the rest says how much of the logit no concept accounts for.

Symbols: B images, C classes, J concepts, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xcoop.explain.textual.decomposition import Decomposition
from xcoop.methods.alignment import unit


@dataclass(frozen=True)
class Contributions:
    """The parts of the global similarity's logit; they add up to it.

    Attributes:
        shared: s f.m, (B, 1), the same for all classes.
        concepts: (B, C, J).
        rest: (B, C).
    """

    shared: Tensor
    concepts: Tensor
    rest: Tensor

    def logits(self) -> Tensor:
        """Their sum, (B, C): the scaled cosine of the image with the prompt."""
        return self.shared + self.concepts.sum(-1) + self.rest


def contributions(images: Tensor, prompts: Tensor, parts: Decomposition, scale: Tensor | float) -> Contributions:
    """Splits the logits of images (B, D) by the decomposition of the class vectors (C, D).

    Args:
        images: global features.
        prompts: what was decomposed.
        parts: its decomposition.
        scale: CLIP's inverse temperature.
    """
    f, t = unit(images), unit(prompts)
    rest = t - parts.centre - parts.weights @ parts.directions  # (C, D)
    similarity = f @ parts.directions.T  # (B, J)
    return Contributions(
        shared=scale * (f @ parts.centre)[:, None],
        concepts=scale * similarity[:, None] * parts.weights,
        rest=scale * f @ rest.T,
    )
