"""What a few labelled images may correct in knowledge that was stated beforehand, and how far.

Clinical sentences are a good first guess at a classifier, and a fixed one: a backbone that hears some of their words
differently, or that leans to one class, stays wrong however many images are shown. So each class gets a residual r_c of
its feature and an offset b_c of its logit. Both are zero at the start and have a normal prior, whose spread is stated
in logits so that it means the same for every backbone:

    z_c = u( ... + r_c / s ),    logit_c = ... + b_c,    L = (1/N) ( sum_c |r_c|^2 / (2 S_r^2) + |b|^2 / (2 S_b^2) )

Beside the mean cross entropy of N training images this makes the most probable correction given the images: one image a
class hardly moves it, many do. A residual of the class feature is the idea of TaskRes (Yu et al., CVPR 2023, arXiv
2211.10277), where nothing holds it.

Symbols: C classes, D joint width, N training images, s the backbone's inverse temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Corrections(nn.Module):
    """Residuals r (C, D) and offsets b (C,), both in logits; one of spread 0 is left out.

    Args:
        classes: C.
        width: D.
        residual_spread: S_r, the standard deviation of the prior in any direction, in logits of a feature that points
            there.
        offset_spread: S_b, the standard deviation of the prior, in logits.
    """

    def __init__(self, classes: int, width: int, residual_spread: float, offset_spread: float) -> None:
        super().__init__()
        self.spreads = {"residual": residual_spread, "offset": offset_spread}
        self.residual = nn.Parameter(torch.zeros(classes, width)) if residual_spread else None
        self.offset = nn.Parameter(torch.zeros(classes)) if offset_spread else None

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are there."""
        return list(self.parameters())

    def moved(self, text: Tensor, scale: Tensor) -> Tensor:
        """Class features (..., C, D) with the residual, not normalised."""
        return text if self.residual is None else text + self.residual / scale

    def shifted(self, logits: Tensor) -> Tensor:
        """Logits (B, C) with the offset."""
        return logits if self.offset is None else logits + self.offset

    def penalty(self, images: int) -> Tensor:
        """The negative log of the prior, shared among N training images: a scalar, >= 0; 0 at the start.

        Args:
            images: N >= 1.
        """
        parts = [part.square().sum() / (2 * self.spreads[name] ** 2) for name, part in self.named_parameters()]
        return torch.stack(parts).sum() / images
