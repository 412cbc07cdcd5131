"""The models of a training with their optimisers and schedules: their modes, their steps, their checkpoints."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xcoop.engine.checkpoint import BEST, epoch_file, load_checkpoint, newest, restore, save_checkpoint
from xcoop.engine.filetools import as_sequence

Names = str | Sequence[str] | None


class ModelKeeper:
    """Keeps models by name, each with its optimiser and schedule."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self.best_result = float("-inf")

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Puts a model under the trainer's care: its mode, its steps, its checkpoints.

        Args:
            name: also the folder of its checkpoints.
            model: the module.
            optim: its optimiser; None if it is not trained.
            sched: the optimiser's schedule.

        Raises:
            AttributeError: `super().__init__()` was not called yet.
            AssertionError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("a model cannot be registered before super().__init__() was called")
        if name in self._models:
            raise AssertionError(f"there is a model named {name!r} already")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """The given names, or all.

        Raises:
            AssertionError: a name is unknown.
        """
        chosen = as_sequence(names, list(self._models))
        for name in chosen:
            if name not in self._models:
                raise AssertionError(f"no model named {name!r}; there are {list(self._models)}")
        return chosen

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Puts registered models in train mode (`train`) or eval mode (`test`, `eval`).

        Raises:
            KeyError: another word.
        """
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"the mode {mode!r} is none of train, test, eval")
        for name in self.get_model_names(names):
            if self._models[name] is not None:
                self._models[name].train(mode == "train")

    def update_lr(self, names: Names = None) -> None:
        """Moves the schedules on by one epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: Names = None) -> float:
        """The rate of the first group of the first optimiser."""
        name = self.get_model_names(names)[0]
        return float(self._optims[name].param_groups[0]["lr"])

    # One step

    def detect_anomaly(self, loss: Tensor) -> None:
        """Stops a training that has left the numbers.

        Raises:
            FloatingPointError: the loss is infinite or not a number.
        """
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def model_zero_grad(self, names: Names = None) -> None:
        """Clears the gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        """Checks the loss and computes the gradients."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        """Takes one step with each optimiser."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: Tensor, names: Names = None) -> None:
        """Clears the gradients, computes them, takes a step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # Checkpoints

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Writes a checkpoint of each model.

        Args:
            epoch: the epoch just finished, from 0.
            directory: the run's folder; each model has a folder in it.
            is_best: copy it to the best model's name.
            val_result: the validation result, in percent.
            model_name: a file name in place of `model.pth.tar-<epoch + 1>`.
        """
        scaler = getattr(self, "scaler", None)  # trainers with mixed precision have one
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": None if val_result is None else float(val_result),
                "best_result": float(self.best_result),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Goes on from the newest checkpoints in a folder, if every model has one.

        Returns:
            How many epochs are finished.
        """
        folders = {name: os.path.join(directory, name) for name in self.get_model_names()}
        if not folders or not all(newest(folder) for folder in folders.values()):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        contents = _of_one_epoch(folders)
        for name, content in contents.items():
            restore(content, self._models[name], self._optims[name], self._scheds[name])
        last = next(reversed(contents.values()))
        self.best_result = last.get("best_result", self.best_result)
        scaler = getattr(self, "scaler", None)
        if scaler is not None and last.get("scaler"):
            scaler.load_state_dict(last["scaler"])
        return int(last["epoch"])

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Loads the weights of each model for a test.

        Args:
            directory: a run's folder; empty does nothing.
            epoch: which epoch's checkpoint; None is the best model.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = os.path.join(directory, name, BEST if epoch is None else epoch_file(epoch))
            if not os.path.exists(path):
                raise FileNotFoundError(f"no model at {path!r}")
            checkpoint = load_checkpoint(path)
            result = checkpoint.get("val_result")
            score = "" if result is None else f", val_result = {result:.1f}"
            print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint["epoch"]}{score})')
            self._models[name].load_state_dict(checkpoint["state_dict"])


def _of_one_epoch(folders: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The newest checkpoint of each model.

    A process that died while it saved may have saved some models and not the others; then the older state of all.
    """
    contents = {name: _read(newest(folder)) for name, folder in folders.items()}
    epoch = min(content["epoch"] for content in contents.values())
    for name, content in contents.items():
        if content["epoch"] != epoch:
            contents[name] = _read(os.path.join(folders[name], epoch_file(epoch)))
    return contents


def _read(path: str) -> dict[str, Any]:
    print(f'Loading checkpoint from "{path}"')
    content: dict[str, Any] = load_checkpoint(path)
    return content
