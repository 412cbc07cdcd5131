"""Methods for the real Dassl's warm-up schedulers; see `mends`.

Such a scheduler drives the rates until epoch W, and a successor (a scheduler of torch) from then on. Dassl puts the
successor itself into the checkpoint. After a resume the restored object drives a restored copy of the optimiser, and
the real one's rate never changes again. Here the successor's numbers are stored, and go back into the successor that
the resumed run built.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_LINKS = ("optimizer", "successor")
_COUNTERS = ("last_epoch", "_step_count", "_last_lr")


def init(
    self: Any, optimizer: Optimizer, successor: Any, warmup_epoch: int, last_epoch: int = -1, verbose: bool = False
) -> None:
    """The constructor, without the argument `verbose` that torch does not take any more."""
    self.successor = successor
    self.warmup_epoch = warmup_epoch
    LRScheduler.__init__(self, optimizer, last_epoch)


def state_dict(self: Any) -> dict[str, Any]:
    """Plain numbers: its own, and the successor's under `successor`."""
    return {**_numbers(vars(self)), "successor": _numbers(vars(self.successor))}


def load_state_dict(self: Any, state: dict[str, Any]) -> None:
    """Goes on from a state of `state_dict`, of an older Dassl (the successor is an object), or of our own engine.

    Only the counters are taken over: the shape of the schedule is that of the config of the resumed run.
    """
    if "successor" in state:
        saved = state["successor"]
        self.__dict__.update(_counters(state))
        self.successor.__dict__.update(_counters(saved if isinstance(saved, dict) else vars(saved)))
    else:
        self.last_epoch = min(state["last_epoch"], self.warmup_epoch)
        self._step_count = self.last_epoch + 1
        self.successor.last_epoch += state["last_epoch"] - self.last_epoch
        self._last_lr = self.successor._last_lr = list(state["_last_lr"])


def _numbers(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes that are numbers, or lists or tables of them; no links and no wrapped methods."""
    return {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in attributes.items()
        if name not in _LINKS and isinstance(value, (bool, int, float, list, tuple, dict, type(None)))
    }


def _counters(state: dict[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in _COUNTERS if name in state}
