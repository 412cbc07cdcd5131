"""What a model scored, printed in the lines that log parsers of CoOp look for."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xcoop.engine.registry import Registry, check_availability
from xcoop.utils import files

if TYPE_CHECKING:
    from yacs.config import CfgNode

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> EvaluatorBase:
    """The evaluator that `cfg.TEST.EVALUATOR` names.

    Raises:
        ValueError: it is not registered.
    """
    name = cfg.TEST.EVALUATOR
    check_availability(name, EVALUATOR_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading evaluator: {name}")
    evaluator: EvaluatorBase = EVALUATOR_REGISTRY.get(name)(cfg, **kwargs)
    return evaluator


class EvaluatorBase:
    """The interface of an evaluator.

    Args:
        cfg: the run's config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forgets what was processed."""
        raise NotImplementedError

    def process(self, mo: Any, gt: Any) -> None:
        """Takes in a batch: the model's output and the truth."""
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        """The metrics by name; the first is the one that models are selected by."""
        raise NotImplementedError


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
        """Takes in a batch.

        Args:
            mo: logits (B, C).
            gt: labels (B,).
        """
        self._predicted.append(mo.detach().argmax(dim=1).cpu())
        self._true.append(gt.detach().long().cpu())

    def evaluate(self) -> OrderedDict[str, float]:
        """Prints the result and returns it.

        Raises:
            ValueError: nothing was processed.
        """
        if not self._true:
            raise ValueError("nothing to evaluate: not one batch was processed")
        counts = confusion(torch.cat(self._true), torch.cat(self._predicted))  # (C, C)
        total, correct = int(counts.sum()), int(counts.trace())
        accuracy = 100.0 * correct / total
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * macro_f1(counts))
        print(
            "=> result\n"
            f"* total: {total:,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(counts)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save(counts)
        return results

    def _per_class(self, counts: Tensor) -> float:
        """Prints the accuracy of each class that occurs; the mean of them, in percent."""
        print("=> per-class result")
        accuracies = []
        for label in counts.sum(1).nonzero().flatten().tolist():
            total, correct = int(counts[label].sum()), int(counts[label, label])
            accuracies.append(100.0 * correct / total)
            print(
                f"* class: {label} ({self._lab2cname.get(label, label)})\t"
                f"total: {total:,}\tcorrect: {correct:,}\tacc: {accuracies[-1]:.1f}%"
            )
        mean = sum(accuracies) / len(accuracies)
        print(f"* average: {mean:.1f}%")
        return mean

    def _save(self, counts: Tensor) -> None:
        """Writes the confusion matrix: shares of each row as a tensor, raw counts as JSON."""
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
        with files.atomic_path(path) as temporary:
            torch.save(shares, temporary)
        files.atomic_write_text(os.path.join(self.cfg.OUTPUT_DIR, "cmat.json"), json.dumps(counts.tolist()))
        print(f"Confusion matrix is saved to {path}")


def confusion(true: Tensor, predicted: Tensor) -> Tensor:
    """How often each class (row) was taken for each (column).

    Args:
        true: labels (N,).
        predicted: labels (N,).

    Returns:
        Counts (C, C), where C - 1 is the greatest label of either.
    """
    classes = int(torch.cat([true, predicted]).max()) + 1
    return torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes)


def macro_f1(counts: Tensor) -> float:
    """The mean of 2 TP / (2 TP + FP + FN) over the classes that occur in the truth; in [0, 1].

    Args:
        counts: confusion matrix (C, C), truth in rows.
    """
    hits, true, predicted = counts.diagonal().double(), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / (true + predicted).clamp(min=1)
    return float(f1[true > 0].mean())
