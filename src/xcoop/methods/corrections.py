"""What a few labelled images may correct in knowledge that was stated beforehand, and how far.

Clinical sentences are a good first guess at a classifier, and a fixed one: a backbone that hears some of their words
differently, that leans to one class, or that never saw such images, stays wrong however many images are shown. So what
the sentences say apart is multiplied by a trust q, and each class gets a residual r_c of its feature and an offset b_c
of its logit. With q = 1 and the others 0 nothing is changed. All have normal priors; the stds of residual and offset
are stated in logits so that they mean the same for every backbone:

    z_c = u( h + q (h_c - h) + r_c / s ),    logit_c = ... + b_c,    h the mean of the h_c
    L = (1/N) ( (q - 1)^2 / (2 S_q^2) + sum_c |r_c|^2 / (2 S_r^2) + |b|^2 / (2 S_b^2) )

Beside the mean cross entropy of N training images this makes the most probable correction given the images: one image a
class hardly moves it, many do. A residual of the class feature is the idea of TaskRes (Yu et al., CVPR 2023, arXiv
2211.10277), where nothing holds it.

Symbols: C classes, D joint width, N training images, s the backbone's inverse temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

START = {"residual": 0.0, "offset": 0.0, "trust": 1.0}  # where the priors have their means


class Corrections(nn.Module):
    """Residuals r (C, D) and offsets b (C,), both in logits, and a trust q, a scalar.

    One whose prior has a standard deviation of 0 is left out.

    Args:
        classes: C.
        width: D.
        residual_std: S_r, the standard deviation of the prior in any direction, in logits of a feature that points
            there.
        offset_std: S_b, the standard deviation of the prior, in logits.
        trust_std: S_q, that of the trust.
    """

    residual: nn.Parameter | None
    offset: nn.Parameter | None
    trust: nn.Parameter | None

    def __init__(self, classes: int, width: int, residual_std: float, offset_std: float, trust_std: float) -> None:
        super().__init__()
        self.stds = {"residual": residual_std, "offset": offset_std, "trust": trust_std}
        shapes = {"residual": (classes, width), "offset": (classes,), "trust": ()}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, START[name])) if self.stds[name] else None)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are there."""
        return list(self.parameters())

    def corrected(self, text: Tensor, scale: Tensor) -> Tensor:
        """Class features (..., C, D) with trust and residual, not normalised."""
        if self.trust is not None:
            shared = text.mean(-2, keepdim=True)  # (..., 1, D)
            text = shared + self.trust * (text - shared)
        return text if self.residual is None else text + self.residual / scale

    def with_offset(self, logits: Tensor) -> Tensor:
        """Logits (B, C) with the offset."""
        return logits if self.offset is None else logits + self.offset

    def negative_log_prior(self, images: int) -> Tensor:
        """L above, up to a constant: a scalar, >= 0; 0 at the start.

        Args:
            images: N >= 1.
        """
        parts = [
            (part - START[name]).square().sum() / (2 * self.stds[name] ** 2) for name, part in self.named_parameters()
        ]
        return torch.stack(parts).sum() / images
