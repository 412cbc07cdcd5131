"""Learning rates by epoch, in closed form: what a schedule must remember is the epoch, and nothing else.

With e the number of finished epochs, T = MAX_EPOCH, W = WARMUP_EPOCH (0 without warm-up), the rate of a group of base
rate b is

    e <  W:  WARMUP_CONS_LR                            (constant)
             WARMUP_MIN_LR at e = 0, then b e / W      (linear)
    e >= W:  b s(e - W)       WARMUP_RECOUNT: the schedule begins after the warm-up
             b s(e) / s(W)    otherwise: the warm-up takes the place of its first part

with s(e) = (1 + cos(pi e / T)) / 2 for `cosine`, and s(e) = GAMMA^(number of steps up to e) for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from xcoop.utils.suggest import unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

Shape = Callable[[int], float]  # epoch -> share of the base rate


class Schedule(LRScheduler):
    """A schedule with an optional warm-up.

    Args:
        optimizer: whose rates it sets, at each `step` (once an epoch).
        shape: s(e).
        warmup: the rate of a group before epoch W: (e, base rate) -> rate.
        warmup_epochs: W.
        recount: count the epochs of `shape` from W on.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        shape: Shape,
        warmup: Callable[[int, float], float] | None = None,
        warmup_epochs: int = 0,
        recount: bool = True,
    ) -> None:
        self._shape = shape
        self._warmup = warmup
        self._warmup_epochs = warmup_epochs if warmup else 0
        self._recount = recount
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of each group at the present epoch."""
        return [self._rate(self.last_epoch, float(base)) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the present rates: plain numbers."""
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "_last_lr": [float(group["lr"]) for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the epoch of a state, also of one that Dassl wrote; its shape stays as it was built."""
        self.last_epoch = self._epoch_of(state_dict)
        self._step_count = self.last_epoch + 1
        rates = self.get_lr()
        self._last_lr = [*rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _epoch_of(self, state: dict[str, Any]) -> int:
        """The epoch of a state. Dassl's warm-up stops counting at W, and its successor counts on."""
        epoch, successor = int(state["last_epoch"]), state.get("successor")
        if successor is None or epoch < self._warmup_epochs:
            return epoch
        numbers = successor if isinstance(successor, dict) else vars(successor)
        return int(numbers["last_epoch"]) + (self._warmup_epochs if self._recount else 0)

    def _rate(self, epoch: int, base: float) -> float:
        first = self._warmup_epochs
        if self._warmup is not None and epoch < first:
            return self._warmup(epoch, base)
        if self._recount:
            return base * self._shape(epoch - first)
        return base * self._shape(epoch) / self._shape(first)


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """The schedule that the config's node OPTIM describes.

    Raises:
        ValueError: LR_SCHEDULER or WARMUP_TYPE is unknown, or STEPSIZE does not fit.
    """
    return Schedule(
        optimizer,
        _shape(optim_cfg),
        _warmup(optim_cfg) if optim_cfg.WARMUP_EPOCH > 0 else None,
        optim_cfg.WARMUP_EPOCH,
        optim_cfg.WARMUP_RECOUNT,
    )


def _shape(node: CfgNode) -> Shape:
    steps = node.STEPSIZE if isinstance(node.STEPSIZE, (tuple, list)) else [node.STEPSIZE]
    total, gamma = node.MAX_EPOCH, node.GAMMA
    if node.LR_SCHEDULER == "cosine":
        return lambda e: (1 + math.cos(math.pi * e / total)) / 2
    if node.LR_SCHEDULER == "single_step":
        step = steps[-1] if steps[-1] > 0 else total
        return lambda e: float(gamma ** (e // step))
    if node.LR_SCHEDULER == "multi_step":
        return lambda e: float(gamma ** sum(step <= e for step in steps))
    known = ("single_step", "multi_step", "cosine")
    raise ValueError(f"OPTIM.LR_SCHEDULER: {unknown('schedule', node.LR_SCHEDULER, known)}")


def _warmup(node: CfgNode) -> Callable[[int, float], float]:
    if node.WARMUP_TYPE == "constant":
        return lambda _, base: node.WARMUP_CONS_LR
    if node.WARMUP_TYPE == "linear":
        return lambda e, base: node.WARMUP_MIN_LR if e == 0 else base * e / node.WARMUP_EPOCH
    raise ValueError(f"OPTIM.WARMUP_TYPE: {unknown('warm-up', node.WARMUP_TYPE, ('constant', 'linear'))}")
