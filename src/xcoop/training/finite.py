"""Whether what a training computes are numbers at all, without a wait for the device at every step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Noted(NamedTuple):
    """A number that must be finite, and what is said if it is not."""

    what: str
    where: str
    images: list[str]
    value: Tensor


class FiniteWatch:
    """Stops a training whose loss or gradient is infinite or no number.

    On a CPU each number is looked at where it is noted. On another device a look waits for all that was launched, so
    numbers are looked at together, as often as the log shows some.

    Args:
        device: that of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.at_once = device, device.type == "cpu"
        self.noted: list[Noted] = []

    def note(self, noted: Noted, due: bool) -> None:
        """Takes in a scalar tensor, and looks at all that were noted if that is free, or `due`.

        Raises:
            FloatingPointError: one is not finite; the message names the first, its step and its images.
        """
        self.noted.append(noted._replace(value=noted.value.detach().to(self.device)))
        if not (self.at_once or due):
            return
        numbers = torch.stack([one.value for one in self.noted]).tolist()
        for one, number in zip(self.noted, numbers, strict=True):
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"{one.what} is {number} in {one.where}, with the images {', '.join(one.images)}; "
                    "nothing of this epoch was saved. A lower OPTIM.LR may help"
                )
        self.noted.clear()
