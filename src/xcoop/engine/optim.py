"""Optimisers by name, and learning rates by epoch.

A schedule is in closed form: what it must remember is the epoch, and nothing else. With e the number of finished
epochs, T = MAX_EPOCH, W = WARMUP_EPOCH (0 without warm-up), the rate of a group of base rate b is

    e <  W:  WARMUP_CONS_LR                            (constant)
             WARMUP_MIN_LR at e = 0, then b e / W      (linear)
    e >= W:  b s(e - W)       WARMUP_RECOUNT: the schedule begins after the warm-up
             b s(e) / s(W)    otherwise: the warm-up takes the place of its first part

with s(e) = (1 + cos(pi e / T)) / 2 for `cosine`, and s(e) = GAMMA^(number of steps up to e) for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from xcoop.utils.console import unknown

Groups = list[dict[str, Any]]


def build_optimizer(
    model: nn.Module | Iterable[Any] | None, optim_cfg: CfgNode, param_groups: Groups | None = None
) -> Optimizer:
    """The optimiser that `optim_cfg.NAME` names, over all parameters (those without a gradient never move).

    Args:
        model: a module, or parameters or parameter groups.
        optim_cfg: the config's node OPTIM.
        param_groups: groups in place of the model's parameters.

    Raises:
        ValueError: the name is unknown.
        TypeError: STAGED_LR needs a module.
    """
    node = optim_cfg
    parameters: Any = param_groups
    if param_groups is None:
        if node.STAGED_LR:
            parameters = _staged_groups(model, node)
        else:
            parameters = list(model.parameters() if isinstance(model, nn.Module) else model or ())
    common = {"lr": node.LR, "weight_decay": node.WEIGHT_DECAY}
    adams: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "amsgrad": torch.optim.Adam,
        "radam": torch.optim.RAdam,
        "adamw": torch.optim.AdamW,
    }
    if node.NAME == "sgd":
        common |= {"momentum": node.MOMENTUM, "dampening": node.SGD_DAMPNING, "nesterov": node.SGD_NESTEROV}
        return torch.optim.SGD(parameters, **common)
    if node.NAME == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=node.MOMENTUM, alpha=node.RMSPROP_ALPHA, **common)
    if node.NAME not in adams:
        raise ValueError(f"OPTIM.NAME: {unknown('optimiser', node.NAME, ('sgd', 'rmsprop', *adams))}")
    common |= {"betas": (node.ADAM_BETA1, node.ADAM_BETA2)}
    if node.NAME == "amsgrad":
        common |= {"amsgrad": True}
    optimiser: Optimizer = adams[node.NAME](parameters, **common)
    return optimiser


def _staged_groups(model: Any, node: CfgNode) -> Groups:
    """Two groups: the layers of NEW_LAYERS at the full rate, the others at a part of it."""
    if not isinstance(model, nn.Module):
        raise TypeError("OPTIM.STAGED_LR names layers, so it needs a module, not bare parameters")
    inner = model.module if isinstance(model, nn.DataParallel) else model
    children = dict(inner.named_children())
    new = [node.NEW_LAYERS] if isinstance(node.NEW_LAYERS, str) else list(node.NEW_LAYERS)
    for name in new:
        if name not in children:
            raise ValueError(f"OPTIM.NEW_LAYERS: {unknown('layer', name, children)}")
    fresh = [p for name, child in children.items() if name in new for p in child.parameters()]
    base = [p for name, child in children.items() if name not in new for p in child.parameters()]
    return [{"params": base, "lr": node.LR * node.BASE_LR_MULT}, {"params": fresh}]


class Schedule(LRScheduler):
    """A schedule with an optional warm-up.

    Args:
        optimizer: whose rates it sets, at each `step` (once an epoch).
        shape: s(e), the share of the base rate.
        warmup: the rate of a group before epoch W: (e, base rate) -> rate.
        warmup_epochs: W.
        recount: count the epochs of `shape` from W on.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        shape: Callable[[int], float],
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
        epoch, first = self.last_epoch, self._warmup_epochs
        bases = [float(base) for base in self.base_lrs]
        if self._warmup is not None and epoch < first:
            return [self._warmup(epoch, base) for base in bases]
        share = self._shape(epoch - first) if self._recount else self._shape(epoch) / self._shape(first)
        return [base * share for base in bases]

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the present rates: plain numbers."""
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "_last_lr": [float(group["lr"]) for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the epoch of a state, also of one that Dassl wrote; its shape stays as it was built."""
        epoch, successor = int(state_dict["last_epoch"]), state_dict.get("successor")
        if successor is not None and epoch >= self._warmup_epochs:  # Dassl's warm-up ends at W; this counts on
            counted = successor if isinstance(successor, dict) else vars(successor)
            epoch = int(counted["last_epoch"]) + (self._warmup_epochs if self._recount else 0)
        self.last_epoch = epoch
        self._step_count = epoch + 1
        rates = self.get_lr()
        self._last_lr = [*rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """The schedule that the config's node OPTIM describes.

    Raises:
        ValueError: LR_SCHEDULER or WARMUP_TYPE is unknown.
    """
    node = optim_cfg
    total, gamma = node.MAX_EPOCH, node.GAMMA
    steps = node.STEPSIZE if isinstance(node.STEPSIZE, (tuple, list)) else [node.STEPSIZE]
    step = steps[-1] if steps[-1] > 0 else total
    shapes: dict[str, Callable[[int], float]] = {
        "single_step": lambda e: float(gamma ** (e // step)),
        "multi_step": lambda e: float(gamma ** sum(at <= e for at in steps)),
        "cosine": lambda e: (1 + math.cos(math.pi * e / total)) / 2,
    }
    warmups: dict[str, Callable[[int, float], float]] = {
        "constant": lambda _, base: float(node.WARMUP_CONS_LR),
        "linear": lambda e, base: float(node.WARMUP_MIN_LR if e == 0 else base * e / node.WARMUP_EPOCH),
    }
    if node.LR_SCHEDULER not in shapes:
        raise ValueError(f"OPTIM.LR_SCHEDULER: {unknown('schedule', node.LR_SCHEDULER, shapes)}")
    if node.WARMUP_EPOCH <= 0:
        return Schedule(optimizer, shapes[node.LR_SCHEDULER])
    if node.WARMUP_TYPE not in warmups:
        raise ValueError(f"OPTIM.WARMUP_TYPE: {unknown('warm-up', node.WARMUP_TYPE, warmups)}")
    warmup = warmups[node.WARMUP_TYPE]
    return Schedule(optimizer, shapes[node.LR_SCHEDULER], warmup, node.WARMUP_EPOCH, node.WARMUP_RECOUNT)
