"""Number formats of a training step: 32 bit, or half precision through autocast where the hardware has it."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "amp", "fp16", "bf16")


class Precision:
    """How a step computes, scales its loss, and moves the parameters.

    `amp` and `fp16` autocast to 16-bit floats and scale the loss; what is trained stays in 32 bit, also for `fp16`
    (CoOp keeps it in 16, where small updates are lost). `bf16` autocasts and needs no scaling. On a CPU `amp` and
    `fp16` compute in 32 bit.

    Args:
        name: one of `PRECISIONS`.
        device: where the step runs.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name not in PRECISIONS:
            raise ValueError(f"PREC {name!r}; known: {', '.join(PRECISIONS)}")
        half = name in ("amp", "fp16")
        if half and device.type != "cuda":
            logger.info("PREC %s needs a GPU: this run on the CPU computes in fp32", name)
            half = False
        self.device = device
        self.dtype = torch.float16 if half else torch.bfloat16 if name == "bf16" else None
        self.scaler: Any = None
        if half:
            moved = hasattr(torch.amp, "GradScaler")  # in torch 2.3
            self.scaler = torch.amp.GradScaler("cuda") if moved else torch.cuda.amp.GradScaler()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Backward pass of the (scaled) loss; `retain_graph` where another loss of the same graph follows."""
        (self.scaler.scale(loss) if self.scaler else loss).backward(retain_graph=retain_graph)

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Brings the gradients back to their true size."""
        if self.scaler:
            self.scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """One update; with a scaler, overflown gradients skip it."""
        if self.scaler:
            self.scaler.step(optimiser)
            self.scaler.update()
        else:
            optimiser.step()
