"""One step of a training: losses, gradients, clipping, update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from xcoop.backbones import ImageFeatures
from xcoop.methods.model import PromptModel

Note = Callable[[str, Tensor], None]  # is told the name and value of what must be finite, before anything is updated


@dataclass(frozen=True)
class Step:
    """Steps of one model.

    Attributes:
        model: the method.
        optim: of what it trains.
        dtype: that its forward passes compute in beside fp32, if any; see `number_formats`.
        scaler: of its loss; it may be off.
        limit: on the norm of its gradients; 0 is none.
    """

    model: PromptModel
    optim: Optimizer
    dtype: torch.dtype | None
    scaler: Any
    limit: float

    def __call__(self, features: ImageFeatures, labels: Tensor, note: Note) -> dict[str, Tensor]:
        """Takes one.

        Args:
            features: of a batch of images.
            labels: (B,).
            note: see `Note`.

        Returns:
            What the log shows, the loss and its parts where there are several: scalars.
        """
        model, optim, scaler = self.model, self.optim, self.scaler
        with model.computing_in(self.dtype):
            parts = model.losses(features, labels)
            loss = model.loss(parts)
        note("loss", loss)

        optim.zero_grad()
        model.backward(loss, parts, self._backward)
        scaler.unscale_(optim)
        norm = model.gradient_norm()
        if not scaler.is_enabled():  # a scaler skips overflown steps by itself
            note("gradient", norm)
        if self.limit > 0:
            factor = (self.limit / (norm + 1e-6)).clamp(max=1.0)
            for parameter in model.trained_parameters().values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        scaler.step(optim)
        scaler.update()

        summed = parts.keys() - set(model.reported)
        shown = {name: part for name, part in parts.items() if len(summed) > 1 or name not in summed}
        return {"loss": loss.detach()} | {name: part.detach() for name, part in shown.items()}

    def _backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        self.scaler.scale(loss).backward(retain_graph=retain_graph)
        if self.model.seat is not None:
            self.model.seat.backward(retain_graph)
