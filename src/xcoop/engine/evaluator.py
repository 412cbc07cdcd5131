"""What is measured in a training and a test: running means, accuracy, and the lines that log parsers of CoOp read."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from xcoop.engine.tools import Registry
from xcoop.utils import files

EVALUATOR_REGISTRY = Registry("EVALUATOR")


class AverageMeter:
    """The last value and the mean so far; with `ema` the mean forgets: the moving one with factor 0.9."""

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Takes in a value: a number, or a tensor of one, that is the mean of `n` observations."""
        self.val = val.item() if isinstance(val, Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / max(self.count, 1)


class MetricMeter:
    """Several named means, and what stands between them in the text."""

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


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """The evaluator that `cfg.TEST.EVALUATOR` names.

    Raises:
        ValueError: it is not registered.
    """
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, cfg, **kwargs)


class EvaluatorBase:
    """Base of evaluators, for other programmes, too; each has a `reset`, a `process` of a batch, and an `evaluate`."""

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
    """Accuracy, error rate and macro F1, in percent.

    Args:
        cfg: the run's config.
        lab2cname: class index -> name; needed for the result of each class.
    """

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
        """Prints the metrics and returns them by name; by the first, models are selected.

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
