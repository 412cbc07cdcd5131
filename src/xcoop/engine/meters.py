"""Running means of what is measured in a training, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

_EMA_MEMORY = 0.9  # share of the old mean in the moving one


class AverageMeter:
    """The last value and the mean so far.

    Args:
        ema: the mean forgets: an exponential moving average with factor 0.9.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.val = 0.0
        self.avg = 0.0
        self.sum = 0.0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Takes in a value.

        Args:
            val: a number, or a tensor of one.
            n: how many observations it is the mean of.
        """
        self.val = val.item() if isinstance(val, Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = self.avg * _EMA_MEMORY + self.val * (1 - _EMA_MEMORY) if self.ema else self.sum / max(self.count, 1)


class MetricMeter:
    """Several named means.

    Args:
        delimiter: what stands between them in the text.
    """

    def __init__(self, delimiter: str = " ") -> None:
        self.delimiter = delimiter
        self.meters: dict[str, AverageMeter] = {}

    def update(self, input_dict: Mapping[str, float | Tensor] | None) -> None:
        """Takes in one value for each name; None is nothing new.

        Raises:
            TypeError: the values come without names.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, Mapping):
            raise TypeError(f"a summary is a dictionary of numbers, not {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters.setdefault(name, AverageMeter()).update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())


def compute_accuracy(output: Any, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Top-k accuracy.

    Args:
        output: logits (B, C), or a tuple whose first item they are.
        target: labels (B,).
        topk: the values of k.

    Returns:
        For each k, a tensor of one number, in percent.
    """
    logits = output[0] if isinstance(output, (tuple, list)) else output
    ranked = logits.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked == target.view(-1, 1)  # (B, max k)
    return [hits[:, :k].sum().float().view(1) * (100.0 / target.shape[0]) for k in topk]
