"""What a training step and a test are made of: optimisers by name, learning rates by epoch, accuracy, the evaluator.

A schedule is in closed form: what it must remember is the epoch, and nothing else. With e the number of finished
epochs, T = MAX_EPOCH, W = WARMUP_EPOCH (0 without warm-up), the rate of a group of base rate b is

    e <  W:  WARMUP_CONS_LR                            (constant)
             WARMUP_MIN_LR at e = 0, then b e / W      (linear)
    e >= W:  b s(e - W)       WARMUP_RECOUNT: the schedule begins after the warm-up
             b s(e) / s(W)    otherwise: the warm-up takes the place of its first part

with s(e) = (1 + cos(pi e / T)) / 2 for `cosine`, and s(e) = GAMMA^(number of steps up to e) for the others.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from xcoop.engine.tools import Registry
from xcoop.utils import files
from xcoop.utils.console import unknown

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_optimizer(
    model: nn.Module | Iterable[Any] | None, optim_cfg: CfgNode, param_groups: list[dict[str, Any]] | None = None
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
    betas = {"betas": (node.ADAM_BETA1, node.ADAM_BETA2)}
    momentum = {"momentum": node.MOMENTUM}
    optimisers: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "sgd": (torch.optim.SGD, momentum | {"dampening": node.SGD_DAMPNING, "nesterov": node.SGD_NESTEROV}),
        "rmsprop": (torch.optim.RMSprop, momentum | {"alpha": node.RMSPROP_ALPHA}),
        "adam": (torch.optim.Adam, betas),
        "amsgrad": (torch.optim.Adam, betas | {"amsgrad": True}),
        "radam": (torch.optim.RAdam, betas),
        "adamw": (torch.optim.AdamW, betas),
    }
    if node.NAME not in optimisers:
        raise ValueError(f"OPTIM.NAME: {unknown('optimiser', node.NAME, optimisers)}")
    kind, options = optimisers[node.NAME]
    optimiser: Optimizer = kind(parameters, lr=node.LR, weight_decay=node.WEIGHT_DECAY, **options)
    return optimiser


def _staged_groups(model: Any, node: CfgNode) -> list[dict[str, Any]]:
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
    """A schedule with an optional warm-up; see above.

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
        warmup: Callable[[int, float], float],
        warmup_epochs: int,
        recount: bool,
    ) -> None:
        self._shape = shape
        self._warmup = warmup
        self._warmup_epochs = warmup_epochs
        self._recount = recount
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of each group at the present epoch."""
        epoch, first = self.last_epoch, self._warmup_epochs
        bases = [float(base) for base in self.base_lrs]
        if epoch < first:
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
    if node.WARMUP_TYPE not in warmups:
        raise ValueError(f"OPTIM.WARMUP_TYPE: {unknown('warm-up', node.WARMUP_TYPE, warmups)}")
    shape, warmup = shapes[node.LR_SCHEDULER], warmups[node.WARMUP_TYPE]
    first = max(node.WARMUP_EPOCH, 0)
    return Schedule(optimizer, shape, warmup, first, recount=node.WARMUP_RECOUNT or not first)


def compute_accuracy(output: Any, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Top-k accuracy in percent: for each k, a tensor of one number.

    Args:
        output: logits (B, C), or a tuple whose first item they are.
        target: labels (B,).
        topk: the values of k.
    """
    logits = output[0] if isinstance(output, (tuple, list)) else output
    ranked = logits.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked == target.view(-1, 1)  # (B, max k)
    return [hits[:, :k].sum().float().view(1) * (100.0 / target.shape[0]) for k in topk]


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """The evaluator that `cfg.TEST.EVALUATOR` names; ValueError if it is not registered."""
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, cfg, **kwargs)


class EvaluatorBase:
    """Base of evaluators, for other programmes, too: `reset`, `process` for each batch, `evaluate`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forgets what was processed."""
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def process(self, mo: Any, gt: Any) -> None:
        """Takes in a batch: the model's output and the labels."""
        raise NotImplementedError(f"{type(self).__name__} has no process()")

    def evaluate(self) -> OrderedDict[str, float]:
        """The metrics by name; by the first, models are selected."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluate()")


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, in percent; `lab2cname` gives the names for the result of each class."""

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **_: Any) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forgets what was processed."""
        self._true: list[Tensor] = []
        self._predicted: list[Tensor] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Takes in a batch: logits (B, C) and labels (B,)."""
        self._predicted.append(mo.detach().argmax(dim=1).cpu())
        self._true.append(gt.detach().long().cpu())

    def evaluate(self) -> OrderedDict[str, float]:
        """Prints the metrics, as log parsers read them, and returns them.

        Raises:
            ValueError: nothing was processed.
        """
        if not self._true:
            raise ValueError("nothing to evaluate: not one batch was processed")
        true, predicted = torch.cat(self._true), torch.cat(self._predicted)  # (N,)
        classes = int(torch.cat([true, predicted]).max()) + 1
        # How often each class (row) was taken for each (column).
        counts = torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes)
        hits, occurs = counts.diagonal().double(), counts.sum(1)
        total, correct = len(true), int(counts.trace())
        accuracy = 100.0 * correct / total
        # The mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in the ground truth.
        f1 = (2 * hits / (occurs + counts.sum(0)).clamp(min=1))[occurs > 0]
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * float(f1.mean()))
        print(
            "=> result\n"
            f"* total: {total:,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            print("=> per-class result")
            accuracies = []
            for label in occurs.nonzero().flatten().tolist():
                of_class, right = int(occurs[label]), int(hits[label])
                accuracies.append(100.0 * right / of_class)
                print(
                    f"* class: {label} ({self._lab2cname.get(label, label)})\t"
                    f"total: {of_class:,}\tcorrect: {right:,}\tacc: {accuracies[-1]:.1f}%"
                )
            results["perclass_accuracy"] = sum(accuracies) / len(accuracies)
            print(f"* average: {results['perclass_accuracy']:.1f}%")
        if self.cfg.TEST.COMPUTE_CMAT:  # shares of each row as a tensor, raw counts as JSON
            path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            with files.atomic_path(path) as temporary:
                torch.save(counts.double() / counts.sum(1, keepdim=True).clamp(min=1), temporary)
            files.atomic_write_text(os.path.join(self.cfg.OUTPUT_DIR, "cmat.json"), json.dumps(counts.tolist()))
            print(f"Confusion matrix is saved to {path}")
        return results
